//! The objects that the kernel knows, and the files that are open.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::io::Errno;

use crate::driver::replica::object::Place;

/// A directory, and a name in it.
pub(super) type Name = (u64, Vec<u8>);

/// Names of one object that are remembered: of more, the newest.
const NAMES_MAX: usize = 16;

/// An object, for as long as the kernel may ask for it by number, or something lies in it that is known.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) number: u64,
    pub(super) place: Place,
    is_directory: bool,
    /// It has lost its last name: nobody else has to know what becomes of it.
    unnamed: AtomicBool,
}

impl Node {
    pub(super) fn new(number: u64, place: Place, is_directory: bool) -> Self {
        Self { number, place, is_directory, unnamed: AtomicBool::new(false) }
    }

    /// Under the lock of the object.
    pub(super) fn is_unnamed(&self) -> bool {
        self.unnamed.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Known {
    node: Arc<Node>,
    lookups: u64,
    /// Names that were seen and are right, newest last.
    names: Vec<Name>,
    /// Names of others that lie in it: what is called by one is found by way of this directory.
    inside: u64,
}

type Map<V> = HashMap<u64, V, BuildHasherDefault<DefaultHasher>>;

#[derive(Debug, Default)]
pub(super) struct Nodes(RwLock<Objects>);

#[derive(Debug, Default)]
struct Objects(Map<Known>);

impl Nodes {
    pub(super) fn insert_root(&self, node: Node) {
        self.write().known(node).lookups = u64::MAX;
    }

    pub(super) fn find(&self, number: u64) -> Result<Arc<Node>, Errno> {
        self.read().0.get(&number).map(|known| Arc::clone(&known.node)).ok_or(Errno::STALE)
    }

    /// One more reason to know it. Of two descriptors for one object the first stays.
    pub(super) fn remember(&self, node: Node, named: Option<Name>) {
        let number = node.number;
        let mut objects = self.write();
        let known = objects.known(node);
        known.lookups = known.lookups.saturating_add(1);
        // The one name of a directory is kept right by whoever renames it.
        let is_enough = known.node.is_directory && !known.names.is_empty();
        if let Some(name) = named.filter(|_| !is_enough) {
            objects.add_name(number, name);
        }
    }

    /// Somebody has looked for a name of `number` and found it in `parent`. One that was told meanwhile counts more.
    pub(super) fn was_found(&self, number: u64, parent: Node, name: Vec<u8>) {
        let mut objects = self.write();
        if objects.0.get(&number).is_some_and(|known| known.names.is_empty()) {
            let above = parent.number;
            objects.known(parent);
            objects.add_name(number, (above, name));
            objects.drop_unused(above);
        }
    }

    /// Newest last.
    pub(super) fn names(&self, number: u64) -> Vec<Name> {
        self.read().0.get(&number).map(|known| known.names.clone()).unwrap_or_default()
    }

    pub(super) fn named(&self, number: u64) -> Option<Name> {
        self.read().0.get(&number).and_then(|known| known.names.last().cloned())
    }

    pub(super) fn is_called(&self, number: u64, name: Name) {
        self.write().add_name(number, name);
    }

    pub(super) fn is_not_called(&self, number: u64, name: &Name) {
        self.write().take_name(number, name);
    }

    /// That name has gone; `others`: it has more.
    pub(super) fn is_no_longer_called(&self, number: u64, name: &Name, others: bool) {
        let mut objects = self.write();
        objects.take_name(number, name);
        if let Some(known) = objects.0.get(&number) {
            known.node.unnamed.store(!others, Ordering::Relaxed);
        }
    }

    /// Somebody else has changed names: what is seen from now on is right.
    pub(super) fn forget_names(&self) {
        let mut objects = self.write();
        for known in objects.0.values_mut() {
            (known.names, known.inside) = (Vec::new(), 0);
        }
        objects.0.retain(|_, known| known.lookups > 0);
    }

    /// All that are known, and their names.
    pub(super) fn all(&self) -> Vec<(u64, Vec<Name>)> {
        self.read().0.iter().map(|(number, known)| (*number, known.names.clone())).collect()
    }

    /// One more reason to know what is known.
    pub(super) fn hold(&self, number: u64) {
        if let Some(known) = self.write().0.get_mut(&number) {
            known.lookups = known.lookups.saturating_add(1);
        }
    }

    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let mut objects = self.write();
        let Some(known) = objects.0.get_mut(&number) else { return };
        if known.lookups != u64::MAX {
            known.lookups = known.lookups.saturating_sub(lookups);
            objects.drop_unused(number);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Objects> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Objects {
    fn known(&mut self, node: Node) -> &mut Known {
        let new = |node| Known { node: Arc::new(node), lookups: 0, names: Vec::new(), inside: 0 };
        self.0.entry(node.number).or_insert_with(|| new(node))
    }

    fn add_name(&mut self, number: u64, name: Name) {
        if !self.0.contains_key(&name.0) {
            // What lies in an unknown directory is not found by it.
            return;
        }
        let Some(known) = self.0.get_mut(&number).filter(|known| !known.names.contains(&name)) else {
            return;
        };
        let directory = name.0;
        known.names.push(name);
        let oldest = (known.names.len() > NAMES_MAX).then(|| known.names.remove(0));
        if let Some(known) = self.0.get_mut(&directory) {
            known.inside += 1;
        }
        if let Some((directory, _)) = oldest {
            self.left(directory);
        }
    }

    fn take_name(&mut self, number: u64, name: &Name) {
        let Some(known) = self.0.get_mut(&number) else { return };
        if let Some(at) = known.names.iter().position(|it| it == name) {
            known.names.remove(at);
            self.left(name.0);
        }
    }

    /// One name less lies in it.
    fn left(&mut self, directory: u64) {
        if let Some(known) = self.0.get_mut(&directory) {
            known.inside = known.inside.saturating_sub(1);
            self.drop_unused(directory);
        }
    }

    /// And the directories above, of which nobody else needs to know.
    fn drop_unused(&mut self, number: u64) {
        let mut left = vec![number];
        while let Some(number) = left.pop() {
            if self.0.get(&number).is_none_or(|known| (known.lookups, known.inside) != (0, 0)) {
                continue;
            }
            for (directory, _) in self.0.remove(&number).map(|known| known.names).unwrap_or_default() {
                if let Some(known) = self.0.get_mut(&directory) {
                    known.inside = known.inside.saturating_sub(1);
                    left.push(directory);
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::replica::identity::ROOT;
    use crate::driver::replica::object::Budget;

    fn node(number: u64, is_directory: bool) -> Node {
        let fd = std::fs::File::open("/").expect("it is there").into();
        Node::new(number, Place::of(fd, &Budget::new(1)), is_directory)
    }

    /// The root, a directory in it, and a file in that; the kernel knows each once.
    fn nodes() -> Nodes {
        let nodes = Nodes::default();
        nodes.insert_root(node(ROOT, true));
        nodes.remember(node(20, true), Some((ROOT, b"directory".to_vec())));
        nodes.remember(node(30, false), Some((20, b"file".to_vec())));
        nodes
    }

    #[test]
    fn a_directory_is_known_as_long_as_something_is_called_by_it() {
        let nodes = nodes();
        nodes.forget(20, 1);
        assert_eq!(nodes.named(20), Some((ROOT, b"directory".to_vec())));
        nodes.forget(30, 1);
        assert!(nodes.find(30).is_err());
        assert!(nodes.find(20).is_err(), "nobody needs it any longer");
        assert!(nodes.find(ROOT).is_ok());
    }

    #[test]
    fn of_several_names_those_that_are_left_are_known() {
        let nodes = nodes();
        nodes.is_called(30, (ROOT, b"second".to_vec()));
        nodes.is_no_longer_called(30, &(ROOT, b"second".to_vec()), true);
        assert_eq!(nodes.named(30), Some((20, b"file".to_vec())));
        assert!(!nodes.find(30).expect("it is known").is_unnamed());
        nodes.is_no_longer_called(30, &(20, b"file".to_vec()), false);
        assert_eq!(nodes.named(30), None);
        assert!(nodes.find(30).expect("it is open").is_unnamed());
        nodes.forget(20, 1);
        assert!(nodes.find(20).is_err(), "nothing is called by it");
    }

    #[test]
    fn names_are_bounded() {
        let nodes = nodes();
        for name in 0..100_u8 {
            nodes.is_called(30, (ROOT, vec![name]));
        }
        let names: Vec<_> = nodes.names(30).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, (84..100_u8).map(|name| vec![name]).collect::<Vec<_>>());
        nodes.forget(20, 1);
        assert!(nodes.find(20).is_err(), "its name was the oldest");
    }

    #[test]
    fn what_was_told_counts_more_than_what_was_found() {
        let nodes = nodes();
        nodes.was_found(30, node(40, true), b"old".to_vec());
        assert_eq!(nodes.named(30), Some((20, b"file".to_vec())));
        assert!(nodes.find(40).is_err(), "it was not needed");
        nodes.is_not_called(30, &(20, b"file".to_vec()));
        nodes.was_found(30, node(40, true), b"old".to_vec());
        assert_eq!(nodes.named(30), Some((40, b"old".to_vec())));
        assert!(nodes.find(40).is_ok());
    }
}
