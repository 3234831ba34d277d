//! What the clients saw: each new connection with its fate, each that broke, and how many answers came when.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use safekit::front::demo::ledger::Failure;
use safekit::types::{Instant, NodeId};

/// Older ones are forgotten: an hour at 500 a second.
const FRESH_MAX: usize = 1_800_000;
/// More say nothing new.
const BREAKS_MAX: usize = 200_000;
/// Answers are counted by slots of this length.
pub const SLOT: Duration = Duration::from_millis(100);
/// A day; later answers are not counted.
const SLOTS_MAX: usize = 864_000;

/// How a client uses its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Opened, asked once, closed.
    Fresh,
    /// Silent until it is asked for a sign of life.
    Idle,
    /// A byte every second or two.
    Slow,
    /// Question and answer, ten times a second.
    Busy,
}

/// A connection of [`Kind::Fresh`] that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    pub started: Instant,
    pub node: NodeId,
}

/// A connection that stood and ended as the client did not want it to.
#[derive(Clone, Copy, Debug)]
pub struct Break {
    pub at: Instant,
    pub opened: Instant,
    pub kind: Kind,
    /// None when it broke before the node had said its name, and nobody saw who accepted it.
    pub node: Option<NodeId>,
    pub failure: Failure,
    /// When the client had last sent something that was not answered.
    pub asked: Option<Instant>,
}

/// An attempt that never became a connection.
#[derive(Clone, Copy, Debug)]
pub struct NotOpened {
    pub started: Instant,
    pub failure: Failure,
}

#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub opened: Instant,
    pub node: NodeId,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug)]
pub struct Ledger {
    began: Instant,
    next: u64,
    held: BTreeMap<Ticket, Held>,
    fresh: VecDeque<Fresh>,
    slots: Vec<u32>,
    pub breaks: Vec<Break>,
    pub not_opened: Vec<NotOpened>,
    /// Connections that stood, of all kinds.
    pub opened: u64,
    /// Ended as the client wanted.
    pub closed: u64,
    /// SYNs that had to be sent again before a connection stood.
    pub handshake_retransmissions: u64,
    pub in_flight: usize,
    /// Ticks that started nothing because too many attempts were under way.
    pub skipped: u64,
    /// How late the client's own clock ran at worst.
    pub late_max: Duration,
    /// The slowest answer on a connection that was held and is not broken.
    pub worst_answer: Duration,
}

impl Ledger {
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            next: 0,
            held: BTreeMap::new(),
            fresh: VecDeque::new(),
            slots: Vec::new(),
            breaks: Vec::new(),
            not_opened: Vec::new(),
            opened: 0,
            closed: 0,
            handshake_retransmissions: 0,
            in_flight: 0,
            skipped: 0,
            late_max: Duration::ZERO,
            worst_answer: Duration::ZERO,
        }
    }

    pub fn stands(&mut self, held: Held) -> Ticket {
        self.opened += 1;
        self.next += 1;
        self.held.insert(Ticket(self.next), held);
        Ticket(self.next)
    }

    pub fn ends(&mut self, ticket: Ticket) -> Option<Held> {
        self.held.remove(&ticket)
    }

    pub fn held(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    pub fn held_by(&self, node: NodeId) -> usize {
        self.held.values().filter(|held| held.node == node).count()
    }

    pub fn fresh_answered(&mut self, fresh: Fresh) {
        self.opened += 1;
        self.closed += 1;
        if self.fresh.len() == FRESH_MAX {
            self.fresh.pop_front();
        }
        self.fresh.push_back(fresh);
    }

    /// Fresh connections that started in `[from, until)`, by node.
    pub fn shares(&self, from: Instant, until: Instant, nodes: usize) -> Vec<u64> {
        let mut shares = vec![0; nodes];
        let inside = self.fresh.iter().filter(|fresh| from <= fresh.started && fresh.started < until);
        inside.for_each(|fresh| shares[usize::from(fresh.node.0)] += 1);
        shares
    }

    pub fn broke(&mut self, broken: Break) {
        if self.breaks.len() < BREAKS_MAX {
            self.breaks.push(broken);
        }
    }

    pub fn was_not_opened(&mut self, attempt: NotOpened) {
        if self.not_opened.len() < BREAKS_MAX {
            self.not_opened.push(attempt);
        }
    }

    pub fn answered(&mut self, now: Instant) {
        let slot = (now.since(self.began).as_nanos() / SLOT.as_nanos()) as usize;
        if slot < SLOTS_MAX {
            if self.slots.len() <= slot {
                self.slots.resize(slot + 1, 0);
            }
            self.slots[slot] += 1;
        }
    }

    /// Answers a second in `[from, until)`, in whole slots.
    pub fn rate(&self, from: Instant, until: Instant) -> f64 {
        let slot = |at: Instant| (at.since(self.began).as_nanos() / SLOT.as_nanos()) as usize;
        let (first, last) = (slot(from) + 1, slot(until));
        if last <= first {
            return 0.0;
        }
        let answers: u64 = self.slots.iter().take(last).skip(first).map(|count| u64::from(*count)).sum();
        answers as f64 / ((last - first) as f64 * SLOT.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn answers_are_counted_where_they_came() {
        let mut ledger = Ledger::new(at(1_000));
        (0..1_000).for_each(|ms| ledger.answered(at(1_000 + ms)));
        (0..500).for_each(|ms| ledger.answered(at(3_000 + ms)));
        assert!((ledger.rate(at(1_050), at(1_950)) - 1_000.0).abs() < 1.0);
        assert_eq!(ledger.rate(at(2_000), at(2_900)), 0.0);
        assert_eq!(ledger.rate(at(9_000), at(9_000)), 0.0);
    }

    #[test]
    fn shares_count_by_the_start() {
        let mut ledger = Ledger::new(at(0));
        for ms in [10, 20, 30] {
            ledger.fresh_answered(Fresh { started: at(ms), node: NodeId((ms / 20) as u8) });
        }
        assert_eq!(ledger.shares(at(10), at(30), 2), [1, 1]);
        assert_eq!((ledger.opened, ledger.closed), (3, 3));
    }

    #[test]
    fn held_connections_are_somewhere_until_they_end() {
        let mut ledger = Ledger::new(at(0));
        let held = Held { opened: at(1), node: NodeId(1), kind: Kind::Idle };
        let ticket = ledger.stands(held);
        assert_eq!((ledger.held_by(NodeId(1)), ledger.held_by(NodeId(0))), (1, 0));
        assert!(ledger.ends(ticket).is_some());
        assert!(ledger.ends(ticket).is_none());
        assert_eq!(ledger.held().count(), 0);
    }
}
