//! What the control socket carries: a [`Command`] in, [`Reply`]s out. One JSON object a line.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::cluster::{ApplyMessage, ConfigEntry, ConfigVersion, Effect};
use super::journal::{Act, Entry, Wanted};
use super::logs::{LogPage, ScriptRun};
use super::mirror::MirrorOrder;
use super::module::{Action, ResourceInfo, ResourceState, Verb};
use super::{Bucket, Instant, KeyStep, Snapshot, ViewId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Answered by one [`Reply::Status`].
    Status,
    /// Answered by a [`Reply::Status`] now and at every change, until the client closes.
    Watch,
    /// Answered by [`Reply::Explained`], one for each rule that the client can reach.
    Explain { client: IpAddr, port: Option<u16> },
    /// Another share of the traffic. Answered by [`Reply::Accepted`] before it has taken effect, or, as a question
    /// only, by [`Reply::Preview`].
    Adjust { wish: Wish, dry_run: bool },
    /// Start or stop a module of this node. Answered by [`Reply::Accepted`] before it has taken effect.
    Module { module: String, verb: Verb },
    /// To the copies of a mirror on this node. Answered by [`Reply::Accepted`] before it has taken effect.
    Mirror { module: String, order: MirrorOrder },
    /// Answered by [`Reply::Resource`].
    Resource { module: String, name: String },
    /// An operator or a program knows better. Answered by [`Reply::Resource`].
    SetResource { module: String, name: String, state: ResourceState },
    /// What a program found that reports for a custom check. Answered by [`Reply::Accepted`].
    Report { module: String, check: String, state: ResourceState },
    /// Maintenance: checks are off, for a while or until they are switched on. Answered by [`Reply::Accepted`].
    Checks { module: String, on: bool, for_ms: Option<u64> },
    /// Which failover rules hold, and why. Answered by [`Reply::Rules`].
    Rules { module: String },
    /// The last runs of a module's scripts, those of one script, or of those whose names begin so (`start`). Answered
    /// by [`Reply::Runs`].
    Logs { module: String, script: Option<String>, last: u32 },
    /// What one of them has printed, from a byte on. Answered by [`Reply::LogPage`].
    LogPage { module: String, run: String, from: u64 },
    /// Restart the daemon with the program and the configuration of today, under a filter that stays. Answered by
    /// [`Reply::Accepted`] before the daemon ends.
    Reload,
    /// The same on several nodes at once; none named: on all. Answered by [`Reply::ByNode`], each node in its place,
    /// also those that could not be reached.
    On {
        nodes: Vec<String>,
        each: Box<Command>,
        /// Filled in by the daemon, whatever the client says.
        #[serde(default)]
        by: String,
    },
    /// What happened, from the journal of the node that is asked. Answered by [`Reply::Events`]: at once, or with
    /// `after` when there is a newer one than that, or a second later with none.
    Events { wanted: Wanted, after: Option<u64> },
    /// The newest commands that changed something. Answered by [`Reply::Audit`].
    Audit { count: usize },
    /// One configuration for all nodes. Answered by [`Reply::ConfigPlan`] as a question only, else by
    /// [`Reply::ConfigApplied`].
    ConfigApply {
        text: String,
        dry_run: bool,
        /// Filled in by the daemon, whatever the client says.
        #[serde(default)]
        by: String,
    },
    /// Answered by [`Reply::ConfigText`]; none: the one in force.
    ConfigText { number: Option<u64> },
    /// Answered by [`Reply::ConfigHistory`].
    ConfigHistory,
    /// Another cluster key on every node, without an outage. Answered by [`Reply::Accepted`] when all is done.
    KeyRotate,
    /// From node to node only.
    KeyStep { step: KeyStep },
    /// From node to node only.
    Agree { message: ApplyMessage },
}

/// What one of several nodes said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAnswer {
    pub node: String,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Said(Reply),
    /// Why it could not be asked, or has not answered.
    Unreachable(String),
}

/// What an operator wants to change at run time, by names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub enum Wish {
    /// A node, or a module on the node that is asked: no new sessions.
    Drain {
        target: String,
    },
    Undrain {
        target: String,
    },
    /// None: as configured. Without a rule (`tcp/443`) all of the module's.
    Weight {
        module: String,
        node: String,
        weight: Option<u32>,
        rule: Option<String>,
    },
}

/// As it is typed: `weight www web1 50 --rule tcp/80`.
impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain { target } => write!(f, "drain {target}"),
            Self::Undrain { target } => write!(f, "undrain {target}"),
            Self::Weight { module, node, weight, rule } => {
                write!(f, "weight {module} {node} ")?;
                match weight {
                    Some(weight) => write!(f, "{weight}")?,
                    None => f.write_str("default")?,
                }
                rule.iter().try_for_each(|rule| write!(f, " --rule {rule}"))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Status {
        snapshot: Box<Snapshot>,
    },
    Explained {
        answers: Vec<Explanation>,
    },
    /// It is under way; what it leads to is in every status that was taken later.
    Accepted {
        at: Instant,
    },
    Preview {
        preview: Preview,
    },
    Resource {
        resource: ResourceInfo,
        /// The newest last; bounded.
        history: Vec<ResourceChange>,
        /// Now, by the clock of the node that answers.
        taken: Instant,
    },
    Rules {
        rules: Vec<RuleState>,
    },
    /// The oldest first.
    Runs {
        runs: Vec<ScriptRun>,
    },
    LogPage {
        page: LogPage,
    },
    ByNode {
        answers: Vec<NodeAnswer>,
    },
    /// The oldest first. `last` is the newest number of the journal, whatever was asked for.
    Events {
        entries: Vec<Entry>,
        last: u64,
    },
    /// The oldest first.
    Audit {
        acts: Vec<Act>,
    },
    /// What would happen, by node.
    ConfigPlan {
        effects: Vec<(String, Effect)>,
    },
    ConfigApplied {
        version: ConfigVersion,
        /// Nodes that have not confirmed it; they will follow.
        missing: Vec<String>,
        /// The daemons are started anew for it.
        hand_over: bool,
    },
    ConfigText {
        version: ConfigVersion,
        text: String,
        /// Where it is on the node that answers: relative paths start there.
        file: String,
    },
    /// The newest first.
    ConfigHistory {
        entries: Vec<ConfigEntry>,
    },
    /// The command was understood and could not be done.
    Refused {
        error: String,
        next_step: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceChange {
    pub at: Instant,
    pub state: ResourceState,
    pub by: String,
}

/// A failover rule at this moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleState {
    pub name: String,
    /// `default`, `check` or `configured`.
    pub origin: String,
    pub when: String,
    pub action: Action,
    /// None: undecided, because a resource in it is not known yet.
    pub holds: Option<bool>,
    /// The values that decide: `tcp.http is up`.
    pub because: Vec<String>,
}

/// What a change would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    pub moves: Vec<Move>,
    /// Buckets of all groups that the change could move.
    pub buckets: u32,
}

/// Buckets of one group that would change their owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    pub module: String,
    /// The group's rules: `tcp/80, tcp/443`.
    pub rules: String,
    pub from: Option<String>,
    pub to: Option<String>,
    pub buckets: u32,
    /// Live connections that stay with `from` until they end: as many as fall on these buckets of its share, as far
    /// as it has said how many it has.
    pub connections: Option<u64>,
}

/// Who serves a client, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub module: String,
    pub virtual_ip: IpAddr,
    pub protocol: String,
    /// As the rule names it: `80`, `8000-8099` or `any`.
    pub port: String,
    pub balance: String,
    pub bucket: Bucket,
    /// None while no member may own it.
    pub owner: Option<String>,
    /// The bucket is in transition on this node: connections are told apart by local sockets.
    pub transitional: bool,
    pub since_view: ViewId,
    pub since: Instant,
    /// Nodes that would own it next, in order, the owner left out.
    pub next: Vec<String>,
}
