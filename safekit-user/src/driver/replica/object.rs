//! An object underneath: held by a descriptor, or found again by its file handle where there are too many to hold.

use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// How many descriptors may be held, and how many are.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), max })
    }
}

/// Keeps the inode from being used for another object, or notices that it was.
#[derive(Debug)]
pub(super) enum Place {
    Held { fd: OwnedFd, budget: Arc<Budget> },
    Named(FileHandle),
}

impl Place {
    pub(super) fn of(fd: OwnedFd, budget: &Arc<Budget>) -> Self {
        if budget.held.fetch_add(1, Ordering::Relaxed) >= budget.max
            && let Ok(handle) = FileHandle::of(fd.as_fd())
        {
            budget.held.fetch_sub(1, Ordering::Relaxed);
            return Self::Named(handle);
        }
        Self::Held { fd, budget: Arc::clone(budget) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Held { budget, .. } = self {
            budget.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What the file system itself calls an object: open_by_handle_at(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

#[repr(C)]
struct Raw {
    size: u32,
    kind: i32,
    bytes: [u8; libc::MAX_HANDLE_SZ as usize],
}

const _: () = assert!(offset_of!(Raw, bytes) == size_of::<libc::file_handle>(), "as the kernel has it");

impl FileHandle {
    pub(super) fn of(object: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut raw =
            Raw { size: libc::MAX_HANDLE_SZ as u32, kind: 0, bytes: [0; libc::MAX_HANDLE_SZ as usize] };
        let mut mount = 0;
        // SAFETY: the name is empty and ends in zero; `raw` has the room that it says, and outlives the call.
        let done = unsafe {
            libc::name_to_handle_at(
                object.as_raw_fd(),
                c"".as_ptr(),
                (&raw mut raw).cast(),
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        if done != 0 {
            return Err(last_error());
        }
        let size = (raw.size as usize).min(raw.bytes.len());
        Ok(Self { kind: raw.kind, bytes: raw.bytes[..size].into() })
    }

    /// `mount`: any open directory of the file system. Needs the right to pass all directories (CAP_DAC_READ_SEARCH).
    pub(super) fn open(&self, mount: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        if self.bytes.len() > libc::MAX_HANDLE_SZ as usize {
            return Err(Errno::INVAL);
        }
        let mut bytes = [0; libc::MAX_HANDLE_SZ as usize];
        bytes[..self.bytes.len()].copy_from_slice(&self.bytes);
        let mut raw = Raw { size: self.bytes.len() as u32, kind: self.kind, bytes };
        // SAFETY: `raw` is a handle with the bytes that it says, and outlives the call.
        let fd = unsafe {
            libc::open_by_handle_at(
                mount.as_raw_fd(),
                (&raw mut raw).cast(),
                libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(last_error());
        }
        // SAFETY: the kernel has just given it, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Names an object by its descriptor: follows no link of any directory, and works for every kind of object.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// For reading, writing or listing what is held by `O_PATH` only.
pub(super) fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        proc_path(fd),
        flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK,
        Mode::empty(),
    )
}

/// The directory that has this one, by descriptor; `root`: the replicated directory. That is mounted over, and `..` leads
/// from below it onto the mount: the kernel says so, as it does for nothing else between a directory and the root.
pub(super) fn above(directory: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(directory, "..", flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        Err(Errno::XDEV) => reopen(root, OFlags::PATH | OFlags::DIRECTORY),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_beyond_the_budget_is_found_again() {
        let dir = std::env::temp_dir();
        let open = || OwnedFd::from(std::fs::File::open(&dir).expect("it is there"));
        let budget = Budget::new(1);
        let (first, second) = (Place::of(open(), &budget), Place::of(open(), &budget));
        assert!(matches!(first, Place::Held { .. }));
        let Place::Named(handle) = &second else { panic!("one descriptor at most: {second:?}") };
        if rustix::process::geteuid().is_root() {
            let found = handle.open(open().as_fd()).expect("root may");
            let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).expect("it is open").st_ino;
            assert_eq!(inode(&found), inode(&open()));
        }
        drop(first);
        assert!(matches!(Place::of(open(), &budget), Place::Held { .. }), "there is room again");
    }
}
