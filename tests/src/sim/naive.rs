//! Who owns what, from the definition: the largest hash of (name, bucket) wins. For weights 0 and 1 the logarithm
//! of the engine changes no order, so none of its code is needed here.

use safekit::types::{NodeId, NodeSet};

use super::BUCKETS;

/// For each bucket all nodes, best first.
#[derive(Debug)]
pub struct Naive(Vec<Vec<NodeId>>);

impl Naive {
    pub fn new(names: &[String]) -> Self {
        let keys: Vec<u64> = names.iter().map(|name| splitmix(fnv(name.as_bytes()))).collect();
        let order = |bucket: usize| {
            let salt = splitmix((bucket as u64).wrapping_add(0x9e37_79b9_7f4a_7c15));
            let mut nodes: Vec<NodeId> = (0..names.len()).map(|node| NodeId(node as u8)).collect();
            nodes.sort_by_key(|node| std::cmp::Reverse(splitmix(keys[usize::from(node.0)] ^ salt)));
            nodes
        };
        Self((0..BUCKETS).map(order).collect())
    }

    pub fn first(&self, bucket: usize, among: NodeSet) -> Option<NodeId> {
        self.0[bucket].iter().copied().find(|node| among.contains(*node))
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
