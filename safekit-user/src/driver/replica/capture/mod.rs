//! A replicated directory under a file system of our own, so that every change passes through this process.
//!
//! ```text
//! application ── system call ──▶ kernel ── FUSE request ──▶ filesystem ──▶ tree ── *at() ──▶ the directory underneath
//!                                   ▲                          │
//!                                   └────────── reply ─────────┘
//! ```
//!
//! The directory is opened before the mount covers it, and reached only through that descriptor: the file system above
//! is never entered from here, which would wait for itself. Cached and write-through: each write() arrives before it
//! returns, reads come from the page cache, and pages of a shared mapping arrive when they are written back.

mod attributes;
mod credentials;
mod filesystem;
mod nodes;
mod tree;

use std::io;
use std::path::{Path, PathBuf};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Resource;

use filesystem::Passage;
use tree::Tree;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Objects are known to both nodes by a number that is kept with them.
    #[error("the file system of {} keeps no trusted extended attributes", path.display())]
    Attributes {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount over {}", path.display())]
    Mount {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Requests that are worked on at once; more wait in the kernel.
const THREADS: usize = 8;
/// Objects that are held by descriptors; others are found again by their file handles.
const HELD_MAX: usize = 100_000;

/// A directory that is captured until this is dropped.
#[derive(Debug)]
pub struct Captured {
    directory: PathBuf,
    session: Option<BackgroundSession>,
}

impl Captured {
    /// Mounts over `directory`. Needs root.
    pub fn mount(directory: &Path) -> Result<Self, Error> {
        Self::mount_holding(directory, held_max())
    }

    /// With so many objects held by descriptors at most.
    pub fn mount_holding(directory: &Path, held_max: usize) -> Result<Self, Error> {
        let path = || directory.to_owned();
        let below = rustix::fs::openat(
            CWD,
            directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|source| Error::Open { path: path(), source: source.into() })?;
        let tree = Tree::open(below, held_max)
            .map_err(|source| Error::Attributes { path: path(), source: source.into() })?;
        let mut options = Config::default();
        options.mount_options = vec![
            MountOption::FSName("safekit".to_owned()),
            MountOption::Subtype("safekit".to_owned()),
            // The kernel checks modes and access control lists: it knows all groups of the caller.
            MountOption::DefaultPermissions,
            MountOption::Suid,
            MountOption::Dev,
        ];
        options.acl = SessionACL::All;
        options.n_threads = Some(THREADS);
        options.clone_fd = true;
        let session = Session::new(Passage::new(tree), directory, &options)
            .and_then(Session::spawn)
            .map_err(|source| Error::Mount { path: path(), source })?;
        Ok(Self { directory: path(), session: Some(session) })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory lies there as it is; applications that still use it keep their open files until they close them.
    pub fn unmount(mut self) -> io::Result<()> {
        match self.session.take() {
            Some(session) => session.umount_and_join(),
            None => Ok(()),
        }
    }
}

/// Half of what this process may open; the other half is for files and everything else.
fn held_max() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.map_or(HELD_MAX, |limit| usize::try_from(limit / 2).unwrap_or(HELD_MAX)).min(HELD_MAX)
}
