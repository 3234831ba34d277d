//! What is waited for by another thread than the one that applies changes.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::files::again;
use crate::driver::replica::object::reopen;

/// Changes that are to be on the disk.
#[derive(Debug)]
#[must_use = "nothing is on the disk before it has run"]
pub struct Flush {
    /// Open for reading at least; an error is told to whoever waits.
    what: Result<OwnedFd, Errno>,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Data,
    All,
    FileSystem,
}

impl Flush {
    pub(super) fn file_system(root: BorrowedFd<'_>) -> Self {
        Self { what: rustix::io::fcntl_dupfd_cloexec(root, 0), how: How::FileSystem }
    }

    /// `open`: a descriptor that was written through. It has not yet told the errors that it met, a new one may never.
    pub(super) fn opened(open: BorrowedFd<'_>, data_only: bool) -> Self {
        Self { what: rustix::io::fcntl_dupfd_cloexec(open, 0), how: how(data_only) }
    }

    /// Opening other kinds would do something: they are written with the whole file system.
    pub(super) fn object(object: BorrowedFd<'_>, data_only: bool, root: BorrowedFd<'_>) -> Self {
        let kind = rustix::fs::fstat(object).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::RegularFile | FileType::Directory) => {
                Self { what: reopen(object, OFlags::RDONLY), how: how(data_only) }
            }
            Ok(_) => Self::file_system(root),
            Err(error) => Self { what: Err(error), how: How::All },
        }
    }

    pub fn run(self) -> io::Result<()> {
        let what = self.what?;
        again(|| match self.how {
            How::Data => rustix::fs::fdatasync(&what),
            How::All => rustix::fs::fsync(&what),
            How::FileSystem => rustix::fs::syncfs(&what),
        })?;
        Ok(())
    }
}

fn how(data_only: bool) -> How {
    if data_only { How::Data } else { How::All }
}
