//! What nodes tell each other beside heartbeats, and what screens know of it.

use serde::{Deserialize, Serialize};

/// A configuration of the whole cluster. Later ones are greater: of two with the same number, made at the same time on
/// two sides of a cut, the names of their makers decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigVersion {
    /// 0: as it came with the file; nothing has been applied yet.
    pub number: u64,
    /// The node on which it was applied.
    pub by: String,
    /// Tells two proposals of one node apart that would have the same number, because it restarted in between.
    pub attempt: u64,
}

impl std::fmt::Display for ConfigVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.number)?;
        if self.by.is_empty() { Ok(()) } else { write!(f, " of {}", self.by) }
    }
}

/// A configuration that is to be, or has become, that of all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    pub version: ConfigVersion,
    /// What it was made from: a node that has another one says no.
    pub base: ConfigVersion,
    pub text: String,
    /// Who applied it: `root on web1`.
    pub user: String,
    /// Seconds since 1970.
    pub at: u64,
}

/// What a configuration would do on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Effect {
    /// It cannot be taken by the daemon that runs: why, as a sentence.
    pub hand_over: Option<String>,
    /// What will happen, a sentence each.
    pub lines: Vec<String>,
}

/// What nodes say to each other so that a configuration is in force everywhere or nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ApplyMessage {
    /// Could you run this? As a question only, nothing is kept.
    Prepare {
        proposal: Proposal,
        dry_run: bool,
    },
    /// Yes: promised, and kept over a restart.
    Yes {
        version: ConfigVersion,
        effect: Effect,
    },
    /// `seen`: the highest number that this node has met.
    No {
        version: ConfigVersion,
        why: String,
        seen: u64,
    },
    Commit {
        version: ConfigVersion,
    },
    Abort {
        version: ConfigVersion,
    },
    Done {
        version: ConfigVersion,
    },
    /// Promised, and never heard how it ended: how did it?
    HowEnded {
        version: ConfigVersion,
    },
    /// Send the newest that you have committed.
    Fetch,
    Here {
        proposal: Proposal,
    },
}

/// The configuration that a node runs with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigIdentity {
    pub version: ConfigVersion,
    /// Of the whole text: a file that was edited by hand has another.
    pub hash: String,
}

/// The connection to another node, for screens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkInfo {
    pub node: String,
    pub connected: bool,
    /// The network in use, or the last error.
    pub how: String,
    /// As the node said last; none when it never has.
    pub config: Option<ConfigIdentity>,
    /// Time since it said so.
    pub heard_ms: Option<u64>,
}

/// All connections of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinksInfo {
    pub nodes: Vec<LinkInfo>,
    /// What this node runs with.
    pub config: ConfigIdentity,
    /// Connections and frames that were refused, by reason; reasons that never occurred are left out.
    pub refused: Vec<RefusedInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedInfo {
    pub reason: String,
    pub count: u64,
    /// Who it was last, as far as can be told from the address.
    pub last: String,
}

/// One of the configurations that are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigEntry {
    pub version: ConfigVersion,
    pub user: String,
    /// Seconds since 1970.
    pub at: u64,
    pub in_force: bool,
}
