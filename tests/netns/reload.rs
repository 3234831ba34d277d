//! A daemon restarted under a filter that stays: the way to another program and another configuration.

use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Signal, kill_process};
use safekit::driver::clock;
use safekit::front::demo::farm::Farm;
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::{Scenario, seen, wait_whole};
use safekit::types::{Instant, NodeId};
use safekit_tests::lab::{self, Nobody};

const N2: NodeId = NodeId(1);
const CONNECTIONS: usize = 100;

#[test]
fn a_reload_breaks_no_connection_and_fails_no_request() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let interrupt = Interrupt::default();
    let mut farm = Farm::build(&lab::binary()?, 3)?;
    wait_whole(&mut farm, &interrupt)?;
    let mut scenario = Scenario::with(farm, CONNECTIONS, &interrupt, &Nobody)?;
    let begin = clock::now();
    for _ in 0..3 {
        let before = scenario.farm.daemon_pid(N2)?;
        reload(&scenario.farm)?;
        wait_whole(&mut scenario.farm, &interrupt)?;
        ensure!(scenario.farm.daemon_pid(N2)? != before, "the same daemon goes on");
    }
    // Longer than gained buckets stay in transition: now a lost connection would show.
    scenario.idle(Duration::from_secs(4))?;
    assert_unnoticed(&scenario, begin);
    ensure!(scenario.farm.is_whole(), "not whole again:\n{}", seen(&scenario.farm));
    Ok(())
}

/// A parent that cannot speak for its daemon any more, because both are gone, leaves a filter that keeps what lives.
#[test]
fn a_node_whose_processes_were_killed_keeps_its_connections_over_the_restart() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let interrupt = Interrupt::default();
    let mut scenario = Scenario::build(&lab::binary()?, 3, &interrupt, &Nobody)?;
    let begin = clock::now();
    let daemon = scenario.farm.daemon_pid(N2)?;
    let parent = parent_of(daemon)?;
    kill_process(parent, Signal::KILL)?;
    kill_process(daemon, Signal::KILL)?;
    std::thread::sleep(Duration::from_millis(400));
    scenario.farm.start(N2)?;
    wait_whole(&mut scenario.farm, &interrupt)?;
    scenario.idle(Duration::from_secs(4))?;
    let end = clock::now();
    let broken = scenario.client.ledger().broken(begin, end).count();
    assert_eq!(broken, 0, "connections broken");
    assert_eq!(scenario.double_answers(begin, end), 0);
    Ok(())
}

/// Asked to stop, it waits for its connections and dies meanwhile: that is its end, and no reason to start it again.
#[test]
fn a_daemon_that_dies_while_it_stops_is_not_started_again() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let interrupt = Interrupt::default();
    let mut scenario = Scenario::build(&lab::binary()?, 3, &interrupt, &Nobody)?;
    let daemon = scenario.farm.daemon_pid(N2)?;
    scenario.farm.stop(N2)?;
    lab::wait_until("n2 has given everything up", Duration::from_secs(5), || {
        scenario.farm.timeline().owned(N2) == 0
    })?;
    kill_process(daemon, Signal::KILL)?;
    lab::wait_until("its parent has ended", Duration::from_secs(5), || {
        scenario.farm.has_left(N2).is_ok_and(|left| left)
    })?;
    scenario.farm.finish_leave(N2)?;
    Ok(())
}

/// A configuration that cannot be run is refused, and the daemon goes on.
#[test]
fn a_reload_with_a_faulty_file_changes_nothing() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = Farm::build(&lab::binary()?, 3)?;
    wait_whole(&mut farm, &Interrupt::default())?;
    let before = farm.daemon_pid(N2)?;
    let file = farm.config().to_owned();
    let good = std::fs::read_to_string(&file)?;
    std::fs::write(&file, good.replace("kind: farm", "kind: fram"))?;
    let dir = farm.node_dir(N2);
    let dir = dir.to_str().context("the run directory is plain text")?;
    let refused = lab::safekit(&["reload", "--run-dir", dir, "--timeout", "1s"])?;
    std::fs::write(&file, good)?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("config check"), "{refused:?}");
    assert_eq!(farm.daemon_pid(N2)?, before);
    ensure!(farm.is_whole(), "not whole:\n{}", seen(&farm));
    Ok(())
}

fn reload(farm: &Farm) -> anyhow::Result<()> {
    let dir = farm.node_dir(N2);
    let dir = dir.to_str().context("the run directory is plain text")?;
    let done = lab::safekit(&["reload", "--run-dir", dir])?;
    ensure!(done.status.success(), "{done:?}");
    Ok(())
}

fn parent_of(process: rustix::process::Pid) -> anyhow::Result<rustix::process::Pid> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("no parent")?;
    rustix::process::Pid::from_raw(line.trim().parse()?).context("no parent")
}

/// From the beginning on no request failed, no connection broke, nobody answered twice.
fn assert_unnoticed(scenario: &Scenario<'_>, begin: Instant) {
    let end = clock::now();
    let ledger = scenario.client.ledger();
    let broken: Vec<_> = ledger.broken(begin, end).collect();
    assert!(broken.is_empty(), "{broken:?}");
    let failed: Vec<_> = ledger.requests(begin, end).filter(|request| request.outcome.is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    drop(ledger);
    assert_eq!(scenario.double_answers(begin, end), 0);
}
