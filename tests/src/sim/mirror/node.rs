//! A node of a mirror around a real engine: a disk with a cache, a record, work that takes its time.

use std::collections::{BTreeMap, VecDeque};

use safekit::engine::mirror::{Entry, Input, Mirror, Ticket};
use safekit::types::replica::{MirrorRole, Position, Region};
use safekit::wire::replica::{Copy, Message};

use super::FIRST;

/// What travels between the nodes.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Message(Message),
    Operation { position: Position, object: u64, version: u64 },
    Copy { object: u64, version: u64 },
    PassEnd { number: u64 },
    PassEnded { number: u64 },
}

/// What a disk has, and what only the memory has.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) durable: BTreeMap<u64, u64>,
    pub(super) cached: BTreeMap<u64, Vec<u64>>,
}

impl Disk {
    pub(super) fn version(&self, object: u64) -> u64 {
        let cached = self.cached.get(&object).and_then(|versions| versions.last());
        cached.or(self.durable.get(&object)).copied().unwrap_or(0)
    }

    pub(super) fn put(&mut self, object: u64, version: u64) {
        if self.version(object) != version {
            self.cached.entry(object).or_default().push(version);
        }
    }

    pub(super) fn objects(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.durable.keys().chain(self.cached.keys()).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|object| self.version(*object) != 0);
        all
    }

    /// What was there when the flush began is durable when it ends; what came later may be.
    pub(super) fn flush(&mut self, object: u64, version: u64) {
        let Some(versions) = self.cached.get_mut(&object) else { return };
        let Some(at) = versions.iter().position(|cached| *cached == version) else { return };
        self.durable.insert(object, version);
        versions.drain(..=at);
        if versions.is_empty() {
            self.cached.remove(&object);
        }
    }

    pub(super) fn snapshot(&self) -> Vec<(u64, u64)> {
        self.cached.iter().filter_map(|(object, all)| Some((*object, *all.last()?))).collect()
    }

    pub(super) fn crash(&mut self, random: &mut fastrand::Rng) {
        for (object, versions) in std::mem::take(&mut self.cached) {
            if random.bool() {
                self.durable.insert(object, versions[random.usize(..versions.len())]);
            }
        }
    }
}

/// Work of a node that takes its time.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// Flush these, then say so.
    Flush { what: Vec<(u64, u64)>, then: Input },
    /// What is left to be told by a node that steps down.
    LastWords,
    /// A pass of copying: what is left of it.
    Pass { number: u64, left: VecDeque<u64> },
}

#[derive(Clone, Debug)]
pub(super) enum Request {
    Write { object: u64, ready: bool },
    Flush { object: u64, version: u64 },
}

pub(super) struct Node {
    /// None: it is down.
    pub(super) engine: Option<Mirror>,
    pub(super) disk: Disk,
    pub(super) copy: Copy,
    pub(super) regions: Vec<Region>,
    /// Batches on their way to the disk.
    pub(super) batches: VecDeque<(u64, Vec<Entry>)>,
    pub(super) jobs: Vec<Job>,
    pub(super) requests: BTreeMap<Ticket, Request>,
    /// What arrives from the other node.
    pub(super) inbox: VecDeque<Item>,
    pub(super) connected: bool,
    pub(super) target: bool,
}

impl Node {
    pub(super) fn new() -> Self {
        let copy = Copy {
            generation: None,
            parent: None,
            history: Vec::new(),
            half_copied: false,
            peer_out: false,
            led: false,
            distrusted: false,
            fresh_from: FIRST,
        };
        Self {
            engine: None,
            disk: Disk::default(),
            copy,
            regions: Vec::new(),
            batches: VecDeque::new(),
            jobs: Vec::new(),
            requests: BTreeMap::new(),
            inbox: VecDeque::new(),
            connected: false,
            target: false,
        }
    }

    pub(super) fn role(&self) -> Option<MirrorRole> {
        self.engine.as_ref().map(Mirror::role)
    }

    pub(super) fn serves(&self) -> bool {
        self.role().is_some_and(MirrorRole::leads)
    }

    pub(super) fn write_batch(&mut self, entries: &[Entry]) {
        for entry in entries {
            match entry {
                Entry::Copy(copy) => self.copy = copy.clone(),
                Entry::Add(region) if !self.regions.contains(region) => self.regions.push(*region),
                Entry::Add(_) => {}
                Entry::Remove(region) => self.regions.retain(|it| it != region),
                Entry::Clear => self.regions.clear(),
            }
        }
    }
}
