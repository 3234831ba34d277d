//! The number by which both nodes know an object: kept with it, in an extended attribute that applications cannot see.
//!
//! ```text
//! trusted.safekit.object    object, inode: 8 bytes each, little endian
//! trusted.safekit.objects   on the directory itself: numbers below this may be in use
//! ```
//!
//! A copy of an object that was made underneath, attributes and all, has another inode number and counts as new. Numbers
//! are reserved in blocks: those that a daemon had reserved when it died are never used.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;

use super::object::{proc_path, reopen};
use crate::types::replica::ObjectId;

/// Attributes of this prefix belong to this program.
pub(super) const PREFIX: &[u8] = b"trusted.safekit.";
const OBJECT: &str = "trusted.safekit.object";
pub(super) const RESERVED: &str = "trusted.safekit.objects";
/// FUSE wants it for the directory itself.
pub(super) const ROOT: u64 = 1;
pub(super) const FIRST: u64 = 16;
const BLOCK: u64 = 65_536;
/// Numbers from here on are given to nothing for good.
const PASSING: u64 = 1 << 63;

/// Gives each object of one directory its number: one for all who meet objects there.
#[derive(Debug)]
pub struct Numbering {
    root: OwnedFd,
    numbers: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    next: u64,
    reserved: u64,
}

/// The number of an object that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbered {
    pub(super) object: ObjectId,
    /// It had none before.
    pub(super) anew: bool,
    /// More numbers had to be reserved for it: those below this.
    pub(super) reserved: Option<u64>,
}

impl Numbering {
    /// `root`: the directory itself.
    pub(super) fn open(root: BorrowedFd<'_>) -> Result<Self, Errno> {
        let root = reopen(root, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let reserved = reserved(root.as_fd())?;
        Ok(Self { root, numbers: Mutex::new(Numbers { next: reserved, reserved }) })
    }

    /// Numbers below this may be in use.
    pub(super) fn reserved(&self) -> u64 {
        self.lock().reserved
    }

    /// The other node has given this number: it will not be given here. None that nobody gives.
    pub(super) fn admit(&self, object: ObjectId) -> Result<(), Errno> {
        if object.0 >= PASSING - BLOCK {
            return Err(Errno::INVAL);
        }
        let mut own = self.lock();
        if object.0 >= own.reserved {
            let reserved = (object.0 / BLOCK + 1) * BLOCK;
            write_reserved(self.root.as_fd(), reserved)?;
            *own = Numbers { next: reserved, reserved };
        }
        Ok(())
    }

    pub(super) fn number_of(&self, object: BorrowedFd<'_>, inode: u64) -> Result<Numbered, Errno> {
        let known = |number| Numbered { object: ObjectId(number), anew: false, reserved: None };
        if let Some(number) = read(object, inode)? {
            return Ok(known(number));
        }
        let mut own = self.lock();
        // Somebody else may have met it meanwhile.
        if let Some(number) = read(object, inode)? {
            return Ok(known(number));
        }
        let mut reserved = None;
        if own.next == own.reserved {
            let more = own.reserved + BLOCK;
            write_reserved(self.root.as_fd(), more)?;
            own.reserved = more;
            reserved = Some(more);
        }
        let number = own.next;
        own.next += 1;
        write(object, number, inode)?;
        Ok(Numbered { object: ObjectId(number), anew: true, reserved })
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers below this may be in use.
fn reserved(root: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    match rustix::fs::getxattr(proc_path(root), RESERVED, &mut bytes) {
        Ok(8) => Ok(u64::from_le_bytes(bytes).max(FIRST)),
        Ok(_) => Err(Errno::BADMSG),
        Err(Errno::NODATA) => Ok(FIRST),
        Err(error) => Err(error),
    }
}

/// On the disk with whatever is made by one of them, or before: they are changes of one journal.
fn write_reserved(root: BorrowedFd<'_>, numbers: u64) -> Result<(), Errno> {
    rustix::fs::setxattr(proc_path(root), RESERVED, &numbers.to_le_bytes(), XattrFlags::empty())
}

/// What an object goes by that was found where nothing may be changed: no other has it as long as it lives.
pub(super) fn passing(inode: u64) -> u64 {
    inode | PASSING
}

/// None: it has none of its own yet.
pub(super) fn read(object: BorrowedFd<'_>, inode: u64) -> Result<Option<u64>, Errno> {
    let mut bytes = [0; 16];
    let read = match rustix::fs::getxattr(proc_path(object), OBJECT, &mut bytes) {
        Ok(read) => read,
        Err(Errno::NODATA) => return Ok(None),
        // Longer than any of ours.
        Err(Errno::RANGE) => 0,
        Err(error) => return Err(error),
    };
    let (number, of) = bytes.split_at(8);
    let number = u64::from_le_bytes(number.try_into().expect("half of sixteen bytes"));
    let of = u64::from_le_bytes(of.try_into().expect("half of sixteen bytes"));
    Ok((read == 16 && of == inode && number >= FIRST).then_some(number))
}

pub(super) fn write(object: BorrowedFd<'_>, number: u64, inode: u64) -> Result<(), Errno> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&inode.to_le_bytes());
    rustix::fs::setxattr(proc_path(object), OBJECT, &bytes, XattrFlags::empty())
}

/// As if nobody had numbered it.
pub(super) fn remove(object: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::fs::removexattr(proc_path(object), OBJECT) {
        Err(Errno::NODATA) => Ok(()),
        done => done,
    }
}
