//! Where the objects are that the record calls by their numbers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::index::Memory;
use super::{Failure, Wire};
use crate::driver::replica::apply::known::is_hidden;
use crate::driver::replica::directory::Directory;
use crate::driver::replica::identity::{self, Numbering};
use crate::driver::replica::object::{FileHandle, above, reopen};
use crate::driver::replica::watch::Trace;
use crate::types::replica::ObjectId;
use crate::wire::replica::Frame;

/// Directories below each other: more, and something is wrong.
const DEPTH_MAX: usize = 65_536;

/// An object, held for as long as it is worked on.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) object: ObjectId,
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

impl Found {
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

pub(super) struct Finder<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) inside: Inside<'a>,
    traces: &'a dyn Fn(ObjectId) -> Option<Trace>,
    pub(super) memory: &'a mut Memory,
    /// What the other node knows of this pass already.
    placed: HashSet<ObjectId>,
    /// Names of objects that have several, by inode: made when somebody needs it.
    index: Option<Index>,
}

/// Directories by what they have names of: inodes.
type Index = HashMap<u64, Vec<(ObjectId, FileHandle)>>;

/// Where a trace leads.
enum Traced {
    Unknown,
    Gone,
    Found(Found),
}

/// What belongs to the replicated directory.
#[derive(Clone, Copy)]
pub(super) struct Inside<'a> {
    pub(super) device: u64,
    root_inode: u64,
    numbering: &'a Numbering,
}

impl Inside<'_> {
    /// None: it has gone, or belongs to another file system.
    pub(super) fn meet(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Found>, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::STALE) => return Ok(None),
            Err(error) => return Err(error),
        };
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_dev != self.device {
            return Ok(None);
        }
        let object = self.numbering.number_of(fd.as_fd(), stat.st_ino)?.object;
        Ok(Some(Found { object, fd, stat }))
    }

    fn number_of(&self, fd: &OwnedFd, stat: &Stat) -> Result<ObjectId, Errno> {
        if stat.st_ino == self.root_inode {
            return Ok(ObjectId::ROOT);
        }
        Ok(self.numbering.number_of(fd.as_fd(), stat.st_ino)?.object)
    }
}

impl<'a> Finder<'a> {
    pub(super) fn new(
        root: BorrowedFd<'a>,
        numbering: &'a Numbering,
        traces: &'a dyn Fn(ObjectId) -> Option<Trace>,
        memory: &'a mut Memory,
    ) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(root)?;
        let inside = Inside { device: stat.st_dev, root_inode: stat.st_ino, numbering };
        Ok(Self { root, inside, traces, memory, placed: HashSet::from([ObjectId::ROOT]), index: None })
    }

    /// None: it has gone.
    pub(super) fn find(&mut self, object: ObjectId) -> Result<Option<Found>, Errno> {
        if object == ObjectId::ROOT {
            let fd = reopen(self.root, OFlags::PATH | OFlags::DIRECTORY)?;
            let stat = rustix::fs::fstat(&fd)?;
            return Ok(Some(Found { object, fd, stat }));
        }
        match self.follow(object, (self.traces)(object))? {
            Traced::Found(found) => {
                self.memory.is_found(object);
                Ok(Some(found))
            }
            Traced::Gone if self.memory.is_proven(object) => Ok(None),
            Traced::Gone | Traced::Unknown => self.search(object),
        }
    }

    /// By its number alone.
    fn search(&mut self, object: ObjectId) -> Result<Option<Found>, Errno> {
        let trace = self.memory.search(object, self.root, self.inside)?;
        match self.follow(object, trace)? {
            Traced::Found(found) => Ok(Some(found)),
            Traced::Gone | Traced::Unknown => Ok(None),
        }
    }

    fn follow(&self, object: ObjectId, trace: Option<Trace>) -> Result<Traced, Errno> {
        let Some(trace) = trace else { return Ok(Traced::Unknown) };
        let fd = match trace.handle.open(self.root) {
            Ok(fd) => fd,
            Err(Errno::STALE | Errno::NOENT) => return Ok(Traced::Gone),
            Err(error) => return Err(error),
        };
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_nlink == 0 || stat.st_dev != self.inside.device {
            return Ok(Traced::Gone);
        }
        // The inode may be another object's meanwhile.
        let same = identity::read(fd.as_fd(), stat.st_ino)? == Some(object.0);
        Ok(if same { Traced::Found(Found { object, fd, stat }) } else { Traced::Gone })
    }

    /// How far it is from the replicated directory; none: it is not below it.
    pub(super) fn depth(&self, directory: &Found) -> Result<Option<usize>, Errno> {
        let mut inode = directory.stat.st_ino;
        let mut fd = reopen(directory.fd.as_fd(), OFlags::PATH | OFlags::DIRECTORY)?;
        for depth in 0..DEPTH_MAX {
            if inode == self.inside.root_inode {
                return Ok(Some(depth));
            }
            let Some((above, stat)) = parent_of(&fd, self.root, self.inside.device, inode)? else {
                return Ok(None);
            };
            (fd, inode) = (above, stat.st_ino);
        }
        Ok(None)
    }

    /// What is called by a name of a directory that was listed is known there.
    pub(super) fn is_placed(&mut self, object: ObjectId) {
        self.placed.insert(object);
    }

    /// Says where it is, and where the directories are that lead to it. False: nobody can find it by a name.
    pub(super) fn place(&mut self, found: &Found, wire: &mut dyn Wire) -> Result<bool, Failure> {
        let io = |source| Failure::Io { doing: "find the names of an object", source };
        let mut way: Vec<(ObjectId, ObjectId, Vec<u8>)> = Vec::new();
        let mut object = found.object;
        let mut fd = rustix::io::fcntl_dupfd_cloexec(&found.fd, 0).map_err(io)?;
        let mut stat = found.stat;
        while !self.placed.contains(&object) {
            if way.len() >= DEPTH_MAX {
                return Ok(false);
            }
            let Some((parent, name)) = self.name_of(object, &fd, &stat).map_err(io)? else {
                return Ok(false);
            };
            let parent_stat = rustix::fs::fstat(&parent).map_err(io)?;
            let above = self.inside.number_of(&parent, &parent_stat).map_err(io)?;
            way.push((object, above, name));
            (object, fd, stat) = (above, parent, parent_stat);
        }
        for (object, parent, name) in way.into_iter().rev() {
            wire.send(&Frame::Place { object, parent, name }, &[])?;
            self.placed.insert(object);
        }
        Ok(true)
    }

    fn name_of(
        &mut self,
        object: ObjectId,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<Option<(OwnedFd, Vec<u8>)>, Errno> {
        let traced = (self.traces)(object).and_then(|trace| trace.place);
        let searched = self.memory.known(object).and_then(|trace| trace.place.clone());
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let parent = parent_of(fd, self.root, self.inside.device, stat.st_ino)?.map(|(parent, _)| parent);
            let Some(parent) = parent else { return Ok(None) };
            return called(parent, traced.or(searched).map(|(_, name)| name), stat);
        }
        for (parent, name) in [traced, searched].into_iter().flatten() {
            if let Ok(parent) = parent.open(self.root)
                && let Some(found) = called(parent, Some(name), stat)?
            {
                return Ok(Some(found));
            }
        }
        self.indexed(stat)
    }

    fn indexed(&mut self, stat: &Stat) -> Result<Option<(OwnedFd, Vec<u8>)>, Errno> {
        let wanted = stat.st_ino;
        let mut place = None;
        walk(self.all()?, self.inside, |_, fd, found, name| {
            if found.stat.st_ino == wanted && place.is_none() {
                place = Some((reopen(fd, OFlags::PATH | OFlags::DIRECTORY)?, name.to_vec()));
            }
            Ok(true)
        })?;
        Ok(place)
    }

    /// All directories that have a name of it.
    pub(super) fn directories_of(&mut self, found: &Found) -> Result<Vec<(ObjectId, FileHandle)>, Errno> {
        if self.index.is_none() {
            let mut index = Index::new();
            walk(self.all()?, self.inside, |directory, fd, found, _| {
                if found.stat.st_nlink > 1 && found.kind() != FileType::Directory {
                    index.entry(found.stat.st_ino).or_default().push((directory, FileHandle::of(fd)?));
                }
                Ok(true)
            })?;
            self.index = Some(index);
        }
        let names = self.index.as_ref().and_then(|index| index.get(&found.stat.st_ino));
        Ok(names.cloned().unwrap_or_default())
    }

    fn all(&self) -> Result<BTreeMap<ObjectId, OwnedFd>, Errno> {
        let root = reopen(self.root, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(BTreeMap::from([(ObjectId::ROOT, root)]))
    }
}

/// Every name in these directories, and in those below that `see` wants.
pub(super) fn walk(
    mut left: BTreeMap<ObjectId, OwnedFd>,
    inside: Inside<'_>,
    mut see: impl FnMut(ObjectId, BorrowedFd<'_>, &Found, &[u8]) -> Result<bool, Errno>,
) -> Result<(), Errno> {
    while let Some((directory, fd)) = left.pop_first() {
        for name in names_of(&fd)? {
            if is_hidden(directory, &name) {
                continue;
            }
            let Some(found) = inside.meet(fd.as_fd(), &name)? else { continue };
            let wanted = see(directory, fd.as_fd(), &found, &name)?;
            if wanted && found.kind() == FileType::Directory {
                left.insert(found.object, found.fd);
            }
        }
    }
    Ok(())
}

/// None: there is none, or it belongs to another file system.
fn parent_of(
    directory: &OwnedFd,
    root: BorrowedFd<'_>,
    device: u64,
    inode: u64,
) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    let above = match above(directory.as_fd(), root) {
        Ok(above) => above,
        Err(Errno::NOENT | Errno::STALE) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = rustix::fs::fstat(&above)?;
    Ok((stat.st_ino != inode && stat.st_dev == device).then_some((above, stat)))
}

/// By a likely name, or by any.
fn called(
    parent: OwnedFd,
    likely: Option<Vec<u8>>,
    wanted: &Stat,
) -> Result<Option<(OwnedFd, Vec<u8>)>, Errno> {
    let name = match likely.filter(|name| is_there(&parent, name, wanted)) {
        Some(name) => Some(name),
        None => name_within(&parent, wanted)?,
    };
    Ok(name.map(|name| (parent, name)))
}

fn is_there(parent: &OwnedFd, name: &[u8], wanted: &Stat) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| (found.st_ino, found.st_dev) == (wanted.st_ino, wanted.st_dev))
}

fn name_within(parent: &OwnedFd, wanted: &Stat) -> Result<Option<Vec<u8>>, Errno> {
    Ok(names_of(parent)?.into_iter().find(|name| is_there(parent, name, wanted)))
}

pub(super) fn names_of(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let open = match reopen(directory.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(open) => Directory::new(open),
        Err(Errno::NOENT | Errno::STALE) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    open.names()
}
