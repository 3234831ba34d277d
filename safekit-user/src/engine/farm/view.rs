//! Who is a member (R2), and to whom this node yields (R4).

use super::peers::Life;
use super::{Engine, GHOST, View};
use crate::types::snapshot::MemberState;
use crate::types::{Departure, EventKind, Instant, NodeId, NodeSet, ViewId};

/// What ownership follows from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Basis {
    pub(super) serve: bool,
    /// The members, and those who were until a moment ago.
    pub(super) live: NodeSet,
    pub(super) yields: Vec<Yield>,
}

/// Every bucket that `to` would own if only `among` were there (`to` is one of them) is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Yield {
    pub(super) to: NodeId,
    pub(super) among: NodeSet,
}

impl Engine {
    /// R1: evidence of the last D.
    pub(super) fn is_fresh(&self, life: &Life) -> bool {
        self.now.since(life.fresh) <= self.setup.timing.timeout
    }

    /// Brings view, ghosts and [`Basis`] up to date.
    pub(super) fn review(&mut self) {
        let mut members = NodeSet::EMPTY;
        for node in self.nodes.without(self.setup.me).iter() {
            if self.review_peer(node) {
                members = members.with(node);
            }
        }
        if self.is_active() {
            members = members.with(self.setup.me);
        }
        if members != self.view.members {
            self.change_view(members);
        }
    }

    /// Whether the peer is a member; says so when that changes.
    fn review_peer(&mut self, node: NodeId) -> bool {
        let now = self.now;
        let why = self.why_not_member(node);
        let peer = &mut self.peers[usize::from(node.0)];
        let was = peer.member.is_some();
        if peer.ghost_until.is_some_and(|until| now >= until) {
            peer.ghost_until = None;
        }
        match (was, why) {
            (false, Some(_)) => {}
            (true, Some(why)) => {
                peer.member = None;
                peer.departed = Some(why);
                // Whoever said that it goes has released before; who is just silent has to be waited for (R3).
                peer.ghost_until = (why == Departure::Silence).then(|| now + GHOST);
                self.event(EventKind::Departed { node, why });
            }
            (_, None) => {
                peer.member = peer.life.as_ref().map(|life| life.tag);
                peer.departed = None;
                peer.ghost_until = None;
                if !was {
                    self.event(EventKind::Joined { node });
                }
            }
        }
        why.is_none()
    }

    /// R2.
    fn why_not_member(&self, node: NodeId) -> Option<Departure> {
        let peer = &self.peers[usize::from(node.0)];
        let Some(life) = &peer.life else { return Some(Departure::Changed) };
        if peer.member.is_some_and(|tag| tag != life.tag) {
            return Some(Departure::Changed);
        }
        match life.best.state {
            MemberState::Leaving if life.best.is_dead() => Some(Departure::Obituary),
            MemberState::Leaving => Some(Departure::Leave),
            MemberState::Joining | MemberState::Announce | MemberState::Active if !self.is_fresh(life) => {
                Some(Departure::Silence)
            }
            MemberState::Joining | MemberState::Announce | MemberState::Active if !life.best.rx_ok => {
                Some(Departure::Deaf)
            }
            MemberState::Joining | MemberState::Announce => Some(Departure::Changed),
            MemberState::Active => (life.same_config != Some(true)).then_some(Departure::Changed),
        }
    }

    fn change_view(&mut self, members: NodeSet) {
        self.view = View { id: ViewId(self.view.id.0 + 1), members, since: self.now };
        self.event(EventKind::View { view: self.view.id, members });
        for group in &mut self.groups {
            group.follow(&self.view);
        }
        self.voice.urgent = true;
        self.announce_from_now();
    }

    /// What the tables follow from, now.
    pub(super) fn new_basis(&self) -> Basis {
        let ghosts = self.nodes.iter().filter(|node| self.peers[usize::from(node.0)].ghost_until.is_some());
        let live = self.view.members.union(ghosts.collect());
        let serve = self.may_serve(live.without(self.setup.me).is_empty());
        let mut yields = Vec::new();
        if serve && self.setup.rules.yielding {
            yields.extend(self.nodes.without(self.setup.me).iter().filter_map(|node| self.yield_to(node)));
        }
        Basis { serve, live, yields }
    }

    /// R4: the peer may act as if I were not there, or may soon.
    fn yield_to(&self, node: NodeId) -> Option<Yield> {
        let peer = &self.peers[usize::from(node.0)];
        let life = match &peer.life {
            Some(life) if self.is_fresh(life) || peer.ghost_until.is_some() => {
                self.may_miss_me(life).then_some(life)?
            }
            Some(_) | None => peer.candidates.iter().find(|life| self.may_serve_unproved(life))?,
        };
        let lately = self.setup.timing.yield_after();
        let heard = |other: &NodeId| {
            let other = self.peers[usize::from(other.0)].life.as_ref();
            other.is_some_and(|other| self.now.since(other.fresh) <= lately)
        };
        // It may know less than its view says by now: who has been silent to me may be gone for it.
        let others = self.view.members.without(self.setup.me).without(node);
        let among = others.iter().filter(|other| life.best.view.contains(*other) && heard(other));
        Some(Yield { to: node, among: among.collect::<NodeSet>().with(node) })
    }

    /// Whether a peer that goes by my rules owns, or will own before I hear of it, what should be mine.
    pub(super) fn may_miss_me(&self, life: &Life) -> bool {
        if life.same_config != Some(true) || !life.best.rx_ok {
            return false;
        }
        let timing = &self.setup.timing;
        // Silence is no lack of answer: its last evidence is compared with what it knew of me then.
        let unanswered = life.fresh.since(life.acked_sent()) > timing.yield_after();
        match life.best.state {
            MemberState::Joining | MemberState::Leaving => false,
            MemberState::Announce => unanswered,
            MemberState::Active => {
                let excluded = !life.best.view.contains(self.setup.me);
                let claimed = self.member.claim.is_some_and(|claim| life.acked_seq() >= claim);
                // Silent to me, and maybe I to it, a little longer than it is to me: be gone before it acts.
                let forgotten = self.now.since(life.acked_sent()) > timing.timeout - GHOST;
                excluded || !claimed || unanswered || forgotten
            }
        }
    }

    /// A life that I hear and that has never heard me cannot prove itself; if it is real, it serves. A recording
    /// looks the same, so this is the narrowest case that covers a link broken in one direction since the peer
    /// started: nothing else is heard of that node, and the life has been speaking for L_y, without me in its view.
    /// An attacker needs a stretch of a life that ended before mine began, recorded while this node was down.
    fn may_serve_unproved(&self, life: &Life) -> bool {
        let serves = match life.best.state {
            MemberState::Announce | MemberState::Active => life.best.rx_ok,
            MemberState::Joining | MemberState::Leaving => false,
        };
        serves
            && life.same_config == Some(true)
            && !life.best.view.contains(self.setup.me)
            && self.is_fresh(life)
            && life.fresh.since(life.first) >= self.setup.timing.yield_after()
    }

    /// R5's second term: when the first peer to which I do not yield may begin to miss me.
    pub(super) fn missed_from(&self) -> Option<Instant> {
        let threats = self.nodes.without(self.setup.me).iter().filter_map(|node| {
            let peer = &self.peers[usize::from(node.0)];
            let life = peer.life.as_ref()?;
            let counts = self.is_fresh(life) || peer.ghost_until.is_some();
            let acts = matches!(life.best.state, MemberState::Active | MemberState::Announce);
            let rules = life.same_config == Some(true) && life.best.rx_ok;
            let yielded = self.setup.rules.yielding && self.may_miss_me(life);
            (counts && acts && rules && !yielded).then(|| life.acked_sent() + self.setup.timing.timeout)
        });
        threats.min()
    }
}
