//! What `safekit doctor` says: one value a check, for the screen and for programs.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was looked at: `machine`, `interface eth0`, `virtual IP 10.0.0.9`, `network lan`, `daemon`.
    pub about: String,
    /// One or two words; unique for each `about`.
    pub name: String,
    pub state: CheckState,
    pub found: String,
    /// The next command to type, or the next thing to do; none where nothing has to be done.
    pub remedy: Option<String>,
}

/// From the best to the worst; what could not be learned is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    Ok,
    /// Could not be learned, and `found` says why.
    Unknown,
    /// It works, and not as well as it could, or not for everybody.
    Warning,
    /// The farm cannot work on this node.
    Fault,
}

impl CheckState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}
