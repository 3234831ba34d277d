//! SQLite: transactions that are on the disk when they return, while the network comes and goes.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use safekit::types::mirror::MirrorOrder;
use safekit::types::replica::MirrorRole;
use safekit_tests::netns::SCRATCH;

use super::programs::{Talk, rounds, run_well};
use crate::stage::{Options, Stage, story};

/// The answer may wait for a node that was lost.
const STATEMENT_MAX: Duration = Duration::from_secs(30);
const COMMITS: usize = 25;
/// One for each way that it has to make a transaction safe.
const JOURNALS: [&str; 3] = ["delete", "wal", "truncate"];

struct Writer {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicUsize>,
    thread: JoinHandle<Result<()>>,
}

impl Writer {
    fn start(database: &Path, journal: &str) -> Result<Self> {
        let mut sqlite = Command::new("sqlite3");
        sqlite.args(["-batch", "-noheader", "-bail"]).arg(database);
        let mut talk = Talk::start(&mut sqlite)?;
        let mode = talk.ask(&format!("pragma journal_mode={journal};"), STATEMENT_MAX)?;
        ensure!(mode == journal, "the journal is {mode}");
        let made = "pragma synchronous=full; create table rows(number integer primary key, body text);
            create index bodies on rows(body); select 'made';";
        ensure!(talk.ask(&made.replace('\n', " "), STATEMENT_MAX)? == "made");
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = std::thread::spawn({
            let (stop, committed) = (Arc::clone(&stop), Arc::clone(&committed));
            move || write(talk, &stop, &committed)
        });
        Ok(Self { stop, committed, thread })
    }

    fn committed(&self) -> usize {
        self.committed.load(Ordering::Acquire)
    }

    fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("a writer does not panic")?;
        Ok(self.committed.load(Ordering::Acquire))
    }
}

/// Rows 0, 1, 2, ... each with what its number says; every answer comes after a commit.
fn write(mut talk: Talk, stop: &AtomicBool, committed: &AtomicUsize) -> Result<()> {
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let line = format!(
            "begin; insert into rows values ({number}, hex(zeroblob({}))); commit; select 'row {number}';",
            number % 3000
        );
        let answer = talk.ask(&line, STATEMENT_MAX)?;
        ensure!(answer == format!("row {number}"), "{answer}");
        committed.store(number + 1, Ordering::Release);
    }
    talk.end(STATEMENT_MAX)
}

#[test]
fn transactions_are_on_both_nodes_however_often_the_network_was_cut() -> Result<()> {
    let rounds = rounds(2);
    let within = Duration::from_secs(90) + Duration::from_secs(40) * rounds as u32;
    story("sqlite", Options { within, ..Options::default() }, |stage| {
        stage.mirrored()?;
        let writers = JOURNALS.map(|journal| Writer::start(&database(stage, 0, journal), journal));
        let writers = writers.into_iter().collect::<Result<Vec<_>>>()?;
        for _ in 0..rounds {
            until_all_wrote(stage, &writers)?;
            stage.road.cut();
            stage.until_role(0, MirrorRole::Alone)?;
            until_all_wrote(stage, &writers)?;
            stage.road.mend();
            stage.until_in_sync(0)?;
        }
        until_all_wrote(stage, &writers)?;
        let committed = writers.into_iter().map(Writer::end).collect::<Result<Vec<_>>>()?;
        eprintln!("{committed:?} transactions with {JOURNALS:?}");
        for (journal, count) in JOURNALS.iter().zip(&committed) {
            whole(&database(stage, 0, journal), *count)?;
        }
        stage.order(0, MirrorOrder::Second { full_sync: false })?;
        stage.until_role(0, MirrorRole::Wait)?;
        stage.until_same()?;
        // What is below is looked at where nothing is mounted over it any more.
        stage.stop(1)?;
        for (journal, count) in JOURNALS.iter().zip(&committed) {
            whole(&database(stage, 1, journal), *count)?;
        }
        Ok(())
    })
}

fn database(stage: &Stage, at: usize, journal: &str) -> std::path::PathBuf {
    stage.mount(at).join(format!("{journal}.db"))
}

fn until_all_wrote(stage: &mut Stage, writers: &[Writer]) -> Result<()> {
    let before: Vec<usize> = writers.iter().map(Writer::committed).collect();
    stage.until("all have committed", |_| {
        let more = |(writer, before): (&Writer, &usize)| {
            ensure!(!writer.thread.is_finished(), "a writer has ended");
            Ok(writer.committed() >= before + COMMITS)
        };
        writers.iter().zip(&before).try_fold(true, |all, each| Ok(all & more(each)?))
    })
}

/// Looked at without a write: a reader of its own would clean up after a crash.
fn whole(database: &Path, committed: usize) -> Result<()> {
    let uri = format!("file:{}?immutable=1", database.display());
    let asked = "pragma integrity_check; select count(*) from rows;
        select count(*) from rows where body <> hex(zeroblob(number % 3000));";
    let mut sqlite = Command::new("sqlite3");
    sqlite.args(["-batch", "-noheader", "-readonly"]).arg(uri).arg(asked);
    let said = run_well(&mut sqlite, SCRATCH.as_ref(), STATEMENT_MAX)?;
    let expected = format!("ok\n{committed}\n0\n");
    ensure!(said == expected, "{}: {said}, and not {expected}", database.display());
    Ok(())
}
