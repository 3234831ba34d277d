//! What somebody did to a directory while it was not captured: found by the time of the last change of each object
//! (ctime), which nobody can set.
//!
//! The end of a clean stop is marked by a file of its own, whose ctime comes from the same clock. After a crash there is
//! no such file, and none is needed: the dead mount covers the directory until the next start.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::apply::known::is_hidden;
use super::directory::{Directory, is_dot};
use super::identity::{self, ROOT};
use super::object::{FileHandle, reopen};
use super::watch::Trace;
use crate::types::replica::{ObjectId, Region, Touch};

const STOPPED: &str = "stopped";

/// Seconds and nanoseconds of a ctime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(i64, u64);

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self(stat.st_ctime, stat.st_ctime_nsec)
    }
}

/// From now on nobody watches. `record`: the directory of the record.
pub(super) fn begins(record: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(record, STOPPED, flags, Mode::RUSR | Mode::WUSR)?;
    // Written anew, so that it has the time of now.
    rustix::io::write(&file, b"\n")?;
    rustix::fs::fsync(&file)?;
    rustix::fs::fsync(record)
}

/// Since when nobody watched; none: it was captured until it died.
pub(super) fn since(record: &OwnedFd) -> Result<Option<Stamp>, Errno> {
    match rustix::fs::statat(record, STOPPED, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Stamp::of(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What was found is recorded.
pub(super) fn ends(record: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::unlinkat(record, STOPPED, AtFlags::empty()) {
        Ok(()) => rustix::fs::fsync(record),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// An object that is another one than before, or was there under another name.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) object: ObjectId,
    /// None: the directory itself.
    pub(super) trace: Option<Trace>,
    pub(super) touches: Vec<Touch>,
}

/// Everything below `root` that was changed at or after `stamp`. An object that has no number is new: its directory was
/// changed, and is told.
pub(super) fn changed(root: BorrowedFd<'_>, stamp: Stamp, mut see: impl FnMut(Changed)) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(root)?;
    if Stamp::of(&stat) >= stamp {
        see(Changed { object: ObjectId(ROOT), trace: None, touches: directory_touched(ObjectId(ROOT)) });
    }
    let root = reopen(root, OFlags::RDONLY | OFlags::DIRECTORY)?;
    // By their handles: there may be more of them than this process may open.
    let mut left = VecDeque::from([(ROOT, FileHandle::of(root.as_fd())?)]);
    while let Some((number, handle)) = left.pop_front() {
        let place = handle.open(root.as_fd())?;
        let directory = Directory::new(reopen(place.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?);
        let mut above = None;
        directory.read(0, |entry| {
            let name = entry.name.to_bytes();
            if is_dot(&entry.name) || is_hidden(ObjectId(number), name) {
                return Ok(true);
            }
            let found = match rustix::fs::statat(&directory.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if found.st_dev == stat.st_dev => found,
                // Of another file system, or gone.
                Ok(_) | Err(Errno::NOENT) => return Ok(true),
                Err(error) => return Err(error),
            };
            let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
            if Stamp::of(&found) < stamp && !is_directory {
                return Ok(true);
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let held = rustix::fs::openat(&directory.fd, name, flags, Mode::empty())?;
            let known = identity::read(held.as_fd(), found.st_ino)?;
            if let Some(object) = known
                && Stamp::of(&found) >= stamp
            {
                if above.is_none() {
                    above = Some(FileHandle::of(directory.fd.as_fd())?);
                }
                let place = above.clone().map(|above| (above, name.to_vec()));
                let trace = Some(Trace { handle: FileHandle::of(held.as_fd())?, place });
                let object = ObjectId(object);
                let touches = if is_directory { directory_touched(object) } else { whole(object) };
                see(Changed { object, trace, touches });
            }
            if is_directory {
                left.push_back((known.unwrap_or(0), FileHandle::of(held.as_fd())?));
            }
            Ok(true)
        })?;
    }
    Ok(())
}

fn directory_touched(object: ObjectId) -> Vec<Touch> {
    vec![Touch::all(Region::names(object)), Touch::all(Region::meta(object))]
}

fn whole(object: ObjectId) -> Vec<Touch> {
    vec![Touch::all(Region::whole(object))]
}
