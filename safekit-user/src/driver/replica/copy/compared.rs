//! Objects that were compared in a pass over everything, by their numbers. Numbers are given one after another, so a bit
//! for each is enough: a million objects take less than a mebibyte.

use std::collections::BTreeMap;

use crate::types::replica::ObjectId;

/// Words of 64 numbers.
#[derive(Debug, Default)]
pub(super) struct Compared(BTreeMap<u64, u64>);

impl Compared {
    pub(super) fn add(&mut self, object: ObjectId) {
        *self.0.entry(object.0 / 64).or_default() |= 1 << (object.0 % 64);
    }

    pub(super) fn has(&self, object: ObjectId) -> bool {
        self.0.get(&(object.0 / 64)).is_some_and(|word| word & (1 << (object.0 % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_one_of_its_own() {
        let mut compared = Compared::default();
        let numbers = [1, 16, 63, 64, 127, 128, u64::MAX];
        numbers.into_iter().for_each(|number| compared.add(ObjectId(number)));
        let has = |number| compared.has(ObjectId(number));
        assert!(numbers.into_iter().all(has));
        assert!(![0, 2, 65, 126, 129, u64::MAX - 1].into_iter().any(has));
    }
}
