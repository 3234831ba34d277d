//! What a screen may know: one value, made by the daemon, read by the CLI, the demo and the tests.
//!
//! Every figure is as of `taken`; a reader on the same kernel can compare it with its own boot clock.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Departure, Event, Instant, ViewId};

pub const API_VERSION: &str = "v1";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Always [`API_VERSION`].
    pub api_version: String,
    pub cluster: String,
    pub node: String,
    /// The life of this daemon: another after each restart.
    pub boot: String,
    pub taken: Instant,
    pub verdict: Verdict,
    /// One sentence for people: what is wrong, or that all is well.
    pub summary: String,
    pub state: MemberState,
    pub view: ViewId,
    pub view_since: Instant,
    pub heartbeat: HeartbeatInfo,
    /// All nodes of the cluster in the order of the configuration, this one included.
    pub nodes: Vec<NodeInfo>,
    pub farms: Vec<FarmInfo>,
    /// Modules of this node, in the order of the configuration.
    #[serde(default)]
    pub modules: Vec<super::ModuleInfo>,
    /// Those of them that are mirrors.
    #[serde(default)]
    pub mirrors: Vec<super::mirror::MirrorInfo>,
    /// Connections to the other nodes, and their configurations.
    #[serde(default)]
    pub links: super::cluster::LinksInfo,
    /// None: the configuration has no console.
    #[serde(default)]
    pub console: Option<ConsoleInfo>,
    /// How often weights and drains have been changed since the cluster was configured.
    pub generation: u32,
    /// Another change of them is under way.
    pub changing: bool,
    /// What somebody should look at, the most pressing first; bounded.
    pub warnings: Vec<Warning>,
    /// Directions in which frames to a virtual MAC do not arrive, as the members say.
    pub undelivered: Vec<Undelivered>,
    /// The newest last; bounded.
    pub events: Vec<Event>,
}

/// Where this node answers over HTTP, or why it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsoleInfo {
    pub listen: std::net::SocketAddr,
    /// None: it listens.
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Undelivered {
    pub virtual_ip: IpAddr,
    /// Of the receiver.
    pub interface: String,
    /// Nodes whose frames do not arrive.
    pub from: Vec<String>,
    /// The node that misses them.
    pub to: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// One sentence: what is wrong, and where.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// First word of `safekit status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Every node is a member and every bucket has its owner.
    Converged,
    /// A change is under way.
    Converging,
    /// Every bucket has its owner, but a node is missing or something needs attention.
    Degraded,
    /// A peer is alive and cannot be understood, or claims what this node owns.
    Split,
    /// This node accepts nothing.
    Down,
}

/// A node's membership as it announces it.
///
/// ```text
/// Joining --listened D--> Announce --2 heartbeats--> Active --leave--> Leaving --> (gone)
///    ^                                                 |
///    +---------------- woke later than D --------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    Joining,
    Announce,
    Active,
    Leaving,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatInfo {
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub lease_ms: u64,
    /// Whether the heartbeat thread runs with real-time priority and locked memory.
    pub realtime: bool,
    /// Worst lateness of the heartbeat thread in the last minute.
    pub lateness_max_us: u64,
    /// Datagrams on the heartbeat port that could not be authenticated.
    pub rejected: u64,
    /// Datagrams that could not be sent.
    pub unsent: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    pub name: String,
    pub this: bool,
    /// In this node's view.
    pub member: bool,
    /// As last announced by the node itself; none when it was never heard.
    pub state: Option<MemberState>,
    /// Time since it was last heard, directly or relayed.
    pub heard_ms: Option<u64>,
    /// Why it is not a member, when that is known.
    pub departed: Option<Departure>,
    /// It runs with the configuration of this node.
    pub same_config: Option<bool>,
    /// It takes no new session until `safekit undrain`.
    pub drained: bool,
    /// Live connections that it counted last, over all farms.
    pub connections: Option<u64>,
    /// How far its drain has come.
    pub drain: Option<DrainInfo>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainInfo {
    /// Live connections now.
    pub left: u64,
    /// Live connections when the drain took effect.
    pub of: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmInfo {
    pub module: String,
    pub delivery: String,
    pub virtual_ips: Vec<VirtualIpInfo>,
    pub rules: Vec<RuleInfo>,
    pub groups: Vec<GroupInfo>,
    pub counters: Vec<CounterInfo>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualIpInfo {
    pub address: IpAddr,
    pub interface: String,
    /// The virtual MAC that ARP answers name.
    pub mac: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// Why this mode.
    pub xdp_reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleInfo {
    pub protocol: String,
    /// `80`, `8000-8099` or `any`.
    pub port: String,
    pub balance: String,
    /// `sockets` or `flows`.
    pub evidence: String,
    /// The group whose table decides.
    pub group: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupInfo {
    pub group: u16,
    /// `weighted` or `cascade`.
    pub share: String,
    /// By node, in the order of `nodes`: the weight in force; in a cascade the place in line, and 0 = not in it.
    pub weights: Vec<u32>,
    /// By node, in percent: what is left of its part by the health of its application, as agreed.
    #[serde(default)]
    pub health: Vec<u8>,
    pub buckets: u32,
    /// Accepted by this node.
    pub owned: u32,
    pub transitional: u32,
    pub applied: Instant,
    /// How long the kernel took to get the last table.
    pub apply_us: u64,
    /// Buckets per node, as this node's view has it, in the order of `nodes`.
    pub shares: Vec<u32>,
    /// Live connections of this node in buckets that other nodes own, as of the last count.
    pub held_connections: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterInfo {
    pub reason: String,
    pub packets: u64,
}
