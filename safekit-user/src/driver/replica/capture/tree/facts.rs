//! Modes, owners, sizes, times and extended attributes of objects.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use fuser::FileAttr;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::change::{Answer, Told};
use super::{Object, Tree};
use crate::driver::replica::apply::shape;
use crate::driver::replica::capture::credentials::Caller;
use crate::driver::replica::identity::PREFIX;
use crate::driver::replica::object::{proc_path, reopen};
use crate::types::replica::{ObjectId, Region, Touch};
use crate::wire::replica::{Attribute, Operation};

/// XATTR_LIST_MAX of linux/limits.h.
const LIST_BYTES_MAX: usize = 65_536;
/// Every change of the owner takes it from a file.
const CAPABILITIES: &[u8] = b"security.capability";
/// Access control lists change the mode, too.
const ACCESS_CONTROL: &[u8] = b"system.posix_acl_";

/// What setattr is to change; none: it stays.
#[derive(Clone, Debug, Default)]
pub(in crate::driver::replica::capture) struct Wanted {
    pub(in crate::driver::replica::capture) mode: Option<u32>,
    pub(in crate::driver::replica::capture) uid: Option<u32>,
    pub(in crate::driver::replica::capture) gid: Option<u32>,
    pub(in crate::driver::replica::capture) size: Option<u64>,
    pub(in crate::driver::replica::capture) times: Option<Timestamps>,
}

impl Wanted {
    /// Also a change of nothing: chown() of neither counts as a change of the object.
    fn changes_owner(&self) -> bool {
        let nothing_else = self.mode.is_none() && self.size.is_none() && self.times.is_none();
        self.uid.is_some() || self.gid.is_some() || nothing_else
    }
}

impl Tree {
    pub(in crate::driver::replica::capture) fn set(
        &self,
        number: u64,
        handle: Option<u64>,
        wanted: &Wanted,
        caller: Caller,
        answer: Answer<FileAttr>,
    ) {
        let _lock = self.stripes.lock([number]);
        let object = ObjectId(number);
        let prepared = || {
            let place = self.object(number)?;
            let mut touches = vec![Touch::all(Region::meta(object))];
            if let Some(size) = wanted.size {
                let before = u64::try_from(rustix::fs::fstat(&place)?.st_size).unwrap_or(0);
                touches.extend(Touch::contents(object, size, before.saturating_sub(size)));
            }
            Ok((place, touches))
        };
        let (place, touches) = match prepared() {
            Ok(prepared) => prepared,
            Err(error) => return answer(Err(error)),
        };
        let make = |told: &mut Told<'_>| {
            let set = self.set_all(&place, object, handle, wanted, caller, told);
            // Also when only some of it could be changed.
            let meta = shape::meta(&rustix::fs::fstat(&place)?);
            told.say(Operation::Meta { object, meta });
            set?;
            self.stat(number, handle)
        };
        self.change_contents(number, &touches, make, answer);
    }

    fn set_all(
        &self,
        place: &Object,
        object: ObjectId,
        handle: Option<u64>,
        wanted: &Wanted,
        caller: Caller,
        told: &mut Told<'_>,
    ) -> Result<(), Errno> {
        if wanted.changes_owner() {
            let capable = has(place.as_fd(), CAPABILITIES);
            let (uid, gid) = (wanted.uid.map(Uid::from_raw), wanted.gid.map(Gid::from_raw));
            rustix::fs::chownat(place, "", uid, gid, AtFlags::EMPTY_PATH)?;
            if capable && !has(place.as_fd(), CAPABILITIES) {
                told.say(Operation::RemoveAttribute { object, name: CAPABILITIES.to_vec() });
            }
        }
        // After the owner: a change of that clears the bits of the mode.
        if let Some(mode) = wanted.mode {
            rustix::fs::chmod(proc_path(place.as_fd()), Mode::from_raw_mode(mode & 0o7777))?;
        }
        if let Some(size) = wanted.size {
            let truncate = || match handle.map(|handle| self.files.find(handle)) {
                Some(Ok(file)) => rustix::fs::ftruncate(&*file, size),
                Some(Err(_)) | None => {
                    let file = reopen(place.as_fd(), OFlags::WRONLY)?;
                    rustix::fs::ftruncate(file, size)
                }
            };
            caller.changes(place.as_fd(), truncate)?;
            told.say(Operation::Truncate { object, size });
        }
        if let Some(times) = &wanted.times {
            rustix::fs::utimensat(CWD, proc_path(place.as_fd()), times, AtFlags::empty())?;
        }
        Ok(())
    }

    pub(in crate::driver::replica::capture) fn readlink(&self, number: u64) -> Result<Vec<u8>, Errno> {
        let object = self.object(number)?;
        Ok(rustix::fs::readlinkat(&object, "", Vec::new())?.into_bytes())
    }

    pub(in crate::driver::replica::capture) fn attribute(
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

    pub(in crate::driver::replica::capture) fn set_attribute(
        &self,
        number: u64,
        name: &OsStr,
        value: &[u8],
        flags: u32,
        answer: Answer<()>,
    ) {
        let make = |place: &Object, told: &mut Told<'_>| {
            let name = visible(name, Errno::PERM)?;
            let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
            rustix::fs::setxattr(proc_path(place.as_fd()), name, value, flags)?;
            let attribute = Attribute { name: name.to_vec(), value: value.to_vec() };
            told.say(Operation::SetAttribute { object: ObjectId(number), attribute });
            Ok(())
        };
        self.change_attribute(number, name, make, answer);
    }

    pub(in crate::driver::replica::capture) fn remove_attribute(
        &self,
        number: u64,
        name: &OsStr,
        answer: Answer<()>,
    ) {
        let make = |place: &Object, told: &mut Told<'_>| {
            let name = visible(name, Errno::NODATA)?;
            rustix::fs::removexattr(proc_path(place.as_fd()), name)?;
            told.say(Operation::RemoveAttribute { object: ObjectId(number), name: name.to_vec() });
            Ok(())
        };
        self.change_attribute(number, name, make, answer);
    }

    fn change_attribute<'a>(
        &self,
        number: u64,
        name: &OsStr,
        make: impl FnOnce(&Object, &mut Told<'a>) -> Result<(), Errno>,
        answer: Answer<()>,
    ) {
        let _lock = self.stripes.lock([number]);
        let object = ObjectId(number);
        let make = |told: &mut Told<'a>| {
            let place = self.object(number)?;
            make(&place, told)?;
            if name.as_bytes().starts_with(ACCESS_CONTROL) {
                let meta = shape::meta(&rustix::fs::fstat(&place)?);
                told.say(Operation::Meta { object, meta });
            }
            Ok(())
        };
        self.change_contents(number, &[Touch::all(Region::meta(object))], make, answer);
    }

    /// Names, each with a zero byte after it.
    pub(in crate::driver::replica::capture) fn list_attributes(&self, number: u64) -> Result<Vec<u8>, Errno> {
        let object = self.object(number)?;
        let mut names = vec![0_u8; LIST_BYTES_MAX];
        let size = rustix::fs::listxattr(proc_path(object.as_fd()), names.as_mut_slice())?;
        names.truncate(size);
        let kept = names.split_inclusive(|byte| *byte == 0).filter(|name| !name.starts_with(PREFIX));
        Ok(kept.flatten().copied().collect())
    }
}

fn has(object: BorrowedFd<'_>, name: &[u8]) -> bool {
    rustix::fs::getxattr(proc_path(object), name, &mut [0_u8; 0]).is_ok()
}

fn visible(name: &OsStr, otherwise: Errno) -> Result<&[u8], Errno> {
    if name.as_bytes().starts_with(PREFIX) { Err(otherwise) } else { Ok(name.as_bytes()) }
}
