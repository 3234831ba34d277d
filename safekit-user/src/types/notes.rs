//! What the data planes of the nodes tell each other. Heartbeats carry it, and membership does not look at it.

use serde::{Deserialize, Serialize};

use super::{GroupId, NodeSet};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// The node's own MAC on each interface of virtual IPs, in the order in which the configuration first names them.
    pub macs: Vec<[u8; 6]>,
    /// Probes that this node misses; empty while all is well.
    pub unseen: Vec<Unseen>,
    pub audit: Option<Box<AuditPage>>,
}

/// Whose probes to a virtual IP's MAC do not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unseen {
    /// Place of the virtual IP in the configuration.
    pub vip: u16,
    pub nodes: NodeSet,
}

/// Some cells of a closed window of the audit, see `engine/audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    pub epoch: u32,
    pub group: GroupId,
    /// The first cell of this page.
    pub first: u16,
    /// Packets by cell; both lists have one length.
    pub seen: Vec<u32>,
    pub passed: Vec<u32>,
}

pub const INTERFACES_MAX: usize = 64;
pub const UNSEEN_MAX: usize = 64;
pub const AUDIT_CELLS_MAX: usize = 64;
