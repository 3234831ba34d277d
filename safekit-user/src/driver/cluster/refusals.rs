//! Who was refused, how often, and why: counted by reason, and in detail in the log of developers, once a minute for each
//! address and reason.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use crate::driver::clock;
use crate::types::Instant;
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

/// Addresses that are remembered; more are told as they come.
const REMEMBERED_MAX: usize = 256;
const QUIET: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Refusals(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    counts: [(u64, String); Refusal::ALL.len()],
    told: HashMap<(IpAddr, Refusal), Instant>,
}

impl Refusals {
    /// `who` is a node's name where the address is a node's.
    pub(super) fn add(&self, why: Refusal, from: IpAddr, who: Option<&str>, detail: &str) {
        let who = who.map_or_else(|| from.to_string(), |name| format!("{name} ({from})"));
        let now = clock::now();
        let mut counts = self.0.lock().expect("nobody panics with it");
        let (count, last) = &mut counts.counts[why as usize];
        *count += 1;
        last.clone_from(&who);
        if counts.told.get(&(from, why)).is_some_and(|told| now.since(*told) < QUIET) {
            return;
        }
        if counts.told.len() >= REMEMBERED_MAX {
            counts.told.clear();
        }
        counts.told.insert((from, why), now);
        tracing::debug!(%who, reason = why.word(), detail, "refused a connection of the cluster");
    }

    pub(super) fn infos(&self) -> Vec<RefusedInfo> {
        let counts = self.0.lock().expect("nobody panics with it");
        let all = Refusal::ALL.into_iter().zip(&counts.counts);
        all.filter(|(_, (count, _))| *count > 0)
            .map(|(why, (count, last))| RefusedInfo {
                reason: why.word().to_owned(),
                count: *count,
                last: last.clone(),
            })
            .collect()
    }
}
