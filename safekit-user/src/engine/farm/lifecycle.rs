//! This node's own membership.
//!
//! ```text
//! Joining --listened D--> Announce --2 h and 2 heartbeats--> Active --leave--> Leaving --released, said, drained--> Left
//!    ^                       ^     '--> and not damped          |  |
//!    |                       '------------- damped (R13) -------+  |
//!    '---- woke later than D, carrier lost, other configuration ---'
//! ```
//!
//! **Deaf (R12).** A node that has heard no peer and no frame for L_y says so (`rx_ok` false) and releases; its peers
//! exclude it at once and take. They could not wait for its silence, for it is not silent. When it also has nobody left
//! in its view (D after the last heartbeat), it cannot tell "my receiver is broken" from "all others are dead", and
//! there the single survivor must serve. So it takes everything: if its receiver is broken, nothing arrives that it
//! could accept; if the others are dead, it is right. Only the moment in which a broken receiver works again is
//! not covered: until the first heartbeat arrives, at most one interval, both accept, as after the heal of a
//! partition. A node that is alone from the start, or a cluster of one, serves for the same reason.
//!
//! A frame that arrives when no heartbeat has for L_y proves that the receiver works and the peers are dead, or
//! that something eats their heartbeats. Then the node is not deaf, and if they do live, they yield to it (R4).
//! The proof is good for half a minute of quiet, so that a quiet network does not make the two take turns.

use std::time::Duration;

use super::{Engine, Output};
use crate::types::snapshot::MemberState;
use crate::types::{EventKind, Instant, NodeId, Seq};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) state: MemberState,
    /// In this state since.
    since: Instant,
    /// Of the virtual IP's network.
    carrier: bool,
    /// The last time that anything arrived.
    heard: Instant,
    /// The last time that a heartbeat did.
    heard_peer: Instant,
    /// The last time that a frame did when no heartbeat had for L_y.
    proved: Option<Instant>,
    pub(super) rx_ok: bool,
    /// My first heartbeat that claims a share, while one does. A peer that has not acknowledged it may have taken my
    /// buckets when I gave them up, so I yield to it.
    pub(super) claim: Option<Claim>,
    woke: Option<Woke>,
    leaving: Option<Leaving>,
    pub(super) left: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) first: Seq,
    pub(super) at: Instant,
}

/// R7: no member has answered yet what was sent from then on.
#[derive(Clone, Copy, Debug)]
struct Woke {
    first: Seq,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Leaving {
    drained_by: Instant,
    /// The heartbeat that said it first.
    first: Seq,
}

/// How long one frame proves that the receiver works.
const PROVED_FOR: Duration = Duration::from_secs(30);

/// Enough that one loss does not cost the peers D; they are a tick apart.
const LEAVING_BEATS: u64 = 3;

impl Member {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: MemberState::Joining,
            since: now,
            carrier: true,
            heard: now,
            heard_peer: now,
            proved: None,
            rx_ok: true,
            claim: None,
            woke: None,
            leaving: None,
            left: false,
        }
    }
}

impl Engine {
    pub(super) fn is_active(&self) -> bool {
        self.member.state == MemberState::Active
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.member.leaving.is_some()
    }

    /// Answers have not come yet (R7): the kernel stays shut and the table as it is.
    pub(super) fn waits_for_answers(&self) -> bool {
        self.member.woke.is_some()
    }

    /// Whether this node may own anything at all. `alone`: nobody else counts any more.
    pub(super) fn may_serve(&self, alone: bool) -> bool {
        self.is_active() && self.member.carrier && (self.member.rx_ok || alone || !self.setup.rules.deaf)
    }

    /// R7: the process did not run for `late`. What it believes about others is that old.
    pub(super) fn distrust_after(&mut self, late: Duration) {
        let timing = self.setup.timing;
        if !self.setup.rules.woke_late || late <= timing.lease {
            return;
        }
        self.stop_accepting();
        self.event(EventKind::WokeLate { late_ms: late.as_millis() as u64 });
        if late > timing.timeout {
            if !self.is_leaving() {
                self.become_state(MemberState::Joining);
            }
            return;
        }
        // Who was heard before the pause may have spoken during it: that was my silence, not theirs.
        for life in self.peers.iter_mut().filter_map(|peer| peer.life.as_mut()) {
            life.fresh = life.fresh + late;
        }
        self.member.heard = self.member.heard + late;
        self.member.heard_peer = self.member.heard_peer + late;
        if self.is_active() {
            self.member.woke = Some(Woke { first: self.voice.next_seq, at: self.now });
            self.voice.urgent = true;
        }
    }

    pub(super) fn carrier(&mut self, up: bool) {
        if self.member.carrier == up {
            return;
        }
        self.member.carrier = up;
        self.voice.urgent = true;
        if !self.is_leaving() {
            self.become_state(MemberState::Joining);
        }
    }

    pub(super) fn leave(&mut self, drain_max: Duration) {
        let drained_by = self.now + drain_max;
        if let Some(leaving) = &mut self.member.leaving {
            // Asked again: in more of a hurry, perhaps.
            leaving.drained_by = leaving.drained_by.min(drained_by);
            return;
        }
        self.stop_accepting();
        self.become_state(MemberState::Leaving);
        let first = self.voice.next_seq;
        self.member.leaving = Some(Leaving { drained_by, first });
    }

    pub(super) fn stop_accepting(&mut self) {
        if self.lease != Instant(0) {
            self.lease = Instant(0);
            self.outputs.push_back(Output::SetLease(Instant(0)));
        }
    }

    pub(super) fn become_state(&mut self, state: MemberState) {
        if state != MemberState::Active {
            self.member.woke = None;
        }
        if self.member.state != state {
            self.event(EventKind::Member { state });
        }
        self.member.state = state;
        self.member.since = self.now;
        self.voice.urgent = true;
    }

    /// What time alone brings about.
    pub(super) fn advance(&mut self, tick: bool) {
        self.notice_deafness();
        let timing = self.setup.timing;
        let here = self.now.since(self.member.since);
        match self.member.state {
            MemberState::Joining if self.member.carrier && here >= timing.timeout => {
                self.become_state(MemberState::Announce);
            }
            MemberState::Announce
                if here >= 2 * timing.interval
                    && self.stranger().is_none()
                    && !self.is_damped()
                    && self.is_understood() =>
            {
                self.become_state(MemberState::Active);
            }
            MemberState::Active if self.stranger().is_some_and(|node| node < self.setup.me) => {
                self.become_state(MemberState::Joining);
            }
            MemberState::Active if tick && self.steps_back() => self.become_state(MemberState::Announce),
            MemberState::Joining | MemberState::Announce | MemberState::Active | MemberState::Leaving => {}
        }
        self.member.claim = match self.member.claim {
            _ if !self.is_active() || !self.member.rx_ok => None,
            Some(claim) => Some(claim),
            None => Some(Claim { first: self.voice.next_seq, at: self.now }),
        };
        self.end_of_wait();
    }

    /// Whatever it says, old or new.
    pub(super) fn heard_a_heartbeat(&mut self) {
        self.member.heard = self.now;
        self.member.heard_peer = self.now;
        self.member.proved = None;
    }

    pub(super) fn heard_a_frame(&mut self) {
        self.member.heard = self.now;
        if self.now.since(self.member.heard_peer) >= self.setup.timing.yield_after() {
            self.member.proved = Some(self.now);
        }
    }

    fn notice_deafness(&mut self) {
        let proved = self.member.proved.is_some_and(|at| self.now.since(at) <= PROVED_FOR);
        let silent = !proved && self.now.since(self.member.heard) > self.setup.timing.yield_after();
        let rx_ok = self.member.carrier && !(silent && self.setup.rules.deaf);
        if rx_ok != self.member.rx_ok {
            self.member.rx_ok = rx_ok;
            self.voice.urgent = true;
        }
    }

    /// The first active node that goes by another configuration: its table and mine would overlap. Who serves already
    /// goes on, and of two that both serve (after the heal of a partition) the first one.
    fn stranger(&self) -> Option<NodeId> {
        let strange = |node: &NodeId| {
            let life = self.peers[usize::from(node.0)].life.as_ref();
            life.is_some_and(|life| {
                life.same_config == Some(false)
                    && life.best.state == MemberState::Active
                    && life.best.rx_ok
                    && self.is_fresh(life)
            })
        };
        self.nodes.iter().find(strange)
    }

    /// R7 ends when everybody has answered who is or may become a member, or when those that have not are dealt with
    /// by the lease's second term and by yielding (R4, R5).
    fn end_of_wait(&mut self) {
        let Some(woke) = self.member.woke else { return };
        let answered = |node: NodeId| {
            let life = self.peers[usize::from(node.0)].life.as_ref();
            life.is_none_or(|life| {
                life.acked_seq() >= woke.first
                    || life.best.state == MemberState::Leaving
                    || !life.best.rx_ok
                    || !self.is_fresh(life)
            })
        };
        let waited = self.now.since(woke.at);
        let timing = &self.setup.timing;
        // Also who is not known yet gets the time to be heard.
        let heard_all = waited >= timing.interval * 5 / 4 && self.nodes.iter().all(answered);
        if heard_all || waited >= timing.timeout {
            self.member.woke = None;
        }
    }

    /// The first heartbeats of a leave are only a tick apart.
    pub(super) fn owes_farewell(&self) -> bool {
        self.member.leaving.is_some_and(|leaving| self.voice.next_seq.0 < leaving.first.0 + LEAVING_BEATS)
    }

    /// R9: gone when everything is released (it was, in the step that began to leave), when the others know or have
    /// been told often enough, and when no connection is left or the time for that is over.
    pub(super) fn finish_leaving(&mut self) {
        let Some(leaving) = self.member.leaving else { return };
        let told = self.voice.next_seq.0.saturating_sub(leaving.first.0);
        let others = self.view.members.without(self.setup.me);
        let known = |node: NodeId| {
            let life = self.peers[usize::from(node.0)].life.as_ref();
            life.is_none_or(|life| !life.best.view.contains(self.setup.me))
        };
        let drained = self.groups.iter().all(super::Ownership::is_drained) || self.now >= leaving.drained_by;
        if drained && told > 0 && (told >= LEAVING_BEATS || others.iter().all(known)) {
            self.member.left = true;
            self.stop_accepting();
            self.outputs.push_back(Output::Left);
        }
    }
}
