//! L1: YAML text -> [`Config`]. Parsed, not validated: what is in here holds, and nobody checks again.

mod cluster;
mod decode;
pub mod duration;
pub mod error;
mod hash;
pub mod key;
mod load;
mod module;
mod show;
mod tree;

use std::net::IpAddr;
use std::path::PathBuf;

pub use cluster::KEY_FILE_DEFAULT;
pub use error::{ConfigError, ConfigErrors};
pub use hash::{BUCKETS, ownership_hash};
pub use load::{CONFIG_FILE_DEFAULT, load, parse};
pub use show::effective;

use crate::types::{GroupId, NetworkId, NodeId, Timing};

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub cluster: Cluster,
    pub modules: Vec<Module>,
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

#[derive(Clone, Debug, PartialEq)]
pub enum Module {
    Farm(Farm),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Farm {
    pub name: String,
    /// Members of the module, in the order of `cluster.nodes`.
    pub nodes: Vec<NodeId>,
    /// At least one; unique over the whole file.
    pub virtual_ips: Vec<VirtualIp>,
    pub delivery: Delivery,
    /// At least one; protocol and port unique within the module.
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualIp {
    pub address: IpAddr,
    pub interface: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Flood,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub protocol: Protocol,
    /// 1 to 65,535.
    pub port: u16,
    pub balance: Balance,
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
    /// The client's network: /24 for IPv4, /64 for IPv6.
    ClientNetwork,
}

impl Config {
    pub fn node(&self, name: &str) -> Option<NodeId> {
        self.cluster.nodes.iter().position(|node| node.name == name).map(|index| NodeId(index as u8))
    }

    pub fn networks(&self) -> impl Iterator<Item = (NetworkId, &Network)> {
        self.cluster.networks.iter().enumerate().map(|(index, network)| (NetworkId(index as u8), network))
    }

    /// The rule group of each farm: the same number on every node, whichever farms it takes part in.
    pub fn farm_groups(&self) -> impl Iterator<Item = (GroupId, &Farm)> {
        self.farms().enumerate().map(|(index, farm)| (GroupId(index as u16), farm))
    }

    pub fn farms(&self) -> impl Iterator<Item = &Farm> {
        self.modules.iter().map(|module| match module {
            Module::Farm(farm) => farm,
        })
    }
}

#[cfg(test)]
mod tests;
