//! What two copies of a directory agree on: objects, generations of data, and the parts of an object that may differ.

use serde::{Deserialize, Serialize};

/// An object of the replicated directory, the same on both nodes whatever it is called there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId(pub u64);

impl ObjectId {
    /// The replicated directory itself.
    pub const ROOT: Self = Self(1);
}

/// Names the contents of a copy: whoever goes on without the other takes a new one, drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DataGeneration(pub u64);

/// A place in the stream of operations of one connection; 0 comes before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Contents are compared by zones, and recorded by extents of 64 of them: one bit each.
pub const ZONE_BYTES: u64 = 64 * 1024;
pub const EXTENT_BYTES: u64 = 64 * ZONE_BYTES;

/// A part of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Part {
    /// Which names a directory has, and for which objects.
    Names,
    /// Mode, owner, times, size, extended attributes.
    Meta,
    /// All of it, and that it exists at all.
    Whole,
    /// Contents: the extent of that number.
    Data(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Region {
    pub object: ObjectId,
    pub part: Part,
}

impl Region {
    pub const EVERYTHING: Self = Self { object: ObjectId(0), part: Part::Whole };

    pub fn names(object: ObjectId) -> Self {
        Self { object, part: Part::Names }
    }

    pub fn meta(object: ObjectId) -> Self {
        Self { object, part: Part::Meta }
    }

    pub fn whole(object: ObjectId) -> Self {
        Self { object, part: Part::Whole }
    }
}

/// A region that an operation is about to change. `zones`: which of an extent; all bits for other parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    pub region: Region,
    pub zones: u64,
}

/// Beyond so many extents a change counts as one of the whole object.
const EXTENTS_MAX: u64 = 64;

impl Touch {
    pub fn all(region: Region) -> Self {
        Self { region, zones: u64::MAX }
    }

    /// Contents of `object` from byte `offset` on.
    pub fn contents(object: ObjectId, offset: u64, length: u64) -> Vec<Self> {
        if length == 0 {
            return Vec::new();
        }
        let last = offset.saturating_add(length - 1);
        let (first_extent, last_extent) = (offset / EXTENT_BYTES, last / EXTENT_BYTES);
        if last_extent - first_extent >= EXTENTS_MAX || last_extent > u64::from(u32::MAX) {
            return vec![Self::all(Region::whole(object))];
        }
        (first_extent..=last_extent)
            .map(|extent| {
                let base = extent * EXTENT_BYTES;
                let from = offset.saturating_sub(base) / ZONE_BYTES;
                let to = (last - base).min(EXTENT_BYTES - 1) / ZONE_BYTES;
                let zones = (u64::MAX >> (63 - (to - from))) << from;
                Self { region: Region { object, part: Part::Data(extent as u32) }, zones }
            })
            .collect()
    }
}

/// When an application's flush returns, and whether plain writes wait too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acknowledge {
    /// A flush returns when the data is on both disks.
    #[default]
    Disk,
    /// A flush returns when it is on this disk and the peer has the data.
    Memory,
    /// As `disk`, and every change waits until the peer has it.
    EachWrite,
}

/// What a mirror's node does with its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MirrorRole {
    /// Serves nobody.
    Wait,
    /// Serves, and the other copy is out of date or unknown.
    Alone,
    /// Serves, and every change goes to the other copy.
    Prim,
    /// Takes the changes of the other.
    Second,
}

impl MirrorRole {
    pub fn leads(self) -> bool {
        matches!(self, Self::Alone | Self::Prim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_cut_into_zones() {
        let object = ObjectId(20);
        let zones = |offset, length| {
            Touch::contents(object, offset, length)
                .into_iter()
                .map(|touch| (touch.region.part, touch.zones))
                .collect::<Vec<_>>()
        };
        assert_eq!(zones(5, 0), []);
        assert_eq!(zones(0, 1), [(Part::Data(0), 1)]);
        assert_eq!(zones(ZONE_BYTES - 1, 2), [(Part::Data(0), 0b11)]);
        assert_eq!(zones(0, EXTENT_BYTES), [(Part::Data(0), u64::MAX)]);
        assert_eq!(zones(EXTENT_BYTES - 1, 2), [(Part::Data(0), 1 << 63), (Part::Data(1), 1)]);
        assert_eq!(zones(0, u64::MAX), [(Part::Whole, u64::MAX)]);
    }
}
