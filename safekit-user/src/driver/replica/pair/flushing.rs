//! Threads that wait for the disk, so that nobody else has to. Several at once: a file system writes what they ask for
//! together. Those who ask for the same object share one answer.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;

use super::part;
use super::shared::Shared;
use crate::driver::replica::apply::Flush;
use crate::engine::mirror::Input;
use crate::types::replica::{ObjectId, Position};

const THREADS: usize = 8;
/// Each has somebody on the other node who waits: more of them than applications ask for at once is nonsense.
const QUEUE_MAX: usize = 65_536;

/// Who hears that it is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    FlushedFor(u64),
    SyncedFor(Position),
    SyncedHere(u64),
}

impl Then {
    fn input(self) -> Input {
        match self {
            Self::FlushedFor(number) => Input::FlushedFor { number },
            Self::SyncedFor(position) => Input::SyncedFor { position },
            Self::SyncedHere(number) => Input::SyncedHere { number },
        }
    }
}

/// Jobs of one kind may share an answer: an object with or without its times, or all of the file system.
type Kind = (Option<ObjectId>, bool);

struct Job {
    kind: Kind,
    /// None: all of the file system.
    flush: Option<Flush>,
    /// Over which connection it was asked for; 0 = by this node.
    connection: u64,
    then: Then,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    ended: bool,
}

#[derive(Clone)]
pub(super) struct Flushers(Arc<Inner>);

struct Inner {
    queue: Mutex<Queue>,
    more: Condvar,
    shared: OnceLock<Weak<Shared>>,
}

impl Flushers {
    pub(super) fn start() -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let inner =
            Arc::new(Inner { queue: Mutex::default(), more: Condvar::new(), shared: OnceLock::new() });
        let threads = (0..THREADS).map(|number| {
            let inner = Arc::clone(&inner);
            std::thread::Builder::new().name(format!("mirror-disk-{number}")).spawn(move || inner.run())
        });
        let threads = threads.collect::<io::Result<Vec<_>>>()?;
        Ok((Self(inner), threads))
    }

    pub(super) fn work_for(&self, shared: &Arc<Shared>) {
        let set = self.0.shared.set(Arc::downgrade(shared));
        assert!(set.is_ok(), "they work for one pair");
    }

    pub(super) fn sync_here(&self, number: u64) {
        self.push(Job { kind: (None, false), flush: None, connection: 0, then: Then::SyncedHere(number) });
    }

    /// What the other node has asked for. False: it asks for more than anybody waits for.
    pub(super) fn flush_for(
        &self,
        connection: u64,
        object: Option<ObjectId>,
        data_only: bool,
        flush: Flush,
        then: Then,
    ) -> bool {
        self.push(Job { kind: (object, data_only), flush: Some(flush), connection, then })
    }

    fn push(&self, job: Job) -> bool {
        let mut queue = self.0.lock();
        if queue.jobs.len() >= QUEUE_MAX {
            return false;
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.0.more.notify_one();
        true
    }

    pub(super) fn end(&self) {
        self.0.lock().ended = true;
        self.0.more.notify_all();
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(jobs) = self.next() {
            let Some(shared) = part(&self.shared).upgrade() else { return };
            carry_out(&shared, jobs);
        }
    }

    /// The first, and all others of its kind: what they are about was changed before any of them runs.
    fn next(&self) -> Option<VecDeque<Job>> {
        let mut queue = self.lock();
        loop {
            if queue.ended {
                return None;
            }
            if let Some(first) = queue.jobs.pop_front() {
                let (mut jobs, others): (VecDeque<Job>, _) =
                    queue.jobs.drain(..).partition(|job| job.kind == first.kind);
                queue.jobs = others;
                jobs.push_front(first);
                return Some(jobs);
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn carry_out(shared: &Shared, mut jobs: VecDeque<Job>) {
    // The last was asked for last: its descriptor has seen all that was written.
    let flush = jobs.iter_mut().rev().find_map(|job| job.flush.take());
    let flushed = match flush {
        Some(flush) => flush.run(),
        None => rustix::fs::syncfs(&shared.parts.root).map_err(Into::into),
    };
    match flushed {
        Ok(()) => {
            shared.work(|desk, after| {
                for job in &jobs {
                    if job.connection == 0 || desk.is_connected_by(job.connection) {
                        desk.handle(job.then.input(), &[], &shared.parts, after);
                    }
                }
            });
        }
        Err(error) => {
            tracing::error!(%error, "the disk of a copy does not take what was changed");
            let why = format!("the disk does not take what was changed: {error}");
            shared.work(|desk, after| desk.disk_failed(&why, after));
        }
    }
}
