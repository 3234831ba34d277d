//! Between the engine's table (two sets of buckets) and the kernel's (two bits a bucket, 32 buckets a word).

use safekit_ebpf::abi::{self, BUCKETS, TABLE_WORDS};
use safekit_ebpf::verdict::BucketState;

use crate::engine::farm::Table;
use crate::types::{Bucket, BucketBits};

/// Bit i of `mine` becomes bit 2i, bit i of `transitional` bit 2i + 1.
pub(super) fn pack(table: &Table) -> abi::Table {
    assert_eq!(table.mine.capacity(), BUCKETS, "the kernel's tables have one size");
    assert_eq!(table.transitional.capacity(), BUCKETS, "the kernel's tables have one size");
    let mut words = [0; TABLE_WORDS];
    let sets = table.mine.words().iter().zip(table.transitional.words());
    for (pair, (mine, transitional)) in words.chunks_exact_mut(2).zip(sets) {
        pair[0] = spread(*mine as u32) | spread(*transitional as u32) << 1;
        pair[1] = spread((mine >> 32) as u32) | spread((transitional >> 32) as u32) << 1;
    }
    words
}

pub(super) fn unpack(words: &abi::Table) -> Table {
    let state = |bucket: Bucket| BucketState::in_table(words, bucket.0);
    let mine = BucketBits::from_fn(BUCKETS, |bucket| {
        matches!(state(bucket), BucketState::Mine | BucketState::Gained)
    });
    let transitional = BucketBits::from_fn(BUCKETS, |bucket| {
        matches!(state(bucket), BucketState::Lost | BucketState::Gained)
    });
    Table { mine, transitional }
}

/// A zero after each bit.
const fn spread(bits: u32) -> u64 {
    let mut x = bits as u64;
    x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    x = (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    x = (x | x << 2) & 0x3333_3333_3333_3333;
    (x | x << 1) & 0x5555_5555_5555_5555
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_comes_back_as_it_went_in_and_reads_as_the_kernel_reads_it() {
        let mine = BucketBits::from_fn(BUCKETS, |bucket| bucket.0.wrapping_mul(40_503) < 20_000);
        let transitional = BucketBits::from_fn(BUCKETS, |bucket| bucket.0.wrapping_mul(26_171) < 9_000);
        let table = Table { mine, transitional };
        let words = pack(&table);
        for index in 0..=u16::MAX {
            let bucket = Bucket(index);
            let expected = BucketState::of(table.mine.contains(bucket), table.transitional.contains(bucket));
            assert_eq!(BucketState::in_table(&words, index), expected, "bucket {index}");
        }
        assert_eq!(unpack(&words), table);
    }
}
