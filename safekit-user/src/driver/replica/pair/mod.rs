//! One replicated directory of this node and its twin on the other one: ties the engine to the mount, the record, the
//! disk and the connection.
//!
//! ```text
//!  applications ─ FUSE threads ─ Watch ─▶┌──────┐─ answers ─▶ applications
//!  the other node ─ session thread ─────▶│ desk │─ frames ──▶ link
//!  orders, the clock ───────────────────▶│      │─ entries ─▶ record thread ─ Recorded ──────▶ desk
//!                                        └──────┘─ syncs ───▶ flush threads ─ Synced, Flushed ▶ desk
//!                                                 └ passes ─▶ copying thread ─ PassDone ──────▶ desk
//! ```
//!
//! The desk is the engine and everything that has to be in one order with it, under one lock. Nothing that waits for a
//! disk or for the network is done under that lock.

mod copying;
mod desk;
mod figures;
mod flushing;
mod observe;
mod places;
mod session;
mod shared;
#[cfg(test)]
mod tests;
mod verifying;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::absence;
use super::capture::{self, Captured, Prepared};
use super::link::Port;
use super::object::reopen;
use super::recorder::Recorder;
use super::store::{self, Kept, Store};
use super::watch::Watch;
use crate::engine::mirror::{Input, Mirror, Order, Rules, Settings};
use crate::types::mirror::CopyInfo;
use crate::types::replica::{Acknowledge, MirrorRole};

use copying::Copier;
use desk::Desk;
use flushing::Flushers;
use shared::Shared;

/// What a pair needs to know.
pub struct Setup {
    pub directory: PathBuf,
    pub acknowledge: Acknowledge,
    pub max_stall: Duration,
    /// A file that has to be in the directory: without it something is not mounted that should be.
    pub require: Option<String>,
    pub port: Arc<Port>,
    /// The place of the directory in the module's list.
    pub place: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Capture(#[from] capture::Error),
    #[error(transparent)]
    Record(#[from] store::Error),
    #[error("{} has no file {name}: is something not mounted that should be?", directory.display())]
    Guard { directory: PathBuf, name: String },
    #[error("cannot {doing} of {}", directory.display())]
    Io {
        doing: &'static str,
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The directory is mounted, and follows or serves as it is told, until `stop`.
pub struct Pair {
    shared: Arc<Shared>,
    captured: Arc<Captured>,
    port: Arc<Port>,
    /// The directory of the record.
    record: OwnedFd,
    threads: Vec<JoinHandle<()>>,
}

/// Where the record of a copy is, below what belongs to no copy.
const RECORD: &str = "record";
/// A node that serves is given so long to end in order: both disks may have much to write.
const STEP_DOWN_MAX: Duration = Duration::from_secs(30);

impl Pair {
    /// Needs root. A mount that a dead process has left is taken away first.
    pub fn start(setup: &Setup) -> Result<Self, Error> {
        let io = |doing| {
            let directory = setup.directory.clone();
            move |source: Errno| Error::Io { doing, directory: directory.clone(), source: source.into() }
        };
        let below = Prepared::open(&setup.directory)?;
        guard(setup, &below)?;
        let numbering = capture::numbering(&setup.directory, below.as_fd())?;
        let record = record_of(&below).map_err(io("open the record"))?;
        let (store, kept) = Store::open(&record)?;
        let root = reopen(below.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(io("open for reading the directory"))?;
        let desk = Desk::new(engine(setup, &kept), kept);
        let (flushers, flusher_threads) = Flushers::start().map_err(|source| Error::Io {
            doing: "start the threads",
            directory: setup.directory.clone(),
            source,
        })?;
        let shared = Arc::new(Shared::new(desk, root, Arc::clone(&numbering), flushers, setup.max_stall));
        shared.parts.flushers.work_for(&shared);
        let pair = Self::wire(setup, &shared, (store, record), below, flusher_threads)?;
        shared.step(Input::Numbers(numbering.reserved()));
        Ok(pair)
    }

    fn wire(
        setup: &Setup,
        shared: &Arc<Shared>,
        (store, record): (Store, OwnedFd),
        below: OwnedFd,
        mut threads: Vec<JoinHandle<()>>,
    ) -> Result<Self, Error> {
        let io = |doing: &'static str| {
            let directory = setup.directory.clone();
            move |source| Error::Io { doing, directory: directory.clone(), source }
        };
        let recording = Arc::downgrade(shared);
        let recorder = Recorder::start(store, move |result| {
            if let Some(shared) = recording.upgrade() {
                shared.recorded(result);
            }
        })
        .map_err(io("start to record changes"))?;
        shared.record_with(recorder);
        let watch = Arc::clone(shared) as Arc<dyn Watch>;
        let prepared = Prepared::new(&setup.directory, below, Arc::clone(&shared.numbering), watch)?;
        shared.look_with(prepared.atlas());
        shared.find_changes(&record).map_err(|error| io("find what was changed meanwhile")(error.into()))?;
        let captured = Arc::new(prepared.mount()?);
        let (copier, copying) = Copier::start(Arc::downgrade(shared)).map_err(io("start to copy"))?;
        shared.copy_with(copier);
        threads.push(copying);
        let mut spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(work)
                .map(|thread| threads.push(thread))
                .map_err(io("start the threads"))
        };
        let (clock, usher, session) = (Arc::clone(shared), Arc::clone(shared), Arc::clone(shared));
        let (mounted, port, place) = (Arc::clone(&captured), Arc::clone(&setup.port), setup.place);
        spawn("mirror-clock", Box::new(move || clock.keep_time()))?;
        spawn("mirror-role", Box::new(move || usher.keep_role(&mounted)))?;
        spawn("mirror-link", Box::new(move || session::keep(&session, &port, place)))?;
        let port = Arc::clone(&setup.port);
        Ok(Self { shared: Arc::clone(shared), captured, port, record, threads })
    }

    /// Taken, and not yet in effect.
    pub fn order(&self, order: Order) {
        self.shared.step(Input::Numbers(self.shared.numbering.reserved()));
        self.shared.step(Input::Order(order));
    }

    pub fn role(&self) -> MirrorRole {
        self.shared.role()
    }

    pub fn info(&self) -> CopyInfo {
        let refused = self.port.refusals();
        self.shared.info(self.captured.directory(), refused.connections + refused.frames)
    }

    /// Compares both copies while applications go on.
    pub fn verify(&self) {
        self.shared.verify(&self.captured);
    }

    /// In order: serves no longer, all is on the disks, then nothing is mounted.
    pub fn stop(self) -> io::Result<()> {
        let Self { shared, captured, record, threads, port: _ } = self;
        if shared.role().leads() {
            shared.write_back(captured.directory());
        }
        shared.step(Input::Order(Order::Follow));
        let in_order = shared.wait_until_it_serves_no_longer(STEP_DOWN_MAX);
        shared.end();
        for thread in threads {
            // A panic there has been reported by its own thread.
            let _panicked = thread.join();
        }
        let unmounted = match Arc::try_unwrap(captured) {
            Ok(captured) => captured.unmount(),
            Err(_) => Err(io::Error::other("a thread still uses the mount")),
        };
        shared.close_record();
        unmounted?;
        if in_order {
            return absence::begins(&record).map_err(Into::into);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the changes of before may not be on both disks"))
    }
}

fn guard(setup: &Setup, below: &OwnedFd) -> Result<(), Error> {
    let Some(name) = &setup.require else { return Ok(()) };
    match rustix::fs::statat(below, name.as_str(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Guard { directory: setup.directory.clone(), name: name.clone() }),
    }
}

fn record_of(below: &OwnedFd) -> Result<OwnedFd, Errno> {
    let hidden = super::hidden(below.as_fd())?;
    match rustix::fs::mkdirat(&hidden, RECORD, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&hidden, RECORD, flags, Mode::empty())
}

fn engine(setup: &Setup, kept: &Kept) -> Mirror {
    let settings =
        Settings { acknowledge: setup.acknowledge, max_stall: setup.max_stall, ..Settings::default() };
    Mirror::new(settings, Rules::ALL, kept.copy.clone(), kept.regions.iter().copied(), random())
}

/// Names of generations have to differ; nobody has to be unable to guess them.
fn random() -> u64 {
    let mut bytes = [0; 8];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => crate::driver::clock::now().0,
    }
}

/// Set once, while a pair is being put together.
fn part<T>(part: &OnceLock<T>) -> &T {
    part.get().expect("a pair is put together before anything happens to it")
}
