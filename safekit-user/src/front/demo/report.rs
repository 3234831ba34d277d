//! What a step showed: figures for programs, a sentence for people, and whether it met its bars.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::ledger::{Failure, Ledger, Request};
use super::script::{Action, Step};
use super::topology::node_name;
use crate::types::{Instant, NodeId};

/// A whole node lost: detection by silence (200 ms at the default profile), and 150 ms to take over.
const KILL_CONVERGED_MAX: Duration = Duration::from_millis(350);
/// A daemon lost, or stopped: it is announced, nobody has to wait for silence.
const ANNOUNCED_CONVERGED_MAX: Duration = Duration::from_millis(50);

/// The object that `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    #[serde(rename = "apiVersion")]
    pub api_version: &'static str,
    pub nodes: usize,
    pub profile: &'static str,
    pub steps: Vec<StepReport>,
    pub ok: bool,
}

impl Report {
    pub fn new(nodes: usize, steps: Vec<StepReport>) -> Self {
        let ok = steps.iter().all(|step| step.ok);
        Self { api_version: crate::types::snapshot::API_VERSION, nodes, profile: "default", steps, ok }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    pub step: Action,
    pub node: String,
    /// From the fault to the first other node's noticing.
    pub detected_ms: Option<f64>,
    /// From the fault until every bucket was owned and applied, for good.
    pub converged_ms: Option<f64>,
    /// After a crash: until the daemon was back with its share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_ms: Option<f64>,
    /// Fresh connections with one request each, that started between the fault and the end of the step.
    pub requests: usize,
    pub requests_failed: usize,
    pub requests_failed_after_convergence: usize,
    pub failures: BTreeMap<Failure, usize>,
    /// Requests that succeeded after their SYN was sent again.
    pub syn_retransmissions: usize,
    /// SYNs that two nodes answered.
    pub double_answers: usize,
    pub long_connections: usize,
    pub long_connections_broken: usize,
    pub long_connections_on_other_nodes: usize,
    pub long_connections_on_other_nodes_broken: usize,
    /// The longest time without any answer from anybody.
    pub worst_gap_ms: f64,
    /// From the fault to the start of the last request that failed or was delayed: what clients say of
    /// convergence.
    pub clients_affected_ms: f64,
    /// Of the answers after convergence, by node.
    pub share: BTreeMap<String, f64>,
    pub bars: Vec<Bar>,
    pub ok: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    pub what: String,
    pub met: bool,
}

/// How a step went, as the farm tells it.
#[derive(Clone, Debug)]
pub struct Course {
    pub fault: Instant,
    pub detected: Option<Instant>,
    pub converged: Option<Instant>,
    /// After a crash: when the daemon was back.
    pub restored: Option<Instant>,
    /// Requests that start later belong to the next step.
    pub until: Instant,
    /// When the last of them was decided.
    pub decided: Instant,
    /// Who served before the step, and had nothing to do with it.
    pub others: Vec<NodeId>,
}

impl StepReport {
    /// Reads the ledger of a step that is over.
    pub fn new(
        step: Step,
        course: &Course,
        ledger: &Ledger,
        double_answers: usize,
        nodes: &[NodeId],
    ) -> Self {
        let Course { fault, until, decided, .. } = *course;
        let after = |instant: Instant| millis(instant.since(fault));
        let requests: Vec<&Request> = ledger.requests(fault, until).collect();
        let failed = |request: &&&Request| request.outcome.is_err();
        let settled = course.converged.unwrap_or(until);
        let broken: Vec<NodeId> =
            ledger.broken(fault, decided).map(|(connection, _)| connection.node).collect();
        let living: Vec<NodeId> = ledger.living_at(fault).map(|connection| connection.node).collect();
        let on_others = |nodes: &[NodeId]| nodes.iter().filter(|node| course.others.contains(node)).count();
        let affected = requests.iter().filter(|request| request.outcome.is_err() || request.was_slow());
        let mut report = Self {
            step: step.action,
            node: node_name(step.node),
            detected_ms: course.detected.map(after),
            converged_ms: course.converged.map(after),
            restored_ms: course.restored.map(after),
            requests: requests.len(),
            requests_failed: requests.iter().filter(failed).count(),
            requests_failed_after_convergence: requests
                .iter()
                .filter(failed)
                .filter(|request| request.started >= settled)
                .count(),
            failures: count(requests.iter().filter_map(|request| request.outcome.err())),
            syn_retransmissions: requests.iter().filter(|request| request.was_slow()).count(),
            double_answers,
            long_connections: living.len(),
            long_connections_broken: broken.len(),
            long_connections_on_other_nodes: on_others(&living),
            long_connections_on_other_nodes_broken: on_others(&broken),
            worst_gap_ms: millis(worst_gap(&requests, fault, until)),
            clients_affected_ms: affected.map(|request| after(request.started)).fold(0.0, f64::max),
            share: share(&requests, course.restored.unwrap_or(settled), nodes),
            bars: Vec::new(),
            ok: false,
        };
        report.bars = report.judge();
        report.ok = report.bars.iter().all(|bar| bar.met);
        report
    }

    fn judge(&self) -> Vec<Bar> {
        let within = |limit: Duration| Bar {
            what: format!("converged within {} ms", limit.as_millis()),
            met: self.converged_ms.is_some_and(|took| took < millis(limit)),
        };
        let nothing = |what: &str, count: usize| Bar { what: what.to_owned(), met: count == 0 };
        let mut bars = match self.step {
            Action::Kill => vec![within(KILL_CONVERGED_MAX)],
            Action::Crash => vec![within(ANNOUNCED_CONVERGED_MAX)],
            // A request that succeeds within the client's timeout has had at most one retransmission.
            Action::Stop => vec![
                within(ANNOUNCED_CONVERGED_MAX),
                nothing("no request failed", self.requests_failed),
                nothing("no long connection broke", self.long_connections_broken),
            ],
            Action::Revive | Action::Start => vec![
                Bar { what: "converged".to_owned(), met: self.converged_ms.is_some() },
                nothing("no request failed", self.requests_failed),
            ],
        };
        bars.extend([
            Bar { what: "requests were made".to_owned(), met: self.requests > 0 },
            nothing("no request failed after convergence", self.requests_failed_after_convergence),
            nothing("no long connection on another node broke", self.long_connections_on_other_nodes_broken),
            nothing("no SYN was answered by two nodes", self.double_answers),
        ]);
        bars
    }

    /// What happened, for people.
    pub fn sentence(&self) -> String {
        let node = &self.node;
        let took = |took: Option<f64>| took.map_or("never".to_owned(), |took| format!("after {took:.0} ms"));
        let (noticed, served) = (took(self.detected_ms), took(self.converged_ms));
        let beginning = match self.step {
            Action::Kill => {
                format!("{node} lost power: noticed {noticed}, all buckets served again {served}")
            }
            Action::Crash => format!(
                "the daemon of {node} crashed: noticed {noticed}, all buckets served again {served}, \
                 back with its share {}",
                took(self.restored_ms)
            ),
            Action::Revive => {
                format!("{node} got its power back: a member {noticed}, with its share {served}")
            }
            Action::Stop => {
                format!("{node} was stopped cleanly: others knew {noticed}, had its share {served}")
            }
            Action::Start => format!("{node} was started again: a member {noticed}, with its share {served}"),
        };
        let unharmed = self.long_connections_on_other_nodes - self.long_connections_on_other_nodes_broken;
        let retried = self.syn_retransmissions + self.requests_failed;
        format!(
            "{beginning}; {} of {} requests had to retry, {} failed afterwards; {} of {} connections on other nodes \
             unharmed",
            grouped(retried),
            grouped(self.requests),
            grouped(self.requests_failed_after_convergence),
            unharmed,
            self.long_connections_on_other_nodes
        )
    }

    /// The bars that were missed, for people.
    pub fn missed(&self) -> Vec<&str> {
        self.bars.iter().filter(|bar| !bar.met).map(|bar| bar.what.as_str()).collect()
    }
}

fn count(failures: impl Iterator<Item = Failure>) -> BTreeMap<Failure, usize> {
    failures.fold(BTreeMap::new(), |mut counts, failure| {
        *counts.entry(failure).or_default() += 1;
        counts
    })
}

fn share(requests: &[&Request], from: Instant, nodes: &[NodeId]) -> BTreeMap<String, f64> {
    let answers = requests.iter().filter(|request| request.started >= from).filter_map(|it| it.outcome.ok());
    let answers: Vec<NodeId> = answers.collect();
    let part = |node: NodeId| {
        let own = answers.iter().filter(|it| **it == node).count();
        (own as f64 / answers.len().max(1) as f64 * 1000.0).round() / 1000.0
    };
    nodes.iter().map(|node| (node_name(*node), part(*node))).collect()
}

fn worst_gap(requests: &[&Request], from: Instant, until: Instant) -> Duration {
    let answered = requests.iter().filter(|request| request.outcome.is_ok()).map(|request| request.ended());
    let mut ends: Vec<Instant> = answered.filter(|ended| *ended < until).collect();
    ends.extend([from, until]);
    ends.sort_unstable();
    ends.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
}

fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 10_000.0).round() / 10.0
}

/// 1312 as 1,312.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::demo::ledger::End;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn course() -> Course {
        Course {
            fault: at(1_000),
            detected: Some(at(1_203)),
            converged: Some(at(1_215)),
            restored: None,
            until: at(3_000),
            decided: at(4_000),
            others: vec![NodeId(0), NodeId(1)],
        }
    }

    fn report(ledger: &Ledger, course: &Course) -> StepReport {
        let step = Step { action: Action::Kill, node: NodeId(2) };
        StepReport::new(step, course, ledger, 0, &[NodeId(0), NodeId(1), NodeId(2)])
    }

    fn request(ledger: &mut Ledger, start: u64, took: u64, outcome: Result<NodeId, Failure>) {
        let ticket = ledger.request_starts(at(start));
        ledger.request_ends(ticket, at(start + took), outcome);
    }

    /// A power cut as it should be: one SYN lost in the gap, the victim's connection lost, the others' kept.
    fn power_cut() -> Ledger {
        let mut ledger = Ledger::default();
        let victims = ledger.connection_opens(at(10), NodeId(2));
        let _others = ledger.connection_opens(at(10), NodeId(0));
        request(&mut ledger, 900, 1, Ok(NodeId(2)));
        request(&mut ledger, 1_100, 1_003, Ok(NodeId(1)));
        request(&mut ledger, 1_300, 1, Ok(NodeId(0)));
        request(&mut ledger, 2_900, 1, Ok(NodeId(1)));
        ledger.connection_ends(victims, at(3_900), End::Broken(Failure::Timeout));
        ledger
    }

    #[test]
    fn a_good_step_meets_its_bars_and_says_so() {
        let report = report(&power_cut(), &course());
        assert_eq!(report.missed(), Vec::<&str>::new());
        assert!(report.ok);
        assert_eq!(
            report.sentence(),
            "n3 lost power: noticed after 203 ms, all buckets served again after 215 ms; 1 of 3 requests had to \
             retry, 0 failed afterwards; 1 of 1 connections on other nodes unharmed"
        );
        assert_eq!(report.worst_gap_ms, 802.0);
        assert_eq!(report.clients_affected_ms, 100.0);
        assert_eq!(report.share["n2"], 0.5);
    }

    #[test]
    fn each_bar_can_be_missed() {
        let late = Course { converged: Some(at(1_351)), ..course() };
        assert_eq!(report(&power_cut(), &late).missed(), ["converged within 350 ms"]);
        let never = Course { converged: None, ..course() };
        assert_eq!(report(&power_cut(), &never).missed(), ["converged within 350 ms"]);

        let mut failing = power_cut();
        request(&mut failing, 1_400, 1, Err(Failure::Refused));
        assert_eq!(report(&failing, &course()).missed(), ["no request failed after convergence"]);

        let mut breaking = power_cut();
        let other = breaking.connection_opens(at(20), NodeId(1));
        breaking.connection_ends(other, at(1_250), End::Broken(Failure::Reset));
        assert_eq!(report(&breaking, &course()).missed(), ["no long connection on another node broke"]);

        assert_eq!(report(&Ledger::default(), &course()).missed(), ["requests were made"]);
    }

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_312, "1,312"), (1_000_000, "1,000,000")] {
            assert_eq!(grouped(number), text);
        }
    }
}
