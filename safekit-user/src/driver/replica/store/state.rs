//! What a record says in the end: entry by entry, and bounded.

use std::collections::BTreeSet;

use super::traces::Traces;
use super::{Batch, Kept};
use crate::driver::replica::watch::Trace;
use crate::engine::mirror::Entry;
use crate::types::replica::{ObjectId, Part, Region};
use crate::wire::replica::Copy;

/// More than these are one: everything. Sixteen mebibytes on the disk.
pub(super) const REGIONS_MAX: usize = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// As it was told.
    pub(super) copy: Copy,
    /// With `Region::EVERYTHING` there is no other: the rest was not recorded, and only `Clear` ends that.
    pub(super) regions: BTreeSet<Region>,
    /// Of objects that have a region here; with `Region::EVERYTHING` none.
    pub(super) traces: Traces,
}

impl Default for State {
    fn default() -> Self {
        let copy = Copy {
            generation: None,
            parent: None,
            history: Vec::new(),
            half_copied: false,
            peer_out: false,
            led: false,
            distrusted: false,
            fresh_from: 0,
        };
        Self { copy, regions: BTreeSet::new(), traces: Traces::default() }
    }
}

impl State {
    pub(super) fn take(&mut self, batch: &Batch) {
        batch.entries.iter().for_each(|entry| self.apply(entry));
        batch.traces.iter().for_each(|(object, trace)| self.trace(*object, trace));
    }

    pub(super) fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Copy(copy) => self.copy.clone_from(copy),
            Entry::Add(region) => self.add(*region),
            Entry::Remove(_) if self.is_everything() => {}
            Entry::Remove(region) => {
                if self.regions.remove(region) && !self.has(region.object) {
                    self.traces.remove(region.object);
                }
            }
            Entry::Clear => {
                self.regions.clear();
                self.traces.clear();
            }
        }
    }

    pub(super) fn add(&mut self, region: Region) {
        if self.is_everything() {
            return;
        }
        self.regions.insert(region);
        if region == Region::EVERYTHING || self.regions.len() > REGIONS_MAX {
            self.regions = BTreeSet::from([Region::EVERYTHING]);
            self.traces.clear();
        }
    }

    /// Nobody will ask for an object that has no region.
    pub(super) fn trace(&mut self, object: ObjectId, trace: &Trace) {
        if !self.is_everything() && self.has(object) {
            self.traces.insert(object, trace);
        }
    }

    fn has(&self, object: ObjectId) -> bool {
        let first = Region { object, part: Part::Names };
        let last = Region { object, part: Part::Data(u32::MAX) };
        self.regions.range(first..=last).next().is_some()
    }

    fn is_everything(&self) -> bool {
        self.regions.len() == 1 && self.regions.contains(&Region::EVERYTHING)
    }

    /// Who does not know that regions were given up is told that the record is of no use.
    pub(super) fn kept(&self) -> Kept {
        let distrusted = self.copy.distrusted || self.is_everything();
        let copy = Copy { distrusted, ..self.copy.clone() };
        Kept { copy, regions: self.regions.iter().copied().collect(), traces: self.traces.all() }
    }
}
