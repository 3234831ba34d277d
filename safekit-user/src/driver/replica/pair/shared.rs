//! What the threads of a pair share: the desk under its lock, and the parts that work for it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::copying::Copier;
use super::desk::{After, Desk, Errand};
use super::flushing::Flushers;
use super::part;
use crate::driver::clock;
use crate::driver::replica::absence;
use crate::driver::replica::capture::Captured;
use crate::driver::replica::copy::Progress;
use crate::driver::replica::identity::Numbering;
use crate::driver::replica::recorder::Recorder;
use crate::driver::replica::store;
use crate::driver::replica::watch::{Atlas, Change, Trace};
use crate::engine::mirror::Input;
use crate::types::replica::{MirrorRole, ObjectId};
use crate::wire::replica::Operation;

/// Something is said at least so often, so that silence means something.
const ALIVE_INTERVAL: Duration = Duration::from_millis(500);
/// The clock looks around at least so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After a deadline that has passed: one that stays in the past must not keep a processor busy.
const TICK_MIN: Duration = Duration::from_millis(1);

/// What works for the desk; none of it takes the desk's lock while it is called.
pub(super) struct Parts {
    pub(super) root: OwnedFd,
    pub(super) flushers: Flushers,
    recorder: Mutex<Option<Recorder>>,
    atlas: OnceLock<Arc<dyn Atlas>>,
    copier: OnceLock<Copier>,
}

impl Parts {
    pub(super) fn atlas(&self) -> &dyn Atlas {
        &**part(&self.atlas)
    }

    pub(super) fn copier(&self) -> &Copier {
        part(&self.copier)
    }

    /// Of all resynchronisations so far.
    pub(super) fn progress(&self) -> Progress {
        self.copier.get().map(|copier| copier.counted.now()).unwrap_or_default()
    }

    pub(super) fn recorder(&self) -> MutexGuard<'_, Option<Recorder>> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Shared {
    desk: Mutex<Desk>,
    /// A change may begin, a role has changed, or all ends.
    pub(super) changed: Condvar,
    /// A deadline has come nearer.
    timer: Condvar,
    pub(super) parts: Parts,
    pub(super) numbering: Arc<Numbering>,
    pub(super) max_stall: Duration,
}

impl Shared {
    pub(super) fn new(
        desk: Desk,
        root: OwnedFd,
        numbering: Arc<Numbering>,
        flushers: Flushers,
        max_stall: Duration,
    ) -> Self {
        let parts = Parts {
            root,
            flushers,
            recorder: Mutex::new(None),
            atlas: OnceLock::new(),
            copier: OnceLock::new(),
        };
        let (changed, timer) = (Condvar::new(), Condvar::new());
        Self { desk: Mutex::new(desk), changed, timer, parts, numbering, max_stall }
    }

    pub(super) fn record_with(&self, recorder: Recorder) {
        *self.parts.recorder() = Some(recorder);
    }

    pub(super) fn look_with(&self, atlas: Arc<dyn Atlas>) {
        let set = self.parts.atlas.set(atlas);
        assert!(set.is_ok(), "a pair is put together once");
    }

    pub(super) fn copy_with(&self, copier: Copier) {
        let set = self.parts.copier.set(copier);
        assert!(set.is_ok(), "a pair is put together once");
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One input, and all that follows from it. What is given back is for the thread that reads from the other node.
    pub(super) fn step(&self, input: Input) -> Vec<Errand> {
        self.work(|desk, after| desk.handle(input, &[], &self.parts, after))
    }

    /// Something under the lock, and what follows from it when the lock is free again.
    pub(super) fn work(&self, work: impl FnOnce(&mut Desk, &mut After)) -> Vec<Errand> {
        let mut after = After::default();
        let mut desk = self.lock();
        work(&mut desk, &mut after);
        self.finish(desk, after)
    }

    pub(super) fn finish(&self, mut desk: MutexGuard<'_, Desk>, after: After) -> Vec<Errand> {
        let sooner = desk.is_due_sooner();
        drop(desk);
        if sooner {
            self.timer.notify_one();
        }
        if after.woke {
            self.changed.notify_all();
        }
        after.carry_out()
    }

    /// Of the thread that writes the record.
    pub(super) fn recorded(&self, result: Result<u64, store::Error>) {
        match result {
            Ok(batch) => {
                let none = self.step(Input::Recorded { batch });
                debug_assert!(none.is_empty(), "only frames of the other node lead to errands");
                self.changed.notify_all();
            }
            Err(error) => {
                let why = format!("the record of this copy cannot be written: {error}");
                tracing::error!(%error, "the record of a copy cannot be written: nothing may change any more");
                self.work(|desk, after| desk.fail(&why, after));
            }
        }
    }

    pub(super) fn trace(&self, object: ObjectId) -> Option<Trace> {
        self.parts.atlas().trace(object).or_else(|| self.lock().trace(object))
    }

    /// What was done to the directory while it was not captured is recorded before this one forgets that it was not.
    pub(super) fn find_changes(&self, record: &OwnedFd) -> Result<(), Errno> {
        let Some(since) = absence::since(record)? else { return Ok(()) };
        let mut touches = Vec::new();
        absence::changed(self.parts.root.as_fd(), since, |changed| {
            touches.extend(changed.touches);
            if let Some(trace) = changed.trace {
                self.lock().know(changed.object, trace);
            }
        })?;
        if !touches.is_empty() {
            tracing::warn!(regions = touches.len(), "the directory was changed while it was not mounted");
        }
        self.work(|desk, after| desk.handle(Input::Found { touches }, &[], &self.parts, after));
        let mut desk = self.lock();
        while !desk.engine.is_recorded() && !desk.has_failed() {
            desk = self.changed.wait_timeout(desk, ALIVE_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
        if desk.has_failed() {
            return Err(Errno::IO);
        }
        drop(desk);
        absence::ends(record)
    }

    pub(super) fn role(&self) -> MirrorRole {
        self.lock().engine.role()
    }

    /// The thread of the clock: deadlines of the engine, and a sign of life.
    pub(super) fn keep_time(&self) {
        let mut alive_at = clock::now();
        let mut desk = self.lock();
        while !desk.ended {
            let now = clock::now();
            let mut pause = LOOK_INTERVAL;
            if desk.engine.next_deadline().is_some_and(|deadline| deadline <= now) {
                drop(desk);
                self.step(Input::Tick);
                desk = self.lock();
                pause = TICK_MIN;
            }
            if alive_at <= now {
                alive_at = now + ALIVE_INTERVAL;
                let link = desk.say_alive();
                drop(desk);
                if let Some(link) = link {
                    link.kick();
                }
                desk = self.lock();
            }
            pause = pause.min(alive_at.since(now));
            if let Some(deadline) = desk.engine.next_deadline() {
                pause = pause.min(deadline.since(now).max(TICK_MIN));
            }
            desk.clock_wakes(now + pause);
            desk = self.timer.wait_timeout(desk, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The thread that tells the mount who may change it. The kernel then writes back what it has, which comes as
    /// requests: so not under the lock, and on no thread that others wait for.
    pub(super) fn keep_role(&self, captured: &Captured) {
        let mut desk = self.lock();
        while !desk.ended {
            if std::mem::take(&mut desk.last_words) {
                drop(desk);
                self.say_last_words(captured);
                desk = self.lock();
            }
            let leads = desk.leads();
            if leads == desk.open {
                desk =
                    self.changed.wait_timeout(desk, LOOK_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            desk.open = false;
            drop(desk);
            captured.set_leads(leads);
            desk = self.lock();
            desk.open = leads;
            self.changed.notify_all();
        }
    }

    fn say_last_words(&self, captured: &Captured) {
        let times = captured.last_times();
        let object =
            |time: &Operation| if let Operation::Meta { object, .. } = time { Some(*object) } else { None };
        self.look_for_names(&times.iter().filter_map(object).collect::<Vec<_>>());
        let change = |operation| Change { operation, bulk: &[] };
        let changes: Vec<Change<'_>> = times.into_iter().map(change).collect();
        let input = Input::LastWords { operations: changes.len() as u64 };
        self.work(|desk, after| desk.handle(input, &changes, &self.parts, after));
    }

    /// What applications have stored to mapped files and the kernel has not told: it comes as writes.
    pub(super) fn write_back(&self, mounted: &Path) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let written = rustix::fs::open(mounted, flags, Mode::empty()).and_then(rustix::fs::syncfs);
        if let Err(error) = written {
            tracing::warn!(directory = %mounted.display(), %error, "cannot write back what is mapped");
        }
    }

    /// For so long, or until all ends.
    pub(super) fn rest(&self, pause: Duration) {
        let until = clock::now() + pause;
        let mut desk = self.lock();
        while !desk.ended {
            let left = until.since(clock::now());
            if left.is_zero() {
                return;
            }
            desk = self.changed.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// False: it still serves, or waits for its record.
    pub(super) fn wait_until_it_serves_no_longer(&self, within: Duration) -> bool {
        let until = clock::now() + within;
        let mut desk = self.lock();
        while desk.leads() {
            let left = until.since(clock::now());
            if left.is_zero() || desk.has_failed() {
                return false;
            }
            let pause = left.min(LOOK_INTERVAL);
            desk = self.changed.wait_timeout(desk, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// All threads end; whoever waits hears an error.
    pub(super) fn end(&self) {
        self.work(|desk, after| desk.end(&self.parts, after));
        self.changed.notify_all();
        self.timer.notify_all();
        self.parts.flushers.end();
        self.parts.copier().end();
    }

    /// What was queued is written, and nothing is recorded any longer.
    pub(super) fn close_record(&self) {
        let recorder = self.parts.recorder().take();
        drop(recorder);
    }
}
