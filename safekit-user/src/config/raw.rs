//! The file as serde reads it, before anything is compared with anything. Keys of work to come are known here, so
//! that they are refused by name instead of being taken for typing errors.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_yaml::Value;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub cluster: Cluster,
    pub modules: Vec<Module>,
    pub console: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub name: String,
    pub key_file: String,
    pub networks: Vec<Network>,
    pub nodes: Vec<Node>,
    #[serde(default)]
    pub heartbeat: Heartbeat,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    pub name: String,
    pub port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub name: String,
    pub addresses: BTreeMap<String, IpAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Heartbeat {
    pub profile: Option<String>,
    pub interval: Option<String>,
    pub timeout: Option<String>,
    pub lease: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Module {
    pub name: String,
    pub kind: String,
    pub nodes: Option<Vec<String>>,
    #[serde(default)]
    pub virtual_ips: Vec<VirtualIp>,
    pub delivery: Option<String>,
    #[serde(default)]
    pub rules: Vec<Rule>,
    pub scripts: Option<Value>,
    pub services: Option<Value>,
    pub variables: Option<Value>,
    pub checks: Option<Value>,
    pub failover: Option<Value>,
    pub replicate: Option<Value>,
    pub replication: Option<Value>,
    pub witness: Option<Value>,
    pub start: Option<Value>,
    pub after: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VirtualIp {
    pub address: IpAddr,
    pub interface: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub protocol: String,
    pub port: u16,
    pub balance: Option<String>,
    pub weights: Option<Value>,
    pub nodes: Option<Value>,
    pub evidence: Option<Value>,
}
