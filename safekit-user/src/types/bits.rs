//! A set of buckets.

use serde::{Deserialize, Serialize};

use super::Bucket;

/// One bit per bucket, or per run of buckets where a coarser set is enough. The length is a multiple of 64.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BucketBits {
    words: Vec<u64>,
}

impl BucketBits {
    /// The empty set over `buckets` buckets (a positive multiple of 64, at most 65,536).
    pub fn none(buckets: usize) -> Self {
        assert!(buckets.is_multiple_of(64) && (64..=65_536).contains(&buckets), "{buckets} buckets");
        Self { words: vec![0; buckets / 64] }
    }

    pub fn from_fn(buckets: usize, mut contains: impl FnMut(Bucket) -> bool) -> Self {
        let mut bits = Self::none(buckets);
        for index in 0..buckets {
            if contains(Bucket(index as u16)) {
                bits.insert(Bucket(index as u16));
            }
        }
        bits
    }

    /// How many buckets the set ranges over.
    pub fn capacity(&self) -> usize {
        self.words.len() * 64
    }

    pub fn words(&self) -> &[u64] {
        &self.words
    }

    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    pub fn contains(&self, bucket: Bucket) -> bool {
        self.words[usize::from(bucket.0) / 64] & (1 << (bucket.0 % 64)) != 0
    }

    pub fn insert(&mut self, bucket: Bucket) {
        self.words[usize::from(bucket.0) / 64] |= 1 << (bucket.0 % 64);
    }

    pub fn remove(&mut self, bucket: Bucket) {
        self.words[usize::from(bucket.0) / 64] &= !(1 << (bucket.0 % 64));
    }

    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub fn iter(&self) -> impl Iterator<Item = Bucket> {
        (0..self.capacity()).map(|index| Bucket(index as u16)).filter(|bucket| self.contains(*bucket))
    }
}

impl std::fmt::Debug for BucketBits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} buckets", self.len(), self.capacity())
    }
}
