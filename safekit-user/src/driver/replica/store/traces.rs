//! Where the objects of the recorded regions can be found again, as far as there is room for that.

use std::collections::BTreeMap;

use crate::driver::replica::watch::Trace;
use crate::types::replica::ObjectId;

/// On the disk, and about twice of it in memory: the traces of half a million objects with short names. An object beyond
/// it is looked for among all of them.
pub(super) const BYTES_MAX: usize = 32 * 1024 * 1024;
/// The number of an object as it is written.
const NUMBER_BYTES_MAX: usize = 10;

/// As they are written: each is one piece of memory instead of four.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Traces {
    packed: BTreeMap<ObjectId, Box<[u8]>>,
    bytes: usize,
}

impl Traces {
    /// Instead of an older one.
    pub(super) fn insert(&mut self, object: ObjectId, trace: &Trace) {
        self.remove(object);
        let packed = postcard::to_allocvec(trace).expect("plain data, and an allocation ends otherwise");
        let bytes = self.bytes + room_of(&packed);
        if bytes <= BYTES_MAX {
            self.packed.insert(object, packed.into());
            self.bytes = bytes;
        }
    }

    pub(super) fn remove(&mut self, object: ObjectId) {
        if let Some(packed) = self.packed.remove(&object) {
            self.bytes -= room_of(&packed);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// In the form that `postcard` has for a [`Trace`].
    pub(super) fn packed(&self) -> impl ExactSizeIterator<Item = (ObjectId, &[u8])> {
        self.packed.iter().map(|(object, packed)| (*object, &**packed))
    }

    pub(super) fn all(&self) -> BTreeMap<ObjectId, Trace> {
        let unpack = |packed| postcard::from_bytes(packed).expect("it was packed here");
        self.packed().map(|(object, packed)| (object, unpack(packed))).collect()
    }
}

fn room_of(packed: &[u8]) -> usize {
    NUMBER_BYTES_MAX + packed.len()
}
