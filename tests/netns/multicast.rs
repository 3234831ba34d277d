//! Heartbeats by multicast, with real sockets on a bridge.

use std::time::Duration;

use anyhow::Context as _;
use safekit::config::{Cluster, Config, Network, Node};
use safekit::driver::clock;
use safekit::driver::heartbeat::{Port, Received, Sockets, Way};
use safekit::front::demo::topology::{self, Families, Topology, ip_batch, node_name};
use safekit::types::{NetworkId, NodeId, Timing};
use safekit_tests::lab;

const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);
const N3: NodeId = NodeId(2);
const LAN: NetworkId = NetworkId(0);
const BACKUP: NetworkId = NetworkId(1);
/// Who is heard, and nothing more: the seal is not the matter here.
const DATAGRAM: &[u8] = b"beat";

/// IPv6 on the clients' network, IPv4 on the other.
fn config(topology: &Topology) -> Config {
    let network = |name: &str| Network { name: name.to_owned(), port: 4800 };
    let node = |id| Node {
        name: node_name(id),
        addresses: vec![
            Some(topology::address_v6(id).into()),
            Some(topology::Network::Backup.address(id).into()),
        ],
    };
    let cluster = Cluster {
        name: "many".to_owned(),
        key_file: "unused".into(),
        networks: vec![network("lan"), network("backup")],
        nodes: topology.ids().map(node).collect(),
        timing: Timing::DEFAULT,
    };
    Config { cluster, modules: Vec::new(), groups: Vec::new(), console: None }
}

fn open(topology: &Topology, config: &Config, node: NodeId, from: usize) -> anyhow::Result<Sockets> {
    let namespace = topology.node(node).context("all nodes are on")?;
    Ok(namespace.inside(|| Sockets::open_with(config, node, Port::Configured, from))??)
}

/// All that arrives until it has been quiet for a while.
fn heard(sockets: &Sockets) -> Vec<(NetworkId, Way)> {
    let mut buffer = [0; 64];
    let mut heard = Vec::new();
    let mut quiet_since = clock::now();
    while clock::now().since(quiet_since) < Duration::from_millis(100) {
        match sockets.receive(&mut buffer) {
            Some(Received { network, length, way }) => {
                assert_eq!(&buffer[..length], DATAGRAM);
                heard.push((network, way));
                quiet_since = clock::now();
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    heard.sort_by_key(|(network, way)| (*network, *way == Way::Multicast));
    heard
}

const BOTH_WAYS: [(NetworkId, Way); 4] =
    [(LAN, Way::Unicast), (LAN, Way::Multicast), (BACKUP, Way::Unicast), (BACKUP, Way::Multicast)];

#[test]
fn unicast_ends_where_multicast_is_answered_and_comes_back() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let topology = Topology::build_with(3, Families::Ipv4And6)?;
    let config = config(&topology);
    let mut n1 = open(&topology, &config, N1, 3)?;
    let mut n2 = open(&topology, &config, N2, 3)?;
    let n3 = open(&topology, &config, N3, 3)?;

    // Nothing is known yet: both ways, on both networks, and not to itself.
    assert_eq!(n2.send(DATAGRAM, |_| true, clock::now()), 0);
    assert_eq!(heard(&n1), BOTH_WAYS);
    assert_eq!(heard(&n3), BOTH_WAYS);
    assert_eq!(heard(&n2), []);

    // n2 came to n1 by multicast: n1 needs no unicast to it, and still needs it to n3.
    n1.note_multicast(LAN, N2, clock::now());
    n1.note_multicast(BACKUP, N2, clock::now());
    assert_eq!(n1.send(DATAGRAM, |_| true, clock::now()), 0);
    assert_eq!(heard(&n2), [(LAN, Way::Multicast), (BACKUP, Way::Multicast)]);
    assert_eq!(heard(&n3), BOTH_WAYS);

    // The switch passes no multicast to n2 any more; while its answers last n1 does not know, then unicast is back.
    for network in topology::Network::ALL {
        let port = format!("{}-{}", node_name(N2), network.name());
        ip_batch(&topology.switch_name(), &format!("link set {port} type bridge_slave mcast_flood off\n"))?;
    }
    n1.note_multicast(LAN, N2, clock::now());
    n1.note_multicast(BACKUP, N2, clock::now());
    n1.send(DATAGRAM, |_| true, clock::now());
    assert_eq!(heard(&n2), []);
    n1.send(DATAGRAM, |node| node != N2, clock::now());
    assert_eq!(heard(&n2), [(LAN, Way::Unicast), (BACKUP, Way::Unicast)]);
    // Answers to unicast prove nothing of multicast.
    n1.send(DATAGRAM, |_| true, clock::now());
    assert_eq!(heard(&n2), [(LAN, Way::Unicast), (BACKUP, Way::Unicast)]);
    Ok(())
}

#[test]
fn small_clusters_and_networks_without_multicast_use_unicast() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let topology = Topology::build_with(2, Families::Ipv4And6)?;
    let config = config(&topology);
    let by_unicast = [(LAN, Way::Unicast), (BACKUP, Way::Unicast)];
    let n1 = open(&topology, &config, N1, 2)?;
    {
        let mut small = open(&topology, &config, N2, 3)?;
        assert_eq!(small.send(DATAGRAM, |_| true, clock::now()), 0);
        assert_eq!(heard(&n1), by_unicast);
    }
    // No group can be joined: the kernel allows none.
    let namespace = topology.node(N2).context("all nodes are on")?;
    namespace.sysctl("net/ipv4/igmp_max_memberships", "0")?;
    let mut alone = open(&topology, &config, N2, 2)?;
    assert_eq!(alone.send(DATAGRAM, |_| true, clock::now()), 0);
    let lan_by_both = [(LAN, Way::Unicast), (LAN, Way::Multicast), (BACKUP, Way::Unicast)];
    assert_eq!(heard(&n1), lan_by_both);
    Ok(())
}
