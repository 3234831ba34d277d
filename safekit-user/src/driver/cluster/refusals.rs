//! Who was refused, how often, and why: counted by reason. The journal makes events of the counts, and bounds them.

use std::net::IpAddr;
use std::sync::Mutex;

use crate::types::cluster::RefusedInfo;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It does not have this cluster's key, or is another node than it should be.
    Key,
    /// It speaks a version of the protocol that this program does not.
    Version,
    /// Of another cluster, or under another name than its key's.
    Name,
    /// Its bytes are no TLS, no frame, or stop in the middle of one.
    Malformed,
    /// It connects and says nothing.
    Silent,
    /// More connections at once than nodes could want.
    TooMany,
}

impl Refusal {
    pub const ALL: [Self; 6] =
        [Self::Key, Self::Version, Self::Name, Self::Malformed, Self::Silent, Self::TooMany];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Key => "another cluster key or node",
            Self::Version => "another version of the protocol",
            Self::Name => "another cluster or name",
            Self::Malformed => "malformed",
            Self::Silent => "silent",
            Self::TooMany => "too many connections",
        }
    }
}

/// How often, and who it was last, by reason.
#[derive(Default)]
pub(super) struct Refusals(Mutex<[(u64, String); Refusal::ALL.len()]>);

impl Refusals {
    /// `who` is a node's name where the address is a node's.
    pub(super) fn add(&self, why: Refusal, from: IpAddr, who: Option<&str>, detail: &str) {
        let who = who.map_or_else(|| from.to_string(), |name| format!("{name} ({from})"));
        tracing::debug!(%who, reason = why.word(), detail, "refused a connection of the cluster");
        let mut counts = self.0.lock().expect("nobody panics with it");
        let (count, last) = &mut counts[why as usize];
        *count += 1;
        *last = who;
    }

    pub(super) fn infos(&self) -> Vec<RefusedInfo> {
        let counts = self.0.lock().expect("nobody panics with it");
        let all = Refusal::ALL.into_iter().zip(counts.iter());
        all.filter(|(_, (count, _))| *count > 0)
            .map(|(why, (count, last))| RefusedInfo {
                reason: why.word().to_owned(),
                count: *count,
                last: last.clone(),
            })
            .collect()
    }
}
