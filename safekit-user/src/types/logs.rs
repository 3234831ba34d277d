//! What a module's scripts said: runs, and pages of their output.

use serde::{Deserialize, Serialize};

use super::module::ScriptEnd;

/// One run of a script or of services, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScriptRun {
    /// Names the run among those of the module: `20261123T080320.007Z_start_both`. Sorts by time.
    pub name: String,
    /// `start_both`; `restart_services` for services alone.
    pub script: String,
    pub force: bool,
    pub from: String,
    pub to: String,
    pub action: String,
    pub cause: String,
    /// Time of day in UTC, RFC 3339.
    pub started: String,
    /// None while it runs, or where the daemon died meanwhile.
    pub took_ms: Option<u64>,
    pub end: Option<ScriptEnd>,
    /// Of its output, as kept.
    pub bytes: u64,
    /// Of its output, not kept because there was too much of it.
    pub dropped: u64,
    /// Where the output is, on this node.
    pub path: String,
}

/// Part of what a run has printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPage {
    pub run: String,
    pub text: String,
    /// Where the page after this one begins.
    pub next: u64,
    /// Nothing after it yet, or ever when the run has ended.
    pub is_last: bool,
}

/// How a script ended, in words.
pub fn sentence(end: &ScriptEnd) -> String {
    match end {
        ScriptEnd::Done => "ended well".to_owned(),
        ScriptEnd::Failed { code: Some(code), last_line } if last_line.is_empty() => {
            format!("failed with exit code {code}")
        }
        ScriptEnd::Failed { code: Some(code), last_line } => {
            format!("failed with exit code {code}: {last_line}")
        }
        ScriptEnd::Failed { code: None, last_line } if last_line.is_empty() => "failed".to_owned(),
        ScriptEnd::Failed { code: None, last_line } => format!("failed: {last_line}"),
        ScriptEnd::TimedOut => "was ended by force at its deadline".to_owned(),
        ScriptEnd::Killed => "was ended by force".to_owned(),
        ScriptEnd::NotStarted { why } => format!("could not be started: {why}"),
    }
}
