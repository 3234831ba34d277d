//! What a node keeps on its disk of one copy: what it is, which regions may differ from the other copy, and where their
//! objects are found again.
//!
//! ```text
//!   lock          held while a store is open
//!   record        blocks, one after another, and room for more (`blocks`)
//!                 | piece of the snapshot | … | last piece | append | append | … | zeros
//!   record.new    what will be the record: not yet complete, or left by a crash, and then of no use
//! ```
//!
//! An append is one block: one write, one fdatasync. When the file has grown too long (`log`), and whenever it is
//! opened, a snapshot of what it says begins a new one: written beside, synced, renamed, the directory synced. So a
//! crash leaves the old file or the new one, and nothing is ever written into a file that another process has written:
//! its last block may be in memory and not on the disk.
//!
//! Only the last append can be torn, and a torn one was never answered: it counts as not made. What is broken and has
//! a good block behind it, or belongs to the snapshot, was once good: then the record is of no use, and the copy says
//! so (`distrusted`), but names its generations as far as they can be read.

mod blocks;
mod log;
mod state;
mod traces;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use self::blocks::Damage;
use self::log::Log;
use self::state::State;
use super::watch::Trace;
use crate::engine::mirror::Entry;
use crate::types::replica::{ObjectId, Region};
use crate::wire::replica::Copy;

const LOCK: &str = "lock";

#[derive(Debug)]
pub struct Store {
    directory: File,
    state: State,
    log: Log,
    /// What an append left on the disk is not known, and not what `state` says.
    failed: bool,
    _lock: OwnedFd,
}

/// What was on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub copy: Copy,
    pub regions: Vec<Region>,
    /// Of objects of these regions; not of all.
    pub traces: BTreeMap<ObjectId, Trace>,
}

/// What is recorded at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub entries: Vec<Entry>,
    /// Where objects are; said after the entries. One is kept for as long as a region of its object is recorded.
    pub traces: Vec<(ObjectId, Trace)>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.traces.is_empty()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the record of this copy is in use by another process")]
    InUse,
    #[error("the record of this copy has the format {0}, which this version of safekit does not read")]
    Format(u32),
    #[error("cannot {doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the kernel has no random numbers")]
    Random,
    #[error("an earlier write of the record of this copy has failed, and what is on the disk is not known")]
    Failed,
}

impl Store {
    /// `directory` has files of this store only. A new one says that the copy has never been the copy of anything.
    pub fn open(directory: &OwnedFd) -> Result<(Self, Kept), Error> {
        // The one that is given may be open as a place only, which cannot be synced.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = rustix::fs::openat(directory, ".", flags, Mode::empty());
        let directory = File::from(own.doing("open the directory of the record")?);
        let lock = lock(&directory)?;
        let state = match log::read(&directory)? {
            Some(bytes) => recall(&bytes)?,
            None => State::default(),
        };
        let log = Log::create(&directory, &state)?;
        let kept = state.kept();
        Ok((Self { directory, state, log, failed: false, _lock: lock }, kept))
    }

    /// All of them are on the disk when it returns, and all or none after a crash. After an error there is no other
    /// append: Linux reports a failed write once, and forgets what it could not write (fsync(2), since 4.13).
    pub fn append(&mut self, batches: &[Batch]) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Failed);
        }
        if batches.iter().all(Batch::is_empty) {
            return Ok(());
        }
        self.failed = true;
        batches.iter().for_each(|batch| self.state.take(batch));
        if !self.log.append(batches)? {
            self.log = Log::create(&self.directory, &self.state)?;
        }
        self.failed = false;
        Ok(())
    }
}

/// What the bytes of a record say, whatever they are. The error is the number of a format that is not read.
pub fn read(bytes: &[u8]) -> Result<Kept, u32> {
    blocks::read(bytes).map(|found| found.state.kept())
}

fn lock(directory: &File) -> Result<OwnedFd, Error> {
    let doing = "lock the record of this copy";
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, LOCK, flags, Mode::RUSR | Mode::WUSR).doing(doing)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(Error::InUse),
        locked => locked.doing(doing).map(|()| file),
    }
}

fn recall(bytes: &[u8]) -> Result<State, Error> {
    let found = blocks::read(bytes).map_err(Error::Format)?;
    match found.damage {
        None => {}
        Some(Damage::Head) => {
            tracing::error!(
                bytes = bytes.len(),
                "the record of this copy cannot be read: nobody knows what the copy is, and everything is compared"
            );
        }
        Some(Damage::At(offset)) => {
            tracing::error!(offset, "the record of this copy is damaged: everything is compared");
        }
    }
    Ok(found.state)
}

/// Says what was being done when the kernel refused.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Io { doing, source: source.into() })
    }
}

#[cfg(test)]
mod tests;
