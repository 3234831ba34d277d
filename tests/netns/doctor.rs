//! `safekit doctor` on real machines with real faults: each is named, with what to do about it.

use std::net::UdpSocket;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, ensure};
use safekit::config;
use safekit::driver::datapath::{Datapath, ModeChoice, Plan};
use safekit::front::demo::farm::Farm;
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::wait_whole;
use safekit::front::demo::topology::{Network, VIRTUAL_IP, ip_batch, node_name};
use safekit::types::NodeId;
use safekit_tests::lab;
use serde_json::Value;

const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);

#[test]
fn a_healthy_node_has_no_fault_with_and_without_its_daemon() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = Farm::idle(&lab::binary()?, 2)?;
    let before = Diagnosis::of(&farm, N1)?;
    before.assert(&[]);
    assert_eq!(before.found("virtual IP 10.99.0.100", "owner on the wire")?, "nobody else answers for it");

    farm.start(N1)?;
    farm.start(N2)?;
    wait_whole(&mut farm, &Interrupt::default())?;
    let running = Diagnosis::of(&farm, N1)?;
    running.assert(&[]);
    assert_eq!(running.found("network lan", "heartbeat port")?, "4800/udp is the daemon's");
    assert!(running.found("interface eth0", "XDP mode")?.starts_with("generic: veth"));

    // A node that is about to start sees the farm, and takes it for no stranger.
    farm.stop(N2)?;
    let socket = farm.node_dir(N2).join("control.sock");
    lab::wait_until("n2's daemon has gone", Duration::from_secs(10), || !socket.exists())?;
    let beside = Diagnosis::of(&farm, N2)?;
    beside.assert(&[]);
    let claim = beside.found("virtual IP 10.99.0.100", "owner on the wire")?;
    assert_eq!(claim, "the farm answers for it, with the virtual MAC");
    Ok(())
}

#[test]
fn every_fault_is_named_with_its_remedy() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let farm = Farm::idle(&lab::binary()?, 2)?;
    let (topology, node) = (farm.topology(), farm.topology().node(N1).context("n1 is on")?);
    // A stranger has the virtual IP; this node has it in the wrong place.
    ip_batch(topology.client().name(), &format!("addr add {VIRTUAL_IP}/24 dev eth0\n"))?;
    ip_batch(node.name(), &format!("addr add {VIRTUAL_IP}/32 dev eth0\n"))?;
    // Only the way to n2 lets large packets through on one network, and n2's card does not take them.
    let peer = topology.node(N2).context("n2 is on")?;
    ip_batch(peer.name(), "link set eth1 mtu 1300\n")?;
    node.sysctl("net/ipv4/tcp_syncookies", "0")?;
    node.sysctl("net/ipv4/conf/all/arp_ignore", "8")?;
    node.sysctl("net/ipv4/tcp_fastopen", "3")?;
    let heartbeat = (Network::Lan.address(N1), 4800);
    let _squatter = node.inside(|| UdpSocket::bind(heartbeat))??;
    // Asked before the filter below: that one would drop a stranger's claim, as filters of a farm do.
    let stranger = Diagnosis::of(&farm, N1)?;
    assert_eq!(stranger.state("virtual IP 10.99.0.100", "owner on the wire")?, "fault");
    let claim = stranger.check("virtual IP 10.99.0.100", "owner on the wire")?;
    assert!(claim["remedy"].as_str().context("a remedy")?.contains("find the host with"), "{claim:#}");
    ip_batch(topology.client().name(), &format!("addr del {VIRTUAL_IP}/24 dev eth0\n"))?;
    let other = node.inside(|| other_program(&farm))??;

    let diagnosis = Diagnosis::of(&farm, N1)?;
    diagnosis.assert(&[
        ("machine", "SYN cookies", "warning", "sysctl -w net.ipv4.tcp_syncookies=1"),
        ("machine", "TCP fast open", "warning", "tcp_fastopen_key"),
        ("interface eth0", "other XDP programs", "fault", "ip link set dev eth0 xdp off"),
        ("interface eth0", "ARP settings", "fault", "net.ipv4.conf.all.arp_ignore=0"),
        ("network lan", "heartbeat port", "fault", "ss -ulpn 'sport = :4800'"),
        ("network backup", "MTU to the peers", "fault", "ping -M do -s 1472 10.98.0.2"),
        ("virtual IP 10.99.0.100", "place", "fault", "ip address del 10.99.0.100 dev eth0"),
    ]);
    assert_eq!(diagnosis.code, Some(1));
    assert!(diagnosis.found("interface eth0", "other XDP programs")?.contains("safekit_farm"));
    let pid = format!("(pid {})", std::process::id());
    assert!(diagnosis.found("network lan", "heartbeat port")?.ends_with(&pid), "the holder is named");
    drop(other);

    ip_batch(node.name(), "link set eth0 down\naddr del 10.98.0.1/24 dev eth1\n")?;
    let worse = Diagnosis::of(&farm, N1)?;
    assert_eq!(worse.state("interface eth0", "link")?, "fault");
    assert_eq!(worse.state("network backup", "own address")?, "fault");
    Ok(())
}

/// A filter on n1's interface that no daemon of n1 put there.
fn other_program(farm: &Farm) -> anyhow::Result<Datapath> {
    let plan = Plan::of(&config::load(farm.config())?, N1, [7; 16])?;
    Ok(Datapath::load(&plan, None, ModeChoice::Auto)?)
}

pub(crate) struct Diagnosis {
    code: Option<i32>,
    checks: Vec<Value>,
}

impl Diagnosis {
    pub(crate) fn of(farm: &Farm, node: NodeId) -> anyhow::Result<Self> {
        let namespace = farm.topology().node(node).context("the node is on")?;
        let mut command = Command::new(lab::binary()?);
        command.args(["doctor", "-o", "json", "--node", &node_name(node)]);
        command.arg("--config").arg(farm.config()).arg("--run-dir").arg(farm.node_dir(node));
        let output: Output = namespace.inside(|| command.output())??;
        let said = String::from_utf8_lossy(&output.stdout);
        let json: Value = serde_json::from_str(&said).with_context(|| format!("{output:?}"))?;
        ensure!(json["apiVersion"] == "v1" && json["node"] == node_name(node), "{json:#}");
        let checks = json["checks"].as_array().context("checks")?.clone();
        Ok(Self { code: output.status.code(), checks })
    }

    /// Exactly these are warnings or faults, with these words in their remedies.
    #[track_caller]
    fn assert(&self, expected: &[(&str, &str, &str, &str)]) {
        let wrong = self.checks.iter().filter(|it| it["state"] == "warning" || it["state"] == "fault");
        // Whether something keeps the time of day is the machine's affair.
        let wrong: Vec<_> = wrong.filter(|it| it["name"] != "time of day").collect();
        let names = |it: &Value| {
            [&it["about"], &it["name"], &it["state"]].map(|text| text.as_str().unwrap_or("?").to_owned())
        };
        let found: Vec<_> = wrong.iter().map(|it| names(it)).collect();
        let wanted: Vec<_> = expected
            .iter()
            .map(|(about, name, state, _)| [about, name, state].map(|it| (*it).to_owned()))
            .collect();
        assert_eq!(found, wanted, "{wrong:#?}");
        for (check, (_, name, _, remedy)) in wrong.iter().zip(expected) {
            let said = check["remedy"].as_str().unwrap_or_default();
            assert!(said.contains(remedy), "{name}: {said}");
        }
    }

    fn check(&self, about: &str, name: &str) -> anyhow::Result<&Value> {
        let found = self.checks.iter().find(|it| it["about"] == about && it["name"] == name);
        found.with_context(|| format!("no check {name} of {about}"))
    }

    fn found(&self, about: &str, name: &str) -> anyhow::Result<&str> {
        self.check(about, name)?["found"].as_str().context("a sentence")
    }

    pub(crate) fn state(&self, about: &str, name: &str) -> anyhow::Result<&str> {
        self.check(about, name)?["state"].as_str().context("a state")
    }
}
