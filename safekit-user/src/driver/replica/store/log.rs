//! The file of a record: begun with a snapshot, appended to until it is too long.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::blocks;
use super::state::{self, State};
use super::{Batch, Doing as _, Error, traces};

pub(super) const NAME: &str = "record";
pub(super) const NEW: &str = "record.new";
/// A file is this long at least before it is written anew,
pub(super) const LENGTH_MIN: u64 = 256 * 1024;
/// or this many times as long as its snapshot: what is written anew is a fraction of what has been appended.
const GROWTH: u64 = 4;
/// Room is made in such steps, so that a sync of an append has no length to write.
const STEP_BYTES: u64 = 1024 * 1024;
/// Longer than any that is written: `GROWTH` times as many regions as there can be, of 16 bytes, and their traces.
const READ_BYTES_MAX: u64 = 256 * 1024 * 1024;
const _: () = assert!(GROWTH * (state::REGIONS_MAX as u64 * 16 + traces::BYTES_MAX as u64) < READ_BYTES_MAX);

#[derive(Debug)]
pub(super) struct Log {
    pub(super) file: File,
    id: u64,
    next_number: u64,
    /// Of the last block.
    end: u64,
    /// Of the room that has been made.
    room: u64,
    length_max: u64,
}

/// None: there is no file yet.
pub(super) fn read(directory: &File) -> Result<Option<Vec<u8>>, Error> {
    let doing = "read the record of this copy";
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, NAME, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => File::from(opened.doing(doing)?),
    };
    let mut bytes = Vec::new();
    file.take(READ_BYTES_MAX + 1).read_to_end(&mut bytes).doing(doing)?;
    if bytes.len() as u64 > READ_BYTES_MAX {
        // Nobody knows how it got there, and its end is not known: as good as nothing.
        bytes.clear();
    }
    Ok(Some(bytes))
}

impl Log {
    /// In the place of the former one, on the disk.
    pub(super) fn create(directory: &File, state: &State) -> Result<Self, Error> {
        let mut id = [0; 8];
        SystemRandom::new().fill(&mut id).map_err(|_| Error::Random)?;
        let id = u64::from_le_bytes(id);
        let (bytes, next_number) = blocks::snapshot(id, state);
        let end = bytes.len() as u64;
        let length_max = LENGTH_MIN.max(end.saturating_mul(GROWTH));
        let mut log = Self { file: create_new(directory)?, id, next_number, end, room: 0, length_max };
        log.make_room(end)?;
        log.file.write_all_at(&bytes, 0).doing("write a new record of this copy")?;
        log.file.sync_all().doing("sync a new record of this copy")?;
        rustix::fs::renameat(directory, NEW, directory, NAME).doing("replace the record of this copy")?;
        // The rename is durable when the directory is.
        directory.sync_all().doing("sync the directory of the record")?;
        Ok(log)
    }

    /// On the disk; or not written, false: the file would be too long.
    pub(super) fn append(&mut self, batches: &[Batch]) -> Result<bool, Error> {
        let block = blocks::append(self.id, self.next_number, batches);
        let end = self.end + block.len() as u64;
        if end > self.length_max {
            return Ok(false);
        }
        self.make_room(end)?;
        self.file.write_all_at(&block, self.end).doing("write the record of this copy")?;
        self.file.sync_data().doing("sync the record of this copy")?;
        (self.end, self.next_number) = (end, self.next_number + 1);
        Ok(true)
    }

    fn make_room(&mut self, until: u64) -> Result<(), Error> {
        if until <= self.room {
            return Ok(());
        }
        let room = until.next_multiple_of(STEP_BYTES).min(self.length_max);
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), self.room, room - self.room) {
            // Slower, and as safe: each sync writes the length as well.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            made => made.doing("make room for the record of this copy")?,
        }
        self.room = room;
        Ok(())
    }
}

/// What a crash has left there is of no use.
fn create_new(directory: &File) -> Result<File, Error> {
    match rustix::fs::unlinkat(directory, NEW, AtFlags::empty()) {
        Err(Errno::NOENT) => {}
        removed => removed.doing("remove what was left of a new record")?,
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(directory, NEW, flags, Mode::RUSR | Mode::WUSR);
    made.doing("create a new record of this copy").map(File::from)
}
