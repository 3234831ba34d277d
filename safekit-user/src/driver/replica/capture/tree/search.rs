//! A name of an object by its descriptor alone: it was met by one that is gone, or that another node has taken away.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Tree;
use crate::driver::replica::apply::known::is_hidden;
use crate::driver::replica::directory::Directory;
use crate::driver::replica::identity::{self, ROOT};
use crate::driver::replica::object::{FileHandle, above, reopen};
use crate::types::replica::ObjectId;

/// Directories below each other: more, and something is wrong.
const DEPTH_MAX: usize = 65_536;

impl Tree {
    /// Under the lock of the object. Directories above may be renamed meanwhile: then the other node may be told of a place
    /// that it does not have yet, the copies start over, and the next time there is nothing to look for.
    pub(super) fn find_names(&self, number: u64) -> Result<(), Errno> {
        if number == ROOT || self.nodes.find(number).map_or(true, |node| node.is_unnamed()) {
            return Ok(());
        }
        self.check_names(number)?;
        let mut at = number;
        for _ in 0..DEPTH_MAX {
            if at == ROOT {
                return Ok(());
            }
            let above = match self.nodes.named(at) {
                Some((above, _)) => Some(above),
                None => self.find_name(at)?,
            };
            let Some(above) = above else { return Ok(()) };
            at = above;
        }
        Err(Errno::LOOP)
    }

    /// Its lock is held, so what is there now is what it is called.
    fn check_names(&self, number: u64) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(self.object(number)?)?;
        for name in self.nodes.names(number) {
            let right = self.object(name.0).is_ok_and(|parent| is_there(parent.as_fd(), &name.1, &stat));
            if !right {
                self.nodes.is_not_called(number, &name);
            }
        }
        Ok(())
    }

    /// Gives back the directory that has it; none: it has no name.
    fn find_name(&self, number: u64) -> Result<Option<u64>, Errno> {
        let object = self.object(number)?;
        let stat = rustix::fs::fstat(&object)?;
        let found = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            named_above(object.as_fd(), self.root.as_fd(), &stat)?
        } else if stat.st_nlink > 0 {
            self.walk_for(&stat)?
        } else {
            None
        };
        let Some((parent, name)) = found else { return Ok(None) };
        let parent_stat = rustix::fs::fstat(&parent)?;
        let Some(above) = self.number_of(&parent, &parent_stat)? else { return Ok(None) };
        self.nodes.was_found(number, self.node(above, parent, &parent_stat), name);
        Ok(self.nodes.named(number).map(|(above, _)| above))
    }

    /// None: the other node does not know it either, which is told when somebody looks at it.
    fn number_of(&self, directory: &OwnedFd, stat: &Stat) -> Result<Option<u64>, Errno> {
        let root = rustix::fs::fstat(&self.root)?;
        if (stat.st_dev, stat.st_ino) == (root.st_dev, root.st_ino) {
            return Ok(Some(ROOT));
        }
        identity::read(directory.as_fd(), stat.st_ino)
    }

    /// Through all directories, by their handles: there may be more of them than this process may open.
    fn walk_for(&self, wanted: &Stat) -> Result<Option<(OwnedFd, Vec<u8>)>, Errno> {
        let mut left = VecDeque::from([(ROOT, FileHandle::of(self.root.as_fd())?)]);
        while let Some((number, handle)) = left.pop_front() {
            let place = match handle.open(self.root.as_fd()) {
                Ok(place) => place,
                Err(Errno::STALE | Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            for name in names_of(place.as_fd())? {
                if is_hidden(ObjectId(number), &name) {
                    continue;
                }
                let Some(stat) = look(place.as_fd(), &name) else { continue };
                if same(&stat, wanted) {
                    return Ok(Some((place, name)));
                }
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if is_directory && stat.st_dev == self.device {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let Ok(below) = rustix::fs::openat(&place, &*name, flags, Mode::empty()) else {
                        continue;
                    };
                    // Its own number is of no use here: only the root has something hidden.
                    left.push_back((0, FileHandle::of(below.as_fd())?));
                }
            }
        }
        Ok(None)
    }
}

/// A directory knows what lies above it. `root`: the replicated directory.
fn named_above(
    directory: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    wanted: &Stat,
) -> Result<Option<(OwnedFd, Vec<u8>)>, Errno> {
    let above = match above(directory, root) {
        Ok(above) => above,
        Err(Errno::NOENT | Errno::STALE) => return Ok(None),
        Err(error) => return Err(error),
    };
    let name = names_of(above.as_fd())?.into_iter().find(|name| is_there(above.as_fd(), name, wanted));
    Ok(name.map(|name| (above, name)))
}

fn names_of(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let open = match reopen(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME) {
        Ok(open) => Directory::new(open),
        Err(Errno::NOENT | Errno::STALE) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    open.names()
}

fn look(directory: BorrowedFd<'_>, name: &[u8]) -> Option<Stat> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()
}

fn is_there(directory: BorrowedFd<'_>, name: &[u8], wanted: &Stat) -> bool {
    look(directory, name).is_some_and(|stat| same(&stat, wanted))
}

fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
