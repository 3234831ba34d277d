//! The objects that the kernel knows, and the files that are open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustix::io::Errno;

use crate::driver::replica::object::Place;

/// A directory, and a name in it.
pub(super) type Name = (u64, Vec<u8>);

/// An object, for as long as the kernel may ask for it by number.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) number: u64,
    pub(super) place: Place,
    /// The directory that has it, and its name there; of several names one.
    named: Mutex<Option<Name>>,
    /// It has lost its last name: nobody else has to know what becomes of it.
    unnamed: AtomicBool,
}

impl Node {
    pub(super) fn new(number: u64, place: Place, named: Option<Name>) -> Self {
        Self { number, place, named: Mutex::new(named), unnamed: AtomicBool::new(false) }
    }

    pub(super) fn named(&self) -> Option<Name> {
        self.names().clone()
    }

    pub(super) fn is_called(&self, parent: u64, name: &[u8]) {
        self.names().replace((parent, name.to_vec()));
    }

    /// That name has gone; `others`: it has more.
    pub(super) fn is_no_longer_called(&self, parent: u64, name: &[u8], others: bool) {
        self.names().take_if(|(directory, known)| *directory == parent && known == name);
        self.unnamed.store(!others, Ordering::Relaxed);
    }

    /// Under the lock of the object.
    pub(super) fn is_unnamed(&self) -> bool {
        self.unnamed.load(Ordering::Relaxed)
    }

    fn names(&self) -> MutexGuard<'_, Option<Name>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Known {
    node: Arc<Node>,
    lookups: u64,
}

type Map<V> = HashMap<u64, V, BuildHasherDefault<DefaultHasher>>;

#[derive(Debug, Default)]
pub(super) struct Nodes(RwLock<Map<Known>>);

impl Nodes {
    pub(super) fn insert_root(&self, node: Node) {
        self.write().insert(node.number, Known { node: Arc::new(node), lookups: u64::MAX });
    }

    pub(super) fn find(&self, number: u64) -> Result<Arc<Node>, Errno> {
        let nodes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&number).map(|known| Arc::clone(&known.node)).ok_or(Errno::STALE)
    }

    /// One more reason to know it. Of two descriptors for one object the first stays.
    pub(super) fn remember(&self, node: Node) {
        let mut nodes = self.write();
        match nodes.entry(node.number) {
            Entry::Vacant(vacant) => {
                vacant.insert(Known { node: Arc::new(node), lookups: 1 });
            }
            Entry::Occupied(mut known) => {
                known.get_mut().lookups = known.get().lookups.saturating_add(1);
                let mut names = known.get().node.names();
                if names.is_none() {
                    *names = node.named();
                }
            }
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Node>> {
        let nodes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        nodes.values().map(|known| Arc::clone(&known.node)).collect()
    }

    /// One more reason to know what is known.
    pub(super) fn hold(&self, number: u64) {
        if let Some(known) = self.write().get_mut(&number) {
            known.lookups = known.lookups.saturating_add(1);
        }
    }

    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let mut nodes = self.write();
        let Some(known) = nodes.get_mut(&number) else { return };
        if known.lookups == u64::MAX {
            return;
        }
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups == 0 {
            nodes.remove(&number);
        }
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Map<Known>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Open files or directories, by the number that the kernel has for each.
#[derive(Debug)]
pub(super) struct Handles<T>(Mutex<Table<T>>);

#[derive(Debug)]
struct Table<T> {
    next: u64,
    open: Map<Arc<T>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self(Mutex::new(Table { next: 1, open: Map::default() }))
    }
}

impl<T> Handles<T> {
    /// Known before the kernel hears of it.
    pub(super) fn insert(&self, open: T) -> u64 {
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        table.open.insert(number, Arc::new(open));
        number
    }

    pub(super) fn find(&self, number: u64) -> Result<Arc<T>, Errno> {
        self.lock().open.get(&number).cloned().ok_or(Errno::BADF)
    }

    pub(super) fn remove(&self, number: u64) {
        let removed = self.lock().open.remove(&number);
        // Closed only now: close() may take its time.
        drop(removed);
    }

    fn lock(&self) -> MutexGuard<'_, Table<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
