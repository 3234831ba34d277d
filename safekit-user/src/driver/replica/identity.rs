//! The number by which both nodes know an object: kept with it, in an extended attribute that applications cannot see.
//!
//! ```text
//! trusted.safekit.object    object, inode: 8 bytes each, little endian
//! trusted.safekit.objects   on the directory itself: numbers below this may be in use
//! ```
//!
//! A copy of an object that was made underneath, attributes and all, has another inode number and counts as new. Numbers
//! are reserved in blocks: those that a daemon had reserved when it died are never used.

use rustix::fd::BorrowedFd;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::object::proc_path;

/// Attributes of this prefix belong to this program.
pub(super) const PREFIX: &[u8] = b"trusted.safekit.";
const OBJECT: &str = "trusted.safekit.object";
pub(super) const RESERVED: &str = "trusted.safekit.objects";
/// FUSE wants it for the directory itself.
pub(super) const ROOT: u64 = 1;
pub(super) const FIRST: u64 = 16;
const BLOCK: u64 = 65_536;

/// Hands out numbers.
#[derive(Debug)]
pub(super) struct Numbers {
    next: u64,
    reserved: u64,
}

impl Numbers {
    pub(super) fn open(root: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut bytes = [0; 8];
        let next = match rustix::fs::getxattr(proc_path(root), RESERVED, &mut bytes) {
            Ok(8) => u64::from_le_bytes(bytes).max(FIRST),
            Ok(_) => return Err(Errno::BADMSG),
            Err(Errno::NODATA) => FIRST,
            Err(error) => return Err(error),
        };
        let mut numbers = Self { next, reserved: next };
        numbers.reserve(root)?;
        Ok(numbers)
    }

    pub(super) fn take(&mut self, root: BorrowedFd<'_>) -> Result<u64, Errno> {
        if self.next == self.reserved {
            self.reserve(root)?;
        }
        let number = self.next;
        self.next += 1;
        Ok(number)
    }

    /// On the disk before one of them is used.
    fn reserve(&mut self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        let reserved = self.reserved + BLOCK;
        rustix::fs::setxattr(proc_path(root), RESERVED, &reserved.to_le_bytes(), XattrFlags::empty())?;
        self.reserved = reserved;
        Ok(())
    }
}

/// None: it has none of its own yet.
pub(super) fn read(object: BorrowedFd<'_>, inode: u64) -> Result<Option<u64>, Errno> {
    let mut bytes = [0; 16];
    let read = match rustix::fs::getxattr(proc_path(object), OBJECT, &mut bytes) {
        Ok(read) => read,
        Err(Errno::NODATA) => return Ok(None),
        // Longer than any of ours.
        Err(Errno::RANGE) => 0,
        Err(error) => return Err(error),
    };
    let (number, of) = bytes.split_at(8);
    let number = u64::from_le_bytes(number.try_into().expect("half of sixteen bytes"));
    let of = u64::from_le_bytes(of.try_into().expect("half of sixteen bytes"));
    Ok((read == 16 && of == inode && number >= FIRST).then_some(number))
}

pub(super) fn write(object: BorrowedFd<'_>, number: u64, inode: u64) -> Result<(), Errno> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&inode.to_le_bytes());
    rustix::fs::setxattr(proc_path(object), OBJECT, &bytes, XattrFlags::empty())
}
