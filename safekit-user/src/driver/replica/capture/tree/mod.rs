//! The directory underneath: what applications do to it, by numbers of objects and never by paths.

mod change;
mod contents;
mod facts;
mod names;
mod search;
mod verify;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuser::FileAttr;
use rustix::fs::{FileType, Mode, OFlags, Stat, StatVfs};
use rustix::io::Errno;

use super::attributes::attributes;
use super::nodes::{Handles, Name, Node, Nodes};
use crate::driver::replica::apply::known::{HIDDEN, is_hidden};
use crate::driver::replica::directory::Directory;
use crate::driver::replica::identity::{Numbering, ROOT, passing};
use crate::driver::replica::object::{Budget, FileHandle, Place, reopen};
use crate::driver::replica::watch::{self, Atlas, Change, Trace, Watch};
use crate::driver::replica::{identity, watch::Place as Called};
use crate::types::replica::{ObjectId, Region, Touch};

pub(super) use change::Answer;
use change::{Stripes, Written};
pub(super) use facts::Wanted;

/// Nobody but this process changes the directory, and what it changes the kernel knows.
pub(super) const VALID: Duration = Duration::from_secs(3600);

/// An object that has been looked at.
struct Met {
    number: u64,
    fd: OwnedFd,
    stat: Stat,
}

/// An object for the time of one request.
enum Object {
    Held(Arc<Node>),
    Own(OwnedFd),
}

impl AsFd for Object {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            Self::Held(node) => match &node.place {
                Place::Held { fd, .. } => fd.as_fd(),
                Place::Named(_) => unreachable!("an object that is held has a descriptor"),
            },
        }
    }
}

pub(super) struct Tree {
    root: OwnedFd,
    nodes: Nodes,
    budget: Arc<Budget>,
    files: Handles<OwnedFd>,
    directories: Handles<Directory>,
    numbering: Arc<Numbering>,
    device: u64,
    watch: Arc<dyn Watch>,
    /// Applications may change it; until then another node does.
    leads: AtomicBool,
    /// This program keeps a directory of its own in it.
    has_hidden: bool,
    stripes: Stripes,
    written: Written,
}

impl Tree {
    /// `held_max`: descriptors of objects that may be held at once.
    pub(super) fn open(
        below: OwnedFd,
        held_max: usize,
        numbering: Arc<Numbering>,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&below)?;
        let root = reopen(below.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let has_hidden =
            rustix::fs::openat(&root, HIDDEN, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).is_ok();
        let (nodes, budget) = (Nodes::default(), Budget::new(held_max));
        nodes.insert_root(Node::new(ROOT, Place::of(below, &budget), true));
        watch.reserved(numbering.reserved());
        Ok(Self {
            root,
            nodes,
            budget,
            files: Handles::default(),
            directories: Handles::default(),
            numbering,
            device: stat.st_dev,
            watch,
            leads: AtomicBool::new(false),
            has_hidden,
            stripes: Stripes::default(),
            written: Written::default(),
        })
    }

    /// Whether applications may change it from now on.
    pub(super) fn set_leads(&self, leads: bool) {
        if leads {
            // The other node may have renamed what is known here.
            self.nodes.forget_names();
        }
        self.leads.store(leads, Ordering::SeqCst);
    }

    pub(super) fn leads(&self) -> bool {
        self.leads.load(Ordering::SeqCst)
    }

    /// How long the kernel may go by what it was told.
    pub(super) fn validity(&self) -> Duration {
        if self.leads() { VALID } else { Duration::ZERO }
    }

    /// Every object that the kernel knows, and its names.
    pub(super) fn known(&self) -> Vec<(u64, Vec<Name>)> {
        self.nodes.all()
    }

    fn object(&self, number: u64) -> Result<Object, Errno> {
        let node = self.nodes.find(number)?;
        match &node.place {
            Place::Held { .. } => Ok(Object::Held(node)),
            Place::Named(handle) => Ok(Object::Own(handle.open(self.root.as_fd())?)),
        }
    }

    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> Result<FileAttr, Errno> {
        refuse_hidden(parent, name, Errno::NOENT)?;
        let directory = self.object(parent)?;
        self.enter(directory.as_fd(), parent, name)
    }

    /// Knows the object of that name from now on.
    fn enter(&self, directory: BorrowedFd<'_>, parent: u64, name: &OsStr) -> Result<FileAttr, Errno> {
        let Met { number, fd, stat } = self.meet(directory, parent, name)?;
        self.nodes.remember(self.node(number, fd, &stat), Some((parent, name.as_bytes().to_vec())));
        Ok(attributes(number, &stat))
    }

    fn node(&self, number: u64, fd: OwnedFd, stat: &Stat) -> Node {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Node::new(number, Place::of(fd, &self.budget), is_directory)
    }

    /// What a directory has under a name. What another file system has there is not part of it.
    fn look(&self, directory: BorrowedFd<'_>, name: &OsStr) -> Result<(OwnedFd, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, name.as_bytes(), flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_dev != self.device { Err(Errno::XDEV) } else { Ok((fd, stat)) }
    }

    fn meet(&self, directory: BorrowedFd<'_>, parent: u64, name: &OsStr) -> Result<Met, Errno> {
        let (fd, stat) = self.look(directory, name)?;
        let number = match identity::read(fd.as_fd(), stat.st_ino)? {
            Some(number) => number,
            None if self.leads() => self.number_found(fd.as_fd(), parent, &stat)?,
            // Nothing may be changed here; the other node has numbered what is part of the copy.
            None => passing(stat.st_ino),
        };
        Ok(Met { number, fd, stat })
    }

    /// Somebody put it there when nobody looked: nobody else has been told.
    fn number_found(&self, object: BorrowedFd<'_>, parent: u64, stat: &Stat) -> Result<u64, Errno> {
        let parent = ObjectId(parent);
        let permit = self.watch.begin(&[Touch::all(Region::names(parent))])?;
        let numbered = self.numbering.number_of(object, stat.st_ino);
        if let Ok(identity::Numbered { reserved: Some(reserved), .. }) = numbered {
            self.watch.reserved(reserved);
        }
        match numbered {
            Ok(numbered) if numbered.anew => self.watch.done_unknown(permit, Box::new(|| ())),
            Ok(_) | Err(_) => self.watch.done(permit, &[], Box::new(|| ())),
        }
        Ok(numbered?.object.0)
    }

    pub(super) fn forget(&self, number: u64, lookups: u64) {
        self.nodes.forget(number, lookups);
    }

    pub(super) fn stat(&self, number: u64, handle: Option<u64>) -> Result<FileAttr, Errno> {
        let stat = match handle.map(|handle| self.files.find(handle)) {
            Some(Ok(file)) => rustix::fs::fstat(&*file)?,
            Some(Err(_)) | None => rustix::fs::fstat(self.object(number)?)?,
        };
        let mut found = attributes(number, &stat);
        if number == ROOT && self.has_hidden {
            found.nlink = found.nlink.saturating_sub(1);
        }
        Ok(found)
    }

    pub(super) fn open_directory(&self, number: u64) -> Result<u64, Errno> {
        let object = self.object(number)?;
        let fd = reopen(object.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(self.directories.insert(Directory::new(fd)))
    }

    pub(super) fn directory(&self, handle: u64) -> Result<Arc<Directory>, Errno> {
        self.directories.find(handle)
    }

    pub(super) fn close_directory(&self, handle: u64) {
        self.directories.remove(handle);
    }

    /// The number of what an open directory has under a name, without knowing it any longer.
    pub(super) fn peek(&self, directory: &Directory, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        refuse_hidden(parent, name, Errno::NOENT)?;
        self.meet(directory.fd.as_fd(), parent, name).map(|met| met.number)
    }

    pub(super) fn enter_from(
        &self,
        directory: &Directory,
        parent: u64,
        name: &OsStr,
    ) -> Result<FileAttr, Errno> {
        refuse_hidden(parent, name, Errno::NOENT)?;
        self.enter(directory.fd.as_fd(), parent, name)
    }

    pub(super) fn statvfs(&self, number: u64) -> Result<StatVfs, Errno> {
        rustix::fs::fstatvfs(self.object(number)?)
    }

    fn is_unnamed(&self, number: u64) -> bool {
        self.nodes.find(number).is_ok_and(|node| node.is_unnamed())
    }

    fn handle_of(&self, node: &Node) -> Result<FileHandle, Errno> {
        match &node.place {
            Place::Held { fd, .. } => FileHandle::of(fd.as_fd()),
            Place::Named(handle) => Ok(handle.clone()),
        }
    }
}

impl Atlas for Tree {
    fn trace(&self, object: ObjectId) -> Option<Trace> {
        let node = self.nodes.find(object.0).ok()?;
        let handle = self.handle_of(&node).ok()?;
        let place = self.nodes.named(object.0).and_then(|(parent, name)| {
            let parent = self.nodes.find(parent).ok()?;
            Some((self.handle_of(&parent).ok()?, name))
        });
        Some(Trace { handle, place })
    }

    fn place(&self, object: ObjectId) -> Option<Called> {
        let (parent, name) = self.nodes.named(object.0)?;
        Some(Called { parent: ObjectId(parent), name })
    }

    fn look_for(&self, object: ObjectId) {
        if let Err(error) = self.find_names(object.0) {
            tracing::warn!(object = object.0, %error, "cannot look for the names of an object");
        }
    }

    fn object(&self, object: ObjectId) -> Option<OwnedFd> {
        let held = self.object(object.0).ok()?;
        rustix::io::fcntl_dupfd_cloexec(held.as_fd(), 0).ok()
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("root", &self.root).finish_non_exhaustive()
    }
}

/// What this program keeps for itself is not there for anybody else.
fn refuse_hidden(parent: u64, name: &OsStr, otherwise: Errno) -> Result<(), Errno> {
    if is_hidden(ObjectId(parent), name.as_bytes()) { Err(otherwise) } else { Ok(()) }
}
