//! What the client saw: each request with its fate, each long connection with its life.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::types::{Instant, NodeId};

/// Older ones are forgotten: an hour at the demo's rate.
const REQUESTS_MAX: usize = 1_000_000;
const ENDED_MAX: usize = 100_000;

/// A SYN that was lost is sent again after one second (RFC 6298, section 2.1); nothing else makes an answer on
/// one machine this slow.
pub const RETRANSMITTED: Duration = Duration::from_millis(900);

/// How a request or a connection went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Somebody answered the SYN with a reset.
    Refused,
    /// The connection stood and was reset.
    Reset,
    /// The other side closed before it had answered.
    Closed,
    Timeout,
    /// Bytes that no node of this farm sends.
    WrongAnswer,
    /// Another node than the one that holds the connection.
    WrongNode,
    /// The client's own machine could not.
    Local,
}

/// One fresh connection with one request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub started: Instant,
    pub latency: Duration,
    pub outcome: Result<NodeId, Failure>,
}

impl Request {
    pub fn ended(&self) -> Instant {
        self.started + self.latency
    }

    pub fn was_slow(&self) -> bool {
        self.outcome.is_ok() && self.latency >= RETRANSMITTED
    }
}

/// A connection that asks again and again, from its first answer on.
#[derive(Clone, Copy, Debug)]
pub struct LongConnection {
    pub opened: Instant,
    pub node: NodeId,
    pub answers: u64,
    /// Its slowest answer.
    pub worst: Duration,
    pub ended: Option<(Instant, End)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Broken(Failure),
    /// The server said that it would close, and the client opens another one.
    Moved,
}

/// A request or a long connection that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Since the client began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub requests: usize,
    pub failed: usize,
    /// Succeeded after a SYN was sent again.
    pub retried: usize,
    /// Long connections.
    pub broken: usize,
}

#[derive(Debug, Default)]
pub struct Ledger {
    next: u64,
    under_way: BTreeMap<Ticket, Instant>,
    requests: VecDeque<Request>,
    alive: BTreeMap<Ticket, LongConnection>,
    ended: VecDeque<LongConnection>,
    totals: Totals,
    /// Ticks of the client's clock that started nothing, because too many requests were under way.
    pub skipped: u64,
}

impl Ledger {
    pub fn request_starts(&mut self, now: Instant) -> Ticket {
        let ticket = self.ticket();
        self.under_way.insert(ticket, now);
        ticket
    }

    pub fn request_ends(&mut self, ticket: Ticket, now: Instant, outcome: Result<NodeId, Failure>) {
        let Some(started) = self.under_way.remove(&ticket) else { return };
        if self.requests.len() == REQUESTS_MAX {
            self.requests.pop_front();
        }
        let request = Request { started, latency: now.since(started), outcome };
        self.totals.requests += 1;
        self.totals.failed += usize::from(outcome.is_err());
        self.totals.retried += usize::from(request.was_slow());
        self.requests.push_back(request);
    }

    pub fn connection_opens(&mut self, now: Instant, node: NodeId) -> Ticket {
        let ticket = self.ticket();
        let connection = LongConnection { opened: now, node, answers: 1, worst: Duration::ZERO, ended: None };
        self.alive.insert(ticket, connection);
        ticket
    }

    pub fn connection_answers(&mut self, ticket: Ticket, waited: Duration) {
        if let Some(connection) = self.alive.get_mut(&ticket) {
            connection.answers += 1;
            connection.worst = connection.worst.max(waited);
        }
    }

    pub fn connection_ends(&mut self, ticket: Ticket, now: Instant, end: End) {
        let Some(mut connection) = self.alive.remove(&ticket) else { return };
        connection.ended = Some((now, end));
        self.totals.broken += usize::from(matches!(end, End::Broken(_)));
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(connection);
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.under_way.len()
    }

    /// Requests that started before `until` and have no fate yet.
    pub fn undecided(&self, until: Instant) -> usize {
        self.under_way.values().filter(|started| **started < until).count()
    }

    /// Requests with a fate that started in `[from, until)`, in the order in which they ended.
    pub fn requests(&self, from: Instant, until: Instant) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(move |request| from <= request.started && request.started < until)
    }

    /// All requests that have ended, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().rev()
    }

    pub fn alive(&self) -> impl Iterator<Item = &LongConnection> {
        self.alive.values()
    }

    /// Long connections that lived at `at`.
    pub fn living_at(&self, at: Instant) -> impl Iterator<Item = &LongConnection> {
        let all = self.ended.iter().chain(self.alive.values());
        all.filter(move |connection| {
            connection.opened <= at && connection.ended.is_none_or(|(ended, _)| ended > at)
        })
    }

    /// Long connections that were lost in `[from, until)`.
    pub fn broken(&self, from: Instant, until: Instant) -> impl Iterator<Item = (&LongConnection, Failure)> {
        self.ended.iter().filter_map(move |connection| match connection.ended {
            Some((at, End::Broken(failure))) if from <= at && at < until => Some((connection, failure)),
            _ => None,
        })
    }

    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    #[test]
    fn requests_count_by_their_start() {
        let mut ledger = Ledger::default();
        let early = ledger.request_starts(at(10));
        let late = ledger.request_starts(at(20));
        let _never_ends = ledger.request_starts(at(25));
        ledger.request_ends(late, at(21), Ok(NodeId(1)));
        ledger.request_ends(early, at(1_015), Ok(NodeId(0)));
        assert_eq!(ledger.requests(at(10), at(20)).count(), 1);
        assert!(ledger.requests(at(10), at(20)).all(Request::was_slow));
        assert_eq!(ledger.requests(at(0), at(100)).count(), 2);
        assert_eq!(ledger.totals(), Totals { requests: 2, failed: 0, retried: 1, broken: 0 });
        assert_eq!((ledger.undecided(at(25)), ledger.undecided(at(26))), (0, 1));
    }

    #[test]
    fn a_connection_is_broken_once_and_moved_never() {
        let mut ledger = Ledger::default();
        let lost = ledger.connection_opens(at(1), NodeId(0));
        let moved = ledger.connection_opens(at(2), NodeId(1));
        let _stays = ledger.connection_opens(at(3), NodeId(2));
        ledger.connection_ends(lost, at(50), End::Broken(Failure::Reset));
        ledger.connection_ends(lost, at(60), End::Broken(Failure::Reset));
        ledger.connection_ends(moved, at(55), End::Moved);
        assert_eq!(ledger.living_at(at(40)).count(), 3);
        assert_eq!(ledger.living_at(at(52)).count(), 2);
        let broken: Vec<_> = ledger.broken(at(0), at(100)).map(|(it, why)| (it.node, why)).collect();
        assert_eq!(broken, [(NodeId(0), Failure::Reset)]);
    }
}
