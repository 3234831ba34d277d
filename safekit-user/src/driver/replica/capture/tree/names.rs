//! Names: objects are made, linked, renamed and removed.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use fuser::FileAttr;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;

use super::change::{Answer, Locks, Told};
use super::{Tree, refuse_hidden};
use crate::driver::replica::apply::{link_object, shape};
use crate::driver::replica::capture::attributes::attributes;
use crate::driver::replica::capture::credentials::{Caller, with_umask};
use crate::driver::replica::identity::Numbered;
use crate::driver::replica::object::proc_path;
use crate::types::replica::{ObjectId, Region, Touch};
use crate::wire::replica::{Entry, Kind, Operation};

/// Nobody else changes names of a directory that the kernel has locked for a request: only what is done underneath.
const LOOKS_MAX: u32 = 8;

/// A name of a directory, by its number.
type Name<'a> = (u64, &'a OsStr);

/// An object under the locks of a change of its name.
struct Concerned {
    number: u64,
    fd: OwnedFd,
    stat: Stat,
}

impl Concerned {
    /// After one of its names has gone.
    fn has_others(&self) -> Result<bool, Errno> {
        let is_directory = FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory;
        Ok(!is_directory && rustix::fs::fstat(&self.fd)?.st_nlink > 0)
    }
}

impl Tree {
    /// An ordinary file, a pipe, a socket or a device.
    pub(in crate::driver::replica::capture) fn mknod(
        &self,
        at: Name<'_>,
        mode: u32,
        device: u64,
        caller: Caller,
        answer: Answer<FileAttr>,
    ) {
        let make = |parent: BorrowedFd<'_>| {
            let (kind, mode) = (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode & 0o7777));
            with_umask(caller.umask, || rustix::fs::mknodat(parent, at.1.as_bytes(), kind, mode, device))
        };
        self.make(at, mode, caller, make, answer);
    }

    pub(in crate::driver::replica::capture) fn mkdir(
        &self,
        at: Name<'_>,
        mode: u32,
        caller: Caller,
        answer: Answer<FileAttr>,
    ) {
        let make = |parent: BorrowedFd<'_>| {
            let mode = Mode::from_raw_mode(mode & 0o7777);
            with_umask(caller.umask, || rustix::fs::mkdirat(parent, at.1.as_bytes(), mode))
        };
        self.make(at, mode, caller, make, answer);
    }

    pub(in crate::driver::replica::capture) fn symlink(
        &self,
        at: Name<'_>,
        target: &Path,
        caller: Caller,
        answer: Answer<FileAttr>,
    ) {
        let make = |parent: BorrowedFd<'_>| {
            rustix::fs::symlinkat(target.as_os_str().as_bytes(), parent, at.1.as_bytes())
        };
        self.make(at, 0, caller, make, answer);
    }

    fn make(
        &self,
        at: Name<'_>,
        mode: u32,
        caller: Caller,
        make: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
        answer: Answer<FileAttr>,
    ) {
        self.change_names(at.0, at.1, answer, |told| {
            let parent = self.object(at.0)?;
            make(parent.as_fd())?;
            self.keep_or_remove(parent.as_fd(), at, told, |told| {
                self.give(parent.as_fd(), at, mode, caller, told)
            })
        });
    }

    /// A change of one directory that makes a name.
    fn change_names<'a, T: Send + 'static>(
        &self,
        parent: u64,
        name: &OsStr,
        answer: Answer<T>,
        make: impl FnOnce(&mut Told<'a>) -> Result<T, Errno>,
    ) {
        if let Err(error) = refuse_hidden(parent, name, Errno::PERM) {
            return answer(Err(error));
        }
        let _lock = self.stripes.lock([parent]);
        let make = |told: &mut Told<'a>| {
            let made = make(told)?;
            self.was_modified(parent);
            Ok(made)
        };
        self.change_contents(parent, &names_touched(&[parent]), make, answer);
    }

    /// What was made and cannot be given to the caller is taken back.
    fn keep_or_remove<'a, T>(
        &self,
        parent: BorrowedFd<'_>,
        (number, name): Name<'_>,
        told: &mut Told<'a>,
        give: impl FnOnce(&mut Told<'a>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let given = give(told);
        if given.is_err() {
            told.forget();
            let removed = [AtFlags::empty(), AtFlags::REMOVEDIR]
                .map(|flags| rustix::fs::unlinkat(parent, name.as_bytes(), flags));
            // One of the two is right for it.
            if removed.iter().all(Result::is_err) {
                told.is_unknown();
            }
            self.was_modified(number);
        }
        given
    }

    /// It was made by root: its owner is the caller, and its group too, unless the directory hands on its own.
    fn give(
        &self,
        parent: BorrowedFd<'_>,
        at: Name<'_>,
        mode: u32,
        caller: Caller,
        told: &mut Told<'_>,
    ) -> Result<FileAttr, Errno> {
        let hands_on = rustix::fs::fstat(parent)?.st_mode & Mode::SGID.bits() != 0;
        let gid = (!hands_on).then(|| Gid::from_raw(caller.gid));
        let (fd, made) = self.look(parent, at.1)?;
        let Numbered { object, reserved, .. } = self.numbering.number_of(fd.as_fd(), made.st_ino)?;
        rustix::fs::chownat(&fd, "", Some(Uid::from_raw(caller.uid)), gid, AtFlags::EMPTY_PATH)?;
        let special = mode & (Mode::SUID | Mode::SGID).bits() != 0;
        if special && FileType::from_raw_mode(made.st_mode) != FileType::Directory {
            // A change of the owner has cleared them.
            rustix::fs::chmod(proc_path(fd.as_fd()), Mode::from_raw_mode(made.st_mode & 0o7777))?;
        }
        let stat = rustix::fs::fstat(&fd)?;
        if let Some(numbers) = reserved {
            self.watch.reserved(numbers);
        }
        let kind: Kind = shape::kind(fd.as_fd(), &stat)?;
        let attributes = shape::attributes(fd.as_fd())?;
        let entry = Entry { name: at.1.as_bytes().to_vec(), object, kind };
        told.say(Operation::Create { parent: ObjectId(at.0), entry, meta: shape::meta(&stat), attributes });
        self.nodes.remember(self.node(object.0, fd, &stat), Some(owned(at)));
        Ok(attributes_of(object, &stat))
    }

    pub(in crate::driver::replica::capture) fn create(
        &self,
        at: Name<'_>,
        mode: u32,
        flags: OFlags,
        caller: Caller,
        answer: Answer<(FileAttr, u64)>,
    ) {
        self.change_names(at.0, at.1, answer, |told| {
            let parent = self.object(at.0)?;
            let exclusive =
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = mode & 0o7777;
            let open = || rustix::fs::openat(&parent, at.1.as_bytes(), exclusive, Mode::from_raw_mode(mode));
            // The kernel has looked for the name, and lets nobody make it meanwhile.
            drop(with_umask(caller.umask, open)?);
            self.keep_or_remove(parent.as_fd(), at, told, |told| {
                let found = self.give(parent.as_fd(), at, mode, caller, told)?;
                // Its own mode may forbid to open it again: not to root.
                let handle = self.open_as_it_is(found.ino.0, flags.difference(OFlags::TRUNC));
                if handle.is_err() {
                    self.nodes.forget(found.ino.0, 1);
                }
                Ok((found, handle?))
            })
        });
    }

    pub(in crate::driver::replica::capture) fn unlink(
        &self,
        (parent, name): Name<'_>,
        flags: AtFlags,
        answer: Answer<()>,
    ) {
        let ([object], _locks) = match self.lock_names([(parent, name)]) {
            Ok(([Some(object)], locks)) => ([object], locks),
            Ok(([None], _)) => return answer(Err(Errno::NOENT)),
            Err(error) => return answer(Err(error)),
        };
        let make = |told: &mut Told<'_>| {
            rustix::fs::unlinkat(self.object(parent)?, name.as_bytes(), flags)?;
            told.say(Operation::Remove {
                parent: ObjectId(parent),
                name: name.as_bytes().to_vec(),
                object: ObjectId(object.number),
                directory: flags.contains(AtFlags::REMOVEDIR),
            });
            self.was_modified(parent);
            self.name_gone(&object, (parent, name))
        };
        self.change(&names_touched(&[parent]), make, answer);
    }

    fn name_gone(&self, object: &Concerned, name: Name<'_>) -> Result<(), Errno> {
        self.nodes.is_no_longer_called(object.number, &owned(name), object.has_others()?);
        Ok(())
    }

    pub(in crate::driver::replica::capture) fn rename(
        &self,
        from: Name<'_>,
        to: Name<'_>,
        flags: u32,
        answer: Answer<()>,
    ) {
        let Some(flags) =
            RenameFlags::from_bits(flags).filter(|flags| !flags.contains(RenameFlags::WHITEOUT))
        else {
            return answer(Err(Errno::INVAL));
        };
        let ([object, there], _locks) = match self.lock_names([from, to]) {
            Ok(([Some(object), there], locks)) => ([Some(object), there], locks),
            Ok(([None, _], _)) => return answer(Err(Errno::NOENT)),
            Err(error) => return answer(Err(error)),
        };
        let object = object.expect("it was found");
        if there.as_ref().is_some_and(|there| there.number == object.number)
            && !flags.contains(RenameFlags::NOREPLACE)
        {
            // Two names of one object: rename(2) leaves both.
            return answer(Ok(()));
        }
        let make = |told: &mut Told<'_>| {
            let (parent, new_parent) = (self.object(from.0)?, self.object(to.0)?);
            let (name, new_name) = (from.1.as_bytes(), to.1.as_bytes());
            rustix::fs::renameat_with(&parent, name, &new_parent, new_name, flags)?;
            let exchanged = flags.contains(RenameFlags::EXCHANGE);
            told.say(Operation::Rename {
                object: ObjectId(object.number),
                parent: ObjectId(from.0),
                name: name.to_vec(),
                new_parent: ObjectId(to.0),
                new_name: new_name.to_vec(),
                replaced: there.as_ref().map(|there| ObjectId(there.number)),
                exchanged,
            });
            self.was_modified(from.0);
            self.was_modified(to.0);
            self.renamed(&object, there.as_ref(), (from, to), exchanged, told)
        };
        self.change(&names_touched(&[from.0, to.0]), make, answer);
    }

    fn renamed(
        &self,
        object: &Concerned,
        there: Option<&Concerned>,
        (from, to): (Name<'_>, Name<'_>),
        exchanged: bool,
        told: &mut Told<'_>,
    ) -> Result<(), Errno> {
        told.is_called(object.number, owned(to), Some(owned(from)));
        match there {
            None => Ok(()),
            Some(there) if exchanged => {
                told.is_called(there.number, owned(from), Some(owned(to)));
                Ok(())
            }
            Some(there) => self.name_gone(there, to),
        }
    }

    pub(in crate::driver::replica::capture) fn link(
        &self,
        number: u64,
        (parent, name): Name<'_>,
        answer: Answer<FileAttr>,
    ) {
        if let Err(error) = refuse_hidden(parent, name, Errno::PERM) {
            return answer(Err(error));
        }
        let _locks = self.stripes.lock([number, parent]);
        let make = |told: &mut Told<'_>| {
            self.watch.names(ObjectId(number));
            let (object, directory) = (self.object(number)?, self.object(parent)?);
            link_object(object.as_fd(), directory.as_fd(), name.as_bytes())?;
            told.say(Operation::Link {
                object: ObjectId(number),
                parent: ObjectId(parent),
                name: name.as_bytes().to_vec(),
            });
            self.was_modified(parent);
            let super::Met { number, fd, stat } = self.meet(directory.as_fd(), parent, name)?;
            self.nodes.remember(self.node(number, fd, &stat), None);
            told.is_called(number, owned((parent, name)), None);
            Ok(attributes(number, &stat))
        };
        self.change(&names_touched(&[parent]), make, answer);
    }

    /// Locks directories and what they have under these names, which are so as long as the locks are held.
    fn lock_names<const N: usize>(
        &self,
        names: [Name<'_>; N],
    ) -> Result<([Option<Concerned>; N], Locks<'_>), Errno> {
        for (parent, name) in names {
            refuse_hidden(parent, name, Errno::PERM)?;
        }
        for _ in 0..LOOKS_MAX {
            let seen = self.look_all(names)?;
            let of = |place: usize| -> (u64, u64) {
                let place = place.min(N - 1);
                (names[place].0, seen[place].as_ref().map_or(names[place].0, |it| it.number))
            };
            let ((one, two), (three, four)) = (of(0), of(1));
            let locks = self.stripes.lock([one, two, three, four]);
            let same = |(now, before): (&Option<Concerned>, &Option<Concerned>)| {
                now.as_ref().map(|it| it.number) == before.as_ref().map(|it| it.number)
            };
            let now = self.look_all(names)?;
            if now.iter().zip(&seen).all(same) {
                return Ok((now, locks));
            }
        }
        Err(Errno::BUSY)
    }

    fn look_all<const N: usize>(&self, names: [Name<'_>; N]) -> Result<[Option<Concerned>; N], Errno> {
        let mut found = [const { None }; N];
        for (place, (parent, name)) in found.iter_mut().zip(names) {
            let directory = self.object(parent)?;
            *place = match self.meet(directory.as_fd(), parent, name) {
                Ok(super::Met { number, fd, stat }) => Some(Concerned { number, fd, stat }),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(error),
            };
        }
        Ok(found)
    }
}

fn owned((parent, name): Name<'_>) -> (u64, Vec<u8>) {
    (parent, name.as_bytes().to_vec())
}

fn attributes_of(object: ObjectId, stat: &Stat) -> FileAttr {
    attributes(object.0, stat)
}

fn names_touched(directories: &[u64]) -> Vec<Touch> {
    let mut touches: Vec<_> = directories
        .iter()
        .map(|directory| ObjectId(*directory))
        .flat_map(|directory| [Touch::all(Region::names(directory)), Touch::all(Region::meta(directory))])
        .collect();
    touches.sort_unstable_by_key(|touch| touch.region);
    touches.dedup();
    touches
}
