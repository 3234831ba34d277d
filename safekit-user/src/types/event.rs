//! What happened, as values: the daemon keeps the last ones, screens and tests read them.

use serde::{Deserialize, Serialize};

use super::{GroupId, Instant, NodeId, NodeSet, ViewId};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: Instant,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The members as this node sees them, itself included.
    View { view: ViewId, members: NodeSet },
    /// A peer came into the view.
    Joined { node: NodeId },
    /// A peer left the view.
    Departed { node: NodeId, why: Departure },
    /// A table is in the kernel. `owned` and `transitional` count buckets.
    Applied { group: GroupId, owned: u32, transitional: u32 },
    /// This node's own membership changed.
    Member { state: super::snapshot::MemberState },
    /// This node's timer ran late by more than its lease: it accepts nothing until every member has answered.
    WokeLate { late_ms: u64 },
}

/// Why a peer left the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Departure {
    /// Nothing heard, directly or relayed, for the detection time.
    Silence,
    /// Its parent process announced the death of its daemon.
    Obituary,
    /// It said that it leaves.
    Leave,
    /// It says of itself that it hears nothing, or that it is off the virtual IP's network.
    Deaf,
    /// It is not (or no longer) running, or runs with another configuration.
    Changed,
}
