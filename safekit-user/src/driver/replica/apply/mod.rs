//! The copy that follows: each change of the other node is made again, exactly, in the same order.
//!
//! Objects go by their numbers. Whatever is not as the other node says ends the session: a copy is equal, or it is known
//! not to be.

pub(super) mod fault;
pub(super) mod files;
mod flush;
pub(super) mod known;
pub(super) mod shape;
mod verify;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FallocateFlags, RenameFlags};
use rustix::io::Errno;

use super::identity::Numbering;
use super::object::proc_path;
use crate::types::replica::ObjectId;
use crate::wire::replica::{Attribute, Entry, Meta, Operation};

pub use fault::Fault;
pub use flush::Flush;

use fault::Doing as _;
use files::{Files, again, copy_range, write_all};
use known::{Known, Met};

#[derive(Debug)]
pub struct Applier {
    known: Known,
    files: Files,
    numbering: Arc<Numbering>,
}

impl Applier {
    /// `root`: the replicated directory. Needs root.
    pub fn open(root: OwnedFd, numbering: Arc<Numbering>) -> io::Result<Self> {
        Ok(Self { known: Known::open(root)?, files: Files::default(), numbering })
    }

    /// Where an object is that operations will call by its number only.
    pub fn place(&mut self, object: ObjectId, parent: ObjectId, name: &[u8]) -> Result<(), Fault> {
        self.known.learn(object, parent, name)
    }

    pub fn forget_places(&mut self) {
        self.known.forget_all();
        self.files.close_all();
    }

    /// `bulk`: the contents of a write.
    pub fn apply(&mut self, operation: &Operation, bulk: &[u8]) -> Result<(), Fault> {
        match operation {
            Operation::Write { object, offset } => {
                write_all(&*self.file(*object)?, *offset, bulk).doing("write")
            }
            Operation::Truncate { object, size } => {
                let file = self.file(*object)?;
                again(|| rustix::fs::ftruncate(&*file, *size)).doing("truncate a file")
            }
            Operation::Allocate { object, mode, offset, length } => {
                self.allocate(*object, *mode, *offset, *length)
            }
            Operation::Copy { from, at, to, new_at, length } => {
                self.copy((*from, *at), (*to, *new_at), *length)
            }
            Operation::Create { parent, entry, meta, attributes } => {
                self.create(*parent, entry, meta, attributes)
            }
            Operation::Link { object, parent, name } => self.link(*object, *parent, name),
            Operation::Remove { parent, name, object, directory } => {
                self.remove(*parent, name, *object, *directory)
            }
            Operation::Rename { object, parent, name, new_parent, new_name, replaced, exchanged } => self
                .rename(
                    *object,
                    (*parent, name),
                    (*new_parent, new_name),
                    Displaced { object: *replaced, exchanged: *exchanged },
                ),
            Operation::Meta { object, meta } => self.set_meta(*object, meta),
            Operation::SetAttribute { object, attribute } => {
                shape::set_attribute(self.known.find(*object)?.as_fd(), attribute)
            }
            Operation::RemoveAttribute { object, name } => {
                shape::remove_attribute(self.known.find(*object)?.as_fd(), name)
            }
        }
    }

    /// What is to be on the disk when it has run: all earlier changes of `object`, or all of the file system if it is
    /// not known here.
    pub fn flush(&self, object: ObjectId, data_only: bool) -> Flush {
        if let Some(open) = self.files.peek(object) {
            return Flush::opened(open.as_fd(), data_only);
        }
        match self.known.search(object) {
            Ok(Some(found)) => Flush::object(found.as_fd(), data_only, self.known.root()),
            Ok(None) | Err(_) => self.sync_all(),
        }
    }

    pub fn sync_all(&self) -> Flush {
        Flush::file_system(self.known.root())
    }

    fn file(&mut self, object: ObjectId) -> Result<Arc<OwnedFd>, Fault> {
        if let Some(file) = self.files.opened(object) {
            return Ok(file);
        }
        let place = self.known.find(object)?;
        self.files.open(object, place.as_fd())
    }

    fn allocate(&mut self, object: ObjectId, mode: u32, offset: u64, length: u64) -> Result<(), Fault> {
        let doing = "allocate room in a file";
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP).doing(doing)?;
        let file = self.file(object)?;
        again(|| rustix::fs::fallocate(&*file, mode, offset, length)).doing(doing)
    }

    fn copy(
        &mut self,
        (from, at): (ObjectId, u64),
        (to, new_at): (ObjectId, u64),
        length: u64,
    ) -> Result<(), Fault> {
        let (source, target) = (self.file(from)?, self.file(to)?);
        match copy_range((&source, at), (&target, new_at), length).doing("copy within the files")? {
            true => Ok(()),
            false => Err(Fault::differs(from, "it is shorter than what was copied from it")),
        }
    }

    fn create(
        &mut self,
        parent: ObjectId,
        entry: &Entry,
        meta: &Meta,
        attributes: &[Attribute],
    ) -> Result<(), Fault> {
        let directory = self.known.parent(parent, &entry.name)?;
        let met = match self.known.meet(&directory, &entry.name)? {
            // Copied with the directory before.
            Some(met) if met.number == Some(entry.object) && shape::is_kind(&met, &entry.kind)? => {
                shape::set(met.fd.as_fd(), meta, None)?;
                met
            }
            Some(_) => return Err(Fault::differs(entry.object, "its name is taken")),
            None => {
                self.refuse_another(entry.object)?;
                self.numbering.admit(entry.object).doing("reserve a number")?;
                let meet = || self.known.meet(&directory, &entry.name);
                let met = shape::make(directory.as_fd(), entry, meet)?;
                shape::set(met.fd.as_fd(), meta, Some(attributes))?;
                met
            }
        };
        self.known.remember(entry.object, met.fd);
        Ok(())
    }

    /// A number has one object.
    fn refuse_another(&self, object: ObjectId) -> Result<(), Fault> {
        let Some(found) = self.known.search(object)? else { return Ok(()) };
        let stat = rustix::fs::fstat(found.as_fd()).doing("look at an object")?;
        if stat.st_nlink == 0 { Ok(()) } else { Err(Fault::differs(object, "it is there already")) }
    }

    fn link(&mut self, object: ObjectId, parent: ObjectId, name: &[u8]) -> Result<(), Fault> {
        let directory = self.known.parent(parent, name)?;
        match self.known.meet(&directory, name)? {
            Some(met) if met.number == Some(object) => return Ok(()),
            Some(_) => return Err(Fault::differs(object, "its new name is taken")),
            None => {}
        }
        link_object(self.known.find(object)?.as_fd(), directory.as_fd(), name).doing("link a file")
    }

    fn remove(
        &mut self,
        parent: ObjectId,
        name: &[u8],
        object: ObjectId,
        directory: bool,
    ) -> Result<(), Fault> {
        let from = self.known.parent(parent, name)?;
        let met = self.known.meet_object(object, &from, name)?;
        if met.is_directory() != directory {
            return Err(Fault::differs(object, "a directory is none, or the other way round"));
        }
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(from.as_fd(), name, flags).doing("remove a name")?;
        drop(from);
        self.name_gone(object, &met)
    }

    fn rename(
        &mut self,
        object: ObjectId,
        (parent, name): (ObjectId, &[u8]),
        (new_parent, new_name): (ObjectId, &[u8]),
        displaced: Displaced,
    ) -> Result<(), Fault> {
        let from = self.known.parent(parent, name)?;
        let to = self.known.parent(new_parent, new_name)?;
        self.known.meet_object(object, &from, name)?;
        let there = self.known.meet(&to, new_name)?;
        if there.as_ref().map(|met| met.number) != displaced.object.map(Some) {
            return Err(Fault::differs(object, "its new name has another object"));
        }
        let flags = if displaced.exchanged { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        rustix::fs::renameat_with(from.as_fd(), name, to.as_fd(), new_name, flags).doing("rename")?;
        drop((from, to));
        match (displaced, there) {
            (Displaced { object: Some(replaced), exchanged: false }, Some(there)) => {
                self.name_gone(replaced, &there)
            }
            (Displaced { .. }, _) => Ok(()),
        }
    }

    fn name_gone(&mut self, object: ObjectId, was: &Met) -> Result<(), Fault> {
        if self.known.name_gone(object, was)? {
            self.files.close(object);
        }
        Ok(())
    }

    fn set_meta(&mut self, object: ObjectId, meta: &Meta) -> Result<(), Fault> {
        let found = self.known.find(object)?;
        let stat = rustix::fs::fstat(found.as_fd()).doing("look at an object")?;
        if !shape::same_type(stat.st_mode, meta.mode) {
            return Err(Fault::differs(object, "it is of another kind"));
        }
        shape::set(found.as_fd(), meta, None)
    }
}

/// What had the new name of a renamed object.
#[derive(Clone, Copy, Debug)]
struct Displaced {
    object: Option<ObjectId>,
    exchanged: bool,
}

/// Another name for what a descriptor holds.
pub(super) fn link_object(object: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::linkat(CWD, proc_path(object), parent, name, AtFlags::SYMLINK_FOLLOW)
}

#[cfg(test)]
pub(super) mod scratch;
#[cfg(test)]
mod tests;
