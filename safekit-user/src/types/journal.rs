//! What a node writes down for people: events with their causes, and who ordered what.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Reply, WallTime};

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::Error, Self::Warning, Self::Info, Self::Debug];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What is to be written down; number, time and node are added by the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub level: Level,
    /// None: of the node itself.
    pub module: Option<String>,
    /// One or two words for filters, in snake case: `view`, `state`, `script`, `check`.
    pub kind: &'static str,
    /// One sentence.
    pub text: String,
    /// Why.
    pub cause: Option<String>,
}

impl Note {
    pub fn of_node(level: Level, kind: &'static str, text: impl Into<String>) -> Self {
        Self { level, module: None, kind, text: text.into(), cause: None }
    }

    pub fn because(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Rises by one with each, over restarts.
    pub number: u64,
    pub time: WallTime,
    pub node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    pub level: Level,
    pub kind: String,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// Which entries somebody wants to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// Only of this module.
    pub module: Option<String>,
    /// Only what matters at least so much.
    pub level: Level,
    pub since: Option<WallTime>,
    /// The newest so many.
    pub count: usize,
}

impl Wanted {
    pub fn holds(&self, entry: &Entry) -> bool {
        entry.level >= self.level
            && self.since.is_none_or(|since| entry.time >= since)
            && self.module.as_ref().is_none_or(|module| entry.module.as_ref() == Some(module))
    }
}

/// Who gives a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    /// None where it came from another node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// None where the user has no name here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `control socket, process 4711 (safekit)`, or the node that passed it on.
    pub from: String,
}

/// `root`, or `user 1000` where the number has no name.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, self.uid) {
            (Some(user), _) => f.pad(user),
            (None, Some(uid)) => f.pad(&format!("user {uid}")),
            (None, None) => f.pad("somebody"),
        }
    }
}

/// A command that changed something, or that was refused: a line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Act {
    pub began: WallTime,
    pub ended: WallTime,
    pub node: String,
    pub who: Actor,
    /// As it is typed.
    pub what: String,
    pub result: ActResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ActResult {
    Done,
    /// The actor lacks the role.
    Denied {
        needs: super::Access,
    },
    Refused {
        error: String,
    },
}

impl ActResult {
    pub fn of(reply: &Reply) -> Self {
        match reply {
            Reply::Refused { error, .. } => Self::Refused { error: error.clone() },
            _ => Self::Done,
        }
    }
}

impl fmt::Display for ActResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Denied { needs } => write!(f, "denied: it needs the role {needs}"),
            Self::Refused { error } => write!(f, "refused: {error}"),
        }
    }
}
