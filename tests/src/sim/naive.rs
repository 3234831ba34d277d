//! Who owns what, from the definition: the smallest `-log2(u) / weight` wins, where u is a hash of (name, bucket). In
//! floating point, so only as sharp as the engine's table of logarithms: whoever comes within a hair of the first may
//! be the first.

use safekit::types::{NodeId, NodeSet};

use super::BUCKETS;

/// `-log2(u)` by bucket and node.
#[derive(Debug)]
pub struct Naive(Vec<Vec<f64>>);

/// The engine's chords lie up to 2.7e-6 below the curve.
const HAIR: f64 = 1e-5;

impl Naive {
    pub fn new(names: &[String]) -> Self {
        let keys: Vec<u64> = names.iter().map(|name| splitmix(fnv(name.as_bytes()))).collect();
        let scores = |bucket: usize| {
            let salt = splitmix((bucket as u64).wrapping_add(0x9e37_79b9_7f4a_7c15));
            let u = |key: &u64| splitmix(key ^ salt).max(1) as f64 / 2_f64.powi(64);
            keys.iter().map(|key| -u(key).log2()).collect()
        };
        Self((0..BUCKETS).map(scores).collect())
    }

    pub fn may_be_first(&self, bucket: usize, node: NodeId, among: NodeSet, weights: &[u32]) -> bool {
        let score = |node: NodeId| {
            let weight = weights[usize::from(node.0)];
            (weight > 0 && among.contains(node))
                .then(|| self.0[bucket][usize::from(node.0)] / f64::from(weight))
        };
        let Some(mine) = score(node) else { return false };
        among.iter().filter_map(score).all(|other| mine <= other + HAIR)
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 14_695_981_039_346_656_037;
    for byte in bytes {
        hash ^= u64::from(*byte);
        hash = hash.wrapping_mul(1_099_511_628_211);
    }
    hash
}

fn splitmix(value: u64) -> u64 {
    let a = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}
