//! Weights that change while the farm runs (R10).
//!
//! A generation is one state of weights and drains. A node *follows* one of them, and several while a change is under
//! way, and owns a bucket only if it is first in it in every generation that it follows. Two nodes in each other's
//! views never both own a bucket as long as some generation is followed by both: in that one, each would have to
//! rank above the other.
//!
//! ```text
//! asked      a wish, carried in heartbeats until a generation that holds it is in force
//! proposed   by the first node of the view, when all of the view follow one generation alone:  {g} -> {g, p}
//! adopted    by everyone who hears of it:                                                      {g} -> {g, p}
//! in force   when all of the view are heard to follow p:                                    {g, p} -> {p}
//! ```
//!
//! **Why this is safe.** A node adds a generation only if it is higher than all that it follows, and gives up the others
//! only for its highest. Let i and j follow nothing in common, i having given up others last, for p; it had heard
//! that j followed p. If j does not any more, it has given up p for a higher q, which it had heard that i followed. If i
//! followed q before it chose p, q was not its highest, so p > q; if it took q up later, it follows q still, for it
//! has given up nothing since. In both cases they have p or q in common. So nothing breaks when two nodes that do not
//! hear each other propose at the same time: there are three generations in flight then, not a wrong one.
//!
//! **Whom this leaves out** are nodes that were not in the view when others were given up: after the heal of a partition,
//! two may follow nothing in common. Each yields to the other what that one may own (R4); the one with the lower
//! generation hears of the higher one and follows it as well; so they have one in common, and the rest goes its
//! usual way. What was asked in the half with the lower one has to be asked again. A node that is not active owns nothing
//! and follows the highest that it knows of alone.

use std::sync::Arc;

use super::peers::Life;
use super::{Engine, Output};
use crate::types::share::FOLLOWED_MAX;
use crate::types::snapshot::MemberState;
use crate::types::{Adjustments, Change, Follows, Generation, GenerationId, NodeId, NodeSet};
use crate::wire::heartbeat::WISHES_MAX;

#[derive(Debug)]
pub(super) struct Generations {
    /// The lowest first; never empty.
    followed: Vec<Arc<Generation>>,
    /// By peers, and not followed.
    offered: Vec<Generation>,
    pub(super) wishes: Vec<Change>,
    /// As last handed to the driver.
    settled: GenerationId,
    /// Counts the changes of `followed`.
    pub(super) version: u64,
}

/// Those that peers of one farm follow at one time, and some that come late.
const OFFERED_MAX: usize = 2 * FOLLOWED_MAX;

impl Generations {
    pub(super) fn new(first: &Generation) -> Self {
        let first = if first.counter == 0 { Generation::configured() } else { first.clone() };
        Self {
            settled: first.id(),
            followed: vec![Arc::new(first)],
            offered: Vec::new(),
            wishes: Vec::new(),
            version: 0,
        }
    }

    pub(super) fn followed(&self) -> &[Arc<Generation>] {
        &self.followed
    }

    pub(super) fn follows(&self) -> Follows {
        Follows::of(self.followed.iter().map(|generation| generation.id()))
    }

    /// The one that everything tends to.
    pub(super) fn highest(&self) -> &Arc<Generation> {
        self.followed.last().expect("a node follows at least one generation")
    }

    fn only(&self) -> Option<&Arc<Generation>> {
        if self.followed.len() == 1 { self.followed.first() } else { None }
    }

    fn offer(&mut self, generation: &Generation) {
        let id = generation.id();
        let known = self.offered.iter().any(|offered| offered.id() == id);
        if known || id <= self.highest().id() {
            return;
        }
        if self.offered.len() >= OFFERED_MAX {
            let lowest = (0..OFFERED_MAX).min_by_key(|place| self.offered[*place].id());
            self.offered.swap_remove(lowest.expect("a full list is not empty"));
        }
        self.offered.push(generation.clone());
    }

    fn follow(&mut self, followed: Vec<Arc<Generation>>) {
        self.followed = followed;
        self.version += 1;
        let highest = self.highest().id();
        self.offered.retain(|offered| offered.id() > highest);
    }
}

impl Engine {
    pub(super) fn change(&mut self, changes: Vec<Change>) {
        for change in changes {
            if !self.knows(&change) {
                continue;
            }
            if let Change::Health { group, node, percent } = change {
                if node == self.setup.me {
                    self.fare(group, percent);
                }
                continue;
            }
            let wishes = &mut self.generations.wishes;
            wishes.retain(|wish| !wish.is_about_the_same(&change));
            wishes.push(change);
        }
        self.drop_granted_wishes();
        self.voice.urgent = true;
    }

    fn knows(&self, change: &Change) -> bool {
        match change {
            Change::Drain { node } | Change::Undrain { node } => self.nodes.contains(*node),
            Change::Weight { group, node, .. } | Change::Health { group, node, .. } => {
                self.nodes.contains(*node) && self.setup.groups.iter().any(|known| known.id == *group)
            }
        }
    }

    pub(super) fn hear_offers(&mut self, offers: &[Generation]) {
        offers.iter().for_each(|offer| self.generations.offer(offer));
    }

    /// Takes up what peers follow, gives up what is no longer needed, proposes what is asked for.
    pub(super) fn agree_on_weights(&mut self) {
        self.take_up();
        self.give_up();
        self.ask_for_own_health();
        self.agree_alone();
        self.propose();
        self.settle();
    }

    /// Peers whose generations matter to me.
    fn heard(&self) -> impl Iterator<Item = &Life> {
        let lives = self.peers.iter().filter_map(|peer| peer.life.as_ref());
        lives.filter(|life| {
            life.same_config == Some(true)
                && life.best.state != MemberState::Leaving
                && life.best.seq.0 > 0
                && self.is_fresh(life)
        })
    }

    fn take_up(&mut self) {
        let mine = self.generations.highest().id();
        let Some(highest) = self.heard().map(|life| life.best.follows.highest()).max() else { return };
        if highest <= mine {
            return;
        }
        let offered = self.generations.offered.iter().find(|offered| offered.id() == highest);
        let Some(generation) = offered.cloned().map(Arc::new) else { return };
        let mut followed = self.generations.followed.clone();
        if followed.len() >= FOLLOWED_MAX {
            // Never seen. To own nothing and to begin anew is always safe.
            self.become_state(MemberState::Joining);
            self.review();
        }
        if !self.is_active() || !self.setup.rules.two_steps {
            followed.clear();
        }
        followed.push(generation);
        self.follow(followed);
    }

    fn give_up(&mut self) {
        if self.generations.followed.len() < 2 {
            return;
        }
        if self.is_active() && !self.missing_answers().is_empty() {
            return;
        }
        let highest = Arc::clone(self.generations.highest());
        self.follow(vec![highest]);
    }

    /// Who may own something and is not known to follow my highest generation.
    fn missing_answers(&self) -> NodeSet {
        if !self.setup.rules.two_steps {
            return NodeSet::EMPTY;
        }
        let highest = self.generations.highest().id();
        let lacks = |node: &NodeId| {
            let life = self.peers[usize::from(node.0)].life.as_ref();
            life.is_some_and(|life| !life.best.follows.contains(highest))
        };
        self.counted().without(self.setup.me).iter().filter(lacks).collect()
    }

    /// All of the view follow one generation alone, so that they follow two at most once mine is out.
    fn propose(&mut self) {
        let Some(current) = self.generations.only().cloned() else { return };
        let first = self.view.members.iter().next() == Some(self.setup.me);
        let settled = |node: NodeId| {
            let life = self.peers[usize::from(node.0)].life.as_ref();
            life.is_some_and(|life| life.best.follows.is_only(current.id()))
        };
        if !first || !self.view.members.without(self.setup.me).iter().all(settled) {
            return;
        }
        let Some(adjustments) = self.wanted(&current) else { return };
        let counter = current.counter.saturating_add(1);
        let next = Generation { counter, proposer: self.setup.me, adjustments };
        self.follow(vec![current, Arc::new(next)]);
    }

    /// A wish that was said before its node followed `current` may have been granted and taken back since.
    fn wanted(&self, current: &Generation) -> Option<Adjustments> {
        let said_now =
            |life: &&Life| life.direct.as_ref().is_some_and(|(said, _)| said.follows.is_only(current.id()));
        // Also of who is no member: a node that waits outside may be asked as well.
        let theirs = self.heard().filter(said_now).flat_map(|life| &life.wishes);
        let mut chosen: Vec<Change> = Vec::new();
        let mut wanted = current.adjustments.clone();
        for wish in self.generations.wishes.iter().chain(theirs).filter(|wish| self.knows(wish)) {
            if wanted.has(wish) || chosen.iter().any(|change| change.is_about_the_same(wish)) {
                continue;
            }
            if let Some(with) = wanted.with(&[*wish]) {
                wanted = with;
                chosen.push(*wish);
            }
        }
        (!chosen.is_empty()).then_some(wanted)
    }

    pub(super) fn follow(&mut self, followed: Vec<Arc<Generation>>) {
        self.generations.follow(followed);
        for group in &mut self.groups {
            group.follow_generations(&self.setup, self.generations.followed());
        }
        self.voice.urgent = true;
    }

    fn settle(&mut self) {
        let Some(only) = self.generations.only().cloned() else { return };
        if only.id() == self.generations.settled {
            return;
        }
        self.generations.settled = only.id();
        self.drop_granted_wishes();
        for group in &mut self.groups {
            group.show(&self.view);
        }
        self.note_drain();
        self.outputs.push_back(Output::Generation(Generation::clone(&only)));
    }

    /// Also those that no generation has room for.
    fn drop_granted_wishes(&mut self) {
        let Some(only) = self.generations.only().cloned() else { return };
        let due = |wish: &Change| {
            !only.adjustments.has(wish) && only.adjustments.with(std::slice::from_ref(wish)).is_some()
        };
        self.generations.wishes.retain(due);
    }

    /// For heartbeats.
    pub(super) fn wishes(&self) -> Vec<Change> {
        self.generations.wishes.iter().take(WISHES_MAX).copied().collect()
    }

    /// What I follow and somebody who might does not.
    pub(super) fn offers(&self) -> Vec<Generation> {
        let lives = || self.peers.iter().flat_map(super::peers::Peer::lives);
        let lacks = |life: &Life, id: GenerationId| {
            life.same_config == Some(true)
                && life.best.state != MemberState::Leaving
                && life.best.follows.highest() < id
                && self.is_fresh(life)
        };
        let followed = self.generations.followed.iter();
        let wanted = followed.filter(|generation| lives().any(|life| lacks(life, generation.id())));
        wanted.map(|generation| Generation::clone(generation)).collect()
    }

    /// Whether some generation is followed by both of us, as far as I know.
    pub(super) fn shares_a_generation(&self, life: &Life) -> bool {
        !self.setup.rules.strangers || life.best.follows.intersects(&self.generations.follows())
    }

    /// The generation in force; while a change is under way, the one before it.
    pub fn generation(&self) -> &Generation {
        &self.generations.followed[0]
    }

    /// What was asked of this node, or of anyone who has proposed it, and is not in force yet: the nodes that have not
    /// followed it yet. None when nothing is under way.
    pub fn pending_change(&self) -> Option<NodeSet> {
        let pending = self.generations.only().is_none() || !self.generations.wishes.is_empty();
        pending.then(|| self.missing_answers())
    }

    /// The nodes that take no new session in any group.
    pub fn drained(&self) -> NodeSet {
        self.generation().adjustments.drained
    }
}
