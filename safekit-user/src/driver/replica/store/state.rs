//! What a record says in the end: entry by entry, and bounded.

use std::collections::BTreeSet;

use super::Kept;
use crate::engine::mirror::Entry;
use crate::types::replica::Region;
use crate::wire::replica::Copy;

/// More than these are one: everything. Sixteen mebibytes on the disk.
pub(super) const REGIONS_MAX: usize = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// As it was told.
    pub(super) copy: Copy,
    /// With `Region::EVERYTHING` there is no other: the rest was not recorded, and only `Clear` ends that.
    pub(super) regions: BTreeSet<Region>,
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
        Self { copy, regions: BTreeSet::new() }
    }
}

impl State {
    pub(super) fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Copy(copy) => self.copy.clone_from(copy),
            Entry::Add(region) => self.add(*region),
            Entry::Remove(_) if self.is_everything() => {}
            Entry::Remove(region) => {
                self.regions.remove(region);
            }
            Entry::Clear => self.regions.clear(),
        }
    }

    pub(super) fn add(&mut self, region: Region) {
        if self.is_everything() {
            return;
        }
        self.regions.insert(region);
        if region == Region::EVERYTHING || self.regions.len() > REGIONS_MAX {
            self.regions = BTreeSet::from([Region::EVERYTHING]);
        }
    }

    fn is_everything(&self) -> bool {
        self.regions.len() == 1 && self.regions.contains(&Region::EVERYTHING)
    }

    /// Who does not know that regions were given up is told that the record is of no use.
    pub(super) fn kept(&self) -> Kept {
        let distrusted = self.copy.distrusted || self.is_everything();
        let copy = Copy { distrusted, ..self.copy.clone() };
        Kept { copy, regions: self.regions.iter().copied().collect() }
    }
}
