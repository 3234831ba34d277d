//! A configuration as text again, with every default written out. Reading it gives the same configuration.

use serde::Serialize;

use super::cluster::PROFILES;
use super::mirror::acknowledge_word;
use super::upkeep::UpkeepView;
use super::{Balance, Config, Farm, Kind, Mirror, Module, Ports, Replicated, Rule, Share, duration};
use crate::types::{GroupId, NodeId, Timing};

/// YAML that [`super::parse`] takes.
pub fn effective(config: &Config) -> String {
    serde_yaml::to_string(&FileView::of(config)).expect("plain words, numbers and lists always make YAML")
}

#[derive(Serialize)]
struct FileView<'c> {
    cluster: ClusterView<'c>,
    modules: Vec<ModuleView<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    console: Option<ConsoleView>,
}

#[derive(Serialize)]
struct ConsoleView {
    listen: String,
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
    #[serde(flatten)]
    farm: Option<FarmView<'c>>,
    #[serde(flatten)]
    mirror: Option<MirrorView<'c>>,
    #[serde(flatten)]
    upkeep: UpkeepView,
}

#[derive(Serialize)]
struct FarmView<'c> {
    weights: serde_yaml::Mapping,
    virtual_ips: Vec<VirtualIpView<'c>>,
    delivery: &'static str,
    drain_timeout: String,
    rules: Vec<RuleView<'c>>,
}

#[derive(Serialize)]
struct MirrorView<'c> {
    replicate: Vec<ReplicatedView<'c>>,
    replication: ReplicationView<'c>,
}

#[derive(Serialize)]
struct ReplicatedView<'c> {
    directory: String,
    acknowledge: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    require: Option<&'c str>,
}

#[derive(Serialize)]
struct ReplicationView<'c> {
    network: &'c str,
    port: u16,
    max_stall: String,
}

#[derive(Serialize)]
struct VirtualIpView<'c> {
    address: String,
    interface: &'c str,
}

#[derive(Serialize)]
struct RuleView<'c> {
    protocol: &'static str,
    port: PortView,
    balance: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<PrefixView>,
    evidence: &'static str,
    #[serde(flatten)]
    share: ShareView<'c>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum PortView {
    One(u16),
    More(String),
}

#[derive(Serialize)]
struct PrefixView {
    ipv4: u8,
    ipv6: u8,
}

/// Nothing for a rule that goes by its module's share.
#[derive(Serialize)]
#[serde(untagged)]
enum ShareView<'c> {
    Module {},
    Weighted { nodes: Vec<&'c str>, weights: serde_yaml::Mapping },
    Cascade { cascade: Vec<&'c str> },
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
            modules: config.modules.iter().map(|module| ModuleView::of(module, config)).collect(),
            console: config.console.as_ref().map(|it| ConsoleView { listen: it.listen.to_string() }),
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
    fn of(module: &'c Module, config: &'c Config) -> Self {
        let (farm, mirror) = match &module.kind {
            Kind::Farm(farm) => (Some(FarmView::of(farm, config)), None),
            Kind::Light => (None, None),
            Kind::Mirror(mirror) => (None, Some(MirrorView::of(mirror, config))),
        };
        Self {
            name: &module.name,
            kind: module.kind.word(),
            nodes: module.nodes.iter().map(|node| config.name(*node)).collect(),
            upkeep: UpkeepView::of(&module.upkeep, (mirror.is_none(), farm.is_some()), config),
            farm,
            mirror,
        }
    }
}

impl<'c> MirrorView<'c> {
    fn of(mirror: &'c Mirror, config: &'c Config) -> Self {
        let one = |it: &'c Replicated| ReplicatedView {
            directory: it.directory.display().to_string(),
            acknowledge: acknowledge_word(it.acknowledge),
            require: it.require.as_deref(),
        };
        Self {
            replicate: mirror.directories.iter().map(one).collect(),
            replication: ReplicationView {
                network: &config.cluster.networks[usize::from(mirror.network.0)].name,
                port: mirror.port,
                max_stall: duration::print(mirror.max_stall),
            },
        }
    }
}

impl<'c> FarmView<'c> {
    fn of(farm: &'c Farm, config: &'c Config) -> Self {
        let Share::Weighted(weights) = config.share(farm.group) else {
            unreachable!("a module's own share is made of weights");
        };
        Self {
            weights: weights_view(weights, farm.nodes.iter().copied(), config),
            virtual_ips: farm
                .virtual_ips
                .iter()
                .map(|vip| VirtualIpView { address: vip.address.to_string(), interface: &vip.interface })
                .collect(),
            delivery: farm.delivery.name(),
            drain_timeout: duration::print(farm.drain_timeout),
            rules: farm.rules.iter().map(|rule| RuleView::of(rule, farm.group, config)).collect(),
        }
    }
}

fn weights_view(
    weights: &[u32],
    nodes: impl Iterator<Item = NodeId>,
    config: &Config,
) -> serde_yaml::Mapping {
    nodes.map(|node| (config.name(node).into(), weights[usize::from(node.0)].into())).collect()
}

impl<'c> RuleView<'c> {
    fn of(rule: &'c Rule, own: GroupId, config: &'c Config) -> Self {
        Self {
            protocol: rule.protocol.name(),
            port: match rule.ports {
                Ports { first, last } if first == last => PortView::One(first),
                ports => PortView::More(ports.to_string()),
            },
            balance: rule.balance.name(),
            prefix: match rule.balance {
                Balance::ClientNetwork { ipv4, ipv6 } => Some(PrefixView { ipv4, ipv6 }),
                Balance::Connection | Balance::Client => None,
            },
            evidence: rule.evidence.name(),
            share: match config.share(rule.group) {
                _ if rule.group == own => ShareView::Module {},
                Share::Weighted(weights) => {
                    let there = (0..weights.len()).filter(|node| weights[*node] > 0);
                    let nodes: Vec<_> = there.map(|node| NodeId(node as u8)).collect();
                    ShareView::Weighted {
                        nodes: nodes.iter().map(|node| config.name(*node)).collect(),
                        weights: weights_view(weights, nodes.into_iter(), config),
                    }
                }
                Share::Cascade(line) => {
                    ShareView::Cascade { cascade: line.iter().map(|node| config.name(*node)).collect() }
                }
            },
        }
    }
}
