//! A heartbeat network: this node's address and port on it, and whether large datagrams reach the others whole.

use std::fmt::Write as _;

use super::Checks;
use super::facts::{Door, DoorState, Network, Peer, PortState};

pub(super) fn judge(checks: &mut Checks<'_>, network: &Network) {
    let Network { own, port, .. } = network;
    match &network.interface {
        Some(interface) => checks.ok("own address", format!("{own} is on {interface}")),
        None => checks.fault(
            "own address",
            format!("{own} is on no interface of this host"),
            "ip address  (then add it, correct the configuration, or name another node with --node)",
        ),
    }
    match &network.heartbeat_port {
        PortState::Free => checks.ok("heartbeat port", format!("{port}/udp is free")),
        PortState::Ours => checks.ok("heartbeat port", format!("{port}/udp is the daemon's")),
        PortState::Taken(who) => {
            let mut found = format!("{port}/udp is taken by ");
            found += who.as_deref().unwrap_or("another process");
            checks.fault(
                "heartbeat port",
                found,
                format!(
                    "ss -ulpn 'sport = :{port}'  (stop that process, or choose another port on all nodes)"
                ),
            );
        }
        PortState::Unknown(why) => checks.unknown("heartbeat port", format!("cannot be tried: {why}")),
    }
    if let Some(all) = network.doors.as_ref().filter(|all| !all.is_empty()) {
        doors(checks, network, all);
    }
    match (&network.peers, network.mtu) {
        (Some(peers), Some(mtu)) => reach(checks, network, peers, mtu),
        (_, _) => checks.unknown("path to the peers", "cannot ask them: needs root and an own address"),
    }
}

/// Configurations, commands and keys go over TCP, beside the heartbeats.
fn doors(checks: &mut Checks<'_>, network: &Network, doors: &[Door]) {
    let port = network.port;
    let Some(shut) = doors.iter().find(|door| door.state != DoorState::Open) else {
        return checks
            .ok("cluster port", format!("{} of {0} nodes take connections on {port}/tcp", doors.len()));
    };
    let (node, address) = (&shut.node, shut.address);
    match shut.state {
        DoorState::Refused => checks.warning(
            "cluster port",
            format!("{node} refuses connections on {port}/tcp: no daemon runs there, or a firewall rejects them"),
            format!("safekit doctor  (on {node}; ss -tlnp 'sport = :{port}' shows who listens)"),
        ),
        DoorState::Open | DoorState::Silent => checks.warning(
            "cluster port",
            format!("no answer from {node} on {port}/tcp: commands and configurations do not reach it"),
            format!("nc -vz {address} {port}  (let {port}/tcp and {port}/udp pass the firewalls between the nodes)"),
        ),
    }
}

fn reach(checks: &mut Checks<'_>, network: &Network, peers: &[Peer], mtu: u32) {
    let silent: Vec<&Peer> = peers.iter().filter(|peer| !peer.small).collect();
    if silent.is_empty() {
        checks.ok("path to the peers", format!("{} of {0} answer an echo request", peers.len()));
    } else {
        checks.warning(
            "path to the peers",
            format!("no answer to an echo request from {}", list(&silent)),
            format!("ping {}  (is the node on, and does its firewall let ICMP pass?)", silent[0].address),
        );
    }
    let cut: Vec<&Peer> = peers.iter().filter(|peer| peer.small && !peer.large).collect();
    if let Some(peer) = cut.first() {
        let interface = network.interface.as_deref().unwrap_or("the interface");
        return checks.fault(
            "MTU to the peers",
            format!("packets of {mtu} bytes, the MTU here, do not reach {} (or their answers us)", list(&cut)),
            format!(
                "ip link show {interface}  (set one MTU on all nodes and switches; ping -M do -s {} {} shows it)",
                mtu.saturating_sub(28),
                peer.address
            ),
        );
    }
    if peers.iter().any(|peer| peer.large) {
        checks.ok("MTU to the peers", format!("packets of {mtu} bytes arrive whole"));
    } else {
        checks.unknown("MTU to the peers", "nobody answers");
    }
}

fn list(peers: &[&Peer]) -> String {
    let mut text = String::new();
    for (place, peer) in peers.iter().enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        _ = write!(text, "{comma}{} ({})", peer.node, peer.address);
    }
    text
}
