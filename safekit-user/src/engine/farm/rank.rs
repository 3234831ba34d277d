//! Who comes first in a bucket: weighted rendezvous, in integers.
//!
//! Each bucket has its own fixed order of preference over the nodes. A node's score in a bucket is
//! `-log2(u) / weight`, where `u` in (0, 1) is a hash of the node's name and the bucket; the smallest score comes
//! first. So a node's share follows its weight, and a change of members moves only what it must. The logarithm is
//! a fixed-point table: two processors' floating-point `ln` may differ in the last bit, and a differing table is a
//! double owner. Changing anything here is a change of protocol; test vectors pin it.

use crate::types::ids::NODES_MAX;
use crate::types::{Bucket, NodeId, NodeSet, Share};

/// Orders of preference of one weight vector.
#[derive(Clone, Debug)]
pub struct Ranks {
    nodes: Vec<Contender>,
    /// Places kept for each bucket; the rest of a long order is computed when it is needed.
    kept: usize,
    order: Vec<u8>,
    /// Every bucket has the order of `nodes`.
    cascade: bool,
}

#[derive(Clone, Copy, Debug)]
struct Contender {
    id: NodeId,
    key: u64,
    weight: u32,
}

/// Sixteen places cover every cluster of 16, and in larger ones all but the loss of most nodes.
const KEPT_MAX: usize = 16;

impl Ranks {
    pub fn of(names: &[String], share: &Share, buckets: usize) -> Self {
        match share {
            Share::Weighted(weights) => Self::new(names, weights, buckets),
            Share::Cascade(line) => Self::cascade(line, buckets),
        }
    }

    /// The first in line that is there owns every bucket. An order that is the same in all buckets is a fixed order in
    /// each, so nothing else changes.
    fn cascade(line: &[NodeId], buckets: usize) -> Self {
        let nodes: Vec<_> = line.iter().map(|id| Contender { id: *id, key: 0, weight: 1 }).collect();
        let kept = nodes.len().min(KEPT_MAX);
        let first: Vec<u8> = nodes.iter().take(kept).map(|node| node.id.0).collect();
        Self { nodes, kept, order: first.repeat(buckets), cascade: true }
    }

    /// `weights` in the order of `names`. Weight 0 never owns.
    pub fn new(names: &[String], weights: &[u32], buckets: usize) -> Self {
        assert!(names.len() <= NODES_MAX, "the configuration allows {NODES_MAX} nodes");
        assert_eq!(names.len(), weights.len(), "every node has a weight");
        let nodes: Vec<_> = names
            .iter()
            .zip(weights)
            .enumerate()
            .filter(|(_, (_, weight))| **weight > 0)
            .map(|(id, (name, weight))| Contender {
                id: NodeId(id as u8),
                key: name_key(name),
                weight: *weight,
            })
            .collect();
        let kept = nodes.len().min(KEPT_MAX);
        let mut ranks = Self { nodes, kept, order: Vec::with_capacity(kept * buckets), cascade: false };
        let mut scores = Vec::with_capacity(ranks.nodes.len());
        for bucket in 0..buckets {
            ranks.score_into(&mut scores, Bucket(bucket as u16), |_| true);
            ranks.order.extend(scores.iter().take(kept).map(|(_, _, id)| id.0));
        }
        ranks
    }

    /// Weight 0 may not.
    pub fn may_own(&self, node: NodeId) -> bool {
        self.nodes.iter().any(|contender| contender.id == node)
    }

    /// The owner of `bucket` when exactly `live` are there.
    #[inline]
    pub fn first(&self, bucket: Bucket, live: NodeSet) -> Option<NodeId> {
        let start = usize::from(bucket.0) * self.kept;
        let places = &self.order[start..start + self.kept];
        let found = places.iter().map(|id| NodeId(*id)).find(|id| live.contains(*id));
        if found.is_some() || self.kept == self.nodes.len() {
            return found;
        }
        self.order(bucket, live).first().copied()
    }

    /// The live nodes in the order in which they would own `bucket`.
    pub fn order(&self, bucket: Bucket, live: NodeSet) -> Vec<NodeId> {
        if self.cascade {
            return self.nodes.iter().map(|node| node.id).filter(|id| live.contains(*id)).collect();
        }
        let mut scores = Vec::new();
        self.score_into(&mut scores, bucket, |id| live.contains(id));
        scores.into_iter().map(|(_, _, id)| id).collect()
    }

    /// Best first. Equal scores (one in 2^50) are told apart by the hash of the name, never by position.
    fn score_into(
        &self,
        scores: &mut Vec<(u64, u64, NodeId)>,
        bucket: Bucket,
        counts: impl Fn(NodeId) -> bool,
    ) {
        scores.clear();
        let present = self.nodes.iter().filter(|node| counts(node.id));
        scores.extend(present.map(|node| (score(node.key, bucket, node.weight), node.key, node.id)));
        scores.sort_unstable();
    }
}

/// Smaller is better. 56 fractional bits before the division.
fn score(key: u64, bucket: Bucket, weight: u32) -> u64 {
    let u = mix(key ^ mix(u64::from(bucket.0).wrapping_add(0x9e37_79b9_7f4a_7c15)));
    minus_log2(u) / u64::from(weight)
}

/// FNV-1a over the bytes, then mixed: names that differ in one letter get unrelated keys.
fn name_key(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

/// The finalizer of SplitMix64: a bijection in which every input bit changes half of the output bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const FRACTION_BITS: u32 = 56;

/// `-log2(u / 2^64)` with [`FRACTION_BITS`] fractional bits; strictly falling up to the rounding of the last bits.
///
/// `u = 2^(63 - zeros) * m`, `1 <= m < 2`: the whole part is a count of zeros, log2(m) a table of 256 chords. The
/// chords lie below the curve by at most 2.7e-6, the same for all nodes.
fn minus_log2(u: u64) -> u64 {
    let u = u.max(1);
    let zeros = u.leading_zeros();
    let fraction = (u << zeros) << 1;
    let chord = (fraction >> 56) as usize;
    let along = fraction & ((1 << 56) - 1);
    let (from, to) = (LOG2[chord], LOG2[chord + 1]);
    let log = from + ((u128::from(to - from) * u128::from(along)) >> 56) as u64;
    (u64::from(zeros + 1) << FRACTION_BITS) - log
}

/// log2(1 + i/256), made by squaring: each square that reaches 2 yields a one bit.
static LOG2: [u64; 257] = {
    let mut table = [0; 257];
    let mut i = 0;
    while i < 256 {
        let mut x = (256 + i as u128) << (62 - 8);
        let mut bit = 0;
        while bit < FRACTION_BITS {
            x = (x * x) >> 62;
            table[i] <<= 1;
            if x >> 63 != 0 {
                x >>= 1;
                table[i] |= 1;
            }
            bit += 1;
        }
        i += 1;
    }
    table[256] = 1 << FRACTION_BITS;
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKETS: usize = 65_536;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|n| format!("web{n}")).collect()
    }

    fn all(count: usize) -> NodeSet {
        (0..count).map(|id| NodeId(id as u8)).collect()
    }

    fn shares(ranks: &Ranks, live: NodeSet, nodes: usize) -> Vec<u32> {
        let mut shares = vec![0; nodes];
        for bucket in 0..BUCKETS {
            if let Some(owner) = ranks.first(Bucket(bucket as u16), live) {
                shares[usize::from(owner.0)] += 1;
            }
        }
        shares
    }

    #[test]
    fn the_logarithm_is_right_and_falls() {
        for exponent in 0..64_u64 {
            let exact = (64 - exponent) << FRACTION_BITS;
            assert_eq!(minus_log2(1 << exponent), exact, "2^{exponent}");
        }
        for step in 1..4096_u64 {
            let u = step << 52;
            assert!(minus_log2(u) < minus_log2(u - (1 << 51)), "falls at {u:#x}");
            let float = -((u as f64) / 2_f64.powi(64)).log2();
            let ours = minus_log2(u) as f64 / 2_f64.powi(FRACTION_BITS as i32);
            assert!((ours - float).abs() < 3e-6, "{u:#x}: {ours} is not {float}");
        }
    }

    /// A release that changes one of these would own buckets twice during a rolling upgrade.
    #[test]
    fn the_vectors_are_pinned() {
        assert_eq!(LOG2[1], 405_291_482_458_823, "log2(257/256)");
        assert_eq!(LOG2[128], 42_150_990_404_376_199, "log2(3/2)");
        assert_eq!(name_key("web1"), 2_927_186_535_986_334_975, "key of a name");
        assert_eq!(score(name_key("web1"), Bucket(4711), 1), 93_743_752_039_024_464, "a score");
        assert_eq!(score(name_key("web2"), Bucket(65_535), 3), 46_664_352_833_680_277, "a weighted score");
        let ranks = Ranks::new(&names(5), &[1, 2, 0, 4, 1], BUCKETS);
        let orders: Vec<Vec<u8>> = [0, 1, 4711, 65_535]
            .map(|bucket| ranks.order(Bucket(bucket), all(5)).iter().map(|id| id.0).collect())
            .into();
        assert_eq!(orders, [[3, 0, 4, 1], [3, 1, 0, 4], [3, 1, 0, 4], [3, 4, 1, 0]]);
    }

    #[test]
    fn shares_follow_the_weights() {
        let equal = shares(&Ranks::new(&names(8), &[1; 8], BUCKETS), all(8), 8);
        for share in &equal {
            let off = f64::from(*share) / (BUCKETS as f64 / 8.0) - 1.0;
            assert!(off.abs() < 0.03, "{equal:?}: a share is {:.1} % off", off * 100.0);
        }
        let weights = [1, 2, 3, 0, 10];
        let weighted = shares(&Ranks::new(&names(5), &weights, BUCKETS), all(5), 5);
        for (share, weight) in weighted.iter().zip(weights) {
            let want = BUCKETS as f64 * f64::from(weight) / 16.0;
            assert!((f64::from(*share) - want).abs() <= want * 0.04, "{weighted:?} for weights {weights:?}");
        }
        assert_eq!(weighted[3], 0, "weight 0 owns nothing");
    }

    #[test]
    fn a_loss_moves_only_what_the_lost_node_owned() {
        let ranks = Ranks::new(&names(8), &[1, 1, 2, 1, 1, 3, 1, 1], BUCKETS);
        for lost in (0..8).map(NodeId) {
            let rest = all(8).without(lost);
            for bucket in (0..BUCKETS).map(|bucket| Bucket(bucket as u16)) {
                let (before, after) = (ranks.first(bucket, all(8)), ranks.first(bucket, rest));
                assert!(
                    before == Some(lost) || before == after,
                    "{bucket:?} moved from {before:?} to {after:?}"
                );
            }
        }
    }

    #[test]
    fn a_node_more_in_the_configuration_changes_no_order_among_the_others() {
        let few = Ranks::new(&names(3), &[1; 3], BUCKETS);
        let mut more = names(3);
        more.insert(0, "new".to_owned());
        let more = Ranks::new(&more, &[1; 4], BUCKETS);
        for bucket in (0..BUCKETS).map(|bucket| Bucket(bucket as u16)) {
            let order: Vec<u8> = few.order(bucket, all(3)).iter().map(|id| id.0 + 1).collect();
            let same: Vec<u8> = more.order(bucket, all(4).without(NodeId(0))).iter().map(|id| id.0).collect();
            assert_eq!(order, same, "{bucket:?}");
        }
    }

    #[test]
    fn in_a_cascade_the_first_that_is_there_takes_all() {
        let line = [2, 0, 3].map(NodeId);
        let ranks = Ranks::of(&names(4), &Share::Cascade(line.into()), BUCKETS);
        assert_eq!(shares(&ranks, all(4), 4), [0, 0, BUCKETS as u32, 0]);
        assert_eq!(shares(&ranks, all(4).without(NodeId(2)), 4), [BUCKETS as u32, 0, 0, 0]);
        assert_eq!(shares(&ranks, NodeSet::of(NodeId(1)), 4), [0; 4], "it is not in line");
        assert_eq!(ranks.order(Bucket(7), all(4)), line);
        assert!(ranks.may_own(NodeId(3)) && !ranks.may_own(NodeId(1)));
    }

    #[test]
    fn beyond_the_kept_places_the_order_goes_on() {
        let ranks = Ranks::new(&names(40), &[1; 40], 1024);
        for bucket in (0..1024).map(Bucket) {
            let order = ranks.order(bucket, all(40));
            let last: NodeSet = order[37..].iter().copied().collect();
            assert_eq!(ranks.first(bucket, last), Some(order[37]), "{bucket:?}");
            assert_eq!(ranks.first(bucket, NodeSet::EMPTY), None);
        }
    }
}
