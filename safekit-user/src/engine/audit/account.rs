//! What one cell's windows add up to, and from when on it is a finding.
//!
//! Windows of two nodes end up to some hundredths of a second apart, so a hundredth of a cell's packets may be counted
//! differently; a single burst at the edge may be counted quite differently, once. Packets that a card loses are passed
//! by nobody. A finding therefore needs several windows, and an excess that neither explains.

use super::HALF;
use crate::types::{Bucket, GroupId, NodeId, NodeSet};

/// Windows that have to show the same before it is believed.
const WINDOWS_MIN: u8 = 2;
/// Windows with packets and without any sign of it, after which it is over.
const CLEAN_MAX: u8 = 4;
/// Old windows count less and less: 31/32 for each.
const MEMORY: f32 = 31.0 / 32.0;
/// Passed by more than one: packets in all, and of those seen.
const DOUBLE_MIN: f32 = 5.0;
const DOUBLE_SHARE: f32 = 0.012;
/// Passed by nobody: the same. Lost packets look like it.
const NONE_MIN: f32 = 8.0;
const NONE_SHARE: f32 = 0.25;
/// A node that passed this share of what the cell saw had a part in it.
const PART: f32 = 0.2;
/// More are listed by nobody.
const FINDINGS_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two nodes accept the same connections.
    Double,
    /// No node accepts them.
    Unserved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Bucket(Bucket),
    /// One or more of the 64 from here on.
    Run(Bucket),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    pub group: GroupId,
    pub kind: Kind,
    pub place: Place,
    /// Who passed a good part of it.
    pub nodes: NodeSet,
    /// Opening packets, as seen and as passed by all nodes together, in the last windows.
    pub seen: u32,
    pub passed: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    seen: f32,
    passed: f32,
    nodes: NodeSet,
    double: Sign,
    unserved: Sign,
}

/// In how many windows it showed, and for how many it has not since.
#[derive(Clone, Copy, Debug, Default)]
struct Sign {
    shown: u8,
    clean: u8,
}

impl Sign {
    /// True when it is over.
    fn note(&mut self, shows: bool) -> bool {
        if shows {
            *self = Self { shown: self.shown.saturating_add(1), clean: 0 };
            return false;
        }
        self.clean = self.clean.saturating_add(1);
        let over = self.clean >= CLEAN_MAX && self.shown > 0;
        if over {
            self.shown = 0;
        }
        over
    }
}

impl Account {
    /// One window: what each node saw and passed.
    pub(super) fn add(&mut self, counts: impl Iterator<Item = (NodeId, [u32; 2])> + Clone) {
        let seen = counts.clone().map(|(_, count)| count[0]).max().unwrap_or_default() as f32;
        let passed = counts.clone().map(|(_, count)| count[1] as f32).sum::<f32>();
        if seen == 0.0 {
            return;
        }
        self.seen = self.seen * MEMORY + seen;
        self.passed = self.passed * MEMORY + passed;
        let double = passed - seen > seen * DOUBLE_SHARE;
        let unserved = seen - passed > seen * NONE_SHARE;
        if double || unserved {
            self.nodes =
                counts.filter(|(_, count)| count[1] as f32 > seen * PART).map(|(node, _)| node).collect();
        }
        if self.double.note(double) | self.unserved.note(unserved) {
            (self.seen, self.passed) = (seen, passed);
        }
    }

    fn kind(&self) -> Option<Kind> {
        let excess = self.passed - self.seen;
        if self.double.shown >= WINDOWS_MIN && excess > DOUBLE_MIN + self.seen * DOUBLE_SHARE {
            return Some(Kind::Double);
        }
        let unserved = self.unserved.shown >= WINDOWS_MIN && -excess > NONE_MIN + self.seen * NONE_SHARE;
        unserved.then_some(Kind::Unserved)
    }
}

/// Findings of one group: a bucket where the two ways of counting meet in one, else a run of buckets.
pub(super) fn findings(group: GroupId, accounts: &[Account]) -> Vec<Finding> {
    let (runs, strides) = accounts.split_at(HALF);
    let wrong = |accounts: &[Account]| -> Vec<(usize, Kind)> {
        accounts.iter().enumerate().filter_map(|(place, it)| Some((place, it.kind()?))).collect()
    };
    let strides: Vec<(usize, Kind)> = wrong(strides);
    let mut found = Vec::new();
    for (run, kind) in wrong(runs).into_iter().take(FINDINGS_MAX) {
        // A stride is the lower ten bits, a run the upper ten: four bits are in both.
        let meets = |(stride, other): &&(usize, Kind)| *other == kind && stride >> 6 == run & 0xf;
        let meeting: Vec<usize> = strides.iter().filter(meets).map(|(stride, _)| *stride).collect();
        let place = match meeting.as_slice() {
            [stride] => Place::Bucket(Bucket((run << 6 | stride & 0x3f) as u16)),
            _ => Place::Run(Bucket((run << 6) as u16)),
        };
        let account = &runs[run];
        found.push(Finding {
            group,
            kind,
            place,
            nodes: account.nodes,
            seen: account.seen as u32,
            passed: account.passed as u32,
        });
    }
    found
}
