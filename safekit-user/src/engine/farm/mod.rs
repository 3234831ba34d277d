//! Farm membership and ownership: which node answers for which bucket, view by view.
//!
//! Pure. Time comes in as `now`; effects leave as [`Output`], and their order is part of the protocol (R6: the map
//! is written before the heartbeat that says so leaves).

use std::sync::Arc;

use crate::types::{BootId, BucketBits, Event, GroupId, Instant, NodeId, NodeSet, Timing};
use crate::wire::heartbeat::Heartbeat;

/// One rule group: who may own its buckets, with which weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: GroupId,
    /// Weight by node, in the order of the configuration; 0 = member without traffic or not of this module.
    pub weights: Vec<u32>,
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
    /// 65,536 in the product; the simulation uses fewer. A multiple of 1,024.
    pub buckets: usize,
    /// Seed of the jitter of heartbeats.
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub enum Input {
    /// A deadline came (or may have come): look at the clock.
    Timer,
    /// Authenticated; on any network, duplicates included.
    Heartbeat(Heartbeat),
    /// Live connections of this node in buckets that it does not own, one bit a bucket, counted from `since` on.
    Held { group: GroupId, buckets: BucketBits, since: Instant },
    /// Carrier of the virtual IP's network interfaces.
    Carrier { up: bool },
    /// A frame of anybody arrived on the virtual IP's network since the last such input (R12).
    FramesSeen,
    /// Leave the farm: release, announce, drain, and then [`Output::Left`].
    Leave,
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
}

/// Everything that a view holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub id: crate::types::ViewId,
    pub members: NodeSet,
    pub since: Instant,
}
