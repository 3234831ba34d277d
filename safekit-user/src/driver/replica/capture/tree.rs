//! The directory underneath: what applications do to it, by numbers of objects and never by paths.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fuser::FileAttr;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, StatVfs,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::attributes::attributes;
use super::credentials::{Caller, with_umask};
use super::nodes::{Handles, Node, Nodes};
use crate::driver::replica::directory::Directory;
use crate::driver::replica::identity::{self, Numbers, PREFIX, ROOT};
use crate::driver::replica::object::{Budget, Place, proc_path, reopen};

/// What setattr is to change; none: it stays.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) times: Option<Timestamps>,
}

impl Wanted {
    fn is_nothing(&self) -> bool {
        self.mode.is_none() && self.size.is_none() && self.times.is_none()
    }
}

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

#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    nodes: Nodes,
    budget: Arc<Budget>,
    files: Handles<OwnedFd>,
    directories: Handles<Directory>,
    numbers: Mutex<Numbers>,
    device: u64,
}

impl Tree {
    /// `held_max`: descriptors of objects that may be held at once.
    pub(super) fn open(below: OwnedFd, held_max: usize) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&below)?;
        let numbers = Mutex::new(Numbers::open(below.as_fd())?);
        let root = reopen(below.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let (nodes, budget) = (Nodes::default(), Budget::new(held_max));
        nodes.insert_root(Node { number: ROOT, place: Place::of(below, &budget) });
        let (files, directories) = (Handles::default(), Handles::default());
        Ok(Self { root, nodes, budget, files, directories, numbers, device: stat.st_dev })
    }

    fn object(&self, number: u64) -> Result<Object, Errno> {
        let node = self.nodes.find(number)?;
        match &node.place {
            Place::Held { .. } => Ok(Object::Held(node)),
            Place::Named(handle) => Ok(Object::Own(handle.open(self.root.as_fd())?)),
        }
    }

    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> Result<FileAttr, Errno> {
        let parent = self.object(parent)?;
        self.enter(parent.as_fd(), name)
    }

    /// Knows the object of that name from now on.
    fn enter(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<FileAttr, Errno> {
        let Met { number, fd, stat } = self.meet(parent, name)?;
        self.remember(number, fd);
        Ok(attributes(number, &stat))
    }

    fn remember(&self, number: u64, fd: OwnedFd) {
        self.nodes.remember(Node { number, place: Place::of(fd, &self.budget) });
    }

    fn meet(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<Met, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name.as_bytes(), flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_dev != self.device {
            // Another file system is mounted below: it is not part of the replicated directory.
            return Err(Errno::XDEV);
        }
        let number = self.number_of(fd.as_fd(), stat.st_ino)?;
        Ok(Met { number, fd, stat })
    }

    fn number_of(&self, object: BorrowedFd<'_>, inode: u64) -> Result<u64, Errno> {
        if let Some(number) = identity::read(object, inode)? {
            return Ok(number);
        }
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have met it meanwhile.
        if let Some(number) = identity::read(object, inode)? {
            return Ok(number);
        }
        let number = numbers.take(self.root.as_fd())?;
        identity::write(object, number, inode)?;
        Ok(number)
    }

    pub(super) fn forget(&self, number: u64, lookups: u64) {
        self.nodes.forget(number, lookups);
    }

    pub(super) fn stat(&self, number: u64, handle: Option<u64>) -> Result<FileAttr, Errno> {
        let stat = match handle.map(|handle| self.files.find(handle)) {
            Some(Ok(file)) => rustix::fs::fstat(&*file)?,
            Some(Err(_)) | None => rustix::fs::fstat(self.object(number)?)?,
        };
        Ok(attributes(number, &stat))
    }

    pub(super) fn change(
        &self,
        number: u64,
        handle: Option<u64>,
        wanted: &Wanted,
        caller: Caller,
    ) -> Result<FileAttr, Errno> {
        let object = self.object(number)?;
        // Also a change of nothing: chown() of neither counts as a change of the object.
        if wanted.uid.is_some() || wanted.gid.is_some() || wanted.is_nothing() {
            let (uid, gid) = (wanted.uid.map(Uid::from_raw), wanted.gid.map(Gid::from_raw));
            rustix::fs::chownat(&object, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        // After the owner: a change of that clears the bits of the mode.
        if let Some(mode) = wanted.mode {
            rustix::fs::chmod(proc_path(object.as_fd()), Mode::from_raw_mode(mode & 0o7777))?;
        }
        if let Some(size) = wanted.size {
            let truncate = || match handle.map(|handle| self.files.find(handle)) {
                Some(Ok(file)) => rustix::fs::ftruncate(&*file, size),
                Some(Err(_)) | None => {
                    let file = reopen(object.as_fd(), OFlags::WRONLY)?;
                    rustix::fs::ftruncate(file, size)
                }
            };
            caller.changes(object.as_fd(), truncate)?;
        }
        if let Some(times) = &wanted.times {
            rustix::fs::utimensat(CWD, proc_path(object.as_fd()), times, AtFlags::empty())?;
        }
        self.stat(number, handle)
    }

    pub(super) fn readlink(&self, number: u64) -> Result<Vec<u8>, Errno> {
        let object = self.object(number)?;
        Ok(rustix::fs::readlinkat(&object, "", Vec::new())?.into_bytes())
    }

    /// An ordinary file, a pipe, a socket or a device.
    pub(super) fn mknod(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        device: u64,
        caller: Caller,
    ) -> Result<FileAttr, Errno> {
        self.make(parent, name, mode, caller, |parent| {
            let (kind, mode) = (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode & 0o7777));
            with_umask(caller.umask, || rustix::fs::mknodat(parent, name.as_bytes(), kind, mode, device))
        })
    }

    pub(super) fn mkdir(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        caller: Caller,
    ) -> Result<FileAttr, Errno> {
        self.make(parent, name, mode, caller, |parent| {
            let mode = Mode::from_raw_mode(mode & 0o7777);
            with_umask(caller.umask, || rustix::fs::mkdirat(parent, name.as_bytes(), mode))
        })
    }

    pub(super) fn symlink(
        &self,
        parent: u64,
        name: &OsStr,
        target: &Path,
        caller: Caller,
    ) -> Result<FileAttr, Errno> {
        self.make(parent, name, 0, caller, |parent| {
            rustix::fs::symlinkat(target.as_os_str().as_bytes(), parent, name.as_bytes())
        })
    }

    /// Makes an object and gives it to the caller; what cannot be given away is taken back.
    fn make(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        caller: Caller,
        make: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<FileAttr, Errno> {
        let parent = self.object(parent)?;
        make(parent.as_fd())?;
        let given = self.give(parent.as_fd(), name, mode, caller);
        if given.is_err() {
            for flags in [AtFlags::empty(), AtFlags::REMOVEDIR] {
                // One of the two is right for it.
                let _other_kind = rustix::fs::unlinkat(&parent, name.as_bytes(), flags);
            }
        }
        given
    }

    /// It was made by root: its owner is the caller, and its group too, unless the directory hands on its own.
    fn give(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        mode: u32,
        caller: Caller,
    ) -> Result<FileAttr, Errno> {
        let hands_on = rustix::fs::fstat(parent)?.st_mode & Mode::SGID.bits() != 0;
        let gid = (!hands_on).then(|| Gid::from_raw(caller.gid));
        let Met { number, fd, stat: made } = self.meet(parent, name)?;
        rustix::fs::chownat(&fd, "", Some(Uid::from_raw(caller.uid)), gid, AtFlags::EMPTY_PATH)?;
        let special = mode & (Mode::SUID | Mode::SGID).bits() != 0;
        if special && FileType::from_raw_mode(made.st_mode) != FileType::Directory {
            // A change of the owner has cleared them.
            rustix::fs::chmod(proc_path(fd.as_fd()), Mode::from_raw_mode(made.st_mode & 0o7777))?;
        }
        let found = attributes(number, &rustix::fs::fstat(&fd)?);
        self.remember(number, fd);
        Ok(found)
    }

    pub(super) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: OFlags,
        caller: Caller,
    ) -> Result<(FileAttr, u64), Errno> {
        let parent = self.object(parent)?;
        let exclusive = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open =
            || rustix::fs::openat(&parent, name.as_bytes(), exclusive, Mode::from_raw_mode(mode & 0o7777));
        match with_umask(caller.umask, open) {
            Ok(_made) => {}
            // Made by somebody else in this moment: opened as it is.
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {
                let found = self.enter(parent.as_fd(), name)?;
                let handle = self.open_file(found.ino.0, flags, caller)?;
                return Ok((found, handle));
            }
            Err(error) => return Err(error),
        }
        let given = self.give(parent.as_fd(), name, mode, caller);
        let opened = given.and_then(|found| {
            // Its own mode may forbid to open it again: not to root.
            self.open_file(found.ino.0, flags.difference(OFlags::TRUNC), caller).map(|handle| (found, handle))
        });
        if opened.is_err() {
            let _gone = rustix::fs::unlinkat(&parent, name.as_bytes(), AtFlags::empty());
        }
        opened
    }

    pub(super) fn unlink(&self, parent: u64, name: &OsStr, flags: AtFlags) -> Result<(), Errno> {
        let parent = self.object(parent)?;
        rustix::fs::unlinkat(&parent, name.as_bytes(), flags)
    }

    pub(super) fn rename(
        &self,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        flags: u32,
    ) -> Result<(), Errno> {
        let (parent, new_parent) = (self.object(parent)?, self.object(new_parent)?);
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        rustix::fs::renameat_with(&parent, name.as_bytes(), &new_parent, new_name.as_bytes(), flags)
    }

    pub(super) fn link(&self, number: u64, new_parent: u64, new_name: &OsStr) -> Result<FileAttr, Errno> {
        let (object, parent) = (self.object(number)?, self.object(new_parent)?);
        let from = proc_path(object.as_fd());
        rustix::fs::linkat(CWD, from, &parent, new_name.as_bytes(), AtFlags::SYMLINK_FOLLOW)?;
        self.enter(parent.as_fd(), new_name)
    }

    pub(super) fn open_file(&self, number: u64, flags: OFlags, caller: Caller) -> Result<u64, Errno> {
        let object = self.object(number)?;
        let open = || reopen(object.as_fd(), for_below(flags));
        let truncates = flags.contains(OFlags::TRUNC);
        let file = if truncates { caller.changes(object.as_fd(), open) } else { open() }?;
        Ok(self.files.insert(file))
    }

    pub(super) fn file(&self, handle: u64) -> Result<Arc<OwnedFd>, Errno> {
        self.files.find(handle)
    }

    pub(super) fn close_file(&self, handle: u64) {
        self.files.remove(handle);
    }

    /// All of it, or as much as the file system underneath could take. `by`: who clears bits of the mode by that.
    pub(super) fn write(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        by: Option<Caller>,
    ) -> Result<usize, Errno> {
        let file = self.files.find(handle)?;
        let write = || write_all(file.as_fd(), offset, data);
        match by {
            Some(caller) => caller.changes(file.as_fd(), write),
            None => write(),
        }
    }

    pub(super) fn sync(&self, handle: u64, data_only: bool) -> Result<(), Errno> {
        let file = self.files.find(handle)?;
        if data_only { rustix::fs::fdatasync(&*file) } else { rustix::fs::fsync(&*file) }
    }

    pub(super) fn fallocate(
        &self,
        handle: u64,
        mode: u32,
        (offset, length): (u64, u64),
        caller: Caller,
    ) -> Result<(), Errno> {
        let file = self.files.find(handle)?;
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        caller.changes(file.as_fd(), || rustix::fs::fallocate(&*file, mode, offset, length))
    }

    pub(super) fn seek(&self, handle: u64, offset: i64, whence: i32) -> Result<u64, Errno> {
        let file = self.files.find(handle)?;
        let from = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let to = match whence {
            libc::SEEK_DATA => SeekFrom::Data(from),
            libc::SEEK_HOLE => SeekFrom::Hole(from),
            _ => return Err(Errno::INVAL),
        };
        rustix::fs::seek(&*file, to)
    }

    pub(super) fn copy(
        &self,
        (from, at): (u64, u64),
        (to, new_at): (u64, u64),
        length: u64,
        caller: Caller,
    ) -> Result<usize, Errno> {
        let (from, to) = (self.files.find(from)?, self.files.find(to)?);
        let (mut at, mut new_at) = (at, new_at);
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(i32::MAX as usize);
        caller.changes(to.as_fd(), || {
            rustix::fs::copy_file_range(&*from, Some(&mut at), &*to, Some(&mut new_at), length)
        })
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

    pub(super) fn sync_directory(&self, handle: u64, data_only: bool) -> Result<(), Errno> {
        let directory = self.directories.find(handle)?;
        if data_only { rustix::fs::fdatasync(&directory.fd) } else { rustix::fs::fsync(&directory.fd) }
    }

    /// The number of what an open directory has under a name, without knowing it any longer.
    pub(super) fn peek(&self, directory: &Directory, name: &OsStr) -> Result<u64, Errno> {
        self.meet(directory.fd.as_fd(), name).map(|met| met.number)
    }

    pub(super) fn enter_from(&self, directory: &Directory, name: &OsStr) -> Result<FileAttr, Errno> {
        self.enter(directory.fd.as_fd(), name)
    }

    pub(super) fn statvfs(&self, number: u64) -> Result<StatVfs, Errno> {
        rustix::fs::fstatvfs(self.object(number)?)
    }

    pub(super) fn attribute(
        &self,
        number: u64,
        name: &OsStr,
        room: usize,
    ) -> Result<(Vec<u8>, usize), Errno> {
        let name = visible(name, Errno::NODATA)?;
        let object = self.object(number)?;
        let mut value = vec![0; room];
        let size = rustix::fs::getxattr(proc_path(object.as_fd()), name, value.as_mut_slice())?;
        value.truncate(size);
        Ok((value, size))
    }

    pub(super) fn set_attribute(
        &self,
        number: u64,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let name = visible(name, Errno::PERM)?;
        let object = self.object(number)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        rustix::fs::setxattr(proc_path(object.as_fd()), name, value, flags)
    }

    pub(super) fn remove_attribute(&self, number: u64, name: &OsStr) -> Result<(), Errno> {
        let name = visible(name, Errno::NODATA)?;
        let object = self.object(number)?;
        rustix::fs::removexattr(proc_path(object.as_fd()), name)
    }

    /// Names, each with a zero byte after it.
    pub(super) fn list_attributes(&self, number: u64) -> Result<Vec<u8>, Errno> {
        let object = self.object(number)?;
        let mut names = vec![0_u8; LIST_BYTES_MAX];
        let size = rustix::fs::listxattr(proc_path(object.as_fd()), names.as_mut_slice())?;
        names.truncate(size);
        let kept = names.split_inclusive(|byte| *byte == 0).filter(|name| !name.starts_with(PREFIX));
        Ok(kept.flatten().copied().collect())
    }
}

/// XATTR_LIST_MAX of linux/limits.h.
const LIST_BYTES_MAX: usize = 65_536;

fn visible(name: &OsStr, otherwise: Errno) -> Result<&[u8], Errno> {
    if name.as_bytes().starts_with(PREFIX) { Err(otherwise) } else { Ok(name.as_bytes()) }
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
