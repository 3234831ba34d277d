//! How a change is made: the objects are locked, it is begun, made, told as it came out, and answered.
//!
//! ```text
//!   locks of all objects ─▶ begin ─▶ system calls below ─▶ done(what came out, reply) ─▶ locks free
//! ```
//!
//! All locks are taken before the change is begun, in one order for everybody: who waits to begin holds nothing that
//! one who has begun still needs.

use std::cell::Cell;
use std::collections::HashSet;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::{Change, Name, Tree, watch};
use crate::driver::replica::apply::shape;
use crate::types::replica::{ObjectId, Region, Touch};
use crate::wire::replica::Operation;

/// Objects that share a lock have nothing to do with each other: they only wait.
const STRIPES: usize = 1024;
/// A rename concerns two directories, what it moves, and what was there.
const OBJECTS_MAX: usize = 4;

/// What the kernel hears when a request is done with.
pub(in crate::driver::replica::capture) type Answer<T> = Box<dyn FnOnce(Result<T, Errno>) + Send>;

#[derive(Debug)]
pub(super) struct Stripes(Box<[Mutex<()>]>);

impl Default for Stripes {
    fn default() -> Self {
        Self((0..STRIPES).map(|_| Mutex::new(())).collect())
    }
}

pub(super) type Locks<'a> = [Option<MutexGuard<'a, ()>>; OBJECTS_MAX];

impl Stripes {
    pub(super) fn lock<const N: usize>(&self, objects: [u64; N]) -> Locks<'_> {
        const { assert!(N <= OBJECTS_MAX, "no change concerns more") };
        let mut stripes = objects.map(|object| object as usize % STRIPES);
        stripes.sort_unstable();
        let mut locks = Locks::default();
        let mut last = None;
        for (lock, stripe) in locks.iter_mut().zip(stripes) {
            if last != Some(stripe) {
                *lock = Some(self.0[stripe].lock().unwrap_or_else(PoisonError::into_inner));
                last = Some(stripe);
            }
        }
        locks
    }
}

/// What came out of a change.
#[derive(Debug, Default)]
pub(super) struct Told<'a> {
    changes: Vec<Change<'a>>,
    unknown: bool,
    /// Objects, what they are called from now on, and which of their names that replaces.
    called: Vec<(u64, Name, Option<Name>)>,
}

impl<'a> Told<'a> {
    pub(super) fn say(&mut self, operation: Operation) {
        self.write(operation, &[]);
    }

    pub(super) fn write(&mut self, operation: Operation, bulk: &'a [u8]) {
        self.changes.push(Change { operation, bulk });
    }

    /// Something was changed that cannot be said.
    pub(super) fn is_unknown(&mut self) {
        self.unknown = true;
    }

    /// An object has another name, in the place of an old one or besides it. Whoever asks hears of it when the change has
    /// been told: a place by the new name means nothing to the other node before.
    pub(super) fn is_called(&mut self, number: u64, name: Name, instead_of: Option<Name>) {
        self.called.push((number, name, instead_of));
    }

    /// Nobody has to know: the object has no name.
    pub(super) fn forget(&mut self) {
        self.changes.clear();
        self.unknown = false;
    }
}

/// Objects that have another time of modification than was told. It is read a little later: to ask a file for its times
/// makes the next change of it cost a record of its own below (Linux 6.13), and writes come in runs.
#[derive(Debug)]
pub(super) struct Written {
    untold: Mutex<HashSet<u64>>,
    /// How often something was modified, by the lock of its object.
    counts: Box<[AtomicU64]>,
}

impl Default for Written {
    fn default() -> Self {
        let counts = (0..STRIPES).map(|_| AtomicU64::new(0)).collect();
        Self { untold: Mutex::default(), counts }
    }
}

impl Written {
    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same before and after, and then under the lock: between them nothing was modified.
    pub(super) fn count(&self, number: u64) -> u64 {
        self.counts[number as usize % STRIPES].load(Ordering::SeqCst)
    }
}

impl Tree {
    /// With the locks of all objects that it concerns held.
    pub(super) fn change<'a, T: Send + 'static>(
        &self,
        touches: &[Touch],
        make: impl FnOnce(&mut Told<'a>) -> Result<T, Errno>,
        answer: Answer<T>,
    ) {
        let permit = match self.watch.begin(touches) {
            Ok(permit) => permit,
            Err(error) => return answer(Err(error)),
        };
        let mut told = Told::default();
        let made = catch_unwind(AssertUnwindSafe(|| make(&mut told))).unwrap_or_else(|_panic| {
            tracing::error!("a change of a replicated directory met a defect of safekit and was refused");
            told.is_unknown();
            Err(Errno::IO)
        });
        // A disk that fails may have done half of it.
        let unknown = told.unknown || matches!(made, Err(Errno::IO));
        let reply: watch::Reply = Box::new(move || answer(made));
        if unknown {
            self.watch.done_unknown(permit, reply);
        } else {
            self.watch.done(permit, &told.changes, reply);
        }
        for (number, name, old) in told.called {
            self.nodes.is_called(number, name);
            if let Some(old) = old {
                self.nodes.is_not_called(number, &old);
            }
        }
    }

    /// Its time of modification will be told; until then it stays known. Under its lock.
    pub(super) fn was_modified(&self, number: u64) {
        self.written.counts[number as usize % STRIPES].fetch_add(1, Ordering::SeqCst);
        if self.written.lock().insert(number) {
            self.nodes.hold(number);
        }
    }

    /// Tells the times of what was modified.
    pub(in crate::driver::replica::capture) fn tell_times(&self) {
        let written: Vec<u64> = self.written.lock().iter().copied().collect();
        for number in written {
            let _lock = self.stripes.lock([number]);
            self.tell_untold(number);
        }
    }

    /// What is left of it when nothing changes any more; for whoever has stopped all changes.
    pub(in crate::driver::replica::capture) fn last_times(&self) -> Vec<Operation> {
        let written = mem::take(&mut *self.written.lock());
        let mut told = Vec::new();
        for number in written {
            if !self.is_unnamed(number)
                && let Ok(operation) = self.time_of(number)
            {
                told.push(operation);
            }
            self.nodes.forget(number, 1);
        }
        told
    }

    fn time_of(&self, number: u64) -> Result<Operation, Errno> {
        let stat = rustix::fs::fstat(self.object(number)?)?;
        Ok(Operation::Meta { object: ObjectId(number), meta: shape::meta(&stat) })
    }

    /// What the other copy does not know yet. Under the lock of the object, which counts as written until this may be told:
    /// a node that steps down meanwhile tells it otherwise.
    pub(super) fn tell_untold(&self, number: u64) {
        if !self.written.lock().contains(&number) {
            return;
        }
        let taken = Cell::new(false);
        let make = |told: &mut Told<'_>| {
            taken.set(self.written.lock().remove(&number));
            if taken.get() {
                told.say(self.time_of(number)?);
            }
            Ok(())
        };
        let touches = [Touch::all(Region::meta(ObjectId(number)))];
        self.change_contents(number, &touches, make, Box::new(|_told| ()));
        if taken.get() {
            self.nodes.forget(number, 1);
        }
    }
}
