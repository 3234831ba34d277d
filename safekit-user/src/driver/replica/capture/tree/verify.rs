//! All objects read one after another, each piece under the lock of its object, and compared where operations are told.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::Tree;
use crate::driver::replica::apply::known::{is_hidden, meet};
use crate::driver::replica::directory::{Directory, is_dot};
use crate::driver::replica::identity::ROOT;
use crate::driver::replica::object::{FileHandle, reopen};
use crate::driver::replica::verify::{self, Checks, Verified};
use crate::types::replica::{EXTENT_BYTES, ObjectId};
use crate::wire::replica::{Check, Digest, Meta, Piece};

/// An object that was met by one of its names.
struct Called<'a> {
    number: u64,
    fd: BorrowedFd<'a>,
    /// None: the replicated directory itself.
    by: Option<(u64, BorrowedFd<'a>, &'a [u8])>,
}

/// A directory whose turn will come: a tree may have more than can be open.
struct Later {
    number: u64,
    handle: FileHandle,
    above: Option<(u64, Arc<FileHandle>, Vec<u8>)>,
}

/// Why an object is left.
#[derive(Clone, Copy)]
enum Left {
    /// The comparison is to end.
    Ended,
    /// It has gone, or moved to where nobody has been yet.
    Moved,
    Unreadable(Errno),
}

impl From<Errno> for Left {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::STALE => Self::Moved,
            error => Self::Unreadable(error),
        }
    }
}

struct Verifier<'a> {
    tree: &'a Tree,
    sink: &'a dyn Checks,
    /// Directories whose place was told.
    placed: HashSet<u64>,
    later: Vec<Later>,
    next_number: u64,
    verified: Verified,
}

impl Tree {
    pub(in crate::driver::replica::capture) fn verify(&self, sink: &dyn Checks) -> Verified {
        let mut verifier = Verifier {
            tree: self,
            sink,
            placed: HashSet::from([ROOT]),
            later: Vec::new(),
            next_number: 0,
            verified: Verified::default(),
        };
        verifier.verified.complete = verifier.walk();
        verifier.verified
    }
}

impl Verifier<'_> {
    /// False: it was to end.
    fn walk(&mut self) -> bool {
        match FileHandle::of(self.tree.root.as_fd()) {
            Ok(handle) => self.later.push(Later { number: ROOT, handle, above: None }),
            Err(error) => return self.leave(ROOT, Left::Unreadable(error)),
        }
        while let Some(directory) = self.later.pop() {
            let number = directory.number;
            if let Err(left) = self.directory(directory)
                && !self.leave(number, left)
            {
                return false;
            }
        }
        true
    }

    /// False: everything is to end.
    fn leave(&mut self, number: u64, left: Left) -> bool {
        match left {
            Left::Ended => return false,
            Left::Moved => self.verified.skipped += 1,
            Left::Unreadable(error) => {
                self.verified.unreadable += 1;
                tracing::warn!(object = number, %error, "cannot read an object to compare it");
            }
        }
        true
    }

    fn directory(&mut self, Later { number, handle, above }: Later) -> Result<(), Left> {
        let root = self.tree.root.as_fd();
        let fd = handle.open(root)?;
        let parent = above.as_ref().map(|(_, handle, _)| handle.open(root)).transpose()?;
        let by = above.as_ref().zip(parent.as_ref());
        let by = by.map(|((above, _, name), parent)| (*above, parent.as_fd(), name.as_slice()));
        let called = Called { number, fd: fd.as_fd(), by };
        let names = self.names(&called)?;
        self.facts(&called)?;
        self.verified.objects += 1;
        let handle = Arc::new(handle);
        for name in names {
            if let Err(left) = self.name(number, &fd, &handle, name)
                && !self.leave(number, left)
            {
                return Err(Left::Ended);
            }
        }
        Ok(())
    }

    fn name(
        &mut self,
        directory: u64,
        fd: &OwnedFd,
        handle: &Arc<FileHandle>,
        name: Vec<u8>,
    ) -> Result<(), Left> {
        let met = match meet(self.tree.device, fd.as_fd(), &name) {
            Ok(met) => met,
            Err(Errno::XDEV) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // Without a number it is part of no copy; its directory has been compared with it.
        let Some(ObjectId(number)) = met.number else { return Ok(()) };
        if met.is_directory() {
            let above = Some((directory, Arc::clone(handle), name));
            self.later.push(Later { number, handle: FileHandle::of(met.fd.as_fd())?, above });
            return Ok(());
        }
        let called = Called { number, fd: met.fd.as_fd(), by: Some((directory, fd.as_fd(), &name)) };
        if FileType::from_raw_mode(met.stat.st_mode) == FileType::RegularFile {
            self.contents(&called)?;
        }
        self.facts(&called)?;
        self.verified.objects += 1;
        Ok(())
    }

    /// What a directory has. It is listed without its lock, and once more under it only if it has changed meanwhile.
    fn names(&mut self, called: &Called<'_>) -> Result<Vec<Vec<u8>>, Left> {
        let Called { number, fd, .. } = *called;
        let count = self.tree.written.count(number);
        let before: Digest = verify::names(ObjectId(number), fd, self.tree.device)?;
        self.compare(called, |tree, _| {
            let unchanged = tree.written.count(number) == count;
            let digest = if unchanged { before } else { verify::names(ObjectId(number), fd, tree.device)? };
            Ok(Piece::Names { digest })
        })?;
        Ok(names_of(ObjectId(number), fd)?)
    }

    fn contents(&mut self, called: &Called<'_>) -> Result<(), Left> {
        let object = ObjectId(called.number);
        let mut offset = 0;
        loop {
            let like = Piece::Contents { offset, size: 0, digests: Vec::new() };
            let size = self.compare(called, |_, stat| {
                verify::part(object, called.fd, stat, &like)?.ok_or(Errno::INVAL)
            })?;
            self.verified.bytes += size.saturating_sub(offset).min(EXTENT_BYTES);
            offset += EXTENT_BYTES;
            if offset >= size {
                return Ok(());
            }
        }
    }

    /// After its contents: they may have changed its time of modification, which is told first.
    fn facts(&mut self, called: &Called<'_>) -> Result<(), Left> {
        let (object, meta, others) = (ObjectId(called.number), Meta::default(), Digest::default());
        let like = Piece::Facts { meta, others };
        self.compare(called, |tree, stat| {
            tree.tell_untold(called.number);
            verify::part(object, called.fd, stat, &like)?.ok_or(Errno::INVAL)
        })?;
        Ok(())
    }

    /// Gives back how large it is.
    fn compare(
        &mut self,
        called: &Called<'_>,
        read: impl FnOnce(&Tree, &Stat) -> Result<Piece, Errno>,
    ) -> Result<u64, Left> {
        if !self.tree.leads() || !self.sink.pause() {
            return Err(Left::Ended);
        }
        let number = called.number;
        let _lock = self.tree.stripes.lock([number]);
        let stat = rustix::fs::fstat(called.fd)?;
        if stat.st_nlink == 0 || self.tree.is_unnamed(number) {
            return Err(Left::Moved);
        }
        let place = match called.by {
            Some(by) => Some(self.place(number, by, &stat).ok_or(Left::Moved)?),
            None => None,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if let Some((parent, name)) = &place
            && is_directory
            && self.placed.insert(number)
        {
            self.sink.place(ObjectId(number), *parent, name);
        }
        let piece = read(self.tree, &stat)?;
        let check = Check { number: self.next_number, object: ObjectId(number), place, piece };
        self.next_number += 1;
        if self.sink.ask(check) { Ok(u64::try_from(stat.st_size).unwrap_or(0)) } else { Err(Left::Ended) }
    }

    /// Under the lock of the object, so that it stays there: by the name by which it was met, or by the one to which it
    /// has been renamed since.
    fn place(
        &self,
        number: u64,
        (parent, directory, name): (u64, BorrowedFd<'_>, &[u8]),
        stat: &Stat,
    ) -> Option<(ObjectId, Vec<u8>)> {
        let there = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)) {
            return Some((ObjectId(parent), name.to_vec()));
        }
        let names = self.tree.nodes.names(number);
        let (parent, name) = names.into_iter().rfind(|(parent, _)| self.placed.contains(parent))?;
        Some((ObjectId(parent), name))
    }
}

fn names_of(directory: ObjectId, fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let open = Directory::new(reopen(fd, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME)?);
    let mut names = Vec::new();
    open.read(0, |entry| {
        let name = entry.name.to_bytes();
        if !is_dot(&entry.name) && !is_hidden(directory, name) {
            names.push(name.to_vec());
        }
        Ok(true)
    })?;
    Ok(names)
}
