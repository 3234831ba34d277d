//! Whether frames to the virtual MAC reach every node is known before a client finds out.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use aya::maps::{Map, MapData, PerCpuArray};
use safekit::driver::datapath::{VirtualMac, index_and_mac};
use safekit::driver::packet_socket::PacketSocket;
use safekit::front::demo::farm::Farm;
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::wait_whole;
use safekit::front::demo::topology::VIRTUAL_IP;
use safekit::types::{NodeId, Snapshot};
use safekit_ebpf::abi;
use safekit_ebpf::probe::Probe;
use safekit_ebpf::verdict::Reason;
use safekit_tests::lab;

use crate::doctor::Diagnosis;

const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);

#[test]
fn a_port_that_does_not_flood_is_named_within_seconds() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = Farm::build(&lab::binary()?, 3)?;
    wait_whole(&mut farm, &Interrupt::default())?;
    // Long enough for every node to have missed something, were there something to miss.
    std::thread::sleep(Duration::from_secs(6));
    for node in farm.ids() {
        let snapshot = snapshot(&farm, node)?;
        assert!(snapshot.undelivered.is_empty(), "{:?}", snapshot.undelivered);
        assert!(snapshot.warnings.is_empty(), "{:?}", snapshot.warnings);
    }
    assert!(counted(&farm, N1, Reason::Probe)? >= 8, "two peers, one probe a second");

    flood(&farm, "n2-lan", "off")?;
    // Each sender is missed when its own next probes fail to come, so one may be named before the other.
    lab::wait_until("every node names both senders", Duration::from_secs(8), || {
        let both = |it: &Snapshot| it.undelivered.iter().map(|missing| missing.from.len()).eq([2]);
        farm.ids().all(|node| snapshot(&farm, node).is_ok_and(|it| both(&it)))
    })?;
    let told = snapshot(&farm, N1)?;
    let missing = &told.undelivered[0];
    assert_eq!((missing.to.as_str(), missing.from.join(" ").as_str()), ("n2", "n1 n3"));
    assert_eq!(missing.virtual_ip, VIRTUAL_IP);
    assert!(told.warnings[0].what.contains("do not reach n2"), "{:?}", told.warnings);
    assert!(told.warnings[0].remedy.contains("bridge link set dev PORT flood on"), "{:?}", told.warnings);
    assert_eq!(delivery(&farm, N1, "n2")?, "fault");
    assert_eq!(delivery(&farm, N1, "n3")?, "ok");

    flood(&farm, "n2-lan", "on")?;
    lab::wait_until("the warning goes", Duration::from_secs(8), || {
        farm.ids().all(|node| snapshot(&farm, node).is_ok_and(|it| it.warnings.is_empty()))
    })?;
    assert_eq!(delivery(&farm, N1, "n2")?, "ok");
    Ok(())
}

/// Frames that begin as probes do, from a machine that knows no key: none reaches the stack, none counts as heard.
#[test]
fn a_stranger_is_not_taken_for_a_node() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = Farm::build(&lab::binary()?, 2)?;
    wait_whole(&mut farm, &Interrupt::default())?;
    let before = counted(&farm, N1, Reason::ProbeForeign)?;
    flood(&farm, "n1-lan", "off")?;
    lab::wait_until("n1 misses n2", Duration::from_secs(8), || {
        snapshot(&farm, N1).is_ok_and(|it| !it.undelivered.is_empty())
    })?;
    flood(&farm, "n1-lan", "on")?;
    flood(&farm, "n2-lan", "off")?;
    farm.topology().client().inside(|| stranger(40))??;
    assert_eq!(counted(&farm, N1, Reason::ProbeForeign)?, before + 40);
    lab::wait_until("n2 misses n1 all the same", Duration::from_secs(8), || {
        snapshot(&farm, N2).is_ok_and(|it| it.undelivered.iter().any(|missing| missing.to == "n2"))
    })?;
    Ok(())
}

fn stranger(probes: u32) -> anyhow::Result<()> {
    let (index, own) = index_and_mac("eth0")?;
    let socket = PacketSocket::sender()?;
    for round in 1..=probes {
        let probe = Probe { sender: 1, vip: 0, round, cluster: 77 };
        socket.send(index, &probe.frame(VirtualMac::of(VIRTUAL_IP.into()).0, own))?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Unknown unicast out of one port of the switch.
fn flood(farm: &Farm, port: &str, state: &str) -> anyhow::Result<()> {
    let switch = format!("{}-sw", farm.topology().prefix());
    let output =
        Command::new("bridge").args(["-n", &switch, "link", "set", "dev", port, "flood", state]).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

fn snapshot(farm: &Farm, node: NodeId) -> anyhow::Result<Snapshot> {
    farm.sight(node).snapshot.context("a snapshot")
}

/// What `safekit doctor` on `node` says of the delivery to and from `peer`.
fn delivery(farm: &Farm, node: NodeId, peer: &str) -> anyhow::Result<String> {
    Ok(Diagnosis::of(farm, node)?.state("daemon", &format!("delivery, {peer}"))?.to_owned())
}

/// Frames about no virtual IP, as the node's filter has counted them.
fn counted(farm: &Farm, node: NodeId, reason: Reason) -> anyhow::Result<u64> {
    let map = MapData::from_pin(farm.node_dir(node).join("bpf").join(abi::MAP_COUNTERS))?;
    let map: PerCpuArray<MapData, abi::CounterRow> = PerCpuArray::try_from(Map::PerCpuArray(map))?;
    Ok(map.get(&abi::SCOPE_NONE, 0)?.iter().map(|row| row[reason as usize]).sum())
}
