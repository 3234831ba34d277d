//! The exactly-one audit: do the nodes together accept each connection once? Pure.
//!
//! Every node sees every opening packet and counts, by cell of buckets, what it saw and what it passed. Counts of one
//! window of time are compared: passed, summed over the nodes, against seen.
//!
//! ```text
//! leader (lowest member)  ──page of epoch e──▶  the others close their window e, all send its pages, round and round
//!                                                 all pages of all members there: one comparison, on every node
//! ```
//!
//! One group is looked at in each window, the groups in turn. A window in which anything moved on a node (members, the
//! group's table, the count of epochs) is not told, so nobody compares it. Windows end some milliseconds apart on the
//! nodes, and packets get lost: hence [`Account`] and its thresholds. Under directed delivery nodes do not see what
//! others get, so those groups are left out.

mod account;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use account::{Finding, Kind, Place};

use account::Account;

use crate::config::{Config, Delivery};
use crate::types::notes::AuditPage;
use crate::types::{GroupId, Instant, NodeId, NodeSet, Timing};

/// Half of the cells: buckets whose upper ten bits are one number; then those whose lower ten bits are.
pub const HALF: usize = 1024;
pub const CELLS: usize = 2 * HALF;
/// Cells in one heartbeat: at most 320 bytes.
pub const PAGE_CELLS: usize = 32;
const PAGES: usize = CELLS / PAGE_CELLS;
/// Every page is sent so often: a lost heartbeat costs nothing but time.
const ROUNDS: usize = 3;
const WINDOW_MIN: Duration = Duration::from_secs(10);

/// Seen and passed, by cell.
pub type Counts = [[u32; 2]; CELLS];

/// A group that is audited, and who sees its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audited {
    pub group: GroupId,
    pub nodes: NodeSet,
}

/// Groups of `me` under whose delivery every node sees every packet.
pub fn audited(config: &Config, me: NodeId) -> Vec<Audited> {
    let of = |group: &crate::config::Group| {
        let farm = config.farms().find(|farm| farm.name == group.module)?;
        let comparable = matches!(farm.delivery, Delivery::Flood | Delivery::Multicast);
        let nodes: NodeSet = farm.nodes.iter().copied().collect();
        (comparable && nodes.contains(me)).then_some(Audited { group: group.id, nodes })
    };
    config.groups.iter().filter_map(of).collect()
}

/// Two windows to read counters for: the one that ends and the one that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turnover {
    pub closing: GroupId,
    pub opening: GroupId,
    epoch: u32,
}

#[derive(Debug)]
pub struct Audit {
    me: NodeId,
    groups: Vec<Audited>,
    window: Duration,
    members: NodeSet,
    open: Window,
    /// The counters when the open window began; none before the first.
    base: Option<Box<Counts>>,
    told: Option<Told>,
    accounts: Vec<Vec<Account>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    epoch: u32,
    since: Instant,
    /// Nothing has moved so far.
    steady: bool,
}

/// A closed window: what this node counted, and what has come in of the others.
#[derive(Debug)]
struct Told {
    epoch: u32,
    place: usize,
    members: NodeSet,
    /// None: not comparable.
    own: Option<Box<Counts>>,
    sent: usize,
    /// By node.
    heard: Vec<Heard>,
    compared: bool,
}

#[derive(Clone, Debug, Default)]
struct Heard {
    pages: u64,
    counts: Vec<[u32; 2]>,
}

const _: () = assert!(PAGES <= 64, "the pages of a window are bits of a word");

impl Audit {
    /// None where there is nothing to compare.
    pub fn new(me: NodeId, groups: Vec<Audited>, timing: &Timing) -> Option<Self> {
        if groups.is_empty() {
            return None;
        }
        let rounds = timing.interval * (ROUNDS * PAGES) as u32;
        let accounts = vec![vec![Account::default(); CELLS]; groups.len()];
        Some(Self {
            me,
            groups,
            window: WINDOW_MIN.max(rounds * 5 / 4),
            members: NodeSet::EMPTY,
            open: Window { epoch: 0, since: Instant::default(), steady: false },
            base: None,
            told: None,
            accounts,
        })
    }

    /// A table of this group was written.
    pub fn note_moved(&mut self, group: GroupId) {
        if self.group_of(self.open.epoch).group == group {
            self.open.steady = false;
        }
    }

    /// Whether the window has to end now. `leader` is the page that the lowest member sent last.
    pub fn turnover(
        &mut self,
        members: NodeSet,
        leader: Option<&AuditPage>,
        now: Instant,
    ) -> Option<Turnover> {
        if members != self.members {
            self.members = members;
            self.open.steady = false;
        }
        let leads = members.iter().next().is_none_or(|lowest| lowest == self.me);
        let epoch = if leads {
            let ends = self.base.is_none() || now.since(self.open.since) >= self.window;
            ends.then(|| self.open.epoch.wrapping_add(1))
        } else {
            leader.map(|page| page.epoch.wrapping_add(1)).filter(|epoch| *epoch != self.open.epoch)
        }?;
        let closing = self.group_of(self.open.epoch).group;
        Some(Turnover { closing, opening: self.group_of(epoch).group, epoch })
    }

    /// Ends the window, with the counters of the two groups as they are now.
    pub fn turn(&mut self, turnover: Turnover, closing: &Counts, opening: &Counts, now: Instant) {
        let consecutive = self.open.epoch.wrapping_add(1) == turnover.epoch;
        let own = self.base.take().filter(|_| self.open.steady && consecutive).map(|base| {
            let mut counts = Box::new([[0; 2]; CELLS]);
            for (count, (new, old)) in counts.iter_mut().zip(closing.iter().zip(base.iter())) {
                *count = [new[0].wrapping_sub(old[0]), new[1].wrapping_sub(old[1])];
            }
            counts
        });
        let place = self.place_of(self.open.epoch);
        let nodes = self.members.iter().map(|node| usize::from(node.0) + 1).max().unwrap_or_default();
        self.told = Some(Told {
            epoch: turnover.epoch.wrapping_sub(1),
            place,
            members: NodeSet(self.members.0 & self.groups[place].nodes.0),
            own,
            sent: 0,
            heard: vec![Heard::default(); nodes],
            compared: false,
        });
        self.base = Some(Box::new(*opening));
        self.open = Window { epoch: turnover.epoch, since: now, steady: true };
        self.compare();
    }

    /// What the next heartbeat carries: a page of the closed window, or at least its number.
    pub fn page(&mut self) -> Option<AuditPage> {
        let told = self.told.as_mut()?;
        let group = self.groups[told.place].group;
        let mut page = AuditPage { epoch: told.epoch, group, first: 0, seen: Vec::new(), passed: Vec::new() };
        if let Some(own) = told.own.as_ref().filter(|_| told.sent < ROUNDS * PAGES) {
            let first = told.sent % PAGES * PAGE_CELLS;
            told.sent += 1;
            page.first = first as u16;
            (page.seen, page.passed) = own[first..first + PAGE_CELLS].iter().map(|it| (it[0], it[1])).unzip();
        }
        Some(page)
    }

    /// What a member said; the same page again changes nothing.
    pub fn hear(&mut self, node: NodeId, page: &AuditPage) {
        let Some(told) = self.told.as_mut().filter(|told| !told.compared) else { return };
        let first = usize::from(page.first);
        let whole =
            page.seen.len() == PAGE_CELLS && page.passed.len() == PAGE_CELLS && first % PAGE_CELLS == 0;
        let fits = whole && first < CELLS && page.group == self.groups[told.place].group;
        if page.epoch != told.epoch || !fits || !told.members.contains(node) {
            return;
        }
        let Some(heard) = told.heard.get_mut(usize::from(node.0)) else { return };
        let bit = 1_u64 << (first / PAGE_CELLS);
        if heard.pages & bit != 0 {
            return;
        }
        heard.pages |= bit;
        heard.counts.resize(CELLS, [0; 2]);
        for (place, both) in page.seen.iter().zip(&page.passed).enumerate() {
            heard.counts[first + place] = [*both.0, *both.1];
        }
        self.compare();
    }

    /// Once, when everybody's counts are there.
    fn compare(&mut self) {
        let Some(told) = self.told.as_mut().filter(|told| !told.compared) else { return };
        let Some(own) = &told.own else { return };
        let all = u64::MAX >> (64 - PAGES);
        let others: Vec<NodeId> = told.members.without(self.me).iter().collect();
        if !others.iter().all(|node| told.heard[usize::from(node.0)].pages == all) {
            return;
        }
        told.compared = true;
        for (cell, account) in self.accounts[told.place].iter_mut().enumerate() {
            let of_others = others.iter().map(|node| (*node, told.heard[usize::from(node.0)].counts[cell]));
            account.add(std::iter::once((self.me, own[cell])).chain(of_others));
        }
    }

    /// What is wrong as of the windows so far.
    pub fn findings(&self) -> Vec<Finding> {
        let groups = self.groups.iter().zip(&self.accounts);
        groups.flat_map(|(audited, accounts)| account::findings(audited.group, accounts)).collect()
    }

    fn place_of(&self, epoch: u32) -> usize {
        epoch as usize % self.groups.len()
    }

    fn group_of(&self, epoch: u32) -> Audited {
        self.groups[self.place_of(epoch)]
    }
}
