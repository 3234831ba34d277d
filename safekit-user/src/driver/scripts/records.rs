//! What is kept of each run: its output, and a record beside it that says what it was and how it ended.
//!
//! ```text
//! STATE_DIR/modules/MODULE/scripts/20261123T080320.007Z_start_both.log
//!                                  20261123T080320.007Z_start_both.json
//! ```
//!
//! A record without an end is of a run under way, or of one that a dead daemon has left: the leader is written down
//! before the script does anything, so that the next daemon finds it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use super::output::Output;
use super::processes::Processes;
use super::store::machine_boot;
use crate::driver::clock;
use crate::types::logs::ScriptRun;
use crate::types::module::ScriptEnd;

/// Of each module; the oldest go first.
pub(super) const RUNS_KEPT: usize = 50;
/// A record is much smaller.
const RECORD_BYTES_MAX: u64 = 64 * 1024;
/// Of what comes from outside.
const CAUSE_CHARS_MAX: usize = 500;
/// Runs that begin in one millisecond.
const NAMES_MAX: usize = 16;

pub(super) struct Heading<'t> {
    pub(super) script: &'static str,
    pub(super) force: bool,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) action: &'t str,
    pub(super) cause: &'t str,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    #[serde(flatten)]
    pub(super) run: ScriptRun,
    /// Processes of another boot of the machine are nobody's.
    machine_boot: String,
    processes: Option<Processes>,
    /// It is being ended by force: whatever of it is left must go, also without its leader.
    ending: bool,
}

/// The run under way.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) output: Output,
    dir: PathBuf,
    record: Record,
}

impl Kept {
    pub(super) fn begin(dir: &Path, heading: &Heading<'_>) -> Self {
        let _made_by_the_output_or_reported_by_it = fs::create_dir_all(dir);
        drop_oldest(dir);
        let started = clock::utc();
        let name = free_name(dir, &started, heading);
        let path = dir.join(format!("{name}.log"));
        let run = ScriptRun {
            script: heading.script.to_owned(),
            force: heading.force,
            from: heading.from.to_owned(),
            to: heading.to.to_owned(),
            action: heading.action.to_owned(),
            cause: heading.cause.chars().take(CAUSE_CHARS_MAX).collect(),
            started,
            took_ms: None,
            end: None,
            bytes: 0,
            dropped: 0,
            path: path.display().to_string(),
            name,
        };
        let record = Record { run, machine_boot: machine_boot(), processes: None, ending: false };
        let kept = Self { output: Output::create(&path), dir: dir.to_owned(), record };
        kept.write();
        kept
    }

    pub(super) fn name(&self) -> &str {
        &self.record.run.name
    }

    /// For a file of the run's own, beside its log.
    pub(super) fn beside(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.name()))
    }

    /// Before the script does anything.
    pub(super) fn belongs_to(&mut self, processes: &Processes) {
        self.record.processes = Some(processes.clone());
        self.write();
    }

    /// Before the first of them is asked to end.
    pub(super) fn ends_by_force(&mut self) {
        self.record.ending = true;
        self.write();
    }

    pub(super) fn finish(mut self, end: &ScriptEnd, took: Duration) {
        self.output.close();
        self.record.run.took_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.record.run.end = Some(end.clone());
        self.record.run.bytes = self.output.bytes();
        self.record.run.dropped = self.output.dropped();
        self.write();
    }

    fn write(&self) {
        write(&self.dir, &self.record);
    }
}

/// Not synced: after a crash of the machine nothing of it is running. A full disk costs the record, not the run.
fn write(dir: &Path, record: &Record) {
    let path = dir.join(format!("{}.json", record.run.name));
    let beside = path.with_extension("new");
    let text = serde_json::to_vec(record).expect("a record is plain data");
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, &path));
    if let Err(error) = written {
        tracing::error!(%error, path = %path.display(), "cannot keep what a script does");
    }
}

/// Ends what runs of a dead daemon have left, and says in their records that it did.
pub(super) fn end_leftovers(dir: &Path, module: &str) {
    let boot = machine_boot();
    for name in names(dir) {
        let Some(mut record) = read(dir, &name) else { continue };
        if record.run.end.is_some() {
            continue;
        }
        let ended = record.machine_boot == boot
            && record.processes.as_ref().is_some_and(|processes| {
                let lives = processes.leader.is_there() || record.ending;
                if lives {
                    processes.end();
                }
                lives
            });
        if ended {
            tracing::warn!(module, run = name, "ended a script of a daemon that died");
        }
        record.run.end = Some(match ended {
            true => ScriptEnd::Killed,
            false => ScriptEnd::Failed { code: None, last_line: "the daemon died meanwhile".to_owned() },
        });
        write(dir, &record);
    }
}

/// Names of runs, the oldest first.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned()))
        .collect();
    names.sort_unstable();
    names
}

pub(super) fn outputs(dir: &Path) -> Vec<PathBuf> {
    names(dir).iter().map(|name| dir.join(format!("{name}.log"))).collect()
}

/// None where it is damaged or was removed meanwhile.
pub(super) fn read(dir: &Path, name: &str) -> Option<Record> {
    let path = dir.join(format!("{name}.json"));
    let parse = || -> io::Result<Record> {
        if fs::metadata(&path)?.len() > RECORD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(serde_json::from_slice(&fs::read(&path)?)?)
    };
    match parse() {
        Ok(record) => Some(record),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the record of a script is damaged");
            None
        }
    }
}

/// Makes room for one. An application that still prints into a log keeps it: it would fill the disk unseen otherwise.
fn drop_oldest(dir: &Path) {
    let names = names(dir);
    let many = (names.len() + 1).saturating_sub(RUNS_KEPT);
    for name in names.iter().take(many) {
        if read(dir, name).is_some_and(|record| record.still_prints()) {
            continue;
        }
        for extension in ["log", "json"] {
            let _gone = fs::remove_file(dir.join(format!("{name}.{extension}")));
        }
    }
}

impl Record {
    fn still_prints(&self) -> bool {
        let cgroup = self.processes.as_ref().and_then(|processes| processes.cgroup.clone());
        cgroup.is_some_and(|path| {
            let cgroup = Cgroup::at(path);
            cgroup.remove_if_empty();
            cgroup.is_inhabited()
        })
    }
}

/// `2026-11-23T08:03:20.007Z` without what other programs dislike in file names.
fn free_name(dir: &Path, started: &str, heading: &Heading<'_>) -> String {
    let time: String = started.chars().filter(|char| !matches!(char, '-' | ':')).collect();
    let force = if heading.force { "-force" } else { "" };
    let name = format!("{time}_{}{force}", heading.script);
    let taken = |name: &str| dir.join(format!("{name}.json")).exists();
    if !taken(&name) {
        return name;
    }
    let mut others = (2..=NAMES_MAX).map(|number| format!("{name}-{number}"));
    others.find(|name| !taken(name)).unwrap_or(name)
}
