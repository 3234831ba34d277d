//! Cuts the heartbeats between two halves of a farm, and nothing else: nftables on each node drops those of the other
//! half, on both networks.

use std::process::Command;

use anyhow::{Context as _, ensure};
use safekit::front::demo::namespace::Namespace;
use safekit::front::demo::topology::{Network, Topology};
use safekit::types::NodeId;

const TABLE: &str = "safekit_load_cut";
const HEARTBEAT_PORT: u16 = 4_800;

/// From now on no heartbeat passes between `half` and the rest.
pub(super) fn cut(topology: &Topology, half: &[NodeId]) -> anyhow::Result<()> {
    for node in topology.ids() {
        let Some(namespace) = topology.node(node) else { continue };
        let far = topology.ids().filter(|other| half.contains(other) != half.contains(&node));
        let far: Vec<String> =
            far.flat_map(|other| Network::ALL.map(|network| network.address(other).to_string())).collect();
        nft(namespace, &format!("add table inet {TABLE}"))?;
        nft(namespace, &format!("add chain inet {TABLE} in {{ type filter hook input priority 0; }}"))?;
        let rule = format!("ip saddr {{ {} }} udp dport {HEARTBEAT_PORT} drop", far.join(", "));
        nft(namespace, &format!("add rule inet {TABLE} in {rule}"))?;
    }
    Ok(())
}

pub(super) fn heal(topology: &Topology) -> anyhow::Result<()> {
    for node in topology.ids() {
        if let Some(namespace) = topology.node(node) {
            nft(namespace, &format!("delete table inet {TABLE}"))?;
        }
    }
    Ok(())
}

fn nft(namespace: &Namespace, words: &str) -> anyhow::Result<()> {
    let output = namespace.inside(|| Command::new("nft").arg(words).output())?;
    let output = output.context("cannot run `nft`; install the package nftables")?;
    ensure!(output.status.success(), "nft {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
