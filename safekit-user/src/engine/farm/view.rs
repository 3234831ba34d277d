//! Who is a member (R2), and to whom this node yields (R4).

use super::peers::Life;
use super::{Engine, GHOST, View};
use crate::types::snapshot::MemberState;
use crate::types::{Departure, EventKind, Instant, NodeId, NodeSet, ViewId};

/// What ownership follows from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Basis {
    pub(super) serve: bool,
    /// The members, those who were until a moment ago, and those who may have become one unheard.
    pub(super) live: NodeSet,
    /// To each of these I give up all that it would own alone.
    pub(super) yields: NodeSet,
    /// Of these, the ones that go by generations of which I follow none: they may own anything.
    pub(super) strangers: NodeSet,
    /// Changes whenever I follow other generations than before.
    pub(super) generations: u64,
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
        peer.record.forgive(now);
        if peer.ghost_until.is_some_and(|until| now >= until) {
            peer.ghost_until = None;
        }
        match (was, why) {
            (false, Some(_)) => {}
            (true, Some(why)) => {
                peer.departed = Some(why);
                // Whoever said that it goes has released before; who is just silent has to be waited for (R3).
                peer.ghost_until = (why == Departure::Silence).then(|| now + GHOST);
                self.remember_exclusion(node, why);
                self.peers[usize::from(node.0)].member = None;
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
        let serve = self.may_serve(self.members_and_ghosts().without(self.setup.me).is_empty());
        let live = self.counted();
        let yields = if serve && self.setup.rules.yielding {
            self.nodes.without(self.setup.me).iter().filter(|node| self.yields_to(*node)).collect()
        } else {
            NodeSet::EMPTY
        };
        let is_stranger = |node: &NodeId| {
            let life = self.peers[usize::from(node.0)].life.as_ref();
            life.is_none_or(|life| !self.shares_a_generation(life))
        };
        let strangers = yields.iter().filter(is_stranger).collect();
        Basis { serve, live, yields, strangers, generations: self.generations.version }
    }

    fn members_and_ghosts(&self) -> NodeSet {
        let ghosts = self.nodes.iter().filter(|node| self.peers[usize::from(node.0)].ghost_until.is_some());
        self.view.members.union(ghosts.collect())
    }

    /// Whoever may own something.
    pub(super) fn counted(&self) -> NodeSet {
        let unheard =
            self.nodes.without(self.setup.me).iter().filter(|node| self.may_be_active_by_now(*node));
        self.members_and_ghosts().union(unheard.collect())
    }

    /// R4: the peer may act as if I were not there, or may soon. Then everything that it could own is given up, not
    /// only what it would own among the members that I know: whoever misses me may miss them as well, and a moment
    /// later.
    fn yields_to(&self, node: NodeId) -> bool {
        let peer = &self.peers[usize::from(node.0)];
        match &peer.life {
            Some(life) if self.is_fresh(life) => self.may_miss_me(life),
            Some(_) | None => peer.candidates.iter().any(|life| self.may_serve_unproved(life)),
        }
    }

    /// Whether a peer that goes by my rules owns, or will own before I hear of it, what should be mine.
    fn may_miss_me(&self, life: &Life) -> bool {
        if life.same_config != Some(true) || !life.best.rx_ok {
            return false;
        }
        // It has not heard yet that I take part: it may have taken what I gave up, or be about to take everything.
        let unclaimed = self.member.claim.is_none_or(|claim| life.acked_seq() < claim.first);
        // Silence is no lack of answer: its last evidence is compared with what it knew of me then.
        let unanswered = life.fresh.since(life.acked_sent()) > self.setup.timing.yield_after();
        match life.best.state {
            MemberState::Leaving => false,
            // A node that woke late has old answers at first; it does nothing for D.
            MemberState::Joining => unclaimed,
            MemberState::Announce => unclaimed || unanswered,
            MemberState::Active => {
                unclaimed
                    || unanswered
                    || !life.best.view.contains(self.setup.me)
                    || !self.shares_a_generation(life)
            }
        }
    }

    /// It was on its way to become active when it fell silent. If that was because we were parted, it may own buckets
    /// now in which it ranks above me, for as long as it may believe that I am there.
    fn may_be_active_by_now(&self, node: NodeId) -> bool {
        let Some(life) = &self.peers[usize::from(node.0)].life else { return false };
        let on_its_way = match life.best.state {
            MemberState::Joining | MemberState::Announce => true,
            MemberState::Active | MemberState::Leaving => false,
        };
        let silent = self.now.since(life.fresh) > self.setup.timing.yield_after();
        on_its_way && silent && self.is_fresh(life) && life.same_config == Some(true) && life.best.rx_ok
    }

    /// A life that has not proved itself may be real.
    ///
    /// It proves itself within a round trip if it hears me. So while my own claim is new, I wait for those that I hear
    /// before I take anything: they may hold what I gave up.
    ///
    /// A life that I hear and that has never heard me cannot prove itself; if it is real, it serves. A recording
    /// looks the same, so this is the narrowest case that covers a link broken in one direction since the peer
    /// started: nothing else is heard of that node, and the life has been speaking for L_y, without me in its view
    /// or with word of my present life.
    /// An attacker needs a stretch of a life that ended before mine began, recorded while this node was down.
    fn may_serve_unproved(&self, life: &Life) -> bool {
        let lately = self.setup.timing.yield_after();
        let knows_me = life.report_on(self.setup.me, self.tag).is_some();
        let apart = life.same_config == Some(true)
            && life.best.rx_ok
            && life.best.state != MemberState::Leaving
            && (!life.best.view.contains(self.setup.me) || knows_me)
            && self.is_fresh(life);
        let steady = life.fresh.since(life.first) >= lately;
        let met_now = self.member.claim.is_none_or(|claim| self.now.since(claim.at) < lately);
        apart && (steady || (met_now && life.best.state == MemberState::Active))
    }

    /// R5's second term: when the first peer to which I do not yield may begin to miss me.
    pub(super) fn missed_from(&self) -> Option<Instant> {
        let threats = self.nodes.without(self.setup.me).iter().filter_map(|node| {
            let life = self.peers[usize::from(node.0)].life.as_ref()?;
            let rules = life.same_config == Some(true) && life.best.rx_ok && self.is_fresh(life);
            // Also one that said that it is only joining: if I hear that late, it may act by now.
            let acts = life.best.state != MemberState::Leaving;
            let yielded = self.basis.yields.contains(node);
            (rules && acts && !yielded).then(|| life.acked_sent() + self.setup.timing.timeout)
        });
        threats.min()
    }
}
