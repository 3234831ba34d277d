//! PostgreSQL on the node that serves: rows whose COMMIT has returned, and the machine that dies under them.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use safekit::types::mirror::MirrorOrder;
use safekit::types::replica::MirrorRole;

use super::programs::{Talk, ended_within, rounds, spawn};
use super::server::{Server, initialise};
use crate::stage::{Options, Stage, story};

/// Clients that commit at once.
const CLIENTS: usize = 4;
/// So many commits are waited for before a node is killed, and a few more come until it is dead.
const COMMITS: usize = 150;
/// One statement. The answer may wait for a node that was lost, or for a slow disk.
const STATEMENT_MAX: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

/// A row says by its numbers what else is in it.
const TABLE: &str = "create table commits(round int, client int, number int, body text,
    primary key (round, client, number)); create index on commits(md5(body));";
const DAMAGED: &str = "select count(*) from commits
    where body <> repeat(md5(round || '.' || client || '.' || number), 1 + number % 200)";
/// Whatever pgbench has transferred is in four tables, or in none.
const BALANCE: &str = "select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0)
    from pgbench_history) and (select sum(tbalance) from pgbench_tellers) = (select coalesce(sum(delta), 0)
    from pgbench_history) and (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0)
    from pgbench_history)";

type Row = (usize, usize, usize);

/// Commits rows until it is told to stop, or the server is gone.
struct Writers {
    stop: Arc<AtomicBool>,
    committed: Arc<Mutex<BTreeSet<Row>>>,
    count: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(server: &Server, round: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let committed: Arc<Mutex<BTreeSet<Row>>> = Arc::default();
        let count = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        for client in 0..CLIENTS {
            let mut talk = Talk::start(&mut server.psql()?)?;
            let (stop, committed, count) = (Arc::clone(&stop), Arc::clone(&committed), Arc::clone(&count));
            threads.push(std::thread::spawn(move || {
                for number in 0.. {
                    let line = format!(
                        "insert into commits values ({round}, {client}, {number}, \
                         repeat(md5('{round}.{client}.{number}'), 1 + {number} % 200)) returning number;"
                    );
                    // An answer comes after the commit: each statement is a transaction.
                    let answer = talk.ask(&line, STATEMENT_MAX);
                    if stop.load(Ordering::Acquire) || !answer.is_ok_and(|it| it == number.to_string()) {
                        return;
                    }
                    let mut committed = committed.lock().unwrap_or_else(PoisonError::into_inner);
                    committed.insert((round, client, number));
                    count.fetch_add(1, Ordering::AcqRel);
                }
            }));
        }
        Ok(Self { stop, committed, count, threads })
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Every row whose commit returned.
    fn end(self) -> BTreeSet<Row> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        std::mem::take(&mut self.committed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[test]
fn no_committed_row_is_lost_with_the_node_that_served() -> Result<()> {
    let rounds = rounds(3);
    let within = Duration::from_secs(120) + Duration::from_secs(45) * rounds as u32;
    story("postgres", Options { within, ..Options::default() }, |stage| {
        stage.mirrored()?;
        initialise(&stage.mount(0), &["--data-checksums"])?;
        let mut server = Server::start(&stage.mount(0))?;
        server.run("pgbench", &["--initialize", "--quiet", "postgres"])?;
        server.query(TABLE)?;
        let mut committed = BTreeSet::new();
        for round in 0..rounds {
            let leader = round % 2;
            committed.append(&mut killed_under_load(stage, server, round)?);
            server = taken_over(stage, 1 - leader, &committed)?;
            eprintln!("round {round}: {} rows are there", committed.len());
            stage.start(leader)?;
            stage.until_in_sync(1 - leader)?;
        }
        server.stop()?;
        stage.until_same()?;
        stage.stop(1)?;
        stage.stop(0)?;
        stage.until_same()
    })
}

/// The leader's process and all of PostgreSQL's, in the midst of it. In every other round the database sees first that
/// its files are gone.
fn killed_under_load(stage: &mut Stage, server: Server, round: usize) -> Result<BTreeSet<Row>> {
    let leader = round % 2;
    let writers = Writers::start(&server, round)?;
    let mut bench = server.program("pgbench")?;
    bench
        .args(["--client=2", "--time=600", "--no-vacuum", "postgres"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut bench = spawn(&mut bench)?;
    let enough = stage.until("clients have committed", |_| Ok(writers.count() >= COMMITS));
    if enough.is_ok() && round.is_multiple_of(2) {
        stage.kill(leader)?;
    }
    let killed = server.kill();
    let committed = writers.end();
    // It has lost its server.
    ended_within(&mut bench, MINUTE)?;
    enough.and(killed)?;
    if !round.is_multiple_of(2) {
        stage.kill(leader)?;
    }
    Ok(committed)
}

/// The other node serves, with a server that finds what it needs to recover, and every row.
fn taken_over(stage: &mut Stage, at: usize, committed: &BTreeSet<Row>) -> Result<Server> {
    stage.until("the loss is noticed", |stage| Ok(!stage.info(at)?.connected))?;
    stage.order(at, MirrorOrder::Prim { force: false })?;
    stage.until_role(at, MirrorRole::Alone)?;
    let server = Server::start(&stage.mount(at))?;
    let answer = server.query("select round, client, number from commits")?;
    let found: BTreeSet<Row> = answer.lines().map(row).collect::<Result<_>>()?;
    let lost: Vec<_> = committed.difference(&found).collect();
    ensure!(lost.is_empty(), "{} of {} committed rows are lost: {lost:?}", lost.len(), committed.len());
    ensure!(server.query(DAMAGED)?.trim() == "0", "rows are damaged");
    ensure!(server.query(BALANCE)?.trim() == "t", "half of a transaction is there");
    server.check()?;
    Ok(server)
}

fn row(line: &str) -> Result<Row> {
    let mut numbers = line.split('|').map(str::parse);
    let mut next = || numbers.next().context("three numbers")?.with_context(|| line.to_owned());
    Ok((next()?, next()?, next()?))
}
