//! Everything of an object but its contents and its names: how it is made, read and set.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::fault::{Doing as _, Fault};
use super::known::Met;
use crate::driver::replica::identity::{self, FIRST, PREFIX};
use crate::driver::replica::object::proc_path;
use crate::types::replica::ObjectId;
use crate::wire::replica::{Attribute, Entry, Kind, Meta, Time};

/// XATTR_LIST_MAX and XATTR_SIZE_MAX of linux/limits.h.
const LIST_BYTES_MAX: usize = 65_536;
const VALUE_BYTES_MAX: usize = 65_536;
/// Most objects have fewer.
const LIST_BYTES_USUAL: usize = 256;
/// Each node labels its own files: a label may be replaced, and not be removed.
pub(in crate::driver::replica) const LABEL: &[u8] = b"security.selinux";
const TYPE_BITS: u32 = 0o170_000;

pub(in crate::driver::replica) fn same_type(one: u32, other: u32) -> bool {
    one & TYPE_BITS == other & TYPE_BITS
}

pub(in crate::driver::replica) fn kind(object: BorrowedFd<'_>, stat: &Stat) -> Result<Kind, Errno> {
    let (mut device, mut target) = (0, Vec::new());
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => target = rustix::fs::readlinkat(object, "", Vec::new())?.into_bytes(),
        FileType::CharacterDevice | FileType::BlockDevice => device = stat.st_rdev,
        FileType::RegularFile
        | FileType::Directory
        | FileType::Fifo
        | FileType::Socket
        | FileType::Unknown => {}
    }
    Ok(Kind { mode: stat.st_mode, device, target })
}

pub(in crate::driver::replica) fn meta(stat: &Stat) -> Meta {
    let modified = Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
    Meta { mode: stat.st_mode, uid: stat.st_uid, gid: stat.st_gid, modified }
}

/// Apart from the mode, which can be changed: whether an object can be made into another one of that kind.
pub(in crate::driver::replica) fn is_kind(met: &Met, wanted: &Kind) -> Result<bool, Fault> {
    if !same_type(met.stat.st_mode, wanted.mode) {
        return Ok(false);
    }
    let own = kind(met.fd.as_fd(), &met.stat).doing("read a symbolic link")?;
    Ok(own.device == wanted.device && own.target == wanted.target)
}

/// Makes an object that only root can use, with its number. The directory has no such name.
pub(in crate::driver::replica) fn make(
    parent: BorrowedFd<'_>,
    entry: &Entry,
    meet: impl FnOnce() -> Result<Option<Met>, Fault>,
) -> Result<Met, Fault> {
    let met = make_unnumbered(parent, entry, meet)?;
    identity::write(met.fd.as_fd(), entry.object.0, met.stat.st_ino).doing("number an object")?;
    Ok(Met { number: Some(entry.object), ..met })
}

pub(in crate::driver::replica) fn make_unnumbered(
    parent: BorrowedFd<'_>,
    entry: &Entry,
    meet: impl FnOnce() -> Result<Option<Met>, Fault>,
) -> Result<Met, Fault> {
    if entry.object.0 < FIRST {
        return Err(Fault::differs(entry.object, "no object has such a number"));
    }
    let (name, mode) = (entry.name.as_slice(), Mode::RUSR | Mode::WUSR);
    match FileType::from_raw_mode(entry.kind.mode) {
        FileType::Directory => rustix::fs::mkdirat(parent, name, mode | Mode::XUSR),
        FileType::Symlink => rustix::fs::symlinkat(entry.kind.target.as_slice(), parent, name),
        kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
            rustix::fs::mknodat(parent, name, kind, mode, entry.kind.device)
        }
        kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => {
            rustix::fs::mknodat(parent, name, kind, mode, 0)
        }
        FileType::Unknown => return Err(Fault::differs(entry.object, "there is no such kind of object")),
    }
    .doing("make an object")?;
    meet()?.ok_or(Fault::differs(entry.object, "it is gone as soon as it was made"))
}

/// Owner, then attributes, then mode, then time: each would change what is before it. What is right already is left: most
/// of what is compared is, and each of these calls would be written to the disk.
pub(in crate::driver::replica) fn set(
    object: BorrowedFd<'_>,
    wanted: &Meta,
    attributes: Option<&[Attribute]>,
) -> Result<(), Fault> {
    let mut stat = rustix::fs::fstat(object).doing("look at an object")?;
    let mut changed = false;
    // A change of the owner takes the capabilities of a program, and bits of the mode.
    if (stat.st_uid, stat.st_gid) != (wanted.uid, wanted.gid) {
        let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
        rustix::fs::chownat(object, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).doing("set an owner")?;
        changed = true;
    }
    if let Some(attributes) = attributes {
        changed |= set_attributes(object, attributes)?;
    }
    if changed {
        stat = rustix::fs::fstat(object).doing("look at an object")?;
    }
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    if !is_link && (stat.st_mode ^ wanted.mode) & 0o7777 != 0 {
        rustix::fs::chmod(proc_path(object), Mode::from_raw_mode(wanted.mode & 0o7777))
            .doing("set a mode")?;
    }
    if meta(&stat).modified == wanted.modified {
        return Ok(());
    }
    let Time { seconds, nanoseconds } = wanted.modified;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds.min(999_999_999)) },
    };
    rustix::fs::utimensat(CWD, proc_path(object), &times, AtFlags::empty()).doing("set a time")
}

/// Those that belong to the object, not to this program; in the order of their names.
pub(in crate::driver::replica) fn attributes(object: BorrowedFd<'_>) -> Result<Vec<Attribute>, Errno> {
    let path = proc_path(object);
    let mut few = [0_u8; LIST_BYTES_USUAL];
    let mut many = Vec::new();
    let names = match rustix::fs::listxattr(&path, few.as_mut_slice()) {
        Ok(size) => &few[..size],
        Err(Errno::RANGE) => {
            many.resize(LIST_BYTES_MAX, 0);
            let size = rustix::fs::listxattr(&path, many.as_mut_slice())?;
            &many[..size]
        }
        Err(Errno::OPNOTSUPP) => &[],
        Err(error) => return Err(error),
    };
    let mut value = Vec::new();
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        if name.is_empty() || name.starts_with(PREFIX) {
            continue;
        }
        value.resize(VALUE_BYTES_MAX, 0);
        match rustix::fs::getxattr(&path, name, value.as_mut_slice()) {
            Ok(size) => attributes.push(Attribute { name: name.to_vec(), value: value[..size].to_vec() }),
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    attributes.sort();
    Ok(attributes)
}

/// Exactly these. True: something was changed.
fn set_attributes(object: BorrowedFd<'_>, wanted: &[Attribute]) -> Result<bool, Fault> {
    let before = attributes(object).doing("list attributes")?;
    let mut changed = false;
    for Attribute { name, .. } in &before {
        if name != LABEL && !wanted.iter().any(|wanted| wanted.name == *name) {
            remove_attribute(object, name)?;
            changed = true;
        }
    }
    for attribute in wanted {
        if !before.contains(attribute) {
            set_attribute(object, attribute)?;
            changed = true;
        }
    }
    Ok(changed)
}

pub(super) fn set_attribute(object: BorrowedFd<'_>, attribute: &Attribute) -> Result<(), Fault> {
    let name = foreign(&attribute.name)?;
    rustix::fs::setxattr(proc_path(object), name, &attribute.value, XattrFlags::empty())
        .doing("set an attribute")
}

pub(super) fn remove_attribute(object: BorrowedFd<'_>, name: &[u8]) -> Result<(), Fault> {
    match rustix::fs::removexattr(proc_path(object), foreign(name)?) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(source) => Err(Fault::Io { doing: "remove an attribute", source }),
    }
}

fn foreign(name: &[u8]) -> Result<&[u8], Fault> {
    if name.starts_with(PREFIX) {
        return Err(Fault::differs(ObjectId(0), "an attribute belongs to this program"));
    }
    Ok(name)
}
