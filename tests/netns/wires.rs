//! The lab itself: if the wires lie, every test above them lies.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use safekit::driver::clock;
use safekit::front::demo::client::{Client, Load};
use safekit::front::demo::ledger::Failure;
use safekit::front::demo::process::Process;
use safekit::front::demo::topology::{Topology, VIRTUAL_IP, ip_batch, node_name};
use safekit::front::demo::web::is_up;
use safekit::front::demo::{leftovers, namespace::Namespace};
use safekit::types::NodeId;
use safekit_tests::lab;

const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);

/// Only n1 has the address, so all that the client records must be n1's; then n1 dies.
#[test]
fn the_client_sees_what_happens_on_the_wires() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut topology = Topology::build(3)?;
    let prefix = topology.prefix();
    serve_by_hand(&topology, N1)?;
    let web = web(&topology, N1)?;
    let client = Client::start(topology.client(), load())?;
    let started = clock::now();
    lab::wait_until("answers and long connections", Duration::from_secs(10), || {
        let ledger = client.ledger();
        ledger.alive().count() == 30 && ledger.requests(started, clock::now()).count() > 300
    })?;
    let fault = clock::now();
    {
        let ledger = client.ledger();
        assert!(ledger.requests(started, fault).all(|request| request.outcome == Ok(N1)));
        assert!(ledger.alive().all(|connection| connection.node == N1));
        assert_eq!(ledger.broken(started, fault).count(), 0);
        assert_eq!(ledger.skipped, 0);
    }

    topology.link_down(N1)?;
    drop(web);
    topology.remove_node(N1)?;
    lab::wait_until("the loss shows", Duration::from_secs(10), || {
        let ledger = client.ledger();
        ledger.broken(fault, clock::now()).count() == 30
            && ledger.requests(fault, clock::now()).filter(|it| it.outcome == Err(Failure::Timeout)).count()
                > 100
    })?;

    topology.add_node(N1)?;
    serve_by_hand(&topology, N1)?;
    let _web = self::web(&topology, N1)?;
    let back = clock::now();
    lab::wait_until("n1 serves again", Duration::from_secs(20), || {
        let ledger = client.ledger();
        ledger.alive().count() == 30
            && ledger.requests(back, clock::now()).filter(|it| it.outcome.is_ok()).count() > 200
    })?;
    drop(client);
    drop(topology);
    assert!(!leftovers::runs().contains(&prefix), "something is left of {prefix}");
    Ok(())
}

/// A server that is asked to end says goodbye on each connection: none breaks.
#[test]
fn a_web_server_that_ends_moves_its_connections() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let topology = Topology::build(2)?;
    serve_by_hand(&topology, N2)?;
    let mut web = web(&topology, N2)?;
    let client = Client::start(topology.client(), Load { requests_per_second: 0, ..load() })?;
    lab::wait_until("long connections", Duration::from_secs(10), || client.ledger().alive().count() == 30)?;
    let asked = clock::now();
    web.signal(rustix::process::Signal::TERM);
    let status = web.wait(Duration::from_secs(10))?;
    let ended = clock::now();
    assert!(status.success(), "{status}: {}", web.last_words());
    assert_eq!(client.ledger().broken(asked, ended).count(), 0);
    assert!(ended.since(asked) < Duration::from_secs(5), "it took {:?}", ended.since(asked));
    Ok(())
}

/// The run of a maker that was killed is removed by the next `clean`; the run of a living one is not.
#[test]
fn cleaning_takes_the_orphans_and_spares_the_living() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let living = Topology::build(2)?;
    // Process ids end far below this one: a maker that does not run.
    let orphan = safekit::front::demo::prefix::Prefix { pid: u32::MAX - 1, number: 0 };
    let namespace = Namespace::add(&format!("{orphan}-n1"))?;
    let dir = leftovers::run_dir(orphan);
    let bpf = dir.join("n1/bpf");
    std::fs::create_dir_all(&bpf)?;
    let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpf).status()?;
    assert!(mounted.success());
    let log = std::env::temp_dir().join(format!("{orphan}.log"));
    let mut sleeper = Command::new("sleep");
    sleeper.arg("600");
    let mut sleeper = Process::start("a process of the orphan", sleeper, &namespace, &log)?;

    let (removed, failures) = leftovers::clean();
    assert_eq!(failures, Vec::<String>::new());
    assert!(removed.contains(&orphan) && !removed.contains(&living.prefix()), "{removed:?}");
    assert!(!leftovers::runs().contains(&orphan) && leftovers::runs().contains(&living.prefix()));
    assert_eq!(leftovers::mounts_under(&dir), Vec::<std::path::PathBuf>::new());
    assert!(!sleeper.wait(Duration::from_secs(5))?.success(), "it was killed");
    std::fs::remove_file(log)?;
    Ok(())
}

fn load() -> Load {
    Load {
        target: SocketAddr::from((VIRTUAL_IP, 80)),
        requests_per_second: 200,
        long_connections: 30,
        nodes: (0..3).map(|index| node_name(NodeId(index))).collect(),
    }
}

/// What the daemon would do with all nodes, done with one: the address on the interface.
fn serve_by_hand(topology: &Topology, node: NodeId) -> anyhow::Result<()> {
    let namespace = topology.node(node).expect("the node is powered");
    Ok(ip_batch(namespace.name(), &format!("addr add {VIRTUAL_IP}/24 dev eth0\n"))?)
}

fn web(topology: &Topology, node: NodeId) -> anyhow::Result<Process> {
    let name = node_name(node);
    let mut command = Command::new(lab::binary()?);
    command.args(["demo-web", "--listen", "0.0.0.0:80", "--name", &name]);
    let log = topology.run_dir().join(format!("{name}-web.log"));
    let namespace = topology.node(node).expect("the node is powered");
    let process = Process::start("the web server", command, namespace, &log)?;
    lab::wait_until("the web server", Duration::from_secs(10), || is_up(namespace, 80))?;
    Ok(process)
}
