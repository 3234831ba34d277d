//! The replicated directories of a mirror.

mod absence;
pub mod apply;
pub mod capture;
pub mod copy;
mod directory;
mod identity;
pub mod link;
mod object;
pub mod pair;
pub mod recorder;
pub mod service;
pub mod store;
pub mod verify;
pub mod watch;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use apply::known::HIDDEN;

/// Where this program keeps what belongs to no copy, below the replicated directory and on its file system; made if need
/// be. The directory itself looks as if nothing had been made.
pub fn hidden(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(root, HIDDEN, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    let before = rustix::fs::fstat(root)?;
    rustix::fs::mkdirat(root, HIDDEN, Mode::RWXU)?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec as i64 },
    };
    rustix::fs::utimensat(CWD, object::proc_path(root), &times, AtFlags::empty())?;
    rustix::fs::openat(root, HIDDEN, flags, Mode::empty())
}

/// linux/magic.h.
const FUSE_SUPER_MAGIC: u32 = 0x6573_5546;

/// Over that directory lies a file system of our own kind.
pub fn is_captured(directory: &OwnedFd) -> bool {
    rustix::fs::fstatfs(directory).is_ok_and(|found| found.f_type as u32 == FUSE_SUPER_MAGIC)
}

/// Whether the file system of a directory has what replication needs; nothing is changed. `OPNOTSUPP`: it has not.
pub fn can_be_replicated(directory: &OwnedFd) -> Result<(), Errno> {
    let inode = rustix::fs::fstat(directory)?.st_ino;
    identity::read(directory.as_fd(), inode)?;
    object::FileHandle::of(directory.as_fd()).map(drop)
}
