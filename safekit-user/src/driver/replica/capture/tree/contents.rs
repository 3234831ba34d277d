//! Contents of files.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::Tree;
use super::change::{Answer, Told};
use crate::driver::replica::apply::shape;
use crate::driver::replica::capture::credentials::Caller;
use crate::driver::replica::object::reopen;
use crate::types::replica::{ObjectId, Region, Touch};
use crate::wire::replica::Operation;

impl Tree {
    pub(in crate::driver::replica::capture) fn open_file(
        &self,
        number: u64,
        flags: OFlags,
        caller: Caller,
        answer: Answer<u64>,
    ) {
        if !flags.contains(OFlags::TRUNC) {
            return answer(self.open_as_it_is(number, flags));
        }
        let _lock = self.stripes.lock([number]);
        let (object, size) = match self.size_of(number) {
            Ok(found) => found,
            Err(error) => return answer(Err(error)),
        };
        let make = |told: &mut Told<'_>| {
            let place = self.object(number)?;
            let file = caller.changes(place.as_fd(), || reopen(place.as_fd(), for_below(flags)))?;
            told.say(Operation::Truncate { object, size: 0 });
            told.say(Operation::Meta { object, meta: shape::meta(&rustix::fs::fstat(&file)?) });
            Ok(self.files.insert(file))
        };
        self.change_contents(number, &touched(object, 0, size), make, answer);
    }

    pub(super) fn open_as_it_is(&self, number: u64, flags: OFlags) -> Result<u64, Errno> {
        let object = self.object(number)?;
        Ok(self.files.insert(reopen(object.as_fd(), for_below(flags))?))
    }

    fn size_of(&self, number: u64) -> Result<(ObjectId, u64), Errno> {
        let stat = rustix::fs::fstat(self.object(number)?)?;
        Ok((ObjectId(number), u64::try_from(stat.st_size).unwrap_or(0)))
    }

    pub(in crate::driver::replica::capture) fn file(&self, handle: u64) -> Result<Arc<OwnedFd>, Errno> {
        self.files.find(handle)
    }

    pub(in crate::driver::replica::capture) fn close_file(&self, handle: u64) {
        self.files.remove(handle);
    }

    /// All of it, or as much as the file system underneath could take. `by`: who clears bits of the mode by that.
    pub(in crate::driver::replica::capture) fn write<'a>(
        &self,
        (number, handle): (u64, u64),
        offset: u64,
        data: &'a [u8],
        by: Option<Caller>,
        answer: Answer<usize>,
    ) {
        let file = match self.files.find(handle) {
            Ok(file) => file,
            Err(error) => return answer(Err(error)),
        };
        let object = ObjectId(number);
        let _lock = self.stripes.lock([number]);
        let make = |told: &mut Told<'a>| {
            let write = || write_all(file.as_fd(), offset, data);
            let written = match by {
                Some(caller) => caller.changes(file.as_fd(), write),
                None => write(),
            };
            // Also what could not be written: a file system may have set the time before it found no room.
            self.was_modified(number);
            let written = written?;
            told.write(Operation::Write { object, offset }, &data[..written]);
            if by.is_some() {
                told.say(Operation::Meta { object, meta: shape::meta(&rustix::fs::fstat(&*file)?) });
            }
            Ok(written)
        };
        self.change_contents(number, &touched(object, offset, data.len() as u64), make, answer);
    }

    pub(in crate::driver::replica::capture) fn fallocate(
        &self,
        (number, handle): (u64, u64),
        mode: u32,
        (offset, length): (u64, u64),
        caller: Caller,
        answer: Answer<()>,
    ) {
        let prepared = || {
            let flags = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
            Ok((self.files.find(handle)?, flags))
        };
        let (file, flags) = match prepared() {
            Ok(prepared) => prepared,
            Err(error) => return answer(Err(error)),
        };
        let object = ObjectId(number);
        let _lock = self.stripes.lock([number]);
        let make = |told: &mut Told<'_>| {
            let allocated =
                caller.changes(file.as_fd(), || rustix::fs::fallocate(&*file, flags, offset, length));
            if matches!(allocated, Err(Errno::NOSPC | Errno::INTR | Errno::DQUOT)) {
                // Some of it may be there.
                told.is_unknown();
            }
            allocated?;
            told.say(Operation::Allocate { object, mode, offset, length });
            self.was_modified(number);
            Ok(())
        };
        self.change_contents(number, &touched(object, offset, length), make, answer);
    }

    pub(in crate::driver::replica::capture) fn copy(
        &self,
        (from, at): ((u64, u64), u64),
        (to, new_at): ((u64, u64), u64),
        length: u64,
        caller: Caller,
        answer: Answer<usize>,
    ) {
        let prepared = || Ok((self.files.find(from.1)?, self.files.find(to.1)?));
        let (source, target) = match prepared() {
            Ok(prepared) => prepared,
            Err(error) => return answer(Err(error)),
        };
        let _locks = self.stripes.lock([from.0, to.0]);
        if self.is_unnamed(from.0) {
            // The other node does not have it: the kernel copies by reading and writing.
            return answer(Err(Errno::XDEV));
        }
        let length = length.min(i32::MAX as u64);
        let objects = (ObjectId(from.0), ObjectId(to.0));
        let make = |told: &mut Told<'_>| {
            self.watch.names(objects.0);
            let (mut read_at, mut write_at) = (at, new_at);
            let copied = caller.changes(target.as_fd(), || {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                rustix::fs::copy_file_range(
                    &*source,
                    Some(&mut read_at),
                    &*target,
                    Some(&mut write_at),
                    length,
                )
            })?;
            if copied > 0 {
                let (from, to) = objects;
                told.say(Operation::Copy { from, at, to, new_at, length: copied as u64 });
                self.was_modified(to.0);
            }
            Ok(copied)
        };
        self.change_contents(to.0, &touched(objects.1, new_at, length), make, answer);
    }

    /// As `change`, and nobody hears of what has no name.
    pub(super) fn change_contents<'a, T: Send + 'static>(
        &self,
        number: u64,
        touches: &[Touch],
        make: impl FnOnce(&mut Told<'a>) -> Result<T, Errno>,
        answer: Answer<T>,
    ) {
        if !self.is_unnamed(number) {
            return self.change(touches, make, answer);
        }
        let make = |told: &mut Told<'a>| {
            let made = make(told);
            told.forget();
            // A failing disk, too, is nobody else's business here.
            Ok(made)
        };
        self.change(&[], make, Box::new(move |made| answer(made.and_then(|made| made))));
    }

    pub(in crate::driver::replica::capture) fn sync(
        &self,
        (number, handle): (u64, u64),
        data_only: bool,
        answer: Answer<()>,
    ) {
        let file = match self.files.find(handle) {
            Ok(file) => file,
            Err(error) => return answer(Err(error)),
        };
        let local = || if data_only { rustix::fs::fdatasync(&*file) } else { rustix::fs::fsync(&*file) };
        self.flush(number, data_only, &local, answer);
    }

    pub(in crate::driver::replica::capture) fn sync_directory(
        &self,
        (number, handle): (u64, u64),
        data_only: bool,
        answer: Answer<()>,
    ) {
        let directory = match self.directories.find(handle) {
            Ok(directory) => directory,
            Err(error) => return answer(Err(error)),
        };
        let fd = &directory.fd;
        let local = || if data_only { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) };
        self.flush(number, data_only, &local, answer);
    }

    fn flush(&self, number: u64, data_only: bool, local: &dyn Fn() -> Result<(), Errno>, answer: Answer<()>) {
        if self.is_unnamed(number) || !self.leads() {
            return answer(local());
        }
        self.watch.flush(ObjectId(number), data_only, local, answer);
    }

    pub(in crate::driver::replica::capture) fn seek(
        &self,
        handle: u64,
        offset: i64,
        whence: i32,
    ) -> Result<u64, Errno> {
        let file = self.files.find(handle)?;
        let from = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let to = match whence {
            libc::SEEK_DATA => SeekFrom::Data(from),
            libc::SEEK_HOLE => SeekFrom::Hole(from),
            _ => return Err(Errno::INVAL),
        };
        rustix::fs::seek(&*file, to)
    }
}

/// A change of contents also changes the time of modification, and maybe the size.
pub(super) fn touched(object: ObjectId, offset: u64, length: u64) -> Vec<Touch> {
    let mut touches = Touch::contents(object, offset, length);
    touches.push(Touch::all(Region::meta(object)));
    touches
}

/// Offsets are absolute already, and durability is asked for by requests of its own.
fn for_below(flags: OFlags) -> OFlags {
    flags & (OFlags::RWMODE | OFlags::TRUNC | OFlags::NOATIME)
}

fn write_all(file: BorrowedFd<'_>, offset: u64, data: &[u8]) -> Result<usize, Errno> {
    let mut written = 0;
    while written < data.len() {
        match rustix::io::pwrite(file, &data[written..], offset + written as u64) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(Errno::INTR) => {}
            // What is there already counts; the rest is asked for again and meets the error itself.
            Err(_) if written > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
