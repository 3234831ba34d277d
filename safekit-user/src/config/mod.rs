//! L1: YAML text -> [`Config`]. Parsed, not validated: what is in here holds, and nobody checks again.

pub mod change;
mod cluster;
mod console;
mod decode;
pub mod duration;
pub mod error;
mod hash;
pub mod key;
mod load;
pub mod mirror;
mod module;
mod rule;
mod schema;
mod show;
mod tree;
pub mod upkeep;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub use cluster::KEY_FILE_DEFAULT;
pub use error::{ConfigError, ConfigErrors};
pub use hash::{BUCKETS, ownership_hash};
pub use load::{CONFIG_FILE_DEFAULT, load, parse};
pub use schema::schema;
pub use show::effective;

use std::time::Duration;

pub use crate::types::Share;
use crate::types::replica::Acknowledge;
use crate::types::{GroupId, NetworkId, NodeId, Timing};
pub use upkeep::Upkeep;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub cluster: Cluster,
    pub modules: Vec<Module>,
    /// The rule groups of all farms; [`GroupId`] is the index. The same on every node, whichever farms it takes part in.
    pub groups: Vec<Group>,
    /// None: nothing listens for HTTP.
    pub console: Option<Console>,
}

/// Where every node answers over HTTP: figures, health, screens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    pub listen: SocketAddr,
}

/// Rules of one farm whose traffic is shared out in one way: they have one table of buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: GroupId,
    pub module: String,
    pub share: Share,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub name: String,
    pub key_file: PathBuf,
    /// At least one.
    pub networks: Vec<Network>,
    /// One to 128, names unique; [`NodeId`] is the index.
    pub nodes: Vec<Node>,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub name: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub name: String,
    /// One for each network, in their order; a node may lack some, never all.
    pub addresses: Vec<Option<IpAddr>>,
}

/// An application that the cluster keeps available.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    pub name: String,
    /// Members, in the order of `cluster.nodes`.
    pub nodes: Vec<NodeId>,
    pub upkeep: Upkeep,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Every node serves its share.
    Farm(Farm),
    /// Every node for itself: start, watch, restart.
    Light,
    /// Two nodes with the same directories.
    Mirror(Mirror),
}

impl Module {
    /// A farm whose application runs by itself.
    pub fn farm(farm: Farm) -> Self {
        Self {
            name: farm.name.clone(),
            nodes: farm.nodes.clone(),
            upkeep: Upkeep::default(),
            kind: Kind::Farm(farm),
        }
    }
}

impl Kind {
    /// The word of the configuration file.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Farm(_) => "farm",
            Self::Light => "light",
            Self::Mirror(_) => "mirror",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Farm {
    pub name: String,
    /// Members of the module, in the order of `cluster.nodes`.
    pub nodes: Vec<NodeId>,
    /// At least one; unique over the whole file.
    pub virtual_ips: Vec<VirtualIp>,
    pub delivery: Delivery,
    /// At least one. Of two that cover a port the narrower counts; they are never equal.
    pub rules: Vec<Rule>,
    /// Of rules that say nothing else, of the answers to "who has the virtual IP", and of echo.
    pub group: GroupId,
    /// How long a clean stop waits for live connections.
    pub drain_timeout: Duration,
}

/// Directories that two nodes have in common: what one of them writes the other has too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Two different ones, in the order of `cluster.nodes`.
    pub nodes: [NodeId; 2],
    /// One to 16, none within another on any node.
    pub directories: Vec<Replicated>,
    /// Both nodes have an address in it.
    pub network: NetworkId,
    /// TCP; of no other mirror of these nodes in this network, and not that of its heartbeats.
    pub port: u16,
    /// How long an application waits at most for a node that does not answer.
    pub max_stall: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicated {
    /// Absolute, without `.` and `..`, and not the root.
    pub directory: PathBuf,
    pub acknowledge: Acknowledge,
    /// A file that must be in the directory before it is replicated: a disk that is not mounted lacks it.
    pub require: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualIp {
    pub address: IpAddr,
    pub interface: String,
}

/// How every packet reaches every node, or its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// By a unicast MAC that no switch learns.
    Flood,
    /// By a multicast MAC whose group the nodes join.
    Multicast,
    /// To one node's own MAC; that node sends on what is not its own.
    Directed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub protocol: Protocol,
    pub ports: Ports,
    pub balance: Balance,
    pub evidence: Evidence,
    pub group: GroupId,
}

/// From `first` to `last`, both included; 1 to 65,535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub const ANY: Self = Self { first: 1, last: u16::MAX };

    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    pub const fn width(self) -> u16 {
        self.last - self.first
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ports if *ports == Self::ANY => f.write_str("any"),
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

/// By what a node knows the packets of its own sessions while their bucket moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// TCP: the kernel has a socket for the connection. UDP: nothing; it moves with its bucket.
    Sockets,
    /// The filter has seen the session begin: for sockets that live in another network namespace, and for UDP.
    Flows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// What of the client decides its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// Address and port: every connection on its own.
    Connection,
    /// Address: all connections of a client go to one node.
    Client,
    /// The client's network, by the length of its prefix in bits.
    ClientNetwork { ipv4: u8, ipv6: u8 },
}

impl Balance {
    /// The /24 of an IPv4 client, the /64 of an IPv6 one.
    pub const NETWORK: Self = Self::ClientNetwork { ipv4: 24, ipv6: 64 };
}

impl Config {
    pub fn node(&self, name: &str) -> Option<NodeId> {
        self.cluster.nodes.iter().position(|node| node.name == name).map(|index| NodeId(index as u8))
    }

    pub fn name(&self, node: NodeId) -> &str {
        &self.cluster.nodes[usize::from(node.0)].name
    }

    /// How a group of this configuration is shared out.
    pub fn share(&self, group: GroupId) -> &Share {
        &self.groups[usize::from(group.0)].share
    }

    /// How long a clean stop of this node waits for live connections: as long as its most patient farm.
    pub fn drain_timeout(&self) -> Duration {
        self.farms().map(|farm| farm.drain_timeout).max().unwrap_or_default()
    }

    /// How long the slowest module may take to stop: the graceful and the forced calls of its scripts together, and the
    /// process of a mirror.
    pub fn stop_timeout(&self) -> Duration {
        let slowest = |module: &Module| -> Duration {
            let stops = module.upkeep.scripts.iter().filter(|spec| !is_start(spec.script));
            let scripts: Duration = stops.map(|spec| spec.timeout * 2).sum();
            let services = if module.upkeep.services.is_empty() {
                Duration::ZERO
            } else {
                upkeep::SCRIPT_TIMEOUT_DEFAULT
            };
            let process = match module.kind {
                Kind::Mirror(_) => mirror::STOP_TIMEOUT + mirror::FORCED_STOP_TIMEOUT,
                Kind::Farm(_) | Kind::Light => Duration::ZERO,
            };
            scripts + services + process
        };
        self.modules.iter().map(slowest).max().unwrap_or_default()
    }

    pub fn networks(&self) -> impl Iterator<Item = (NetworkId, &Network)> {
        self.cluster.networks.iter().enumerate().map(|(index, network)| (NetworkId(index as u8), network))
    }

    pub fn mirrors(&self) -> impl Iterator<Item = (&Module, &Mirror)> {
        self.modules.iter().filter_map(|module| match &module.kind {
            Kind::Mirror(mirror) => Some((module, mirror)),
            Kind::Farm(_) | Kind::Light => None,
        })
    }

    pub fn farms(&self) -> impl Iterator<Item = &Farm> {
        self.modules.iter().filter_map(|module| match &module.kind {
            Kind::Farm(farm) => Some(farm),
            Kind::Light | Kind::Mirror(_) => None,
        })
    }
}

fn is_start(script: crate::types::module::Script) -> bool {
    use crate::types::module::Script::{Prestart, StartBoth, StartPrim, StartSec, StartSecond};
    matches!(script, Prestart | StartBoth | StartPrim | StartSec | StartSecond)
}

#[cfg(test)]
mod tests;
