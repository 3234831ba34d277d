//! How well this node's applications are, and what of its part of the traffic follows from that (R14).
//!
//! A node speaks for itself alone. What it says is agreed like a weight (R10), and said again whenever the generation
//! that it follows says otherwise, as after the heal of a partition. Until then:
//!
//! ```text
//! down, active          owns nothing of the group at once: to own less is always safe
//! down, not yet active  does not become active before the others know: they would leave its buckets to it
//! ```
//!
//! A node whose application has never been up since its daemon started is down.

use super::Engine;
use crate::types::share::HEALTH_FULL;
use crate::types::snapshot::MemberState;
use crate::types::{Adjustments, Change, Generation, GroupId};
use std::sync::Arc;

/// By group; what is not in it is well.
#[derive(Clone, Debug)]
pub(super) struct Health(Vec<(GroupId, u8)>);

impl Health {
    pub(super) fn new(of: &[(GroupId, u8)]) -> Self {
        Self(of.to_vec())
    }

    fn of(&self, group: GroupId) -> u8 {
        self.0.iter().find(|(of, _)| *of == group).map_or(HEALTH_FULL, |(_, percent)| *percent)
    }

    fn set(&mut self, group: GroupId, percent: u8) {
        self.0.retain(|(of, _)| *of != group);
        self.0.push((group, percent));
    }

    pub(super) fn is_closed(&self, group: GroupId, rules: &super::Rules) -> bool {
        rules.closing && self.of(group) == 0
    }
}

impl Engine {
    /// An application of this node fares otherwise.
    pub(super) fn fare(&mut self, group: GroupId, percent: u8) {
        self.health.set(group, percent.min(HEALTH_FULL));
    }

    /// What I follow says of me what I do not say of myself.
    pub(super) fn ask_for_own_health(&mut self) {
        let me = self.setup.me;
        let adjustments = &self.generations.highest().adjustments;
        let wrong = |(group, percent): &(GroupId, u8)| {
            (adjustments.health(*group, me) != *percent).then_some(Change::Health {
                group: *group,
                node: me,
                percent: *percent,
            })
        };
        let asked = self.health.0.iter().filter_map(wrong);
        let asked: Vec<Change> = asked.filter(|change| adjustments.with(&[*change]).is_some()).collect();
        let wishes = &mut self.generations.wishes;
        for change in asked {
            if !wishes.contains(&change) {
                wishes.retain(|wish| !wish.is_about_the_same(&change));
                wishes.push(change);
                self.voice.urgent = true;
            }
        }
    }

    /// Nobody gives me more of a group than I can serve.
    pub(super) fn is_understood(&self) -> bool {
        let me = self.setup.me;
        let adjustments = &self.generations.highest().adjustments;
        !self.setup.rules.closing
            || self
                .health
                .0
                .iter()
                .all(|(group, percent)| *percent > 0 || adjustments.health(*group, me) == 0)
    }

    /// Where nobody serves there is nobody to agree: who waits to be understood takes up its own word. It owns nothing
    /// yet, so whatever it follows is safe; of two that do so the higher generation is followed by both.
    pub(super) fn agree_alone(&mut self) {
        let nobody = self.view.members.is_empty() && self.counted().without(self.setup.me).is_empty();
        if self.member.state != MemberState::Announce || !nobody || self.is_understood() {
            return;
        }
        let Some(current) = self.generations.followed().last().cloned() else { return };
        let own: Vec<Change> = self
            .generations
            .wishes
            .iter()
            .filter(|wish| matches!(wish, Change::Health { .. }))
            .copied()
            .collect();
        let Some(adjustments) = Adjustments::with(&current.adjustments, &own) else { return };
        let counter = current.counter.saturating_add(1);
        let next = Generation { counter, proposer: self.setup.me, adjustments };
        self.follow(vec![Arc::new(next)]);
    }

    /// In percent, by node, as in force.
    pub fn healths(&self, group: GroupId) -> Vec<u8> {
        let adjustments = &self.generation().adjustments;
        let nodes = 0..self.setup.nodes.len();
        nodes.map(|node| adjustments.health(group, crate::types::NodeId(node as u8))).collect()
    }
}
