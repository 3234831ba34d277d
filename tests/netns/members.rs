//! What clients notice when members join, leave, die or pause: nothing, unless their own node died.

use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Signal, kill_process};
use safekit::driver::clock;
use safekit::front::demo::farm::Farm;
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::report::StepReport;
use safekit::front::demo::scenario::{Scenario, seen, wait_whole};
use safekit::front::demo::script::{Action, Step};
use safekit::front::demo::topology::{Network, ip_batch};
use safekit::types::NodeId;
use safekit_tests::lab::{self, Nobody};

const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);
const N3: NodeId = NodeId(2);

const CONNECTIONS: usize = 300;

#[test]
fn three_hundred_connections_over_a_join_a_leave_and_a_kill() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let interrupt = Interrupt::default();
    let mut farm = Farm::idle(&lab::binary()?, 3)?;
    farm.start(N1)?;
    farm.start(N2)?;
    let mut scenario = Scenario::with(farm, CONNECTIONS, &interrupt, &Nobody)?;

    let join = scenario.play(Step { action: Action::Start, node: N3 })?;
    assert_unnoticed(&join);
    assert_eq!(join.long_connections_on_other_nodes, CONNECTIONS);
    assert!(join.share["n3"] > 0.2, "{:?}", join.share);

    let leave = scenario.play(Step { action: Action::Stop, node: N2 })?;
    assert_unnoticed(&leave);
    assert!(leave.long_connections > leave.long_connections_on_other_nodes, "n2 had none to move");
    assert_eq!(leave.share["n2"], 0.0);

    assert_unnoticed(&scenario.play(Step { action: Action::Start, node: N2 })?);

    let kill = scenario.play(Step { action: Action::Kill, node: N3 })?;
    assert_eq!(kill.missed(), Vec::<&str>::new(), "{kill:#?}");
    assert!(kill.long_connections_on_other_nodes > CONNECTIONS / 3, "{kill:#?}");
    assert!(kill.long_connections_broken > 0, "a power cut that nobody notices is none");
    Ok(())
}

/// The parent tells the others, and starts the daemon again.
#[test]
fn a_daemon_that_crashes_is_spoken_for_and_comes_back() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let interrupt = Interrupt::default();
    let mut scenario = Scenario::build(&lab::binary()?, 3, &interrupt, &Nobody)?;
    let before = scenario.farm.daemon_pid(N1)?;
    let crash = scenario.play(Step { action: Action::Crash, node: N1 })?;
    assert_eq!(crash.missed(), Vec::<&str>::new(), "{crash:#?}");
    assert!(crash.restored_ms.is_some(), "{crash:#?}");
    assert_ne!(scenario.farm.daemon_pid(N1)?, before);
    assert!(crash.share["n1"] > 0.2, "{:?}", crash.share);
    Ok(())
}

/// Three seconds are an eternity for a lease of 100 ms: the others take over, and the paused node, when it wakes,
/// must not answer for what is no longer its own.
#[test]
fn a_paused_daemon_answers_nothing_that_others_answer() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let interrupt = Interrupt::default();
    let mut scenario = Scenario::build(&lab::binary()?, 3, &interrupt, &Nobody)?;
    let paused = clock::now();
    let daemon = scenario.farm.daemon_pid(N2)?;
    kill_process(daemon, Signal::STOP)?;
    std::thread::sleep(Duration::from_secs(3));
    let woken = clock::now();
    let taken: u64 = [N1, N3].map(|node| scenario.farm.timeline().owned(node)).iter().sum();
    kill_process(daemon, Signal::CONT)?;
    assert_eq!(Some(taken), scenario.farm.buckets(), "the others own all of it during the pause");
    wait_whole(&mut scenario.farm, &interrupt)?;
    std::thread::sleep(Duration::from_secs(4));

    let end = clock::now();
    assert_eq!(scenario.double_answers(paused, end), 0);
    let ledger = scenario.client.ledger();
    let broken_elsewhere: Vec<_> = ledger.broken(paused, end).filter(|(it, _)| it.node != N2).collect();
    assert!(broken_elsewhere.is_empty(), "{broken_elsewhere:?}");
    // From the take-over on every request is answered, and during it a SYN may have to be sent twice.
    let failed: Vec<_> = ledger.requests(paused, end).filter(|request| request.outcome.is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let during = ledger.requests(paused + Duration::from_secs(1), woken).filter(|it| it.outcome == Ok(N2));
    assert_eq!(during.count(), 0, "a paused node took new connections");
    drop(ledger);
    ensure!(scenario.farm.is_whole(), "not whole again:\n{}", seen(&scenario.farm));
    Ok(())
}

/// A switch that loses n3's port takes no carrier away, and the other network is fine: the heartbeats go on, and yet no
/// client reaches n3.
#[test]
fn a_node_cut_off_from_the_clients_is_replaced_although_its_heartbeats_arrive() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let interrupt = Interrupt::default();
    let scenario = Scenario::build(&lab::binary()?, 3, &interrupt, &Nobody)?;
    let cut = clock::now();
    scenario.farm.topology().lan_port(N3, false)?;
    let others = || -> u64 { [N1, N2].map(|node| scenario.farm.timeline().owned(node)).iter().sum() };
    lab::wait_until("n1 and n2 own everything", Duration::from_secs(5), || {
        Some(others()) == scenario.farm.buckets()
    })?;
    let took = clock::now().since(cut);
    assert!(took > Duration::from_millis(900), "replaced after {took:?}: a short absence is no reason");
    scenario.idle(Duration::from_secs(2))?;
    let (from, until) = (cut + took, clock::now());
    let slow = Duration::from_secs(3);
    lab::wait_until("all requests are decided", slow * 2, || scenario.client.ledger().undecided(until) == 0)?;
    let failed = scenario.client.ledger().requests(from, until).filter(|it| it.outcome.is_err()).count();
    assert_eq!(failed, 0, "requests after n3 was replaced");
    scenario.farm.topology().lan_port(N3, true)?;
    lab::wait_until("all three share again", Duration::from_secs(5), || scenario.farm.is_whole())?;
    Ok(())
}

/// A firewall or a wrong route between the nodes, and none between them and the clients: without the clients' own path,
/// both halves would answer every client.
#[test]
fn nodes_whose_datagrams_are_lost_hear_each_other_on_the_clients_path() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let interrupt = Interrupt::default();
    let scenario = Scenario::build(&lab::binary()?, 3, &interrupt, &Nobody)?;
    let cut = clock::now();
    part(&scenario.farm, "add")?;
    scenario.idle(Duration::from_secs(3))?;
    ensure!(scenario.farm.is_whole(), "parted:\n{}", seen(&scenario.farm));
    let warnings = scenario.farm.sight(N1).snapshot.context("n1 answers")?.warnings;
    assert_eq!(warnings.len(), 2, "both of the others are named: {warnings:?}");
    part(&scenario.farm, "del")?;
    scenario.idle(Duration::from_secs(1))?;
    let end = clock::now();
    assert_eq!(scenario.double_answers(cut, end), 0);
    let ledger = scenario.client.ledger();
    let failed: Vec<_> = ledger.requests(cut, end).filter(|request| request.outcome.is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(ledger.broken(cut, end).count(), 0);
    drop(ledger);
    let views = |node| scenario.farm.sight(node).snapshot.map(|snapshot| snapshot.view);
    assert!([N1, N2, N3].map(views).iter().all(Option::is_some), "every daemon answers");
    Ok(())
}

/// Between n1 and the others, on every network, in both directions.
fn part(farm: &Farm, verb: &str) -> anyhow::Result<()> {
    for (from, to) in [(N1, N2), (N1, N3), (N2, N1), (N3, N1)] {
        let lines: String = Network::ALL
            .map(|network| format!("route {verb} blackhole {}/32\n", network.address(to)))
            .concat();
        let namespace = farm.topology().node(from).context("it is powered")?;
        ip_batch(namespace.name(), &lines)?;
    }
    Ok(())
}

/// No request failed, no connection broke, nobody answered twice.
fn assert_unnoticed(report: &StepReport) {
    assert_eq!(report.missed(), Vec::<&str>::new(), "{report:#?}");
    assert_eq!((report.requests_failed, report.long_connections_broken), (0, 0), "{report:#?}");
}
