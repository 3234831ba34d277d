//! Regions that have changed and may not be on both disks, with the last operation that changed each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::replica::{ObjectId, Part, Position, Region, Touch};
use crate::wire::replica::Copy;

/// A change of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    Copy(Copy),
    Add(Region),
    Remove(Region),
    Clear,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    zones: u64,
    last: Position,
    under_way: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Marks(BTreeMap<Region, Mark>);

impl Marks {
    pub(super) fn add(&mut self, touch: Touch) {
        self.entry(touch.region).zones |= touch.zones;
    }

    pub(super) fn begin(&mut self, touch: Touch) {
        let mark = self.entry(touch.region);
        mark.zones |= touch.zones;
        mark.under_way += 1;
    }

    /// A pass may have taken the zones meanwhile only if the change was made before: the mark itself is always there.
    pub(super) fn end(&mut self, region: Region, position: Position) {
        let mark = self.entry(region);
        mark.under_way = mark.under_way.saturating_sub(1);
        mark.last = mark.last.max(position);
    }

    fn entry(&mut self, region: Region) -> &mut Mark {
        self.0.entry(region).or_insert(Mark { zones: 0, last: Position::default(), under_way: 0 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn has(&self, object: ObjectId) -> bool {
        let first = Region { object, part: Part::Names };
        let last = Region { object, part: Part::Data(u32::MAX) };
        self.0.range(first..=last).next().is_some()
    }

    pub(super) fn touches(&self) -> Vec<Touch> {
        let touch = |(region, mark): (&Region, &Mark)| Touch { region: *region, zones: mark.zones };
        self.0.iter().filter(|(_, mark)| mark.zones != 0).map(touch).collect()
    }

    pub(super) fn regions(&self) -> impl Iterator<Item = Region> {
        self.0.keys().copied()
    }

    /// Positions of one connection say nothing in the next.
    pub(super) fn forget_positions(&mut self) {
        self.0.values_mut().for_each(|mark| mark.last = Position::default());
    }

    /// Those whose last change lies at `position` or before, and that nothing changes now.
    pub(super) fn cool(&mut self, position: Position) -> Vec<Region> {
        let cool = |mark: &Mark| mark.under_way == 0 && mark.last <= position;
        self.0.extract_if(.., |_, mark| cool(mark)).map(|(region, _)| region).collect()
    }

    pub(super) fn merge(&mut self, touches: impl IntoIterator<Item = Touch>) {
        touches.into_iter().for_each(|touch| self.add(touch));
    }
}

impl Marks {
    /// Everything, for a pass of a resynchronisation. What is being changed now stays for the next one as well.
    pub(super) fn take_for_pass(&mut self) -> Vec<Touch> {
        let touches = self.touches();
        self.0.retain(|_, mark| mark.under_way > 0);
        touches
    }
}
