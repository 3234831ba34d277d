//! Where the objects of a copy are, as far as that was said: by number, whatever they are called meanwhile.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::Resource;

use super::fault::{Doing as _, Fault};
use crate::driver::replica::identity;
use crate::driver::replica::object::{Budget, Place, reopen};
use crate::types::replica::ObjectId;

/// Of this program, below the replicated directory, on the same file system. Never copied, never listed.
pub(in crate::driver::replica) const HIDDEN: &[u8] = b".safekit";
/// Objects held by descriptors; others are found again by their file handles.
const HELD_MAX: usize = 10_000;

/// An object for the time of one operation.
#[derive(Debug)]
pub(in crate::driver::replica) enum Object<'a> {
    Held(BorrowedFd<'a>),
    Own(OwnedFd),
}

impl AsFd for Object<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Held(fd) => *fd,
            Self::Own(fd) => fd.as_fd(),
        }
    }
}

/// An object that was found under a name, whatever it is: a symbolic link is not followed.
#[derive(Debug)]
pub(in crate::driver::replica) struct Met {
    pub(in crate::driver::replica) fd: OwnedFd,
    pub(in crate::driver::replica) stat: Stat,
    /// None: nobody has given it one.
    pub(in crate::driver::replica) number: Option<ObjectId>,
}

impl Met {
    pub(in crate::driver::replica) fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

/// One name of a directory. What another file system has there is not part of the copy: `EXDEV`.
pub(in crate::driver::replica) fn meet(
    device: u64,
    parent: BorrowedFd<'_>,
    name: &[u8],
) -> Result<Met, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    if stat.st_dev != device {
        return Err(Errno::XDEV);
    }
    let number = identity::read(fd.as_fd(), stat.st_ino)?.map(ObjectId);
    Ok(Met { fd, stat, number })
}

/// Where this program keeps what belongs to no copy.
pub(in crate::driver::replica) fn is_hidden(parent: ObjectId, name: &[u8]) -> bool {
    parent == ObjectId::ROOT && name == HIDDEN
}

#[derive(Debug)]
pub(in crate::driver::replica) struct Known {
    /// Open for reading: file handles and syncfs(2) want that.
    root: OwnedFd,
    device: u64,
    places: HashMap<ObjectId, Place>,
    budget: Arc<Budget>,
}

impl Known {
    pub(in crate::driver::replica) fn open(root: OwnedFd) -> Result<Self, Errno> {
        Self::holding(root, held_max())
    }

    /// With so many objects held by descriptors at most.
    pub(in crate::driver::replica) fn holding(given: OwnedFd, held_max: usize) -> Result<Self, Errno> {
        let root = reopen(given.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        drop(given);
        let device = rustix::fs::fstat(&root)?.st_dev;
        Ok(Self { root, device, places: HashMap::new(), budget: Budget::new(held_max) })
    }

    pub(in crate::driver::replica) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(in crate::driver::replica) fn device(&self) -> u64 {
        self.device
    }

    pub(in crate::driver::replica) fn contains(&self, object: ObjectId) -> bool {
        object == ObjectId::ROOT || self.places.contains_key(&object)
    }

    /// None: it is not known, or is gone.
    pub(in crate::driver::replica) fn search(&self, object: ObjectId) -> Result<Option<Object<'_>>, Fault> {
        if object == ObjectId::ROOT {
            return Ok(Some(Object::Held(self.root.as_fd())));
        }
        match self.places.get(&object) {
            None => Ok(None),
            Some(Place::Held { fd, .. }) => Ok(Some(Object::Held(fd.as_fd()))),
            Some(Place::Named(handle)) => match handle.open(self.root.as_fd()) {
                Ok(fd) => Ok(Some(Object::Own(fd))),
                Err(Errno::STALE | Errno::NOENT) => Ok(None),
                Err(source) => Err(Fault::Io { doing: "open an object by its handle", source }),
            },
        }
    }

    pub(in crate::driver::replica) fn find(&self, object: ObjectId) -> Result<Object<'_>, Fault> {
        self.search(object)?.ok_or(Fault::Unknown(object))
    }

    /// A name that may be used of a directory that is known.
    pub(in crate::driver::replica) fn parent(
        &self,
        parent: ObjectId,
        name: &[u8],
    ) -> Result<Object<'_>, Fault> {
        if is_hidden(parent, name) {
            return Err(Fault::differs(parent, "the name belongs to this program"));
        }
        self.find(parent)
    }

    /// What a directory has under a name.
    pub(in crate::driver::replica) fn meet(
        &self,
        parent: &Object<'_>,
        name: &[u8],
    ) -> Result<Option<Met>, Fault> {
        match meet(self.device, parent.as_fd(), name) {
            Ok(met) => Ok(Some(met)),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => Err(Fault::Io { doing: "look at a name", source }),
        }
    }

    /// `name` must be `object` there.
    pub(in crate::driver::replica) fn meet_object(
        &self,
        object: ObjectId,
        parent: &Object<'_>,
        name: &[u8],
    ) -> Result<Met, Fault> {
        let met = self.meet(parent, name)?;
        met.filter(|met| met.number == Some(object))
            .ok_or(Fault::differs(object, "its name has another object, or none"))
    }

    /// Learns where an object is, unless that is known.
    pub(in crate::driver::replica) fn learn(
        &mut self,
        object: ObjectId,
        parent: ObjectId,
        name: &[u8],
    ) -> Result<(), Fault> {
        if self.contains(object) {
            return Ok(());
        }
        let met = self.meet_object(object, &self.parent(parent, name)?, name)?;
        self.remember(object, met.fd);
        Ok(())
    }

    /// From now on this is the object of that number.
    pub(in crate::driver::replica) fn remember(&mut self, object: ObjectId, fd: OwnedFd) {
        self.places.insert(object, Place::of(fd, &self.budget));
    }

    pub(in crate::driver::replica) fn forget(&mut self, object: ObjectId) {
        self.places.remove(&object);
    }

    /// What has no name any longer keeps its room on the disk as long as it is held.
    pub(in crate::driver::replica) fn forget_gone(&mut self) {
        self.places.retain(|_, place| match place {
            Place::Held { fd, .. } => rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_nlink > 0),
            Place::Named(_) => true,
        });
    }

    pub(in crate::driver::replica) fn forget_all(&mut self) {
        self.places.clear();
    }

    /// After a name has gone: an object that has no other is forgotten, or its room on the disk would stay taken.
    pub(in crate::driver::replica) fn name_gone(
        &mut self,
        object: ObjectId,
        was: &Met,
    ) -> Result<bool, Fault> {
        let links = rustix::fs::fstat(&was.fd).doing("look at an object that lost a name")?.st_nlink;
        let gone = was.is_directory() || links == 0;
        if gone {
            self.forget(object);
        }
        Ok(gone)
    }
}

/// A part of what this process may open.
fn held_max() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.map_or(HELD_MAX, |limit| usize::try_from(limit / 8).unwrap_or(HELD_MAX)).min(HELD_MAX)
}
