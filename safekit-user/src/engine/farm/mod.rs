//! Farm membership and ownership: which node answers for which bucket, view by view.
//!
//! Pure. Time comes in as `now`; effects leave as [`Output`], and their order is part of the protocol (R6: the map
//! is written before the heartbeat that says so leaves).
//!
//! No leader, no consensus. Each bucket has a fixed order of preference over the nodes ([`rank`]), and a node owns
//! what it is first in among the members that it sees. Two nodes that have each other in their views therefore
//! never both own a bucket, whatever else differs: each would have to rank above the other. What is left to do is to
//! make sure that a node which may be missing in somebody's view accepts nothing that this somebody would own:
//!
//! ```text
//! hear       heartbeat -> what each peer said, knows and acknowledged        R1, boot ids
//! lifecycle  Joining -> Announce -> Active -> Leaving; late, deaf, unplugged  R7, R8, R9, R12
//! view       who is a member; to whom I yield                                 R2, R3, R4
//! generations  which weights and drains are in force, and how they change       R10
//! damping    who is excluded again and again                                    R13
//! ownership  release -> table;  take, in a later step                         R3, R6
//! lease      until when the kernel may accept                                 R5
//! health     whose application is down                                         R14
//! speak      release written? then say so                                     R6
//! ```

mod damping;
mod generations;
mod health;
mod hear;
mod lease;
mod lifecycle;
mod loads;
mod ownership;
mod peers;
mod preview;
pub mod rank;
mod roads;
mod screens;
mod speak;
#[cfg(test)]
mod tests;
mod transition;
mod view;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::types::snapshot::DrainInfo;
use crate::types::{
    BootId, BucketBits, Change, Event, EventKind, Generation, GroupId, Instant, NodeId, NodeSet, Notes,
    Share, Timing,
};
use crate::wire::heartbeat::Heartbeat;

pub use damping::Damping;
use generations::Generations;
use health::Health;
use lifecycle::Member;
use ownership::Ownership;
use peers::Peer;
pub use preview::Moved;
use speak::Voice;
use view::Basis;

/// One rule group: who may own its buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: GroupId,
    pub share: Share,
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub me: NodeId,
    pub boot: BootId,
    /// Names of all nodes, in the order of the configuration. Ranks hang on names, so an added node moves nothing.
    pub nodes: Vec<String>,
    /// Hash of everything that decides ownership.
    pub config: u64,
    pub timing: Timing,
    pub groups: Vec<Group>,
    /// In force before the whole cluster was restarted, as handed out in [`Output::Generation`].
    pub generation: Generation,
    /// In percent, by group: how well this node's applications are at the start; what is left out is well.
    pub health: Vec<(GroupId, u8)>,
    /// 65,536 in the product; the simulation uses fewer. A multiple of 1,024.
    pub buckets: usize,
    /// How long a gained bucket stays transitional at least, and how long the last word of a node that fell silent
    /// about its live connections is believed. [`HOLD`] in the product.
    pub hold: Duration,
    /// Seed of the jitter of heartbeats.
    pub seed: u64,
    pub rules: Rules,
}

/// A silent node may only have been paused; three seconds is the price that clients of a dead one pay for it.
pub const HOLD: Duration = Duration::from_secs(3);

/// The rules of the protocol that the simulation knows how to miss. The product has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// R1: evidence handed on by a third node counts.
    pub relay: bool,
    /// R4: give up what a peer would own that may not know me.
    pub yielding: bool,
    /// R5: the kernel's permission ends by itself.
    pub lease: bool,
    /// R6: release in the map, then say so, then take.
    pub release_first: bool,
    /// R7: accept nothing after having been late.
    pub woke_late: bool,
    /// R12: a node that hears nothing excludes itself.
    pub deaf: bool,
    /// A boot counts once it has answered, so that recordings of older ones do not.
    pub boot_ids: bool,
    /// R10: a generation is in force once all of the view follow it.
    pub two_steps: bool,
    /// R10: nodes that follow no generation in common yield.
    pub strangers: bool,
    /// R13.
    pub damping: bool,
    /// R14: who is down owns nothing, and does not come in before the others know.
    pub closing: bool,
}

impl Rules {
    pub const ALL: Self = Self {
        relay: true,
        yielding: true,
        lease: true,
        release_first: true,
        woke_late: true,
        deaf: true,
        boot_ids: true,
        two_steps: true,
        strangers: true,
        damping: true,
        closing: true,
    };
}

#[derive(Clone, Debug)]
pub enum Input {
    /// A deadline came (or may have come): look at the clock.
    Timer,
    /// Authenticated; on any network, duplicates included.
    Heartbeat(Heartbeat),
    /// Live connections of this node in buckets that it does not own, one bit a bucket, counted from `since` on.
    /// Half-open ones count: their answer is on the way.
    Held { group: GroupId, buckets: BucketBits, since: Instant, connections: u32 },
    /// All live connections of this node in the group, as counted last. For screens.
    Live { group: GroupId, connections: u32 },
    /// An operator asks for this, on any node, or this node for itself; the last word on one thing counts.
    Change(Vec<Change>),
    /// Carrier of the virtual IP's network interfaces. Up is assumed until told otherwise.
    Carrier { up: bool },
    /// A frame of anybody arrived on the virtual IP's network since the driver last looked (R12). Looking a few times
    /// within the interval of heartbeats is often enough; a frame must not be reported later than L_y / 2.
    FramesSeen,
    /// What this node's data plane has to say from now on.
    Notes(Notes),
    /// Leave the farm: release, announce, keep established connections until none is left or `drain_max` is
    /// over, and then [`Output::Left`]. Zero: do not wait for connections.
    Leave { drain_max: Duration },
}

#[derive(Clone, Debug)]
pub enum Output {
    /// Put this table into the kernel, all of it or nothing.
    WriteTable {
        group: GroupId,
        table: Arc<Table>,
    },
    /// The kernel may accept until then. It may lie in the past: accept nothing.
    SetLease(Instant),
    /// Seal, and send to every peer on every network.
    Send(Heartbeat),
    /// Announce the virtual IPs to the neighbours (gratuitous ARP).
    Announce,
    /// Count the live connections in buckets that are not ours, and answer with [`Input::Held`].
    CountHeld {
        group: GroupId,
    },
    Event(Event),
    /// These weights and drains are in force on this node now: to be kept for a restart of the whole cluster.
    Generation(Generation),
    /// Everything is handed over: the daemon may detach and end.
    Left,
}

/// What one node accepts of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub mine: BucketBits,
    /// Gained or lost lately: packets other than SYN are told apart by local sockets.
    pub transitional: BucketBits,
}

/// Node-level facts for screens.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub node: NodeId,
    pub state: Option<crate::types::snapshot::MemberState>,
    pub member: bool,
    pub heard: Option<Instant>,
    pub departed: Option<crate::types::Departure>,
    pub same_config: Option<bool>,
    /// Heard within the detection time, whether a member or not.
    pub live: bool,
    /// The view that it announced last.
    pub view: Option<NodeSet>,
}

/// Everything that a view holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub id: crate::types::ViewId,
    pub members: NodeSet,
    pub since: Instant,
}

/// How often the clock is looked at: the lease is renewed and silence noticed with this grain.
const TICK: Duration = Duration::from_millis(5);

/// G: a member removed by silence still counts for so long, so that the announcement of the new view arrives before
/// anything is taken.
const GHOST: Duration = Duration::from_millis(10);

/// More than one call can produce: a table for each group, its event, a heartbeat, and an event for each node.
const OUTPUTS_MAX: usize = 65_536;

/// The farm on one node.
pub struct Engine {
    setup: Setup,
    /// All nodes of the configuration.
    nodes: NodeSet,
    /// First four bytes of this boot.
    tag: u32,
    /// Of the last call.
    now: Instant,
    next_tick: Instant,
    member: Member,
    /// By node; this node's own place stays empty.
    peers: Vec<Peer>,
    view: View,
    basis: Basis,
    generations: Generations,
    health: Health,
    groups: Vec<Ownership>,
    /// This node's own drain, and what it had when that took effect.
    drain: Option<DrainInfo>,
    drain_of: Option<u64>,
    /// A peer's word about its live connections has changed.
    held_news: bool,
    /// As last given to the kernel.
    lease: Instant,
    voice: Voice,
    /// Goes out with every heartbeat.
    notes: Notes,
    outputs: VecDeque<Output>,
}

impl Engine {
    /// The first outputs close the kernel for new connections: a daemon that died a moment ago may have left it open.
    pub fn new(setup: Setup, now: Instant) -> Self {
        assert!(usize::from(setup.me.0) < setup.nodes.len(), "this node is one of the nodes");
        let generations = Generations::new(&setup.generation);
        let new_group = |group| Ownership::new(&setup, group, generations.followed(), now);
        let groups = setup.groups.iter().map(new_group).collect();
        let mut engine = Self {
            nodes: (0..setup.nodes.len()).map(|node| NodeId(node as u8)).collect(),
            tag: peers::boot_tag(&setup.boot),
            now,
            next_tick: now,
            member: Member::new(now),
            peers: setup.nodes.iter().map(|_| Peer::default()).collect(),
            view: View { id: crate::types::ViewId(0), members: NodeSet::EMPTY, since: now },
            basis: Basis::default(),
            generations,
            health: Health::new(&setup.health),
            groups,
            drain: None,
            drain_of: None,
            held_news: false,
            lease: Instant(0),
            voice: Voice::new(setup.seed),
            notes: Notes::default(),
            outputs: VecDeque::new(),
            setup,
        };
        engine.outputs.push_back(Output::SetLease(Instant(0)));
        engine.note_drain();
        engine.write_tables();
        engine.evaluate();
        engine
    }

    /// `now` never runs backwards; a caller whose clock does is taken to stand still.
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.member.left {
            return;
        }
        let late = now.since(self.now);
        self.now = self.now.max(now);
        self.distrust_after(late);
        match input {
            Input::Timer => {}
            Input::Heartbeat(heartbeat) => self.hear(heartbeat),
            Input::Held { group, buckets, since, connections } => {
                self.count_held(group, &buckets, since, connections);
            }
            Input::Live { group, connections } => self.count_live(group, connections),
            Input::Change(changes) => self.change(changes),
            Input::Carrier { up } => self.carrier(up),
            Input::FramesSeen => self.heard_a_frame(),
            Input::Notes(notes) => self.notes = notes,
            Input::Leave { drain_max } => self.leave(drain_max),
        }
        self.evaluate();
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// In the order in which they are to be done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle`] with [`Input::Timer`] at the latest.
    pub fn next_deadline(&self) -> Instant {
        let takes = self.groups.iter().filter_map(Ownership::take_at);
        takes.chain([self.next_tick, self.voice.next(self.setup.timing)]).min().unwrap_or(self.next_tick)
    }

    /// The one place where decisions follow from facts. The order is the protocol: a kernel that must stop is
    /// stopped first, a release is in the map before a heartbeat says so, and the lease of a node that has given
    /// something up is renewed only behind that.
    fn evaluate(&mut self) {
        let tick = self.now >= self.next_tick;
        if tick {
            self.next_tick = self.now + TICK;
        }
        self.advance(tick);
        self.review();
        self.agree_on_weights();
        self.drain = self.own_drain();
        if self.setup.rules.release_first {
            self.own(tick);
            self.renew_lease(tick);
            self.speak();
        } else {
            self.speak();
            self.own(tick);
            self.renew_lease(tick);
        }
        self.ask_and_announce();
        self.finish_leaving();
        assert!(self.outputs.len() < OUTPUTS_MAX, "the driver takes outputs after each call");
    }

    fn event(&mut self, kind: EventKind) {
        self.outputs.push_back(Output::Event(Event { at: self.now, kind }));
    }

    fn check_invariants(&self) {
        let timing = &self.setup.timing;
        assert!(
            !self.setup.rules.lease || self.lease <= self.now + timing.lease,
            "a stopped daemon is fenced within L"
        );
        assert!(
            !self.view.members.contains(self.setup.me) || self.is_active(),
            "a node that is not active is in nobody's view, its own included"
        );
        assert!(self.view.members.minus(self.nodes).is_empty(), "members are nodes of the configuration");
        assert!(!self.basis.yields.contains(self.setup.me), "a node does not yield to itself");
        assert!(
            self.member.claim.is_none_or(|claim| claim.first <= self.voice.next_seq),
            "a claim is made by the next heartbeat at the latest"
        );
        assert!(
            self.next_tick <= self.now + TICK,
            "silence and lateness are looked for at every tick, so the next one is never further away"
        );
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("me", &self.setup.me)
            .field("state", &self.member.state)
            .field("view", &self.view)
            .field("basis", &self.basis)
            .finish_non_exhaustive()
    }
}
