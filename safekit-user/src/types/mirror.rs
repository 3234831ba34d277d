//! What can be asked of a mirror's copies, and what screens know of them. Also the words between the daemon and the
//! process that keeps the directories of one mirror: one JSON object a line, a [`ReplicaRequest`] in, [`ReplicaReply`]s
//! out.

use serde::{Deserialize, Serialize};

use super::Instant;
use super::replica::{DataGeneration, MirrorRole};

/// What an operator asks of the copies of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum MirrorOrder {
    /// Serve. `force`: although the other copy may be newer, or was never seen.
    Prim { force: bool },
    /// Follow. `full_sync`: what this copy has is of no worth, all of it is compared with the other.
    Second { full_sync: bool },
    /// Compare both copies while the application goes on. Only where this node is PRIM.
    Verify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum ReplicaRequest {
    /// Answered by a [`ReplicaReply::Copies`] now, at every change of a role, and every second.
    Watch,
    /// Answered by [`ReplicaReply::Taken`] before it has taken effect.
    Order { order: MirrorOrder },
    /// Unmount, in order, and end. Answered by [`ReplicaReply::Taken`], then the connection ends with the process.
    Stop,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum ReplicaReply {
    Copies { copies: Vec<CopyInfo> },
    Taken,
    Refused { error: String, next_step: String },
}

/// A mirror on this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorInfo {
    pub module: String,
    /// In the order of the configuration; none while the directories are not mounted.
    pub copies: Vec<CopyInfo>,
    /// The process that keeps them.
    pub process: Option<u32>,
}

/// One replicated directory on this node. Figures count from the start of the process that keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyInfo {
    pub directory: String,
    pub role: MirrorRole,
    pub generation: Option<DataGeneration>,
    pub sync: SyncState,
    /// One sentence: why it is in this state.
    pub why: String,
    /// Why an order to serve is not followed.
    pub cannot_lead: Option<String>,
    /// With the other node.
    pub connected: bool,
    /// That the other copy is out of date is being written to the disk: applications wait.
    pub frozen: bool,
    /// Operations that the other node has not said to have, and bytes that have not left this one.
    pub behind_operations: u64,
    pub behind_bytes: u64,
    /// Regions that may be different on the other node, as recorded on the disk.
    pub recorded_regions: u64,
    /// Of changes and of flushes, as applications wait for them: the last few thousand.
    pub write_latency: LatencyInfo,
    pub flush_latency: LatencyInfo,
    /// How often the other node was given up because it did not answer.
    pub stalls: u64,
    /// Frames of the other node that were refused.
    pub refused: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// The one under way, or the last.
    pub resync: Option<ResyncInfo>,
    pub verification: Option<VerificationInfo>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncState {
    /// Both copies are equal, every change goes from one to the other.
    InSync,
    /// The other copy lacks what was changed since it was lost.
    OutOfDate,
    /// The other copy is being brought up to date.
    Resynchronising,
    /// This copy is being overwritten by the other.
    BeingOverwritten,
    /// Nobody knows before the other node was heard.
    Unknown,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyInfo {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResyncInfo {
    pub since: Instant,
    /// None: it is under way.
    pub ended: Option<Instant>,
    /// All of the copy is compared, not only what is recorded.
    pub everything: bool,
    pub passes: u32,
    /// Objects that were carried over or compared, and contents that had to be sent.
    pub files: u64,
    pub bytes: u64,
    pub bytes_per_second: u64,
    /// Regions of the present pass, and as many milliseconds as they may take.
    pub regions: u64,
    pub left_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerificationInfo {
    pub since: Instant,
    /// None: it is under way.
    pub ended: Option<Instant>,
    /// False at the end: the copies were no longer connected.
    pub complete: bool,
    pub objects: u64,
    pub bytes: u64,
    /// Objects that were not equal; they are brought up to date at once.
    pub differing: u64,
}
