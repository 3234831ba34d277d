//! What rows are made of, and how a step is done.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Names are below the directory of the row.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Umask(u32),
    Mkdir(String, u32),
    /// Opened, written to where the flags allow it, and closed.
    Open(String, OFlags, u32),
    Write(String, u64, usize),
    Append(String, usize),
    Truncate(String, u64),
    TruncateOpen(String, u64),
    Fallocate(String, FallocateFlags, u64, u64),
    Copy(String, u64, String, u64, usize),
    Holes(String),
    Read(String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, RenameFlags),
    Link(String, String),
    Symlink(String, String),
    Mknod(String, FileType, u32),
    Chmod(String, u32),
    Chown(String, Option<u32>, Option<u32>),
    Times(String, i64, i64),
    TimesNow(String),
    SetAttribute(String, &'static str, Vec<u8>, XattrFlags),
    GetAttribute(String, &'static str),
    RemoveAttribute(String, &'static str),
    Access(String, Access),
    List(String),
    Sync(String),
}

/// A name of any bytes, as rows write it: `\xNN` stands for a byte.
fn path(root: &Path, name: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let escaped = rest.strip_prefix(b"\\x").and_then(|it| it.get(..2));
        let byte = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &rest[4..] } else { more };
    }
    root.join(OsStr::from_bytes(&bytes))
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| b'a' + (at % 23) as u8).collect()
}

impl Step {
    /// What it comes to, in words that are the same wherever it is the same.
    pub(crate) fn run(&self, root: &Path) -> String {
        match self.attempt(root) {
            Ok(words) => words,
            Err(error) => format!("error {error:?}"),
        }
    }

    fn attempt(&self, root: &Path) -> Result<String, Errno> {
        let at = |name: &str| path(root, name);
        match self {
            Self::Umask(_) => {}
            Self::Mkdir(name, mode) => rustix::fs::mkdir(at(name), Mode::from_raw_mode(*mode))?,
            Self::Open(name, flags, mode) => return open(&at(name), *flags, *mode),
            Self::Write(name, offset, count) => {
                let file = open_now(&at(name), OFlags::WRONLY)?;
                return Ok(format!("wrote {}", rustix::io::pwrite(file, &bytes(*count), *offset)?));
            }
            Self::Append(name, count) => {
                let file = open_now(&at(name), OFlags::WRONLY | OFlags::APPEND)?;
                return Ok(format!("wrote {}", rustix::io::write(file, &bytes(*count))?));
            }
            Self::Truncate(name, size) => truncate(&at(name), *size)?,
            Self::TruncateOpen(name, size) => {
                let file = open_now(&at(name), OFlags::WRONLY)?;
                rustix::fs::ftruncate(file, *size)?;
            }
            Self::Fallocate(name, mode, offset, length) => {
                let file = open_now(&at(name), OFlags::RDWR)?;
                rustix::fs::fallocate(file, *mode, *offset, *length)?;
            }
            Self::Copy(from, offset, to, new_offset, count) => {
                let from = open_now(&at(from), OFlags::RDONLY)?;
                let to = open_now(&at(to), OFlags::WRONLY)?;
                let (mut offset, mut new_offset) = (*offset, *new_offset);
                let copied =
                    rustix::fs::copy_file_range(from, Some(&mut offset), to, Some(&mut new_offset), *count)?;
                return Ok(format!("copied {copied} to {offset} and {new_offset}"));
            }
            Self::Holes(name) => return holes(&at(name)),
            Self::Read(name) => {
                let file = open_now(&at(name), OFlags::RDONLY)?;
                let mut buffer = vec![0; 300_000];
                let read = rustix::io::pread(file, &mut buffer, 0)?;
                return Ok(format!("read {read}, sum {}", super::world::sum(&buffer[..read])));
            }
            Self::Access(name, access) => rustix::fs::access(at(name), *access)?,
            Self::List(name) => return list(&at(name)),
            Self::Sync(name) => rustix::fs::fsync(open_now(&at(name), OFlags::RDONLY)?)?,
            _ => self.change_names(root)?,
        }
        Ok("done".to_owned())
    }

    fn change_names(&self, root: &Path) -> Result<(), Errno> {
        let at = |name: &str| path(root, name);
        match self {
            Self::Unlink(name) => rustix::fs::unlink(at(name)),
            Self::Rmdir(name) => rustix::fs::rmdir(at(name)),
            Self::Rename(from, to, flags) => rustix::fs::renameat_with(CWD, at(from), CWD, at(to), *flags),
            Self::Link(from, to) => rustix::fs::link(at(from), at(to)),
            Self::Symlink(target, name) => rustix::fs::symlink(target.as_str(), at(name)),
            Self::Mknod(name, kind, mode) => {
                let device = if kind.is_char_device() { rustix::fs::makedev(1, 3) } else { 0 };
                rustix::fs::mknodat(CWD, at(name), *kind, Mode::from_raw_mode(*mode), device)
            }
            Self::Chmod(name, mode) => rustix::fs::chmod(at(name), Mode::from_raw_mode(*mode)),
            Self::Chown(name, user, group) => {
                let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
                rustix::fs::chownat(CWD, at(name), user, group, AtFlags::SYMLINK_NOFOLLOW)
            }
            Self::Times(name, accessed, modified) => {
                let time = |seconds: i64| Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
                let times = Timestamps { last_access: time(*accessed), last_modification: time(*modified) };
                rustix::fs::utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            Self::TimesNow(name) => {
                let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
                let times = Timestamps { last_access: now, last_modification: now };
                rustix::fs::utimensat(CWD, at(name), &times, AtFlags::empty())
            }
            Self::SetAttribute(name, attribute, value, flags) => {
                rustix::fs::lsetxattr(at(name), *attribute, value, *flags)
            }
            Self::GetAttribute(name, attribute) => {
                rustix::fs::lgetxattr(at(name), *attribute, &mut [0_u8; 4096][..]).map(drop)
            }
            Self::RemoveAttribute(name, attribute) => rustix::fs::lremovexattr(at(name), *attribute),
            _ => unreachable!("the other steps are done by their own"),
        }
    }
}

fn open(path: &Path, flags: OFlags, mode: u32) -> Result<String, Errno> {
    let file = rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::from_raw_mode(mode))?;
    if !flags.intersects(OFlags::WRONLY | OFlags::RDWR)
        || rustix::fs::fstat(&file)?.st_mode & 0o170_000 != 0o100_000
    {
        return Ok("opened".to_owned());
    }
    let written = rustix::io::write(&file, b"some words")?;
    let position = rustix::fs::tell(&file)?;
    Ok(format!("opened, wrote {written}, at {position}"))
}

/// Nobody waits for the other end of a pipe.
fn open_now(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::empty())
}

fn truncate(path: &Path, size: u64) -> Result<(), Errno> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: a path that ends in a zero byte and outlives the call.
    let done = unsafe { libc::truncate(path.as_ptr(), size.cast_signed()) };
    if done == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// Where data begin and end.
fn holes(path: &Path) -> Result<String, Errno> {
    let file = open_now(path, OFlags::RDONLY)?;
    // Blocks are given when the data go to the disk.
    rustix::fs::fsync(&file)?;
    let mut words = String::new();
    let mut from = 0;
    loop {
        let data = match rustix::fs::seek(&file, SeekFrom::Data(from)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(words),
            Err(error) => return Err(error),
        };
        from = rustix::fs::seek(&file, SeekFrom::Hole(data))?;
        let _infallible = write!(words, "{data}..{from} ");
    }
}

fn list(path: &Path) -> Result<String, Errno> {
    let directory = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(directory)? {
        let entry = entry?;
        names.push(format!("{:?} {:?}", entry.file_name(), entry.file_type()));
    }
    names.sort();
    Ok(names.join(", "))
}
