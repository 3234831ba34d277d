//! A part of an object as both sides read it.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{Advice, FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::driver::replica::apply::files::read_full;
use crate::driver::replica::apply::known::{is_hidden, meet};
use crate::driver::replica::apply::shape;
use crate::driver::replica::directory::{Directory, is_dot};
use crate::driver::replica::object::reopen;
use crate::types::replica::{EXTENT_BYTES, ObjectId, ZONE_BYTES};
use crate::wire::replica::{CHECK_ZONES_MAX, Digest, Piece};

/// Files from this size on do not stay in the page cache because of a comparison.
const LARGE_BYTES: u64 = 4 * EXTENT_BYTES;

/// None: the object is of another kind.
pub(in crate::driver::replica) fn part(
    object: ObjectId,
    fd: BorrowedFd<'_>,
    stat: &Stat,
    like: &Piece,
) -> Result<Option<Piece>, Errno> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    match like {
        Piece::Facts { .. } => facts(fd, stat).map(Some),
        Piece::Names { .. } if kind == FileType::Directory => {
            let digest = names(object, fd, stat.st_dev)?;
            Ok(Some(Piece::Names { digest }))
        }
        Piece::Contents { offset, .. } if kind == FileType::RegularFile => {
            contents(fd, stat, *offset).map(Some)
        }
        Piece::Names { .. } | Piece::Contents { .. } => Ok(None),
    }
}

fn facts(fd: BorrowedFd<'_>, stat: &Stat) -> Result<Piece, Errno> {
    let kind = shape::kind(fd, stat)?;
    let mut hash = blake3::Hasher::new();
    add(&mut hash, &kind.device.to_le_bytes());
    add(&mut hash, &kind.target);
    for attribute in shape::attributes(fd)?.iter().filter(|it| it.name != shape::LABEL) {
        add(&mut hash, &attribute.name);
        add(&mut hash, &attribute.value);
    }
    Ok(Piece::Facts { meta: shape::meta(stat), others: short(&hash) })
}

/// Over all names and the numbers that they lead to: a directory may be longer than any frame.
pub(in crate::driver::replica) fn names(
    directory: ObjectId,
    fd: BorrowedFd<'_>,
    device: u64,
) -> Result<Digest, Errno> {
    let open = Directory::new(reopen(fd, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME)?);
    let mut names: Vec<(Vec<u8>, u64)> = Vec::new();
    open.read(0, |entry| {
        let name = entry.name.to_bytes();
        if is_dot(&entry.name) || is_hidden(directory, name) {
            return Ok(true);
        }
        match meet(device, open.fd.as_fd(), name) {
            // What nobody has numbered belongs to no copy, and should not be there.
            Ok(met) => names.push((name.to_vec(), met.number.map_or(0, |number| number.0))),
            // Gone meanwhile, or of another file system.
            Err(Errno::NOENT | Errno::XDEV) => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    })?;
    names.sort_unstable();
    let mut hash = blake3::Hasher::new();
    for (name, number) in names {
        add(&mut hash, &name);
        hash.update(&number.to_le_bytes());
    }
    Ok(short(&hash))
}

fn contents(fd: BorrowedFd<'_>, stat: &Stat, offset: u64) -> Result<Piece, Errno> {
    let file = reopen(fd, OFlags::RDONLY | OFlags::NOATIME)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let mut buffer = vec![0; ZONE_BYTES as usize];
    let mut digests = Vec::new();
    let mut at = offset;
    while at < size && digests.len() < CHECK_ZONES_MAX {
        let wanted = (size - at).min(ZONE_BYTES) as usize;
        let read = read_full(&file, at, &mut buffer[..wanted])?;
        digests.push(short(blake3::Hasher::new().update(&buffer[..read])));
        at += ZONE_BYTES;
    }
    if size >= LARGE_BYTES {
        let read = std::num::NonZeroU64::new(at - offset);
        // Only a hint.
        let _ignored = rustix::fs::fadvise(&file, offset, read, Advice::DontNeed);
    }
    Ok(Piece::Contents { offset, size, digests })
}

fn add(hash: &mut blake3::Hasher, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn short(hash: &blake3::Hasher) -> Digest {
    let mut digest = Digest::default();
    let length = digest.len();
    digest.copy_from_slice(&hash.finalize().as_bytes()[..length]);
    digest
}
