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

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::Resource;

use super::identity::Numbering;
use super::verify::{Checks, Verified};
use super::watch::{Atlas, Nobody, Watch};
use crate::wire::replica::Operation;

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

/// The times of what was modified are told as often as this.
const TIMES_TOLD_EVERY: Duration = Duration::from_millis(50);
/// The kernel lets applications go on for so long when it is unmounted under them.
const UNMOUNT_MAX: Duration = Duration::from_secs(5);

/// A directory that is about to be captured.
#[derive(Debug)]
pub struct Prepared {
    directory: PathBuf,
    tree: Arc<Tree>,
}

/// A directory that is captured until this is dropped.
#[derive(Debug)]
pub struct Captured {
    directory: PathBuf,
    tree: Arc<Tree>,
    session: Option<BackgroundSession>,
    notifier: Notifier,
    /// Dropped: nothing is told any longer.
    telling: Option<Sender<()>>,
    teller: Option<JoinHandle<()>>,
}

impl Prepared {
    /// Opens `directory` before anything covers it. A mount of a daemon that has died is taken away first. Needs root.
    pub fn open(directory: &Path) -> Result<OwnedFd, Error> {
        let path = || directory.to_owned();
        detach_dead(directory);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, directory, flags, Mode::empty())
            .map_err(|source| Error::Open { path: path(), source: source.into() })
    }

    /// `below`: the directory as it is; `numbering`: of it. Whoever watches may be told of changes from now on.
    pub fn new(
        directory: &Path,
        below: OwnedFd,
        numbering: Arc<Numbering>,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, Error> {
        Self::holding(directory, below, held_max(), numbering, watch)
    }

    fn holding(
        directory: &Path,
        below: OwnedFd,
        held_max: usize,
        numbering: Arc<Numbering>,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, Error> {
        let tree = Tree::open(below, held_max, numbering, watch)
            .map_err(|source| Error::Attributes { path: directory.to_owned(), source: source.into() })?;
        Ok(Self { directory: directory.to_owned(), tree: Arc::new(tree) })
    }

    pub fn atlas(&self) -> Arc<dyn Atlas> {
        Arc::clone(&self.tree) as Arc<dyn Atlas>
    }

    pub fn mount(self) -> Result<Captured, Error> {
        let Self { directory, tree } = self;
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
        let session = Session::new(Passage::new(Arc::clone(&tree)), &directory, &options)
            .and_then(Session::spawn)
            .map_err(|source| Error::Mount { path: directory.clone(), source })?;
        let notifier = session.notifier();
        let (telling, told) = mpsc::channel();
        let teller = {
            let tree = Arc::clone(&tree);
            std::thread::spawn(move || {
                while told.recv_timeout(TIMES_TOLD_EVERY) == Err(RecvTimeoutError::Timeout) {
                    tell_times(&tree);
                }
                // What was modified just before the end.
                tell_times(&tree);
            })
        };
        Ok(Captured {
            directory,
            tree,
            session: Some(session),
            notifier,
            telling: Some(telling),
            teller: Some(teller),
        })
    }
}

impl Captured {
    /// Mounts over `directory`, and nobody has to know what becomes of it. Needs root.
    pub fn mount(directory: &Path) -> Result<Self, Error> {
        Self::mount_holding(directory, held_max())
    }

    /// With so many objects held by descriptors at most.
    pub fn mount_holding(directory: &Path, held_max: usize) -> Result<Self, Error> {
        let below = Prepared::open(directory)?;
        let numbering = numbering(directory, below.as_fd())?;
        let captured = Prepared::holding(directory, below, held_max, numbering, Arc::new(Nobody))?.mount()?;
        captured.set_leads(true);
        Ok(captured)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether applications may change it from now on. What the kernel has kept of it is of no use where another node
    /// changes it.
    pub fn set_leads(&self, leads: bool) {
        if self.tree.leads() == leads {
            return;
        }
        self.tree.set_leads(leads);
        if leads {
            return;
        }
        for (number, names) in self.tree.known() {
            // What the kernel does not know any longer needs nothing.
            let _unknown = self.notifier.inval_inode(INodeNo(number), 0, 0);
            for (parent, name) in names {
                let _unknown = self.notifier.inval_entry(INodeNo(parent), OsStr::from_bytes(&name));
            }
        }
    }

    /// Times of what was modified and not told yet; for whoever has stopped all changes.
    pub fn last_times(&self) -> Vec<Operation> {
        self.tree.last_times()
    }

    /// Compares everything with the other copy, which is told by operations and `sink` alike; only while it leads. Runs
    /// as long as that takes, in the thread of the caller.
    pub fn verify(&self, sink: &dyn Checks) -> Verified {
        self.tree.verify(sink)
    }

    /// The directory lies there as it is. Applications that still use it get errors from now on.
    pub fn unmount(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let unmounted = self.unmount_and_join();
        self.telling = None;
        if let Some(teller) = self.teller.take() {
            let _panicked = teller.join();
        }
        unmounted
    }

    fn unmount_and_join(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let unmounted = detach(&self.directory);
        let (joined, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let _receiver_gone = joined.send(session.umount_and_join());
        });
        match ended.recv_timeout(UNMOUNT_MAX) {
            Ok(_) => unmounted,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("requests to {} do not end", self.directory.display()),
            )),
        }
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(directory = %self.directory.display(), %error, "cannot unmount");
        }
    }
}

fn tell_times(tree: &Tree) {
    if tree.leads() {
        tree.tell_times();
    }
}

/// Gives objects of a directory their numbers; `below`: the directory itself.
pub fn numbering(directory: &Path, below: BorrowedFd<'_>) -> Result<Arc<Numbering>, Error> {
    let numbering = Numbering::open(below)
        .map_err(|source| Error::Attributes { path: directory.to_owned(), source: source.into() })?;
    Ok(Arc::new(numbering))
}

/// From the name space at once; requests that are under way end, and later ones meet an error.
fn detach(directory: &Path) -> io::Result<()> {
    rustix::mount::unmount(directory, UnmountFlags::FORCE | UnmountFlags::DETACH)?;
    Ok(())
}

/// Of a daemon that died: every call meets ENOTCONN.
fn detach_dead(directory: &Path) {
    while rustix::fs::statfs(directory).is_err_and(|error| error == Errno::NOTCONN)
        && detach(directory).is_ok()
    {}
}

/// Half of what this process may open; the other half is for files and everything else.
fn held_max() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.map_or(HELD_MAX, |limit| usize::try_from(limit / 2).unwrap_or(HELD_MAX)).min(HELD_MAX)
}
