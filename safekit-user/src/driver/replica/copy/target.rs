//! The copy that is overwritten.
//!
//! Nothing is removed before the end: names that do not belong where they are go to **limbo**, a directory of this
//! program, from where they are placed when another directory wants them. An object that is made anew gets its number
//! only when its contents are on the disk: one that has a number is whole.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::digest;
use crate::driver::replica::apply::fault::Doing as _;
use crate::driver::replica::apply::files::{Files, again, read_full, write_all};
use crate::driver::replica::apply::known::{Known, Met, is_hidden, meet};
use crate::driver::replica::apply::{Fault, link_object, shape};
use crate::driver::replica::directory::Directory;
use crate::driver::replica::identity::{self, Numbering};
use crate::driver::replica::object::{above, reopen};
use crate::types::replica::{ObjectId, Region};
use crate::wire::replica::{Attribute, Copied, Copying, Digest, Entry, Meta, Unit};

const LIMBO: &[u8] = b"limbo";
/// Objects that are made and have no number yet: more, and they are brought to the disk.
const UNNUMBERED_MAX: usize = 8192;
/// What could not be found: more, and everything is compared.
const LOST_MAX: usize = 65_536;

#[derive(Debug)]
pub struct Target {
    known: Known,
    files: Files,
    numbering: Arc<Numbering>,
    limbo: OwnedFd,
    next_in_limbo: u64,
    /// Of the directory whose names are arriving: those that it is to have.
    listing: Option<(ObjectId, HashSet<Vec<u8>>)>,
    unnumbered: Vec<(ObjectId, u64)>,
    lost: BTreeSet<ObjectId>,
}

impl Target {
    /// `root`: the replicated directory. Needs root.
    pub fn open(root: OwnedFd, numbering: Arc<Numbering>) -> io::Result<Self> {
        let known = Known::open(root)?;
        let limbo = open_limbo(known.root())?;
        let mut target = Self {
            known,
            files: Files::default(),
            numbering,
            limbo,
            next_in_limbo: 0,
            listing: None,
            unnumbered: Vec::new(),
            lost: BTreeSet::new(),
        };
        target.remember_limbo()?;
        Ok(target)
    }

    /// A resynchronisation that broke off has left what may still be wanted.
    fn remember_limbo(&mut self) -> Result<(), Errno> {
        for name in names_of(self.limbo.as_fd())? {
            let met = meet(self.known.device(), self.limbo.as_fd(), &name)?;
            let number: u64 = std::str::from_utf8(&name).ok().and_then(|it| it.parse().ok()).unwrap_or(0);
            self.next_in_limbo = self.next_in_limbo.max(number + 1);
            if let Some(object) = met.number
                && !self.known.contains(object)
            {
                self.known.remember(object, met.fd);
            }
        }
        Ok(())
    }

    /// Where an object is, as far as it is there: nothing is wrong if it is not.
    pub fn place(&mut self, object: ObjectId, parent: ObjectId, name: &[u8]) -> Result<(), Fault> {
        match self.known.learn(object, parent, name) {
            Ok(()) | Err(Fault::Unknown(_) | Fault::Differs { .. }) => Ok(()),
            Err(fault @ Fault::Io { .. }) => Err(fault),
        }
    }

    /// `bulk`: contents. What is to be answered.
    pub fn handle(&mut self, copying: Copying, bulk: &[u8]) -> Result<Option<Copied>, Fault> {
        match copying {
            Copying::Names { directory, entries, last } => {
                let missing = self.names(directory, &entries, last)?;
                Ok(Some(Copied::Placed { directory, missing }))
            }
            Copying::Digests { object, unit, offset, size, digests } => {
                let which = self.compare(object, unit, offset, size, &digests)?;
                Ok(Some(Copied::Differing { object, unit, offset, which }))
            }
            Copying::PassEnd { number } => {
                let lost = std::mem::take(&mut self.lost).into_iter().collect();
                Ok(Some(Copied::PassEnded { number, lost }))
            }
            Copying::Contents { object, offset } => {
                if let Some(file) = self.file(object)? {
                    self.write_copied(&file, offset, bulk).doing("write what was copied")?;
                }
                Ok(None)
            }
            Copying::Hole { object, offset, length } => {
                if let Some(file) = self.file(object)? {
                    punch(file.as_fd(), offset, length).doing("make a hole in a file")?;
                }
                Ok(None)
            }
            Copying::Finish { object, size, meta, attributes } => {
                self.finish(object, size, &meta, &attributes)?;
                Ok(None)
            }
        }
    }

    /// To the disk, all of it; limbo is emptied.
    pub fn sync(&mut self) -> Result<(), Fault> {
        self.files.close_all();
        self.number_all()?;
        self.empty_limbo().doing("remove what does not belong to the copy")?;
        rustix::fs::syncfs(self.known.root()).doing("write the file system to its disk")
    }

    fn is_lost(&mut self, object: ObjectId) {
        if self.lost.len() < LOST_MAX {
            self.lost.insert(object);
        } else {
            self.lost.insert(Region::EVERYTHING.object);
        }
    }

    /// None: it is not known here.
    fn file(&mut self, object: ObjectId) -> Result<Option<Arc<OwnedFd>>, Fault> {
        if let Some(file) = self.files.opened(object) {
            return Ok(Some(file));
        }
        let Some(place) = self.known.search(object)? else {
            self.is_lost(object);
            return Ok(None);
        };
        match self.files.open(object, place.as_fd()) {
            Ok(file) => Ok(Some(file)),
            Err(Fault::Differs { .. }) => {
                drop(place);
                self.is_lost(object);
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    fn compare(
        &mut self,
        object: ObjectId,
        unit: Unit,
        offset: u64,
        size: u64,
        digests: &[Digest],
    ) -> Result<Vec<u64>, Fault> {
        let mut which = vec![0_u64; digests.len().div_ceil(64)];
        let Some(file) = self.file(object)? else { return Ok(which) };
        let mut buffer = vec![0; unit.bytes() as usize];
        for (piece, wanted) in digests.iter().enumerate() {
            let at = offset.saturating_add((piece as u64).saturating_mul(unit.bytes()));
            let length = size.saturating_sub(at).min(unit.bytes()) as usize;
            let read = read_full(&*file, at, &mut buffer[..length]).doing("read a file")?;
            if read < length || digest(&buffer[..length]) != *wanted {
                which[piece / 64] |= 1 << (piece % 64);
            }
        }
        Ok(which)
    }

    /// Gives back what had to be made.
    fn names(&mut self, directory: ObjectId, entries: &[Entry], last: bool) -> Result<Vec<ObjectId>, Fault> {
        let Some(found) = self.known.search(directory)? else {
            self.is_lost(directory);
            return Ok(Vec::new());
        };
        let stat = rustix::fs::fstat(found.as_fd()).doing("look at a directory")?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            drop(found);
            self.is_lost(directory);
            return Ok(Vec::new());
        }
        let parent = reopen(found.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY).doing("open a directory")?;
        drop(found);
        let mut missing = Vec::new();
        for entry in entries {
            if is_hidden(directory, &entry.name) {
                return Err(Fault::differs(directory, "the name belongs to this program"));
            }
            if !self.place_entry(parent.as_fd(), entry)? {
                missing.push(entry.object);
            }
        }
        let mut listed = match self.listing.take() {
            Some((listing, names)) if listing == directory => names,
            Some(_) | None => HashSet::new(),
        };
        listed.extend(entries.iter().map(|entry| entry.name.clone()));
        if last {
            self.take_out_others(directory, parent.as_fd(), &listed)?;
        } else {
            self.listing = Some((directory, listed));
        }
        Ok(missing)
    }

    fn take_out_others(
        &mut self,
        directory: ObjectId,
        parent: BorrowedFd<'_>,
        wanted: &HashSet<Vec<u8>>,
    ) -> Result<(), Fault> {
        for name in names_of(parent).doing("list a directory")? {
            if !wanted.contains(&name) && !is_hidden(directory, &name) {
                match meet(self.known.device(), parent, &name) {
                    Ok(met) => self.take_out(parent, &name, met)?,
                    // Another file system is mounted there: no part of the copy.
                    Err(Errno::XDEV | Errno::NOENT) => {}
                    Err(source) => return Err(Fault::Io { doing: "look at a name", source }),
                }
            }
        }
        Ok(())
    }

    /// False: it had to be made, and contents and all must follow.
    fn place_entry(&mut self, parent: BorrowedFd<'_>, entry: &Entry) -> Result<bool, Fault> {
        let there = match meet(self.known.device(), parent, &entry.name) {
            Ok(met) => Some(met),
            Err(Errno::NOENT) => None,
            Err(source) => return Err(Fault::Io { doing: "look at a name", source }),
        };
        if let Some(met) = there {
            if self.is_it(&met, entry)? {
                if !self.known.contains(entry.object) {
                    self.known.remember(entry.object, met.fd);
                }
                return Ok(true);
            }
            self.take_out(parent, &entry.name, met)?;
        }
        if self.bring(parent, entry)? {
            return Ok(true);
        }
        self.numbering.admit(entry.object).doing("reserve a number")?;
        let meet_made = || Ok(Some(meet(self.known.device(), parent, &entry.name).doing("look at a name")?));
        let met = shape::make_unnumbered(parent, entry, meet_made)?;
        self.files.close(entry.object);
        self.unnumbered.push((entry.object, met.stat.st_ino));
        self.known.remember(entry.object, met.fd);
        if self.unnumbered.len() >= UNNUMBERED_MAX {
            self.number_all()?;
        }
        Ok(false)
    }

    /// One number has one object: the one that is known, or the first that is met.
    fn is_it(&self, met: &Met, entry: &Entry) -> Result<bool, Fault> {
        if !shape::is_kind(met, &entry.kind)? {
            return Ok(false);
        }
        match self.known.search(entry.object)? {
            Some(known) => {
                let known = rustix::fs::fstat(known.as_fd()).doing("look at an object")?;
                Ok(known.st_ino == met.stat.st_ino)
            }
            None => Ok(met.number == Some(entry.object)),
        }
    }

    /// From wherever it is. False: it is nowhere.
    fn bring(&mut self, parent: BorrowedFd<'_>, entry: &Entry) -> Result<bool, Fault> {
        let Some(found) = self.known.search(entry.object)? else { return Ok(false) };
        let stat = rustix::fs::fstat(found.as_fd()).doing("look at an object")?;
        let fd = rustix::io::fcntl_dupfd_cloexec(found.as_fd(), 0).doing("hold an object")?;
        drop(found);
        let met = Met { fd, stat, number: Some(entry.object) };
        if stat.st_nlink > 0 && shape::is_kind(&met, &entry.kind)? {
            let brought = if met.is_directory() {
                bring_directory(&met, self.known.root(), parent, &entry.name)
            } else {
                link_object(met.fd.as_fd(), parent, &entry.name).map(|()| true)
            };
            if brought.doing("place an object")? {
                return Ok(true);
            }
        }
        self.known.forget(entry.object);
        self.files.close(entry.object);
        self.unnumbered.retain(|(object, _)| *object != entry.object);
        Ok(false)
    }

    fn take_out(&mut self, parent: BorrowedFd<'_>, name: &[u8], met: Met) -> Result<(), Fault> {
        let own = self.next_in_limbo.to_string();
        self.next_in_limbo += 1;
        rustix::fs::renameat(parent, name, &self.limbo, own.as_bytes()).doing("take a name out")?;
        let Some(object) = met.number else { return Ok(()) };
        let known = match self.known.search(object)? {
            Some(known) => Some(rustix::fs::fstat(known.as_fd()).doing("look at an object")?.st_ino),
            None => None,
        };
        match known {
            None => self.known.remember(object, met.fd),
            Some(inode) if inode == met.stat.st_ino => {}
            // Made anew meanwhile: this one has lost its number.
            Some(_) => identity::remove(met.fd.as_fd()).doing("take a number away")?,
        }
        Ok(())
    }

    fn finish(
        &mut self,
        object: ObjectId,
        size: Option<u64>,
        meta: &Meta,
        attributes: &[Attribute],
    ) -> Result<(), Fault> {
        if let Some(size) = size {
            let Some(file) = self.file(object)? else { return Ok(()) };
            let stat = rustix::fs::fstat(&*file).doing("look at a file")?;
            if stat.st_size as u64 != size {
                again(|| rustix::fs::ftruncate(&*file, size)).doing("truncate a file")?;
            }
        }
        let Some(found) = self.known.search(object)? else {
            self.is_lost(object);
            return Ok(());
        };
        let stat = rustix::fs::fstat(found.as_fd()).doing("look at an object")?;
        if !shape::same_type(stat.st_mode, meta.mode) {
            drop(found);
            self.is_lost(object);
            return Ok(());
        }
        shape::set(found.as_fd(), meta, Some(attributes))
    }

    /// After their contents: who has a number is whole, also after a crash.
    fn number_all(&mut self) -> Result<(), Fault> {
        if self.unnumbered.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(self.known.root()).doing("write the file system to its disk")?;
        for (object, inode) in std::mem::take(&mut self.unnumbered) {
            if let Some(found) = self.known.search(object)? {
                identity::write(found.as_fd(), object.0, inode).doing("number an object")?;
            }
        }
        Ok(())
    }

    /// What lies in limbo may be wanted again, and would then be copied again: room for what is wanted now comes first.
    fn write_copied(&mut self, file: &OwnedFd, offset: u64, contents: &[u8]) -> Result<(), Errno> {
        match write_all(file, offset, contents) {
            Err(Errno::NOSPC | Errno::DQUOT) => {
                self.files.close_all();
                self.empty_limbo()?;
                self.known.forget_gone();
                write_all(file, offset, contents)
            }
            written => written,
        }
    }

    /// However deep it is: what lies in a directory is brought up first.
    fn empty_limbo(&mut self) -> Result<(), Errno> {
        loop {
            let names = names_of(self.limbo.as_fd())?;
            if names.is_empty() {
                return Ok(());
            }
            for name in names {
                match rustix::fs::unlinkat(&self.limbo, &*name, AtFlags::empty()) {
                    Err(Errno::ISDIR) => self.remove_directory(&name)?,
                    Err(Errno::NOENT) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn remove_directory(&mut self, name: &[u8]) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.limbo, name, flags, Mode::empty())?;
        for inner in names_of(directory.as_fd())? {
            match rustix::fs::unlinkat(&directory, &*inner, AtFlags::empty()) {
                Err(Errno::ISDIR) => {
                    let own = self.next_in_limbo.to_string();
                    self.next_in_limbo += 1;
                    rustix::fs::renameat(&directory, &*inner, &self.limbo, own.as_bytes())?;
                }
                Err(Errno::NOENT) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        rustix::fs::unlinkat(&self.limbo, name, AtFlags::REMOVEDIR)
    }
}

/// A directory has one name: it is looked for where it is. False: it has none.
fn bring_directory(
    met: &Met,
    root: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &[u8],
) -> Result<bool, Errno> {
    let above = above(met.fd.as_fd(), root)?;
    for own in names_of(above.as_fd())? {
        let Ok(stat) = rustix::fs::statat(&above, &*own, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if (stat.st_ino, stat.st_dev) == (met.stat.st_ino, met.stat.st_dev) {
            rustix::fs::renameat(&above, &*own, parent, name)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Zeros, and room for nothing. What lies beyond the end is not there anyway.
fn punch(file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<(), Errno> {
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    let length = length.min(size.saturating_sub(offset));
    if length == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match again(|| rustix::fs::fallocate(file, flags, offset, length)) {
        Err(Errno::OPNOTSUPP) => write_zeros(file, offset, length),
        done => done,
    }
}

fn write_zeros(file: BorrowedFd<'_>, mut offset: u64, mut length: u64) -> Result<(), Errno> {
    let zeros = [0; 65_536];
    while length > 0 {
        let piece = length.min(zeros.len() as u64);
        write_all(file, offset, &zeros[..piece as usize])?;
        (offset, length) = (offset + piece, length - piece);
    }
    Ok(())
}

fn names_of(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let directory = Directory::new(reopen(directory, OFlags::RDONLY | OFlags::DIRECTORY)?);
    directory.names()
}

fn open_limbo(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let hidden = crate::driver::replica::hidden(root)?;
    match rustix::fs::mkdirat(&hidden, LIMBO, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&hidden, LIMBO, flags, Mode::empty())
}
