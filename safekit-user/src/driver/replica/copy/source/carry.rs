//! What is sent without being asked for: contents, and at last what else an object is.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;

use super::{ATTRIBUTES_BYTES_MAX, Pass, io};
use crate::driver::replica::apply::files::read_full;
use crate::driver::replica::apply::shape;
use crate::driver::replica::copy::Failure;
use crate::driver::replica::copy::find::Found;
use crate::types::replica::ObjectId;
use crate::wire::replica::{Copying, Frame};

impl Pass<'_> {
    pub(super) fn fill(&mut self, object: ObjectId, file: &OwnedFd, size: u64) -> Result<(), Failure> {
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => return Ok(()),
                Err(source) => return Err(Failure::Io { doing: "look for data in a file", source }),
            };
            let end =
                rustix::fs::seek(file, SeekFrom::Hole(start)).map_err(io("look for a hole in a file"))?;
            self.send_contents(object, file, start, end.min(size).saturating_sub(start))?;
            at = end.max(start + 1);
        }
        Ok(())
    }

    /// `length` bytes, or as many as there are.
    pub(super) fn send_contents(
        &mut self,
        object: ObjectId,
        file: &OwnedFd,
        mut offset: u64,
        mut length: u64,
    ) -> Result<(), Failure> {
        while length > 0 {
            let piece = length.min(self.buffer.len() as u64) as usize;
            let read = read_full(file, offset, &mut self.buffer[..piece]).map_err(io("read a file"))?;
            if read == 0 {
                return Ok(());
            }
            let contents = &self.buffer[..read];
            if contents.iter().all(|byte| *byte == 0) {
                let hole = Copying::Hole { object, offset, length: read as u64 };
                self.wire.send(&Frame::Copying(hole), &[])?;
            } else {
                self.wire.send(&Frame::Copying(Copying::Contents { object, offset }), contents)?;
                self.counted.bytes_sent.fetch_add(read as u64, Ordering::Relaxed);
            }
            offset += read as u64;
            length -= read as u64;
        }
        Ok(())
    }

    /// Everything of it but its contents and its names.
    pub(super) fn finish(&mut self, found: &Found) -> Result<(), Failure> {
        let stat = rustix::fs::fstat(&found.fd).map_err(io("look at an object"))?;
        if stat.st_nlink == 0 {
            return Ok(());
        }
        let attributes = shape::attributes(found.fd.as_fd()).map_err(io("read attributes"))?;
        let bytes: usize = attributes.iter().map(|it| it.name.len() + it.value.len()).sum();
        if bytes > ATTRIBUTES_BYTES_MAX {
            return Err(Failure::Io { doing: "send more attributes of one object", source: Errno::TOOBIG });
        }
        let size = (found.kind() == FileType::RegularFile).then_some(stat.st_size as u64);
        let finish = Copying::Finish { object: found.object, size, meta: shape::meta(&stat), attributes };
        self.counted.files.fetch_add(1, Ordering::Relaxed);
        Ok(self.wire.send(&Frame::Copying(finish), &[])?)
    }

    pub(super) fn finish_directories(&mut self) -> Result<(), Failure> {
        let mut directories = std::mem::take(&mut self.to_finish);
        directories.sort_by_key(|(depth, ..)| std::cmp::Reverse(*depth));
        for (_, object, handle) in directories {
            if let Some(found) = self.open(object, &handle)? {
                self.finish(&found)?;
            }
        }
        Ok(())
    }
}
