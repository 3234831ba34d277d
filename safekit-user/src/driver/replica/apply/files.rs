//! Contents of ordinary files: open ones are kept for a while, because writes come in runs.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::fault::{Doing as _, Fault};
use crate::driver::replica::object::reopen;
use crate::types::replica::ObjectId;

/// Beyond it the one that was used least recently is closed.
const OPEN_MAX: usize = 64;

#[derive(Debug, Default)]
pub(in crate::driver::replica) struct Files {
    open: HashMap<ObjectId, (Arc<OwnedFd>, u64)>,
    uses: u64,
}

impl Files {
    /// Open for reading and writing. Only ordinary files: to open a device or a pipe would do something.
    pub(in crate::driver::replica) fn open(
        &mut self,
        object: ObjectId,
        place: BorrowedFd<'_>,
    ) -> Result<Arc<OwnedFd>, Fault> {
        if let Some(file) = self.opened(object) {
            return Ok(file);
        }
        let stat = rustix::fs::fstat(place).doing("look at a file")?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Fault::differs(object, "it is no ordinary file"));
        }
        let file = Arc::new(reopen(place, OFlags::RDWR).doing("open a file for writing")?);
        if self.open.len() >= OPEN_MAX {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(object, _)| *object);
            oldest.map(|object| self.open.remove(&object));
        }
        self.open.insert(object, (Arc::clone(&file), self.uses));
        Ok(file)
    }

    /// It is open already.
    pub(in crate::driver::replica) fn opened(&mut self, object: ObjectId) -> Option<Arc<OwnedFd>> {
        self.uses += 1;
        let (file, used) = self.open.get_mut(&object)?;
        *used = self.uses;
        Some(Arc::clone(file))
    }

    /// Not counted as a use.
    pub(in crate::driver::replica) fn peek(&self, object: ObjectId) -> Option<&OwnedFd> {
        self.open.get(&object).map(|(file, _)| &**file)
    }

    pub(in crate::driver::replica) fn close(&mut self, object: ObjectId) {
        self.open.remove(&object);
    }

    pub(in crate::driver::replica) fn close_all(&mut self) {
        self.open.clear();
    }
}

/// A signal is no answer.
pub(in crate::driver::replica) fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

pub(in crate::driver::replica) fn write_all(
    file: impl AsFd,
    mut offset: u64,
    mut data: &[u8],
) -> Result<(), Errno> {
    while !data.is_empty() {
        match again(|| rustix::io::pwrite(&file, data, offset))? {
            0 => return Err(Errno::IO),
            written => {
                data = &data[written..];
                offset += written as u64;
            }
        }
    }
    Ok(())
}

/// As much as there is: less than `buffer` at the end of the file only.
pub(in crate::driver::replica) fn read_full(
    file: impl AsFd,
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match again(|| rustix::io::pread(&file, &mut buffer[filled..], offset + filled as u64))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Bytes that are read at once where the kernel does not copy by itself.
const PIECE_BYTES: usize = 256 * 1024;

/// False: there was less to copy.
pub(super) fn copy_range(
    (from, mut at): (&OwnedFd, u64),
    (to, mut new_at): (&OwnedFd, u64),
    mut length: u64,
) -> Result<bool, Errno> {
    while length > 0 {
        let piece = usize::try_from(length).unwrap_or(usize::MAX).min(1 << 30);
        match again(|| rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut new_at), piece)) {
            Ok(0) => return Ok(false),
            Ok(copied) => length -= copied as u64,
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand((from, at), (to, new_at), length);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn copy_by_hand(
    (from, mut at): (&OwnedFd, u64),
    (to, mut new_at): (&OwnedFd, u64),
    mut length: u64,
) -> Result<bool, Errno> {
    let mut buffer = vec![0; PIECE_BYTES.min(usize::try_from(length).unwrap_or(PIECE_BYTES))];
    while length > 0 {
        let piece = buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let read = read_full(from, at, &mut buffer[..piece])?;
        if read == 0 {
            return Ok(false);
        }
        write_all(to, new_at, &buffer[..read])?;
        at += read as u64;
        new_at += read as u64;
        length -= read as u64;
    }
    Ok(true)
}
