//! What a change would move, before anybody asks for it.

use std::collections::BTreeMap;

use super::Engine;
use super::ownership::Order;
use crate::types::{Bucket, Change, Generation, GroupId, NodeId, Share};

/// Buckets that would change hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub group: GroupId,
    /// None: nobody owned them, or nobody would.
    pub from: Option<NodeId>,
    pub to: Option<NodeId>,
    pub buckets: u32,
}

impl Engine {
    /// Whether a generation can hold the changes, on top of what is under way.
    pub fn has_room_for(&self, changes: &[Change]) -> bool {
        self.with(changes).is_some()
    }

    fn with(&self, changes: &[Change]) -> Option<Generation> {
        let highest = self.generations.highest();
        let asked = highest.adjustments.with(&self.generations.wishes)?;
        Some(Generation { adjustments: asked.with(changes)?, counter: 1, ..**highest })
    }

    /// Among the present members, on top of what is under way. None when there is no room.
    pub fn preview(&self, changes: &[Change]) -> Option<Vec<Moved>> {
        let next = self.with(changes)?;
        let mut moved = Vec::new();
        for group in &self.groups {
            let before = group.in_force();
            let after = Order::of(&self.setup, group.id(), &next, group.orders());
            let mut counts: BTreeMap<(Option<NodeId>, Option<NodeId>), u32> = BTreeMap::new();
            for bucket in (0..self.setup.buckets).map(|bucket| Bucket(bucket as u16)) {
                let members = self.view.members;
                let (from, to) = (before.first(bucket, members), after.first(bucket, members));
                if from != to {
                    *counts.entry((from, to)).or_default() += 1;
                }
            }
            let group = group.id();
            moved.extend(counts.into_iter().map(|((from, to), buckets)| Moved { group, from, to, buckets }));
        }
        Some(moved)
    }

    /// By node: the weight in force; in a cascade the place in line, from 1. 0: it owns nothing.
    pub fn weights(&self, group: GroupId) -> Vec<u32> {
        let order = self.group(group).in_force();
        let weight = |node: NodeId| match order.share() {
            _ if self.drained().contains(node) => 0,
            Share::Weighted(weights) => weights[usize::from(node.0)],
            Share::Cascade(line) => {
                line.iter().position(|in_line| *in_line == node).map_or(0, |place| place as u32 + 1)
            }
        };
        (0..self.setup.nodes.len()).map(|node| weight(NodeId(node as u8))).collect()
    }
}
