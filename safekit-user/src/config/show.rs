//! A configuration as text again, with every default written out. Reading it gives the same configuration.

use serde::Serialize;

use super::cluster::PROFILES;
use super::{Config, Farm, Module, duration};
use crate::types::{NodeId, Timing};

/// YAML that [`super::parse`] takes.
pub fn effective(config: &Config) -> String {
    serde_yaml::to_string(&FileView::of(config)).expect("plain words, numbers and lists always make YAML")
}

#[derive(Serialize)]
struct FileView<'c> {
    cluster: ClusterView<'c>,
    modules: Vec<ModuleView<'c>>,
}

#[derive(Serialize)]
struct ClusterView<'c> {
    name: &'c str,
    key_file: String,
    networks: Vec<NetworkView<'c>>,
    nodes: Vec<NodeView<'c>>,
    heartbeat: HeartbeatView,
}

#[derive(Serialize)]
struct NetworkView<'c> {
    name: &'c str,
    port: u16,
}

#[derive(Serialize)]
struct NodeView<'c> {
    name: &'c str,
    addresses: serde_yaml::Mapping,
}

#[derive(Serialize)]
#[serde(untagged)]
enum HeartbeatView {
    Profile { profile: &'static str },
    Own { interval: String, timeout: String, lease: String },
}

#[derive(Serialize)]
struct ModuleView<'c> {
    name: &'c str,
    kind: &'static str,
    nodes: Vec<&'c str>,
    virtual_ips: Vec<VirtualIpView<'c>>,
    delivery: &'static str,
    rules: Vec<RuleView>,
}

#[derive(Serialize)]
struct VirtualIpView<'c> {
    address: String,
    interface: &'c str,
}

#[derive(Serialize)]
struct RuleView {
    protocol: &'static str,
    port: u16,
    balance: &'static str,
}

impl<'c> FileView<'c> {
    fn of(config: &'c Config) -> Self {
        let cluster = &config.cluster;
        let network = |network: &'c super::Network| NetworkView { name: &network.name, port: network.port };
        Self {
            cluster: ClusterView {
                name: &cluster.name,
                key_file: cluster.key_file.display().to_string(),
                networks: cluster.networks.iter().map(network).collect(),
                nodes: cluster.nodes.iter().map(|node| NodeView::of(node, config)).collect(),
                heartbeat: HeartbeatView::of(cluster.timing),
            },
            modules: config
                .modules
                .iter()
                .map(|module| match module {
                    Module::Farm(farm) => ModuleView::of(farm, config),
                })
                .collect(),
        }
    }
}

impl<'c> NodeView<'c> {
    fn of(node: &'c super::Node, config: &Config) -> Self {
        let addresses = config
            .networks()
            .zip(&node.addresses)
            .filter_map(|((_, network), address)| {
                Some((network.name.as_str().into(), (*address)?.to_string().into()))
            })
            .collect();
        Self { name: &node.name, addresses }
    }
}

impl HeartbeatView {
    fn of(timing: Timing) -> Self {
        if let Some((profile, _)) = PROFILES.iter().find(|(_, known)| *known == timing) {
            return Self::Profile { profile };
        }
        let [interval, timeout, lease] = [timing.interval, timing.timeout, timing.lease].map(duration::print);
        Self::Own { interval, timeout, lease }
    }
}

impl<'c> ModuleView<'c> {
    fn of(farm: &'c Farm, config: &'c Config) -> Self {
        let name = |node: &NodeId| config.cluster.nodes[usize::from(node.0)].name.as_str();
        Self {
            name: &farm.name,
            kind: "farm",
            nodes: farm.nodes.iter().map(name).collect(),
            virtual_ips: farm
                .virtual_ips
                .iter()
                .map(|vip| VirtualIpView { address: vip.address.to_string(), interface: &vip.interface })
                .collect(),
            delivery: farm.delivery.name(),
            rules: farm
                .rules
                .iter()
                .map(|rule| RuleView {
                    protocol: rule.protocol.name(),
                    port: rule.port,
                    balance: rule.balance.name(),
                })
                .collect(),
        }
    }
}
