//! What must be true: after every step, and in the quiet at the end.

use safekit::engine::farm::Table;
use safekit::types::snapshot::MemberState;
use safekit::types::{Generation, Instant, NodeId, NodeSet};

use super::node::Process;
use super::world::World;
use super::{BUCKETS, GROUP, MS, Nanos};

/// A few steps of the engine, each of which may wait for a table that is being written.
const CLOSED_WITHIN: Nanos = 40 * MS;

impl World {
    /// No two nodes accept a SYN of one bucket at one instant.
    pub fn check_overlap(&mut self, node: usize) {
        if !self.nodes[node].is_open(self.now) || self.net.is_deaf(0, node, self.now) {
            return;
        }
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            if !self.nodes[other].is_open(self.now) || self.net.is_deaf(0, other, self.now) {
                continue;
            }
            let (Some(a), Some(b)) = (self.nodes[node].mine(), self.nodes[other].mine()) else { continue };
            let shared: u32 = a.iter().zip(b).map(|(a, b)| (a & b).count_ones()).sum();
            if shared > 0 && !self.truth.excuses(node, other, self.now, &self.common.timing) {
                let ages = self.truth.ages_ms(node, other, self.now);
                self.violate(&format!(
                    "nodes {node} and {other} both accept {shared} buckets, heard {ages:?} ms ago"
                ));
            }
        }
    }

    /// Each bucket in the table is this node's by its view and the weights in force, computed in another way.
    pub(super) fn check_table(&mut self, node: usize, table: &Table) {
        let Some(engine) = &self.nodes[node].engine else { return };
        let me = NodeId(node as u8);
        let weights = self.weights(engine.generation());
        let among = engine.view().members;
        let wrong =
            table.mine.iter().find(|b| !self.naive.may_be_first(usize::from(b.0), me, among, &weights));
        if let Some(bucket) = wrong {
            self.violate(&format!("node {node} takes {bucket:?}, which is not its own by its view"));
        }
    }

    /// R5, recomputed from this simulation's own books: `min(now + L, last acknowledged send + D)` over the members,
    /// but for those to which the node has given up all that would be theirs without it.
    pub(super) fn check_lease(&mut self, node: usize, until: Instant) {
        let now = self.nodes[node].local(self.now);
        let timing = self.common.timing;
        if !self.common.rules.lease || until <= now {
            return;
        }
        if until > now + timing.lease {
            self.violate(&format!("node {node} has a lease of {:?}", until.since(now)));
        }
        let Some(engine) = &self.nodes[node].engine else { return };
        let me = NodeId(node as u8);
        let others = engine.view().members.without(me);
        let late = |peer: &NodeId| until > self.nodes[node].acked(*peer) + timing.timeout;
        let Some(peer) = others.iter().find(late) else { return };
        let weights = self.weights(engine.generation());
        let kept = !engine.table(GROUP).mine.is_empty() && weights[usize::from(peer.0)] > 0;
        if kept {
            let over = until.since(self.nodes[node].acked(peer) + timing.timeout);
            self.violate(&format!(
                "the lease of node {node} outlasts what node {} acknowledged by {over:?}",
                peer.0
            ));
        }
    }

    /// R14: an application that is down gets no new session, once its node has had the time to write that.
    pub(super) fn check_closed(&mut self, node: usize) {
        let closed = self.nodes[node].closed_since.is_some_and(|since| self.now > since + CLOSED_WITHIN);
        let idle = self.nodes[node].process == Process::Running && self.nodes[node].work.is_empty();
        if closed && idle {
            self.violate(&format!("node {node} takes a connection for an application that is down"));
        }
    }

    /// Buckets without an owner, and with more than one. A node whose receiver is broken owns what it has not given
    /// up, but cannot accept it twice.
    pub fn ownership(&self) -> (usize, usize) {
        let mut once = [0_u64; BUCKETS / 64];
        let mut twice = [0_u64; BUCKETS / 64];
        let mut claimed = [0_u64; BUCKETS / 64];
        for node in 0..self.nodes.len() {
            let Some(mine) = self.nodes[node].mine().filter(|_| self.nodes[node].is_open(self.now)) else {
                continue;
            };
            let deaf = self.net.is_deaf(0, node, self.now);
            for (place, word) in mine.iter().enumerate() {
                claimed[place] |= word;
                if !deaf {
                    twice[place] |= once[place] & word;
                    once[place] |= word;
                }
            }
        }
        let count = |words: &[u64]| words.iter().map(|word| word.count_ones() as usize).sum::<usize>();
        (BUCKETS - count(&claimed), count(&twice))
    }

    /// In force by that generation; drained nodes weigh nothing.
    fn weights(&self, generation: &Generation) -> Vec<u32> {
        let adjustments = &generation.adjustments;
        let weight = |(node, configured): (usize, &u32)| {
            let node = NodeId(node as u8);
            let drained = adjustments.drained.contains(node);
            let set = adjustments.weights.iter().find(|set| set.group == GROUP && set.node == node);
            let weight = set.map_or(*configured, |set| set.weight);
            if drained { 0 } else { weight * u32::from(adjustments.health(GROUP, node)) }
        };
        self.common.weights.iter().enumerate().map(weight).collect()
    }

    /// After two detection times of quiet: one view, one generation, one owner for each bucket, and its kernel is open.
    pub fn check_converged(&mut self) {
        let alive: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].process == Process::Running).collect();
        let everybody: NodeSet =
            alive.iter().filter(|node| !self.waits_outside(**node)).map(|node| NodeId(*node as u8)).collect();
        let mut generations = Vec::new();
        for node in &alive {
            let Some(engine) = &self.nodes[*node].engine else { continue };
            let (view, pending) = (engine.view().members, engine.pending_change());
            generations.push(engine.generation().clone());
            if view != everybody {
                self.violate(&format!("in the quiet, node {node} sees {view:?} of {everybody:?}"));
            }
            if let Some(pending) = pending {
                self.violate(&format!("in the quiet, node {node} waits for {pending:?} with a change"));
            }
        }
        if let Some(other) = generations.iter().find(|other| **other != generations[0]) {
            self.violate(&format!("in the quiet, {other:?} is in force beside {:?}", generations[0]));
        }
        let Some(generation) = generations.first() else { return };
        let weights = self.weights(generation);
        for bucket in 0..BUCKETS {
            let takers: Vec<usize> =
                (0..self.nodes.len()).filter(|node| self.takes(*node, bucket as u16)).collect();
            let owned = everybody.iter().any(|node| weights[usize::from(node.0)] > 0);
            let right =
                |taker: &usize| self.naive.may_be_first(bucket, NodeId(*taker as u8), everybody, &weights);
            if takers.len() != usize::from(owned) || !takers.iter().all(right) {
                self.violate(&format!("in the quiet, bucket {bucket} is accepted by {takers:?}"));
                return;
            }
        }
    }

    /// Damped (R13), and for a reason: somebody did see it go away four times.
    fn waits_outside(&self, node: usize) -> bool {
        let Some(engine) = &self.nodes[node].engine else { return false };
        let excluded = (0..self.nodes.len()).any(|by| self.exclusions[by][node] >= 4);
        excluded && engine.member_state() == MemberState::Announce && engine.is_damped()
    }
}
