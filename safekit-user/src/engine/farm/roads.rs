//! What directed delivery wants to know: who owns each bucket, and who may hold connections in it.

use super::Engine;
use super::ownership::Reports;
use crate::types::{Bucket, GroupId, NodeId, NodeSet};

impl Engine {
    /// Who owns each bucket by this node's view; 255 where nobody does. Empty where there is no such group.
    pub fn owners(&self, group: GroupId) -> &[u8] {
        self.groups.iter().find(|known| known.id() == group).map_or(&[], |group| group.owners().by_bucket())
    }

    /// By run of buckets ([`HELD_RUN`](crate::wire::heartbeat::HELD_RUN) each): the peers within reach that may have
    /// live connections there, as they say themselves.
    pub fn holders(&self, group: GroupId) -> Vec<NodeSet> {
        let Some(group) = self.groups.iter().find(|known| known.id() == group) else { return Vec::new() };
        let mut holders = vec![NodeSet::EMPTY; group.runs()];
        for node in self.nodes.without(self.setup.me).iter() {
            let Some(life) = &self.peers[usize::from(node.0)].life else { continue };
            // Who is not heard is not reached either.
            let heard = life.direct.is_some_and(|(_, at)| self.now.since(at) <= self.setup.timing.timeout);
            if heard {
                match group.reports(life, self.setup.timing.timeout) {
                    Reports::Nothing => {}
                    Reports::Anywhere => add(&mut holders, node, |_| true),
                    Reports::Runs(runs) => add(&mut holders, node, |run| runs.contains(run)),
                }
            }
        }
        holders
    }
}

fn add(holders: &mut [NodeSet], node: NodeId, holds: impl Fn(Bucket) -> bool) {
    for (run, nodes) in holders.iter_mut().enumerate() {
        if holds(Bucket(run as u16)) {
            *nodes = nodes.with(node);
        }
    }
}
