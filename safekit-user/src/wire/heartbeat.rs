//! The heartbeat: what each node says to all others, forty times a second.
//!
//! ```text
//! clear, authenticated   magic "SK" · version u8 · key id u8 · cluster id [u8; 8] · sender u8 · boot [u8; 16] · seq u64
//! sealed                 Body, as postcard
//! tag                    [u8; 16]
//! ```

use serde::{Deserialize, Serialize};

use crate::types::snapshot::MemberState;
use crate::types::{BootId, BucketBits, GroupId, NodeId, NodeSet, Seq};

/// A heartbeat that has been authenticated (or is about to be sealed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub sender: NodeId,
    pub boot: BootId,
    pub seq: Seq,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Beat(Beat),
    /// Sent by the parent of a daemon that has died, in that daemon's name; `seq` is [`OBITUARY_SEQ`].
    Obituary,
}

/// The parent's nonce: no daemon counts that far, so key and nonce never meet twice.
pub const OBITUARY_SEQ: Seq = Seq(u64::MAX);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    pub state: MemberState,
    /// The sender hears somebody: a peer, or at least frames on the virtual IP's network.
    pub rx_ok: bool,
    /// Hash of everything that decides ownership; nodes that differ are in no common view.
    pub config: u64,
    pub view: NodeSet,
    /// One for each peer that the sender has heard of in its present boot.
    pub peers: Vec<PeerReport>,
    /// Only while the sender holds live connections in buckets that it does not own.
    pub held: Vec<Held>,
}

/// What the sender knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    pub node: NodeId,
    /// First four bytes of the boot that is reported on: an acknowledgement of another life is none.
    pub boot_tag: u32,
    /// Newest heartbeat that the sender received itself: the relayed evidence (R1).
    pub direct_seq: Seq,
    /// Newest heartbeat that it knows of, relayed ones included: the acknowledgement (R4, R5).
    pub best_seq: Seq,
    pub state: MemberState,
    pub rx_ok: bool,
    pub view: NodeSet,
}

/// Live connections that the sender keeps in buckets of others, coarsely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub group: GroupId,
    /// One bit for each run of [`HELD_RUN`] buckets.
    pub runs: BucketBits,
}

/// Buckets to one bit of [`Held`]: 65,536 buckets fit 512 bytes.
pub const HELD_RUN: usize = 16;
