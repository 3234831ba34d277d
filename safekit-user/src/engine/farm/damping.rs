//! Exclude fast, include fast, but damp who is excluded again and again (R13).
//!
//! Whenever a node is excluded without having said that it goes, its peers add to a penalty that halves every minute.
//! They say so in their reports: the node itself may have lost its memory. While most of the active peers that it hears
//! call it damped, it stays in Announce, where it costs nobody anything; and it serves all the same when no one
//! else can.

use std::time::Duration;

use super::Engine;
use super::peers::Life;
use crate::types::snapshot::MemberState;
use crate::types::{Departure, Instant, NodeId};

/// What one peer remembers of another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    /// In thousandths of an exclusion, as of `at`.
    penalty: u32,
    at: Instant,
    pub(super) damped: bool,
}

const EXCLUSION: u32 = 1000;
/// Reached by four exclusions shortly after one another.
const DAMPED_ABOVE: u32 = 3500;
/// A little over a minute after the fourth.
const FREE_BELOW: u32 = DAMPED_ABOVE / 2;
/// A node that never behaves is free again after five minutes at the latest.
const PENALTY_MAX: u32 = 8 * EXCLUSION * 7 / 2;
const HALF_LIFE: Duration = Duration::from_secs(60);

/// For screens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// In thousandths of an exclusion.
    pub penalty: u32,
    pub damped: bool,
}

impl Record {
    pub(super) fn excluded(&mut self, now: Instant) {
        self.penalty = (self.penalty_at(now) + EXCLUSION).min(PENALTY_MAX);
        self.at = now;
        self.damped |= self.penalty > DAMPED_ABOVE;
    }

    pub(super) fn forgive(&mut self, now: Instant) {
        self.damped = self.damped && self.penalty_at(now) >= FREE_BELOW;
    }

    /// Halved for each half-life, and evenly in between.
    fn penalty_at(&self, now: Instant) -> u32 {
        let past = now.since(self.at);
        let halvings = past.as_secs() / HALF_LIFE.as_secs();
        let penalty = u64::from(self.penalty).checked_shr(halvings as u32).unwrap_or(0);
        let rest = past.as_secs() % HALF_LIFE.as_secs();
        (penalty - penalty * rest / (2 * HALF_LIFE.as_secs())) as u32
    }
}

impl Engine {
    /// A clean leave costs nothing, and neither does what a node says of itself.
    pub(super) fn remember_exclusion(&mut self, node: NodeId, why: Departure) {
        let now = self.now;
        let peer = &mut self.peers[usize::from(node.0)];
        let reborn = peer.life.as_ref().is_none_or(|life| peer.member.is_some_and(|tag| tag != life.tag));
        match why {
            Departure::Silence | Departure::Obituary => peer.record.excluded(now),
            Departure::Changed if reborn => peer.record.excluded(now),
            Departure::Changed | Departure::Leave | Departure::Deaf => {}
        }
    }

    /// Active peers that would serve in my place, and say whether I should not.
    fn judges(&self) -> impl Iterator<Item = (NodeId, &Life)> {
        let others = self.nodes.without(self.setup.me).iter();
        let lives = others.filter_map(|node| Some((node, self.peers[usize::from(node.0)].life.as_ref()?)));
        lives.filter(|(_, life)| {
            life.same_config == Some(true)
                && life.best.state == MemberState::Active
                && life.best.rx_ok
                && self.is_fresh(life)
        })
    }

    /// Whether the peers want me to stay out, and can do without me.
    pub fn is_damped(&self) -> bool {
        if !self.setup.rules.damping {
            return false;
        }
        let me = self.setup.me;
        let says = |life: &Life| life.report_on(me, self.tag).is_some_and(|report| report.damped);
        let (all, against) = self
            .judges()
            .fold((0, 0), |(all, against), (_, life)| (all + 1, against + usize::from(says(life))));
        let drained = self.drained();
        let replaceable = |group: &super::Ownership| {
            let can = |node: NodeId| !drained.contains(node) && group.may_own(node);
            !can(me) || self.judges().any(|(node, _)| can(node))
        };
        against > 0 && against * 2 >= all && self.groups.iter().all(replaceable)
    }

    /// From a node that serves already the peers take more than one word: it steps back only if most of them ask for
    /// it, and never the first of them, so that they do not all step back at once.
    pub(super) fn steps_back(&self) -> bool {
        self.view.members.iter().next() != Some(self.setup.me)
            && self.view.members.len() > 2
            && self.is_damped()
    }

    /// What this node remembers of a peer's exclusions.
    pub fn damping(&self, node: NodeId) -> Option<Damping> {
        let peer = self.peers.get(usize::from(node.0)).filter(|_| node != self.setup.me)?;
        Some(Damping { penalty: peer.record.penalty_at(self.now), damped: peer.record.damped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_exclusion_damps_and_two_minutes_set_free() {
        let at = |seconds: u64| Instant(0) + Duration::from_secs(1000 + seconds);
        let mut record = Record::default();
        for exclusion in 0..4 {
            assert!(!record.damped, "after {exclusion} exclusions");
            record.excluded(at(exclusion));
        }
        assert!(record.damped);
        record.forgive(at(60));
        assert!(record.damped, "{} are left", record.penalty_at(at(60)));
        record.forgive(at(130));
        assert!(!record.damped, "{} are left", record.penalty_at(at(130)));
    }

    #[test]
    fn one_exclusion_a_minute_is_not_often() {
        let mut record = Record::default();
        for minute in 0..100 {
            record.excluded(Instant(0) + Duration::from_secs(60 * minute));
            assert!(!record.damped);
        }
        for second in 0..1000 {
            record.excluded(Instant(0) + Duration::from_secs(6000 + second));
        }
        assert_eq!(record.penalty, PENALTY_MAX);
        let later = Instant(0) + Duration::from_secs(7000 + 300);
        record.forgive(later);
        assert!(!record.damped, "five minutes of peace are always enough: {}", record.penalty_at(later));
    }
}
