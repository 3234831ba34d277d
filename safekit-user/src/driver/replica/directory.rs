//! An open directory, read in the order and by the positions of the file system underneath.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

const BUFFER_BYTES: usize = 32 * 1024;

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    /// One position for all readers of this handle.
    reading: Mutex<()>,
}

/// One name of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: CString,
    pub(super) kind: FileType,
    /// Of the entry after it.
    pub(super) next: u64,
}

impl Directory {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, reading: Mutex::new(()) }
    }

    /// All of them, but for itself and the one above.
    pub(super) fn names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = Vec::new();
        self.read(0, |entry| {
            if !is_dot(&entry.name) {
                names.push(entry.name.to_bytes().to_vec());
            }
            Ok(true)
        })?;
        Ok(names)
    }

    /// From a position on, until `take` wants no more.
    pub(super) fn read(
        &self,
        from: u64,
        mut take: impl FnMut(&Entry) -> Result<bool, Errno>,
    ) -> Result<(), Errno> {
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::fs::seek(&self.fd, SeekFrom::Start(from))?;
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER_BYTES];
        let mut entries = RawDir::new(&self.fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let entry = Entry {
                name: entry.file_name().to_owned(),
                kind: entry.file_type(),
                next: entry.next_entry_cookie(),
            };
            if !take(&entry)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

pub(super) fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
