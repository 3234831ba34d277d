//! What the control socket carries: a [`Command`] in, [`Reply`]s out. One JSON object a line.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::journal::{Act, Entry, Wanted};
use super::module::{Action, ResourceInfo, ResourceState, Verb};
use super::{Access, Bucket, Instant, Snapshot, ViewId};

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
}

impl Command {
    /// Who may give it.
    pub fn needs(&self) -> Access {
        match self {
            Self::Status
            | Self::Watch
            | Self::Explain { .. }
            | Self::Resource { .. }
            | Self::Rules { .. }
            | Self::Events { .. }
            | Self::Adjust { dry_run: true, .. } => Access::Monitor,
            Self::Adjust { dry_run: false, .. }
            | Self::Module { .. }
            | Self::SetResource { .. }
            | Self::Report { .. }
            | Self::Checks { .. } => Access::Control,
            // The program and the configuration of today take effect: that is more than to operate.
            Self::Reload | Self::Audit { .. } => Access::Admin,
            Self::On { each, .. } => each.needs(),
        }
    }

    /// As the audit log has it, in the words of the command line; none where it changes nothing. Never a secret.
    pub fn audited(&self) -> Option<String> {
        match self {
            Self::Status
            | Self::Watch
            | Self::Explain { .. }
            | Self::Resource { .. }
            | Self::Rules { .. }
            | Self::Events { .. }
            | Self::Audit { .. }
            | Self::Adjust { dry_run: true, .. } => None,
            // A checking program says so every few seconds; what it leads to is an event.
            Self::Report { .. } => None,
            Self::Adjust { wish, dry_run: false } => Some(wish.to_string()),
            Self::Module { module, verb } => Some(format!("{} {module}", verb.word())),
            Self::SetResource { module, name, state } => {
                Some(format!("resource set {module} {name} {}", state.word()))
            }
            Self::Checks { module, on, for_ms } => {
                let word = if *on { "on" } else { "off" };
                let span = for_ms.map(|ms| format!(" --for {}s", ms / 1000)).unwrap_or_default();
                Some(format!("check {word} {module}{span}"))
            }
            Self::Reload => Some("reload".to_owned()),
            Self::On { nodes, each, .. } => each.audited().map(|each| match nodes.as_slice() {
                [] => format!("{each} --all"),
                nodes => nodes.iter().fold(each, |text, node| text + " --node " + node),
            }),
        }
    }
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
    },
    Rules {
        rules: Vec<RuleState>,
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
