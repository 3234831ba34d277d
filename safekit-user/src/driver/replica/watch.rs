//! Who has to know what applications do to a captured directory.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::object::FileHandle;
use crate::types::replica::{ObjectId, Touch};
use crate::wire::replica::Operation;

/// Where an object can be found again, also after a restart.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Trace {
    pub(super) handle: FileHandle,
    /// A directory that has it, and its name there; none: the replicated directory itself, or no name is known.
    pub(super) place: Option<(FileHandle, Vec<u8>)>,
}

/// A name of an object: the directory's number, and the name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub parent: ObjectId,
    pub name: Vec<u8>,
}

/// What the captured directory knows of its objects.
pub trait Atlas: Send + Sync {
    /// None: it is not known any longer.
    fn trace(&self, object: ObjectId) -> Option<Trace>;
    /// None: it has no name, or is the directory itself.
    fn place(&self, object: ObjectId) -> Option<Place>;
    /// Makes sure that `place` has an answer for it and for all directories above it, if it has a name at all. May take as
    /// long as a walk through everything. Under the lock of the object.
    fn look_for(&self, object: ObjectId);
    /// Holds it, whatever it is called meanwhile.
    fn object(&self, object: ObjectId) -> Option<OwnedFd>;
}

/// The right to make one change.
#[derive(Debug)]
#[must_use = "a change that was begun has to be ended"]
pub struct Permit(pub u64);

/// Called when the application may be answered.
pub type Reply = Box<dyn FnOnce() + Send>;
pub type FlushReply = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// A change as it came out. `bulk`: the contents of a write.
#[derive(Debug)]
pub struct Change<'a> {
    pub operation: Operation,
    pub bulk: &'a [u8],
}

/// Called with the locks of the objects held, so that the order of the calls of `done` is that of the changes.
pub trait Watch: Send + Sync {
    /// Waits until it is recorded that `touches` may change, and until they may. The error is the application's.
    fn begin(&self, touches: &[Touch]) -> Result<Permit, Errno>;

    /// What has begun will be told by the number of this object, too, besides those that it touches. It may have lost the
    /// name by which it was met: who has to tell where it is looks for that before the change is made.
    fn names(&self, _: ObjectId) {}

    /// The change has been made as `changes` say; none: it failed and changed nothing. Must follow each `begin`.
    fn done(&self, permit: Permit, changes: &[Change<'_>], reply: Reply);

    /// Something was changed that cannot be said as an operation: only a compare brings the other copy up to date.
    fn done_unknown(&self, permit: Permit, reply: Reply);

    /// All earlier changes of `object` to the disks. `local` does it here; it is called once, by this thread, with no
    /// lock of an object held.
    fn flush(
        &self,
        object: ObjectId,
        data_only: bool,
        local: &dyn Fn() -> Result<(), Errno>,
        reply: FlushReply,
    );

    /// Numbers of objects below `numbers` may be used from now on.
    fn reserved(&self, numbers: u64);
}

/// Nobody has to know: a directory that is captured and not replicated.
#[derive(Debug)]
pub struct Nobody;

impl Watch for Nobody {
    fn begin(&self, _: &[Touch]) -> Result<Permit, Errno> {
        Ok(Permit(0))
    }

    fn done(&self, _: Permit, _: &[Change<'_>], reply: Reply) {
        reply();
    }

    fn done_unknown(&self, _: Permit, reply: Reply) {
        reply();
    }

    fn flush(&self, _: ObjectId, _: bool, local: &dyn Fn() -> Result<(), Errno>, reply: FlushReply) {
        reply(local());
    }

    fn reserved(&self, _: u64) {}
}
