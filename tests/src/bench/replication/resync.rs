//! A copy that is made from the other: how fast, how much goes over the wire, and how long a comparison takes.
//!
//! ```text
//!   copying     a tree on one node, nothing on the other ─▶ equal copies     rival: cp and sync of the same tree
//!   a change    the module is stopped on the other node, a little of a big file changes ─▶ equal copies     bytes on the wire
//!   comparing   many small files, equal on both ─▶ known to be equal         rival: rsync -c between the same machines
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use safekit::driver::clock;
use safekit::front::demo::topology::Network;
use safekit::types::mirror::ResyncInfo;
use safekit::types::replica::Acknowledge;
use serde::Serialize;

use super::machine::{DATA, Lab, Machine, NODES, Running};
use super::pair::Pair;
use super::subject::data;
use super::{Amount, files};
use crate::bench::Spread;

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resync {
    pub copying: Option<Copying>,
    pub change: Option<Change>,
    pub comparing: Option<Comparing>,
    /// What could not be measured of ours, and why.
    pub failures: Vec<Failure>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    pub part: &'static str,
    pub why: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Copying {
    pub bytes: u64,
    pub files: u64,
    /// cp and sync of the same tree, to the same disk.
    pub plain_seconds: Spread,
    pub seconds: Option<Spread>,
    /// Rates, of the same rounds.
    pub to_plain: Option<Spread>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    pub file_bytes: u64,
    pub changed_bytes: u64,
    /// What passed the other node's network card until both were equal, heartbeats taken off.
    pub wire_bytes: u64,
    /// What the daemon says that it sent.
    pub sent_bytes: u64,
    /// Of the resynchronisation, and from the start of the other node's module on.
    pub seconds: f64,
    pub seconds_from_start: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparing {
    pub files: u64,
    pub rsync_seconds: f64,
    pub seconds: Option<f64>,
    /// The copying of them before: ours, and cp and sync.
    pub copy_seconds: Option<f64>,
    pub plain_copy_seconds: f64,
}

const RESYNC_TIMEOUT: Duration = Duration::from_secs(300);
const COPY_TIMEOUT: Duration = Duration::from_secs(300);
const STOP: Duration = Duration::from_secs(60);
const RSYNC_PORT: u16 = 8730;
/// Of the big file: one MiB altogether.
const PIECES: u64 = 16;

/// What fails of ours is noted; an error ends the benchmark.
pub fn measure(lab: &Lab, amount: &Amount, resync: &mut Resync) -> Result<()> {
    let parts: [(&'static str, Part); 3] = [
        ("resynchronisation: copying", copying),
        ("resynchronisation: a change", change),
        ("resynchronisation: comparing", comparing),
    ];
    for (name, part) in parts {
        let start = clock::now();
        let outcome = part(lab, amount, resync);
        lab.end_all();
        lab.go_on()?;
        if let Err(error) = outcome {
            resync.note(lab, name, &error);
        }
        eprintln!("==> {name} ({:.0} s)", clock::now().since(start).as_secs_f64());
    }
    Ok(())
}

type Part = fn(&Lab, &Amount, &mut Resync) -> Result<()>;

impl Resync {
    pub fn note(&mut self, lab: &Lab, part: &'static str, error: &anyhow::Error) {
        let why = lab.words(error);
        eprintln!("warning: {part}: {why}");
        self.failures.push(Failure { part, why });
    }
}

/// Directories of both nodes, and a place for plain copies. They go with the value.
struct Trees {
    nodes: [PathBuf; 2],
    plain: PathBuf,
}

impl Trees {
    fn make(lab: &Lab) -> Result<Self> {
        let nodes = [lab.directory("tree-a")?, lab.directory("tree-b")?];
        Ok(Self { nodes, plain: lab.base().join("tree-plain") })
    }

    fn pair<'lab>(&self, lab: &'lab Lab) -> Result<Pair<'lab>> {
        Pair::make(lab, Acknowledge::Disk, [&self.nodes[0], &self.nodes[1]])
    }
}

impl Drop for Trees {
    fn drop(&mut self) {
        for directory in self.nodes.iter().chain([&self.plain]) {
            let _never_made = std::fs::remove_dir_all(directory);
        }
    }
}

fn copying(lab: &Lab, amount: &Amount, resync: &mut Resync) -> Result<()> {
    let (mut plain_seconds, mut seconds, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut ours = Ok(());
    for _ in 0..amount.copies {
        let trees = Trees::make(lab)?;
        mixed_tree(&trees.nodes[0], amount)?;
        let plain = plain_copy(lab, &trees)?;
        plain_seconds.push(plain);
        if ours.is_err() {
            continue;
        }
        ours = first_resync(lab, &trees).map(|it| {
            seconds.push(it);
            ratios.push(plain / it);
        });
        lab.go_on()?;
        lab.end_all();
    }
    resync.copying = Some(Copying {
        bytes: amount.tree_bytes(),
        files: amount.tree_files(),
        plain_seconds: Spread::of(&plain_seconds).context("no copy was made")?,
        seconds: Spread::of(&seconds),
        to_plain: Spread::of(&ratios),
    });
    ours
}

/// Big files, and some that are not.
fn mixed_tree(directory: &Path, amount: &Amount) -> Result<()> {
    for number in 0..amount.tree_big_files {
        files::fill(&directory.join(format!("big{number:03}")), Amount::TREE_BIG_BYTES)?;
    }
    let folder = directory.join("folder");
    std::fs::create_dir(&folder)?;
    for number in 0..amount.tree_small_files {
        files::fill(&folder.join(format!("small{number:04}")), Amount::TREE_SMALL_BYTES)?;
    }
    Ok(())
}

fn plain_copy(lab: &Lab, trees: &Trees) -> Result<f64> {
    lab.settle()?;
    let machine = Machine::make(lab, NODES[0], &trees.nodes[0], || Ok(()))?;
    let mut copy = machine.command("cp")?;
    copy.arg("-a").args([&trees.nodes[0], &trees.plain]);
    let start = clock::now();
    machine.run("cp", copy, COPY_TIMEOUT)?;
    lab.settle()?;
    let seconds = clock::now().since(start).as_secs_f64();
    std::fs::remove_dir_all(&trees.plain)?;
    lab.settle()?;
    Ok(seconds)
}

/// From a node that has it all to one that has nothing, as the daemon tells it.
fn first_resync(lab: &Lab, trees: &Trees) -> Result<f64> {
    let mut pair = trees.pair(lab)?;
    pair.start()?;
    let seconds = seconds_of(&pair.resync_after(None)?)?;
    pair.end()?;
    Ok(seconds)
}

fn seconds_of(resync: &ResyncInfo) -> Result<f64> {
    let ended = resync.ended.context("the copies are equal, and their resynchronisation has not ended")?;
    Ok(ended.since(resync.since).as_secs_f64())
}

fn change(lab: &Lab, amount: &Amount, resync: &mut Resync) -> Result<()> {
    let trees = Trees::make(lab)?;
    // So that there is a first resynchronisation to tell the second from.
    files::fill(&trees.nodes[0].join("first"), Amount::TREE_SMALL_BYTES)?;
    let mut pair = trees.pair(lab)?;
    pair.start()?;
    let first = pair.resync_after(None)?;
    let file_bytes = amount.changed_file_bytes;
    let mut grow = pair.machine(0).command("truncate")?;
    grow.args([&format!("--size={file_bytes}"), &data("huge")]);
    pair.machine(0).run("truncate", grow, COPY_TIMEOUT)?;
    pair.wait_in_sync(RESYNC_TIMEOUT)?;

    pair.part()?;
    let words = ["change".to_owned(), data("huge"), PIECES.to_string()];
    files::run(pair.machine(0), &words, COPY_TIMEOUT)?;
    let (passed, sent, start) = (bytes_passed(&pair)?, pair.copy(0)?.sent_bytes, clock::now());
    pair.rejoin()?;
    let seconds_from_start = clock::now().since(start).as_secs_f64();
    let wire_bytes = bytes_passed(&pair)?.saturating_sub(passed);
    let seconds = seconds_of(&pair.resync_after(Some(first.since))?)?;
    resync.change = Some(Change {
        file_bytes,
        changed_bytes: PIECES * files::PIECE as u64,
        wire_bytes,
        sent_bytes: pair.copy(0)?.sent_bytes.saturating_sub(sent),
        seconds,
        seconds_from_start,
    });
    pair.end()?;
    equal(&trees.nodes.each_ref().map(|node| node.join("huge")))
}

/// On the network of the replication. The other one carries the same heartbeats and nothing else: they are taken off.
fn bytes_passed(pair: &Pair<'_>) -> Result<u64> {
    let of = |network: Network| pair.machine(1).bytes_passed(network.interface());
    Ok(of(Network::Backup)?.saturating_sub(of(Network::Lan)?))
}

/// A resynchronisation that saves bytes by leaving some out is worth nothing.
fn equal(files: &[PathBuf; 2]) -> Result<()> {
    let [one, other] = files;
    let status = Command::new("cmp").arg("--silent").args([one, other]).status()?;
    ensure!(status.success(), "{} and {} differ", one.display(), other.display());
    Ok(())
}

fn comparing(lab: &Lab, amount: &Amount, resync: &mut Resync) -> Result<()> {
    let trees = Trees::make(lab)?;
    let files = many_files(&trees.nodes[0], amount.compared_files)?;
    let plain_copy_seconds = plain_copy(lab, &trees)?;
    let mut comparing =
        Comparing { files, rsync_seconds: 0.0, seconds: None, copy_seconds: None, plain_copy_seconds };
    let ours = compare(lab, &trees, &mut comparing);
    lab.go_on()?;
    lab.end_all();
    if ours.is_err() {
        // The rival finds two equal trees all the same.
        let status =
            Command::new("cp").arg("-a").arg(trees.nodes[0].join(".")).arg(&trees.nodes[1]).status()?;
        ensure!(status.success(), "cp ended with {status}");
    }
    comparing.rsync_seconds = rsync(lab, &trees)?;
    resync.comparing = Some(comparing);
    ours
}

fn many_files(directory: &Path, count: u64) -> Result<u64> {
    const A_FOLDER: u64 = 1000;
    for number in 0..count {
        let folder = directory.join(format!("d{:03}", number / A_FOLDER));
        if number % A_FOLDER == 0 {
            std::fs::create_dir(&folder)?;
        }
        files::fill(&folder.join(format!("f{number:06}")), 4096)?;
    }
    Ok(count)
}

fn compare(lab: &Lab, trees: &Trees, comparing: &mut Comparing) -> Result<()> {
    let mut pair = trees.pair(lab)?;
    pair.start()?;
    let first = pair.resync_after(None)?;
    comparing.copy_seconds = Some(seconds_of(&first)?);
    pair.order(1, &["second", "db", "--full-sync", "--no-wait"])?;
    let all = pair.resync_after(Some(first.since))?;
    ensure!(all.everything, "all was to be compared, and only what was recorded has been");
    comparing.seconds = Some(seconds_of(&all)?);
    pair.end()
}

/// Between the two machines, by checksums, with nothing to be done in the end.
fn rsync(lab: &Lab, trees: &Trees) -> Result<f64> {
    let [own, other] = [0, 1].map(|node| Machine::make(lab, NODES[node], &trees.nodes[node], || Ok(())));
    let (own, other) = (own?, other?);
    let config = lab.base().join("rsyncd.conf");
    std::fs::write(
        &config,
        format!("use chroot = no\n[tree]\npath = {DATA}\nread only = no\nuid = 0\ngid = 0\n"),
    )?;
    let mut serve = other.command("rsync")?;
    serve.args(["--daemon", "--no-detach", &format!("--port={RSYNC_PORT}")]);
    serve.arg(format!("--config={}", config.display()));
    let daemon: Running = other.start("rsyncd", serve)?;
    let place = format!("rsync://{}:{RSYNC_PORT}/tree/", Network::Backup.address(NODES[1]));
    let client = |words: &[&str]| -> Result<String> {
        let mut command = own.command("rsync")?;
        command.args(words).arg(&place);
        own.run("rsync", command, COPY_TIMEOUT)
    };
    lab.wait_until("rsync's daemon", STOP, || Ok(client(&["--list-only"]).is_ok()))?;
    let start = clock::now();
    let source = format!("{DATA}/");
    let said = client(&["--archive", "--checksum", "--itemize-changes", "--exclude=/.safekit", &source])?;
    let seconds = clock::now().since(start).as_secs_f64();
    ensure!(!said.contains("<f"), "rsync found files that differ:\n{said}");
    drop(daemon);
    Ok(seconds)
}
