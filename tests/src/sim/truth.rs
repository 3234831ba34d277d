//! What really happened between nodes, as nobody inside can know it.

use safekit::types::Timing;

use super::{MS, Nanos, nanos};

/// `evidence[b][a]`: the latest send time of a heartbeat of `a` that `b` has processed, or that somebody had received
/// from `a` itself when he sent one that `b` has processed. A heartbeat of a life that has not proved itself to `b`
/// is evidence only when `b` has been hearing that life for L_y: before that, it may as well be a recording.
#[derive(Debug)]
pub struct Truth {
    direct: Vec<Vec<Nanos>>,
    evidence: Vec<Vec<Nanos>>,
    resumed: Vec<Vec<Nanos>>,
    hold: Nanos,
    /// When a receiver that was deaf to everything worked again.
    hears_since: Vec<Nanos>,
    /// `evidence` of that node at that moment.
    before: Vec<Vec<Nanos>>,
    deaf: Vec<bool>,
    acquainted: Vec<Vec<(u32, Nanos)>>,
}

impl Truth {
    pub fn new(nodes: usize, hold: Nanos) -> Self {
        Self {
            direct: vec![vec![0; nodes]; nodes],
            evidence: vec![vec![0; nodes]; nodes],
            resumed: vec![vec![0; nodes]; nodes],
            hold,
            hears_since: vec![0; nodes],
            before: vec![vec![0; nodes]; nodes],
            deaf: vec![false; nodes],
            acquainted: vec![vec![(0, 0); nodes]; nodes],
        }
    }

    /// A new life knows nothing.
    pub fn reborn(&mut self, node: usize) {
        self.direct[node].fill(0);
        self.evidence[node].fill(0);
        self.acquainted[node].fill((0, 0));
    }

    /// What a heartbeat of `sender` carries on.
    pub fn carried_by(&self, sender: usize) -> Vec<Nanos> {
        self.direct[sender].clone()
    }

    pub fn direct(&mut self, by: usize, of: usize, sent: Nanos, now: Nanos) {
        let known = &mut self.direct[by][of];
        *known = (*known).max(sent);
        self.learned(by, of, sent, now);
    }

    /// Not handed on.
    pub fn learned(&mut self, by: usize, of: usize, sent: Nanos, now: Nanos) {
        let known = &mut self.evidence[by][of];
        if sent > *known + self.hold {
            self.resumed[by][of] = now;
        }
        *known = (*known).max(sent);
    }

    /// Send time of the last evidence.
    pub fn last(&self, by: usize, of: usize) -> Nanos {
        self.evidence[by][of]
    }

    /// When there was evidence again after a silence longer than HOLD.
    pub fn resumed(&self, by: usize, of: usize) -> Nanos {
        self.resumed[by][of]
    }

    /// Since when `by` has been hearing that life of `of`.
    pub fn acquainted(&mut self, by: usize, of: usize, tag: u32, now: Nanos) -> Nanos {
        let (life, since) = &mut self.acquainted[by][of];
        if *life != tag {
            (*life, *since) = (tag, now);
        }
        *since
    }

    /// How old the evidence is that each of two has of the other.
    pub fn ages_ms(&self, a: usize, b: usize, now: Nanos) -> [u64; 2] {
        [(a, b), (b, a)].map(|(by, of)| now.saturating_sub(self.evidence[by][of]) / 1_000_000)
    }

    /// Whether `node` hears nothing at all any more, or hears again.
    pub fn deaf(&mut self, node: usize, deaf: bool, now: Nanos) {
        if self.deaf[node] && !deaf {
            self.hears_since[node] = now;
            self.before[node] = self.evidence[node].clone();
        }
        self.deaf[node] = deaf;
    }

    /// The excused windows of the protocol. A partition without a relay: neither has had evidence of the other for
    /// longer than D; it ends with the first heartbeat that one of them processes. And the return of a broken
    /// receiver: a node that heard nothing at all for longer than D took itself for the only one left (see the engine's
    /// lifecycle), until the other hears it say that it hears again: two intervals, if they can hear each other. What a
    /// third node hands on in that time tells of the deafness, not of its end.
    pub fn excuses(&self, a: usize, b: usize, now: Nanos, timing: &Timing) -> bool {
        let without =
            |by: usize, of: usize| now.saturating_sub(self.evidence[by][of]) > nanos(timing.timeout);
        let returned = |by: usize, of: usize| {
            let told = self.hears_since[by] + 2 * nanos(timing.interval) + 5 * MS;
            let back = self.hears_since[by];
            let was_without = back.saturating_sub(self.before[by][of]) > nanos(timing.timeout);
            let at_first = now < told && (was_without || without(by, of));
            back > 0 && (at_first || (self.evidence[of][by] < told && without(by, of)))
        };
        (without(a, b) && without(b, a)) || returned(a, b) || returned(b, a)
    }
}
