//! What the daemons reported, put in one order: when a fault was noticed, and when every bucket was owned again.
//!
//! All daemons of the demo read one boot clock, so their events can be compared with each other and with ours.
//! Pure: a test is a list of events.

use std::collections::BTreeMap;

use crate::types::{Departure, Event, EventKind, GroupId, Instant, NodeId};

/// Which way a node's membership changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Gone,
    Back,
}

/// A change of membership that the demo caused.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub at: Instant,
    pub victim: NodeId,
    pub change: Change,
    /// Buckets of all groups together.
    pub full: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Who reported what.
    pub reports: Vec<(NodeId, Event)>,
    /// When a daemon was killed: from then on it owns nothing, whatever it reported last.
    pub downs: Vec<(NodeId, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Owns nothing any more.
    Down(NodeId),
    Owns(NodeId, GroupId, u32),
}

impl Timeline {
    /// When the first other node saw the change.
    pub fn detected(&self, fault: &Fault) -> Option<Instant> {
        let others =
            self.reports.iter().filter(|(node, event)| *node != fault.victim && event.at >= fault.at);
        let seen = others.filter(|(_, event)| match event.kind {
            EventKind::Departed { node, .. } => fault.change == Change::Gone && node == fault.victim,
            EventKind::Joined { node } => fault.change == Change::Back && node == fault.victim,
            EventKind::View { .. }
            | EventKind::Applied { .. }
            | EventKind::Member { .. }
            | EventKind::WokeLate { .. } => false,
        });
        seen.map(|(_, event)| event.at).min()
    }

    /// Since when every bucket has been owned, and applied in a kernel, without the victim or with it, until
    /// `until`. None: it is not so at `until`.
    pub fn converged(&self, fault: &Fault, until: Instant) -> Option<Instant> {
        let mut owned = Owned::default();
        let mut since = None;
        for (at, step) in self.steps().into_iter().filter(|(at, _)| *at < until) {
            owned.take(step);
            let settled =
                owned.total() == fault.full && (owned.of(fault.victim) > 0) == (fault.change == Change::Back);
            since = if settled { since.or(Some(at.max(fault.at))) } else { None };
        }
        since
    }

    /// Buckets by node at the end.
    pub fn owned(&self, node: NodeId) -> u64 {
        let mut owned = Owned::default();
        self.steps().into_iter().for_each(|(_, step)| owned.take(step));
        owned.of(node)
    }

    fn steps(&self) -> Vec<(Instant, Step)> {
        let reported = self.reports.iter().filter_map(|(node, event)| match event.kind {
            EventKind::Applied { group, owned, .. } => Some((event.at, Step::Owns(*node, group, owned))),
            // It released before it said so (R9); its own report may have died with it.
            EventKind::Departed { node, why: Departure::Leave } => Some((event.at, Step::Down(node))),
            EventKind::Departed { .. }
            | EventKind::Joined { .. }
            | EventKind::View { .. }
            | EventKind::Member { .. }
            | EventKind::WokeLate { .. } => None,
        });
        let downs = self.downs.iter().map(|(node, at)| (*at, Step::Down(*node)));
        let mut steps: Vec<(Instant, Step)> = reported.chain(downs).collect();
        steps.sort_by_key(|(at, step)| (*at, matches!(step, Step::Owns(..))));
        steps
    }
}

#[derive(Default)]
struct Owned(BTreeMap<(NodeId, GroupId), u32>);

impl Owned {
    fn take(&mut self, step: Step) {
        match step {
            Step::Down(node) => self.0.retain(|(owner, _), _| *owner != node),
            Step::Owns(node, group, buckets) => _ = self.0.insert((node, group), buckets),
        }
    }

    fn of(&self, node: NodeId) -> u64 {
        self.0.iter().filter(|((owner, _), _)| *owner == node).map(|(_, buckets)| u64::from(*buckets)).sum()
    }

    fn total(&self) -> u64 {
        self.0.values().map(|buckets| u64::from(*buckets)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId(0);

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn owns(node: u8, millis: u64, owned: u32) -> (NodeId, Event) {
        (
            NodeId(node),
            Event { at: at(millis), kind: EventKind::Applied { group: G, owned, transitional: 0 } },
        )
    }

    fn departed(by: u8, millis: u64, node: u8, why: Departure) -> (NodeId, Event) {
        (NodeId(by), Event { at: at(millis), kind: EventKind::Departed { node: NodeId(node), why } })
    }

    fn joined(by: u8, millis: u64, node: u8) -> (NodeId, Event) {
        (NodeId(by), Event { at: at(millis), kind: EventKind::Joined { node: NodeId(node) } })
    }

    fn fault(millis: u64, victim: u8, change: Change) -> Fault {
        Fault { at: at(millis), victim: NodeId(victim), change, full: 90 }
    }

    /// Three nodes with thirty buckets each.
    fn three() -> Vec<(NodeId, Event)> {
        (0..3).map(|node| owns(node, 1, 30)).collect()
    }

    #[test]
    fn a_killed_node_is_noticed_once_and_served_when_the_last_survivor_has_its_share() {
        let mut timeline = Timeline { reports: three(), downs: vec![(NodeId(2), at(100))] };
        let fault = fault(100, 2, Change::Gone);
        assert_eq!(timeline.converged(&fault, at(500)), None, "thirty buckets are nobody's");
        timeline
            .reports
            .extend([departed(1, 303, 2, Departure::Silence), departed(0, 305, 2, Departure::Silence)]);
        timeline.reports.extend([owns(0, 315, 45), owns(1, 318, 45)]);
        assert_eq!(timeline.detected(&fault), Some(at(303)));
        assert_eq!(timeline.converged(&fault, at(500)), Some(at(318)));
    }

    #[test]
    fn a_total_that_does_not_stay_does_not_count() {
        let mut timeline = Timeline { reports: three(), downs: vec![(NodeId(2), at(100))] };
        timeline.reports.extend([owns(0, 110, 60), owns(0, 120, 30), owns(1, 130, 60)]);
        assert_eq!(timeline.converged(&fault(100, 2, Change::Gone), at(500)), Some(at(130)));
    }

    #[test]
    fn a_node_that_leaves_has_released_when_the_others_know() {
        let mut timeline = Timeline { reports: three(), downs: vec![] };
        let fault = fault(100, 1, Change::Gone);
        timeline.reports.extend([departed(0, 102, 1, Departure::Leave), owns(0, 103, 45), owns(2, 104, 45)]);
        assert_eq!(timeline.converged(&fault, at(500)), Some(at(104)));
        assert_eq!(timeline.owned(NodeId(1)), 0);
    }

    #[test]
    fn a_crashed_daemon_is_served_for_before_it_returns_and_served_with_after() {
        let mut timeline = Timeline { reports: three(), downs: vec![(NodeId(2), at(100))] };
        timeline.reports.extend([
            departed(0, 101, 2, Departure::Obituary),
            owns(0, 102, 45),
            owns(1, 103, 45),
        ]);
        timeline.reports.extend([joined(0, 400, 2), owns(0, 400, 30), owns(1, 401, 30), owns(2, 403, 30)]);
        let gone = fault(100, 2, Change::Gone);
        let back = fault(100, 2, Change::Back);
        let rejoined = timeline.detected(&back).unwrap();
        assert_eq!(timeline.converged(&gone, rejoined), Some(at(103)));
        assert_eq!(timeline.converged(&gone, at(500)), None);
        assert_eq!(timeline.converged(&back, at(500)), Some(at(403)));
    }
}
