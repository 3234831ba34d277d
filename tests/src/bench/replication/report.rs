//! What came out, as one JSON object, and whether the goals are met.

use std::path::Path;
use std::process::Command;

use safekit::types::replica::Acknowledge;
use serde::Serialize;

use super::cases::{Case, CaseFigure, Failure, Figure, Rounds};
use super::resync::Resync;
use super::subject::Subject;
use super::{Amount, pair};
use crate::bench::report::{Configuration, Goal, Machine, at_least, at_most};

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub api_version: &'static str,
    pub machine: Machine,
    /// What the directories lie on.
    pub file_system: String,
    pub amount: Amount,
    pub rounds: usize,
    pub goals: Vec<Goal>,
    pub figures: Vec<Figure>,
    pub resync: Resync,
    pub failures: Vec<Failure>,
    pub configurations: Vec<Configuration>,
}

impl Report {
    pub fn of(amount: Amount, directory: &Path, rounds: &Rounds, resync: Resync) -> Self {
        let figures = rounds.figures();
        let mut goals = case_goals(&figures);
        goals.extend(resync_goals(&resync));
        Self {
            api_version: "v1",
            machine: Machine { packages: packages(), ..Machine::this() },
            file_system: file_system(directory),
            amount,
            rounds: rounds.count(),
            goals,
            figures,
            resync,
            failures: rounds.failures.clone(),
            configurations: vec![Configuration {
                of: "safekit, two nodes".to_owned(),
                text: pair::SAFEKIT.to_owned(),
            }],
        }
    }
}

/// Bars of the policy `disk`: words, case, to GlusterFS, to the plain directory.
type Bar = (Case, Option<(&'static str, f64)>, Option<(&'static str, f64)>);

const BARS: [Bar; 7] = [
    (
        Case::SyncedWrites,
        Some(("random writes of 4 KiB with fsync, one job, to GlusterFS", 2.5)),
        Some(("random writes of 4 KiB with fsync, one job, to the plain directory", 0.45)),
    ),
    (
        Case::SyncedWritesOfEight,
        Some(("random writes of 4 KiB with fsync, eight jobs, to GlusterFS", 3.0)),
        Some(("random writes of 4 KiB with fsync, eight jobs, to the plain directory", 0.33)),
    ),
    (
        Case::SequentialWrite,
        Some(("sequential write, to GlusterFS", 2.0)),
        Some(("sequential write, to the plain directory", 0.25)),
    ),
    (Case::CachedReads, None, Some(("random reads in memory, to the plain directory", 0.85))),
    (Case::Creates, Some(("small files made, to GlusterFS", 5.0)), None),
    (Case::Deletes, Some(("small files deleted, to GlusterFS", 5.0)), None),
    (
        Case::EightClients,
        Some(("pgbench with eight clients, to GlusterFS", 2.0)),
        Some(("pgbench with eight clients, to the plain directory", 0.65)),
    ),
];

fn case_goals(figures: &[Figure]) -> Vec<Goal> {
    let mut goals = Vec::new();
    let ours = Subject::Replicated(Acknowledge::Disk);
    for (case, to_gluster, to_plain) in BARS {
        let Some(figure) = figure_of(figures, ours, case) else { continue };
        for (bar, measured) in [(to_gluster, figure.to_gluster), (to_plain, figure.to_plain)] {
            if let (Some((goal, bar)), Some(measured)) = (bar, measured) {
                goals.push(at_least(goal, measured.median, bar));
            }
        }
    }
    goals
}

pub fn figure_of(figures: &[Figure], subject: Subject, case: Case) -> Option<&CaseFigure> {
    let figure = figures.iter().find(|figure| figure.subject == subject)?;
    figure.cases.iter().find(|figure| figure.case == case)
}

fn resync_goals(resync: &Resync) -> Vec<Goal> {
    let mut goals = Vec::new();
    if let Some(to_plain) = resync.copying.and_then(|copying| copying.to_plain) {
        goals.push(at_least("resynchronisation, to cp and sync of the same tree", to_plain.median, 0.8));
    }
    if let Some(change) = resync.change {
        goals.push(at_most(
            "MiB on the wire after 1 MiB of a big file changed",
            mebibytes(change.wire_bytes),
            4.0,
        ));
    }
    goals
}

pub fn mebibytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact up to eight pebibytes")]
    let bytes = bytes as f64;
    bytes / 1_048_576.0
}

fn packages() -> Vec<String> {
    let names = ["fio", "glusterfs-server", "postgresql", "rsync"];
    let output =
        Command::new("dpkg-query").args(["-W", "-f", "${Package} ${Version}\n"]).args(names).output();
    let listing = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // A package that is known and not installed has no version.
    let known = listing.unwrap_or_default();
    known.lines().filter(|line| !line.ends_with(' ')).map(str::to_owned).collect()
}

/// Its kind, and the options that decide what an fsync costs.
fn file_system(directory: &Path) -> String {
    let output =
        Command::new("findmnt").args(["-n", "-o", "FSTYPE,OPTIONS", "--target"]).arg(directory).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    said.split_whitespace().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Spread;
    use crate::bench::replication::resync::{Change, Copying};

    #[test]
    fn goals_are_of_what_was_measured_only() {
        let one = |it| Spread { median: it, min: it, max: it };
        let figure = CaseFigure {
            case: Case::SyncedWrites,
            per_second: one(1000.0),
            cpu_us: one(300.0),
            to_plain: Some(one(0.5)),
            to_gluster: Some(one(2.0)),
        };
        let of = |subject| vec![Figure { subject, transport: None, cases: vec![figure] }];
        assert_eq!(case_goals(&of(Subject::Mount)), []);
        let goals = case_goals(&of(Subject::Replicated(Acknowledge::Disk)));
        assert_eq!(goals.iter().map(|goal| goal.met).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn less_on_the_wire_and_more_speed_is_better() {
        let one = |it| Spread { median: it, min: it, max: it };
        let copying = |ratio| Copying {
            bytes: 1,
            files: 1,
            plain_seconds: one(1.0),
            seconds: Some(one(1.0)),
            to_plain: Some(one(ratio)),
        };
        let change = |wire_bytes| Change {
            file_bytes: 1 << 30,
            changed_bytes: 1 << 20,
            wire_bytes,
            sent_bytes: 0,
            seconds: 1.0,
            seconds_from_start: 1.0,
        };
        let met = |ratio, wire_bytes| {
            let (copying, change) = (Some(copying(ratio)), Some(change(wire_bytes)));
            let resync = Resync { copying, change, ..Resync::default() };
            resync_goals(&resync).iter().map(|goal| goal.met).collect::<Vec<_>>()
        };
        assert_eq!(met(0.9, 2 << 20), [true, true]);
        assert_eq!(met(0.7, 5 << 20), [false, false]);
        assert_eq!(resync_goals(&Resync::default()), []);
    }
}
