//! The load tool's scenarios, small: what thousands of connections show in a minute, hundreds show in seconds.

use std::path::PathBuf;

use anyhow::ensure;
use safekit::front::demo::interrupt::Interrupt;
use safekit_tests::lab;
use safekit_tests::load::report::Figures;
use safekit_tests::load::{self, Options, Programs, Report, Scenario};

fn small(scenario: Scenario) -> Options {
    Options { connections: 200, rate: 100, quiet: 1, ..Options::of(scenario) }
}

fn play(options: &Options) -> anyhow::Result<Report> {
    let programs = Programs { safekit: lab::binary()?, server: PathBuf::from(env!("CARGO_BIN_EXE_load")) };
    let report = load::run(options, &programs, &Interrupt::default())?;
    eprintln!("{}", report.summary());
    Ok(report)
}

fn figures(report: &Report) -> &Figures {
    report.load.as_ref().expect("the scenario holds connections")
}

/// Plays it, and every promise must be kept.
fn kept(options: &Options) -> anyhow::Result<Report> {
    let report = play(options)?;
    ensure!(report.ok, "{}", report.summary());
    Ok(report)
}

#[test]
fn a_join_breaks_nothing_and_shares_out() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let report = kept(&small(Scenario::Join))?;
    let shares = &figures(&report).shares;
    let of_n3 = |when: &str| shares.iter().find(|it| it.node == "n3" && it.when == when).map(|it| it.quota);
    assert_eq!(of_n3("before"), Some(0.0));
    assert!(of_n3("after").is_some_and(|quota| quota > 0.25), "{shares:?}");
    Ok(())
}

#[test]
fn a_leave_breaks_nothing_when_clients_finish() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    kept(&small(Scenario::Leave)).map(drop)
}

/// Also what the tool itself sees: the dead node's connections and no other, reset, and a gap in service.
#[test]
fn a_kill_breaks_the_dead_nodes_connections_alone() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let report = kept(&small(Scenario::Kill))?;
    let figures = figures(&report);
    assert!(figures.broken.node_died > 30, "{:?}", figures.broken);
    assert!(figures.gap_worst_ms > 20.0, "a death that no probe notices: {}", figures.gap_worst_ms);
    let resets = figures.resets_of_the_dead.as_ref().expect("connections died");
    assert!(resets.silent_connections > 10 && resets.since_death_p50_ms > 1_000.0, "{resets:?}");
    Ok(())
}

#[test]
fn a_paused_daemon_breaks_nothing() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    kept(&small(Scenario::Pause)).map(drop)
}

#[test]
fn daemons_restart_one_after_the_other_unnoticed() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    kept(&small(Scenario::RestartDaemon)).map(drop)
}

/// The networks lose the heartbeats of two halves, and clients reach both: heartbeats then take the clients' own path.
/// Without it both halves would answer each SYN for as long as it lasts, which is most of the run.
#[test]
fn a_partition_serves_no_connection_twice() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    kept(&small(Scenario::Partition)).map(drop)
}

#[test]
fn a_drain_and_its_end_break_nothing() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    kept(&small(Scenario::Drain)).map(drop)
}

#[test]
fn weights_change_under_connections() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    kept(&small(Scenario::Weights)).map(drop)
}

#[test]
fn a_download_over_a_small_mtu_completes() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    kept(&small(Scenario::Pmtu)).map(drop)
}

#[test]
fn large_datagrams_pass_in_fragments() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    kept(&small(Scenario::Fragments)).map(drop)
}

#[test]
fn each_echo_request_has_one_answer() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    kept(&small(Scenario::Ping)).map(drop)
}

#[test]
fn a_flood_of_syns_spares_honest_clients() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    kept(&small(Scenario::Synflood)).map(drop)
}
