//! Lets new sessions come to one farm module on this node, or not, and says when that is in force.
//!
//! The share is agreed by all nodes (R10), so it takes a round of heartbeats. A module that closes its gate may wait for
//! its connections as well:
//!
//! ```text
//! Open ── close ──▶ asked 0 % ── in force ──▶ connections left ── none, or the deadline ──▶ Closed
//! ```

use std::time::Duration;

use super::super::inbox::{Inbox, Request};
use crate::engine::farm::Input;
use crate::types::module::Gate;
use crate::types::snapshot::FarmInfo;
use crate::types::{Change, GroupId, Instant, NodeId, Snapshot};

/// A wish that the heartbeat thread could not take is repeated after so long.
const RETRY: Duration = Duration::from_millis(20);

pub(super) struct Valve {
    module: String,
    me: NodeId,
    groups: Vec<GroupId>,
    inbox: Inbox,
    /// What it is to be; the gate and the health of the checks decide it.
    wanted: u8,
    /// What the heartbeat thread has been told.
    told: Option<u8>,
    retry_at: Option<Instant>,
    waiting: Option<Waiting>,
}

/// The automaton waits for this.
struct Waiting {
    gate: Gate,
    /// Of connections; none: they are not waited for.
    until: Option<Instant>,
}

impl Valve {
    pub(super) fn new(module: String, me: NodeId, groups: Vec<GroupId>, inbox: Inbox, told: u8) -> Self {
        Self { module, me, groups, inbox, wanted: told, told: Some(told), retry_at: None, waiting: None }
    }

    /// For the automaton: answered by [`Self::poll`] once it is so.
    pub(super) fn turn(&mut self, gate: Gate, drain: Option<Duration>, now: Instant) {
        let until = drain.filter(|drain| !drain.is_zero()).map(|drain| now + drain);
        self.waiting = Some(Waiting { gate, until });
    }

    /// The share of this node's weight, in percent.
    pub(super) fn want(&mut self, percent: u8, now: Instant) {
        self.wanted = percent;
        self.tell(now);
    }

    pub(super) fn share(&self) -> u8 {
        self.wanted
    }

    fn tell(&mut self, now: Instant) {
        if self.told == Some(self.wanted) {
            self.retry_at = None;
            return;
        }
        let (me, percent) = (self.me, self.wanted);
        let change = |group: &GroupId| Change::Health { group: *group, node: me, percent };
        let request = Request::Engine(Input::Change(self.groups.iter().map(change).collect()));
        match self.inbox.post(request) {
            Ok(()) => {
                self.told = Some(self.wanted);
                self.retry_at = None;
            }
            Err(_) => self.retry_at = Some(now + RETRY),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let drained = self.waiting.as_ref().and_then(|waiting| waiting.until);
        [self.retry_at, drained].into_iter().flatten().min()
    }

    /// What has come into force since, of what the automaton waits for.
    pub(super) fn poll(&mut self, snapshot: &Snapshot, now: Instant) -> Option<Gate> {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.tell(now);
        }
        let waiting = self.waiting.as_ref()?;
        let done = match waiting.gate {
            Gate::Open => self.is_in_force(snapshot),
            Gate::Closed => {
                let overdue = waiting.until.is_some_and(|until| until <= now);
                overdue
                    || self.is_in_force(snapshot) && (waiting.until.is_none() || self.is_drained(snapshot))
            }
        };
        if !done {
            return None;
        }
        self.waiting.take().map(|waiting| waiting.gate)
    }

    /// All nodes give this one the share that it wants.
    pub(super) fn is_in_force(&self, snapshot: &Snapshot) -> bool {
        let place = usize::from(self.me.0);
        let agreed =
            |farm: &FarmInfo| farm.groups.iter().all(|group| group.health.get(place) == Some(&self.wanted));
        self.told == Some(self.wanted) && self.farm(snapshot).is_some_and(agreed)
    }

    /// A bucket that a node lost is in transition there while a connection lives in it: this end is exact.
    fn is_drained(&self, snapshot: &Snapshot) -> bool {
        let empty =
            |farm: &FarmInfo| farm.groups.iter().all(|group| group.owned == 0 && group.transitional == 0);
        self.farm(snapshot).is_some_and(empty)
    }

    fn farm<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s FarmInfo> {
        snapshot.farms.iter().find(|farm| farm.module == self.module)
    }
}
