//! One run in figures, the promises that it broke, and both in a few lines for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use safekit::front::demo::ledger::Failure;
use safekit::front::demo::topology::node_name;
use safekit::types::{Departure, EventKind, Instant, NodeId};
use serde::Serialize;

use super::ledger::{Break, Kind};
use super::options::{Delivery, Options, Profile, Scenario};
use super::stage::{Fate, Stage, What};
use super::{probe, promises};

/// A client or probe that sleeps this long measures the machine and not the farm.
const STALL_MS: f64 = 250.0;
const DETAILS_MAX: usize = 8;
/// A connection of a paused or cut off node may break that long after the end of it: until the others' gained buckets
/// are no longer in transition, and the client asks.
const AFTERMATH: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub api_version: &'static str,
    pub scenario: Scenario,
    pub nodes: u8,
    pub delivery: Delivery,
    pub family: u8,
    pub profile: Profile,
    pub seed: u64,
    /// Every promise was kept.
    pub ok: bool,
    pub broken_promises: Vec<String>,
    /// Why the figures may be worse, or less sure, than the farm.
    pub caveats: Vec<String>,
    /// What only this scenario measures.
    pub measured: BTreeMap<String, f64>,
    pub load: Option<Figures>,
    /// What happened when, in milliseconds since everything stood.
    pub acts: Vec<(u64, String)>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    pub connections_wanted: usize,
    pub rate_wanted: u32,
    /// Connections that stood: held ones and fresh ones.
    pub opened: u64,
    /// Held at the end.
    pub held: usize,
    pub closed_in_order: u64,
    /// Attempts that never became a connection.
    pub not_opened: u64,
    pub broken: Broken,
    /// Connections that ended by a reset, refused attempts included.
    pub resets: u64,
    pub handshake_retransmissions: u64,
    /// Longest time in which SYNs of some client were not answered.
    pub gap_worst_ms: f64,
    /// What the probe cannot see: its interval, at its worst.
    pub gap_resolution_ms: f64,
    pub probes_sent: u64,
    pub probes_lost: u64,
    /// The slowest answer on a held connection that did not break.
    pub answer_worst_ms: f64,
    pub requests_per_second: Rates,
    pub shares: Vec<Share>,
    /// SYNs that two nodes answered.
    pub double_accepts: usize,
    /// Segments with bytes from a node that had not accepted the connection.
    pub served_by_two: usize,
    pub resets_of_the_dead: Option<Resets>,
    /// Nodes excluded to which nothing had happened, as reported by the others.
    pub false_exclusions: usize,
    pub client: ClientCost,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Broken {
    /// Power off.
    pub node_died: usize,
    /// Its daemon had left.
    pub node_stopped: usize,
    pub node_paused: usize,
    pub node_cut_off: usize,
    pub other: usize,
    /// The first of `other` and `node_stopped`, in words.
    pub details: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Rates {
    pub before: f64,
    pub during: f64,
    pub after: f64,
}

#[derive(Debug, Serialize)]
pub struct Share {
    pub when: String,
    pub node: String,
    /// Of the fresh connections.
    pub share: f64,
    /// Of the buckets.
    pub quota: f64,
    pub connections: u64,
}

/// How long the clients of a dead node waited until they knew.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resets {
    pub connections: usize,
    /// Since the death, for those who asked all the time.
    pub since_death_p50_ms: f64,
    pub since_death_max_ms: f64,
    /// Since their first packet, for those who were silent until the buckets were no longer in transition.
    pub silent_connections: usize,
    pub since_packet_p50_ms: f64,
    pub since_packet_max_ms: f64,
    /// Ended otherwise than by a reset.
    pub without_reset: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCost {
    /// Of one processor.
    pub cpu_percent: f64,
    /// How late its clock ran at worst.
    pub late_max_ms: f64,
    pub skipped: u64,
    pub local_failures: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Died(Instant),
    Stopped,
    Paused,
    CutOff,
    Other,
}

impl Report {
    /// Of a scenario without connections that are held.
    pub(super) fn bare(
        options: &Options,
        measured: BTreeMap<String, f64>,
        broken_promises: Vec<String>,
    ) -> Self {
        Self {
            api_version: "v1",
            scenario: options.scenario,
            nodes: options.nodes,
            delivery: options.delivery,
            family: options.family,
            profile: options.profile,
            seed: options.seed,
            ok: broken_promises.is_empty(),
            broken_promises,
            caveats: Vec::new(),
            measured,
            load: None,
            acts: Vec::new(),
        }
    }

    pub(super) fn of(stage: &Stage<'_>) -> Self {
        let figures = figures(stage);
        let mut report =
            Self::bare(stage.options, stage.notes.iter().cloned().collect(), stage.broken.clone());
        report.broken_promises.extend(promises::broken(stage.options, &figures));
        report.ok = report.broken_promises.is_empty();
        report.caveats = caveats(stage, &figures);
        report.load = Some(figures);
        let since = |at: Instant| at.since(stage.began).as_millis() as u64;
        report.acts = stage.acts.iter().map(|act| (since(act.at), act.what.clone())).collect();
        report
    }

    /// A dozen lines.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{} · {} nodes · {} · IPv{} · profile {}\n",
            self.scenario.name(),
            self.nodes,
            self.delivery.name(),
            self.family,
            self.profile.name()
        );
        for (at, what) in &self.acts {
            _ = writeln!(text, "  {:>8.3} s  {what}", *at as f64 / 1e3);
        }
        if let Some(figures) = &self.load {
            figures.write(&mut text);
        }
        for (name, value) in &self.measured {
            _ = writeln!(text, "  {name:<22} {value:.1}");
        }
        for caveat in &self.caveats {
            _ = writeln!(text, "note: {caveat}");
        }
        if self.ok {
            return text + "KEPT: every promise of this scenario.\n";
        }
        for promise in &self.broken_promises {
            _ = writeln!(text, "BROKEN: {promise}");
        }
        text
    }
}

impl Figures {
    fn write(&self, text: &mut String) {
        let broken = &self.broken;
        let mut line = |name: &str, value: String| _ = writeln!(text, "  {name:<22} {value}");
        line(
            "connections",
            format!(
                "{} opened, {} held at the end, {} closed in order, {} never stood",
                self.opened, self.held, self.closed_in_order, self.not_opened
            ),
        );
        line(
            "broken",
            format!(
                "{} their node died, {} it stopped, {} it was paused, {} it was cut off, {} for another cause",
                broken.node_died, broken.node_stopped, broken.node_paused, broken.node_cut_off, broken.other
            ),
        );
        broken.details.iter().for_each(|detail| line("", detail.clone()));
        line(
            "wrong",
            format!("{} double accepts, {} served by two nodes", self.double_accepts, self.served_by_two),
        );
        line(
            "worst gap",
            format!(
                "{:.0} ms for new connections (seen to {:.0} ms; {} of {} probes lost); {:.0} ms for an answer",
                self.gap_worst_ms,
                self.gap_resolution_ms,
                self.probes_lost,
                self.probes_sent,
                self.answer_worst_ms
            ),
        );
        let rates = &self.requests_per_second;
        line(
            "answers a second",
            format!("{:.0} before, {:.0} during, {:.0} after", rates.before, rates.during, rates.after),
        );
        line(
            "sent again",
            format!("{} SYNs; {} connections were reset", self.handshake_retransmissions, self.resets),
        );
        for share in &self.shares {
            let figures = format!("{:.1} % of a quota of {:.1} %", share.share * 100.0, share.quota * 100.0);
            line(&format!("share {} {}", share.when, share.node), figures);
        }
        if let Some(resets) = &self.resets_of_the_dead {
            line(
                "resets of the dead",
                format!(
                    "{} connections: {:.0} ms (median) to {:.0} ms after the death; silent ones {:.1} to {:.1} ms after their packet",
                    resets.connections,
                    resets.since_death_p50_ms,
                    resets.since_death_max_ms,
                    resets.since_packet_p50_ms,
                    resets.since_packet_max_ms
                ),
            );
        }
        let client = &self.client;
        line(
            "the client itself",
            format!("{:.0} % of a processor, {:.0} ms late at worst", client.cpu_percent, client.late_max_ms),
        );
    }
}

fn figures(stage: &Stage<'_>) -> Figures {
    let now = safekit::driver::clock::now();
    let ledger = stage.client.ledger();
    let probe = stage.probe.log();
    let causes: Vec<(Break, Cause)> =
        ledger.breaks.iter().map(|broken| (*broken, cause(broken, &stage.fates))).collect();
    let is_reset = |failure: Failure| matches!(failure, Failure::Reset | Failure::Refused);
    let refused = ledger.not_opened.iter().filter(|attempt| is_reset(attempt.failure)).count();
    let resets = causes.iter().filter(|(broken, _)| is_reset(broken.failure)).count() + refused;
    let quiet = |name: &str| stage.quiets.iter().find(|quiet| quiet.name == name);
    let rate = |name| quiet(name).map_or(0.0, |quiet| ledger.rate(quiet.from, quiet.until));
    let lived = now.since(stage.began).as_secs_f64().max(0.001);
    Figures {
        connections_wanted: stage.options.connections,
        rate_wanted: stage.options.rate,
        opened: ledger.opened,
        held: ledger.held().count(),
        closed_in_order: ledger.closed,
        not_opened: ledger.not_opened.len() as u64,
        broken: broken(&causes, stage),
        resets: resets as u64,
        handshake_retransmissions: ledger.handshake_retransmissions,
        gap_worst_ms: ms(probe.worst_gap(stage.began, now)),
        gap_resolution_ms: ms(probe::INTERVAL * u32::from(stage.options.nodes)).max(ms(probe.blind_max)),
        probes_sent: probe.sent,
        probes_lost: probe.lost.len() as u64,
        answer_worst_ms: ms(ledger.worst_answer),
        requests_per_second: Rates {
            before: rate("before"),
            during: ledger.rate(stage.acted, stage.settled),
            after: rate("after"),
        },
        shares: stage.quiets.iter().flat_map(|quiet| shares(stage, &ledger, quiet)).collect(),
        double_accepts: stage.tap.doubles(stage.began, now),
        served_by_two: stage.tap.strangers(stage.began, now),
        resets_of_the_dead: resets_of_the_dead(&causes),
        false_exclusions: false_exclusions(stage),
        client: ClientCost {
            cpu_percent: stage.client.cpu_time().as_secs_f64() / lived * 100.0,
            late_max_ms: ms(ledger.late_max),
            skipped: ledger.skipped,
            local_failures: ledger.not_opened.iter().filter(|it| it.failure == Failure::Local).count(),
        },
    }
}

fn caveats(stage: &Stage<'_>, figures: &Figures) -> Vec<String> {
    let mut found = Vec::new();
    let is_random = matches!(stage.options.scenario, Scenario::Churn | Scenario::Soak);
    if is_random && !stage.changes_are_taken {
        found.push("this safekit takes no drains and weights: they were left out".to_owned());
    }
    let missed = stage.tap.missed();
    if missed > 0 {
        found.push(format!(
            "{missed} frames passed unread: double accepts may be missing, and strangers wrong"
        ));
    }
    let blind = figures.gap_resolution_ms.max(figures.client.late_max_ms);
    if blind > STALL_MS {
        found.push(format!("this machine did not run the test for {blind:.0} ms at a time: it is too busy"));
    }
    found
}

/// What a node sent before it lost its power is read a moment later.
const LAST_WORDS: Duration = Duration::from_millis(50);

fn cause(broken: &Break, fates: &[Fate]) -> Cause {
    let Some(node) = broken.node else { return Cause::Other };
    let of_node =
        fates.iter().filter(|fate| fate.node == node && broken.opened <= fate.until.unwrap_or(broken.at));
    for fate in of_node.filter(|fate| fate.from <= broken.at) {
        let soon = fate.until.is_none_or(|until| broken.at.since(until) <= AFTERMATH);
        match fate.what {
            // Whoever was silent learns it whenever it asks.
            What::Died if broken.opened <= fate.from + LAST_WORDS => return Cause::Died(fate.from),
            What::Stopped if broken.opened <= fate.from => return Cause::Stopped,
            What::Paused if soon => return Cause::Paused,
            What::CutOff if soon => return Cause::CutOff,
            What::Died | What::Stopped | What::Paused | What::CutOff => {}
        }
    }
    Cause::Other
}

fn broken(causes: &[(Break, Cause)], stage: &Stage<'_>) -> Broken {
    let mut sums = Broken::default();
    for (broken, cause) in causes {
        match cause {
            Cause::Died(_) => sums.node_died += 1,
            Cause::Stopped => sums.node_stopped += 1,
            Cause::Paused => sums.node_paused += 1,
            Cause::CutOff => sums.node_cut_off += 1,
            Cause::Other => sums.other += 1,
        }
        if matches!(cause, Cause::Other | Cause::Stopped) && sums.details.len() < DETAILS_MAX {
            sums.details.push(in_words(broken, stage.began));
        }
    }
    sums
}

fn in_words(broken: &Break, began: Instant) -> String {
    let node = broken.node.map_or_else(|| "a node unknown".to_owned(), node_name);
    let since = |at: Instant| at.since(began).as_secs_f64();
    let asked = broken.asked.map_or_else(String::new, |at| format!(", asked at {:.3} s", since(at)));
    format!(
        "{:?} on {node}: {:?} at {:.3} s, opened at {:.3} s{asked}",
        broken.kind,
        broken.failure,
        since(broken.at),
        since(broken.opened)
    )
}

fn shares(stage: &Stage<'_>, ledger: &super::ledger::Ledger, quiet: &super::stage::Quiet) -> Vec<Share> {
    let counts = ledger.shares(quiet.from, quiet.until, quiet.quotas.len());
    let total = counts.iter().sum::<u64>().max(1);
    let share = |(node, (count, quota)): (NodeId, (&u64, &f64))| Share {
        when: quiet.name.clone(),
        node: node_name(node),
        share: *count as f64 / total as f64,
        quota: *quota,
        connections: *count,
    };
    stage.farm.ids().zip(counts.iter().zip(&quiet.quotas)).map(share).collect()
}

fn resets_of_the_dead(causes: &[(Break, Cause)]) -> Option<Resets> {
    let (mut since_death, mut since_packet, mut without) = (Vec::new(), Vec::new(), 0);
    for (broken, cause) in causes {
        let Cause::Died(died) = cause else { continue };
        if broken.failure != Failure::Reset {
            without += 1;
        } else if let (Kind::Idle, Some(asked)) = (broken.kind, broken.asked) {
            since_packet.push(ms(broken.at.since(asked)));
        } else {
            since_death.push(ms(broken.at.since(*died)));
        }
    }
    if since_death.len() + since_packet.len() + without == 0 {
        return None;
    }
    since_death.sort_by(f64::total_cmp);
    since_packet.sort_by(f64::total_cmp);
    let middle = |sorted: &[f64]| sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let last = |sorted: &[f64]| sorted.last().copied().unwrap_or_default();
    Some(Resets {
        connections: since_death.len() + since_packet.len() + without,
        since_death_p50_ms: middle(&since_death),
        since_death_max_ms: last(&since_death),
        silent_connections: since_packet.len(),
        since_packet_p50_ms: middle(&since_packet),
        since_packet_max_ms: last(&since_packet),
        without_reset: without,
    })
}

fn false_exclusions(stage: &Stage<'_>) -> usize {
    let reports = stage.farm.timeline().reports;
    let innocent = |(reporter, event): &&(NodeId, safekit::types::Event)| {
        let EventKind::Departed { node, why } = &event.kind else { return false };
        let excluded = matches!(why, Departure::Silence | Departure::Deaf);
        let touched = |node: NodeId| {
            let mut fates = stage.fates.iter().filter(|fate| fate.node == node);
            fates.any(|fate| {
                fate.from <= event.at && fate.until.is_none_or(|until| event.at.since(until) <= AFTERMATH)
            })
        };
        excluded && event.at >= stage.began && !touched(*node) && !touched(*reporter)
    };
    reports.iter().filter(innocent).count()
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const N2: NodeId = NodeId(1);

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    fn broken(opened: u64, ended: u64, node: Option<NodeId>) -> Break {
        let (kind, failure) = (Kind::Busy, Failure::Reset);
        Break { at: at(ended), opened: at(opened), kind, node, failure, asked: None }
    }

    #[test]
    fn a_connection_breaks_for_what_happened_to_its_own_node_in_its_own_life() {
        let died = Fate { node: N2, what: What::Died, from: at(10), until: Some(at(20)) };
        let paused = Fate { node: NodeId(0), what: What::Paused, from: at(30), until: Some(at(33)) };
        let fates = [died, paused];
        for (broken, expected) in [
            (broken(1, 13, Some(N2)), Cause::Died(at(10))),
            // Silent until after its node had come back.
            (broken(1, 25, Some(N2)), Cause::Died(at(10))),
            (broken(21, 25, Some(N2)), Cause::Other),
            // Its last words, read after the cables were down.
            (Break { opened: at(10) + LAST_WORDS, ..broken(1, 13, Some(N2)) }, Cause::Died(at(10))),
            (broken(11, 13, Some(N2)), Cause::Other),
            (broken(1, 9, Some(N2)), Cause::Other),
            (broken(1, 13, Some(NodeId(2))), Cause::Other),
            (broken(1, 13, None), Cause::Other),
            (broken(1, 34, Some(NodeId(0))), Cause::Paused),
            (broken(1, 60, Some(NodeId(0))), Cause::Other),
        ] {
            assert_eq!(cause(&broken, &fates), expected, "{broken:?}");
        }
    }

    #[test]
    fn the_silent_and_the_asking_are_measured_apart() {
        let died = Cause::Died(at(10));
        let silent = Break { kind: Kind::Idle, asked: Some(at(14)), ..broken(1, 15, Some(N2)) };
        let timed_out = Break { failure: Failure::Timeout, ..broken(1, 30, Some(N2)) };
        let causes = [
            (broken(1, 13, Some(N2)), died),
            (silent, died),
            (timed_out, died),
            (broken(1, 2, None), Cause::Other),
        ];
        let resets = resets_of_the_dead(&causes).unwrap();
        assert_eq!((resets.connections, resets.silent_connections, resets.without_reset), (3, 1, 1));
        assert_eq!((resets.since_death_max_ms, resets.since_packet_max_ms), (3_000.0, 1_000.0));
        assert!(resets_of_the_dead(&causes[3..]).is_none());
    }
}
