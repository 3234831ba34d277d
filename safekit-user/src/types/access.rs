//! Who may do what: three roles, each with all that the one before it may.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Looks, and changes nothing.
    Monitor,
    /// Starts, stops and drains; no configuration.
    Control,
    /// Everything.
    Admin,
}

impl Access {
    pub const ALL: [Self; 3] = [Self::Monitor, Self::Control, Self::Admin];

    /// The group of this machine whose members have it.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Monitor => "safekit",
            Self::Control => "safekit-control",
            Self::Admin => "safekit-admin",
        }
    }

    pub const fn word(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Control => "control",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}
