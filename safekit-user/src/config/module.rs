//! The section `modules`: what the cluster keeps available.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::cluster::{Addresses, unique_name};
use super::decode::{Fields, Keys, Unique, choice, duration, ip, list, text, word};
use super::error::{Findings, meant_or_allowed, quoted};
use super::rule::{Sharing, rules, weights};
use super::tree::{Node, Value};
use super::{Delivery, Farm, Group, Kind, Module, Share, VirtualIp, mirror, upkeep};
use crate::types::NodeId;

/// A farm is a rule group, and the filter holds so many.
pub(super) const MODULES_MAX: usize = 64;
pub(super) const VIRTUAL_IPS_MAX: usize = 32;
/// IFNAMSIZ of the kernel, less its closing zero.
pub(super) const INTERFACE_BYTES_MAX: usize = 15;

pub(super) const FARM: Keys = Keys {
    of: "a module",
    known: &[
        "name",
        "kind",
        "nodes",
        "weights",
        "virtual_ips",
        "delivery",
        "drain_timeout",
        "rules",
        "start",
        "after",
        "services",
        "variables",
        "scripts",
        "checks",
        "max_loop",
        "after_max_loop",
        "failover",
        "traffic",
    ],
    later: &["witness"],
};
pub(super) const LIGHT: Keys = Keys {
    of: "a light module",
    known: &[
        "name",
        "kind",
        "nodes",
        "start",
        "after",
        "services",
        "variables",
        "scripts",
        "checks",
        "max_loop",
        "after_max_loop",
        "failover",
    ],
    later: &[],
};
pub(super) const VIRTUAL_IP: Keys = Keys { of: "a virtual IP", known: &["address", "interface"], later: &[] };
#[derive(Clone, Copy)]
pub(super) enum Word {
    Farm,
    Light,
    Mirror,
}

pub(super) const KINDS: [(&str, Word); 3] =
    [("farm", Word::Farm), ("light", Word::Light), ("mirror", Word::Mirror)];
pub(super) const DELIVERIES: [(&str, Delivery); 3] =
    [("flood", Delivery::Flood), ("multicast", Delivery::Multicast), ("directed", Delivery::Directed)];
/// What a clean stop waits for connections where the module says nothing.
pub(super) const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

impl Delivery {
    /// The word of the configuration file.
    pub fn name(self) -> &'static str {
        word(&DELIVERIES, &self)
    }
}

/// What the modules refer to, and what they may have once.
pub(super) struct Surroundings<'a> {
    /// None when the list of nodes is wrong itself: then names of nodes cannot be judged.
    pub(super) nodes: Option<&'a [super::Node]>,
    pub(super) networks: Option<&'a [super::Network]>,
    pub(super) node_addresses: Addresses,
    pub(super) names: Unique<String>,
    pub(super) virtual_ips: Unique<IpAddr>,
    /// Of the modules so far.
    pub(super) groups: Vec<Group>,
    /// Where the file is.
    pub(super) folder: PathBuf,
    pub(super) others: upkeep::Others,
    pub(super) mirrors: mirror::Taken,
}

pub(super) fn modules(
    node: &Node,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Vec<Module>> {
    let items = list(node, "modules", MODULES_MAX, "{ name: www, kind: farm, … }", findings)?;
    let modules: Vec<_> = items.iter().map(|item| module(item, surroundings, findings)).collect();
    let modules: Option<Vec<Module>> = modules.into_iter().collect();
    if let Some(modules) = &modules {
        let names: Vec<String> = modules.iter().map(|module| module.name.clone()).collect();
        upkeep::follow_up(&surroundings.others, &names, findings);
    }
    modules
}

/// The kind decides which keys there are; one that cannot be read is reported, and taken for a farm.
fn module(node: &Node, surroundings: &mut Surroundings<'_>, findings: &mut Findings) -> Option<Module> {
    match kind_word(node) {
        Some("mirror") => mirror_module(node, surroundings, findings),
        Some("light") => farm_or_light(node, &LIGHT, surroundings, findings),
        Some(_) | None => farm_or_light(node, &FARM, surroundings, findings),
    }
}

fn farm_or_light(
    node: &Node,
    keys: &'static Keys,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Module> {
    let fields = Fields::open(node, keys, findings)?;
    let kind = fields
        .required("kind", "kind: farm", findings)
        .and_then(|node| choice(node, "kind", &KINDS, &[], findings));
    let name = unique_name(&fields, "module", &mut surroundings.names, findings);
    let nodes = match fields.optional("nodes") {
        Some(node) => members(node, surroundings.nodes, findings),
        None => surroundings.nodes.map(|nodes| (0..nodes.len()).map(|index| NodeId(index as u8)).collect()),
    };
    let upkeep = upkeep::upkeep(
        &fields,
        name.as_deref(),
        &surroundings.folder,
        surroundings.nodes,
        &mut surroundings.others,
        findings,
    );
    let kind = match kind {
        Some(Word::Light) => Some(Kind::Light),
        Some(Word::Farm | Word::Mirror) | None => {
            farm(&fields, name.clone(), nodes.clone(), surroundings, findings)
                .filter(|_| kind.is_some())
                .map(Kind::Farm)
        }
    };
    Some(Module { name: name?, nodes: nodes?, upkeep: upkeep?, kind: kind? })
}

fn mirror_module(
    node: &Node,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Module> {
    let fields = Fields::open(node, &mirror::MIRROR, findings)?;
    let name = unique_name(&fields, "module", &mut surroundings.names, findings);
    let mut upkeep = upkeep::of_mirror(&surroundings.folder);
    if let Some(node) = fields.optional("start") {
        (upkeep.boot, upkeep.boot_delay) = upkeep::start(node, findings)?;
    }
    let mirror = mirror::mirror(&fields, surroundings, findings)?;
    Some(Module { name: name?, nodes: mirror.nodes.to_vec(), upkeep, kind: Kind::Mirror(mirror) })
}

fn kind_word(node: &Node) -> Option<&str> {
    let Value::Map(entries) = &node.value else { return None };
    match &entries.iter().find(|entry| entry.key == "kind")?.value.value {
        Value::Text(word) => Some(word),
        _ => None,
    }
}

fn farm(
    fields: &Fields<'_>,
    name: Option<String>,
    nodes: Option<Vec<NodeId>>,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Farm> {
    let virtual_ips = fields
        .required("virtual_ips", "virtual_ips: [{ address: 10.99.0.100, interface: eth0 }]", findings)
        .and_then(|node| virtual_ips(node, surroundings, findings));
    let delivery = fields
        .optional("delivery")
        .map_or(Some(Delivery::Flood), |node| choice(node, "delivery", &DELIVERIES, &[], findings));
    let drain_timeout = fields
        .optional("drain_timeout")
        .map_or(Some(DRAIN_TIMEOUT_DEFAULT), |node| duration(node, "drain_timeout", findings));
    let share = own_share(fields, surroundings.nodes, nodes.as_deref(), findings);
    let (group, rules) = {
        let mut sharing = Sharing::new(name.as_deref(), share, nodes.as_deref(), surroundings, fields.mark());
        let rules = fields
            .required("rules", "rules: [{ protocol: tcp, port: 80 }]", findings)
            .and_then(|node| rules(node, &mut sharing, findings));
        (sharing.own_group(findings), rules)
    };
    Some(Farm {
        name: name?,
        nodes: nodes?,
        virtual_ips: virtual_ips?,
        delivery: delivery?,
        rules: rules?,
        group: group?,
        drain_timeout: drain_timeout?,
    })
}

/// Each member weighs 1 where the module says nothing.
fn own_share(
    fields: &Fields<'_>,
    nodes: Option<&[super::Node]>,
    members: Option<&[NodeId]>,
    findings: &mut Findings,
) -> Option<Share> {
    let of_module = nodes.zip(members);
    let weight = |members: &[NodeId], index| u32::from(members.contains(&NodeId(index as u8)));
    let ones = of_module
        .map(|(nodes, members)| (0..nodes.len()).map(|index| weight(members, index)).collect::<Vec<_>>());
    match fields.optional("weights") {
        Some(node) => weights(node, nodes, members, ones.unwrap_or_default(), findings),
        None => ones.map(Share::Weighted),
    }
}

/// In the order of the cluster.
pub(super) fn members(
    node: &Node,
    nodes: Option<&[super::Node]>,
    findings: &mut Findings,
) -> Option<Vec<NodeId>> {
    let mut members = line(node, "nodes", nodes, findings)?;
    members.sort_unstable();
    Some(members)
}

/// Names of nodes, each once, in the order of the list.
pub(super) fn line(
    node: &Node,
    what: &str,
    nodes: Option<&[super::Node]>,
    findings: &mut Findings,
) -> Option<Vec<NodeId>> {
    let items = list(node, what, usize::from(u8::MAX), "web1", findings)?;
    let mut seen = Unique::default();
    let mut members = Vec::new();
    for item in items {
        let (Some(name), Some(nodes)) = (text(item, "a node's name", findings), nodes) else {
            continue;
        };
        let Some(index) = nodes.iter().position(|node| node.name == name) else {
            let hint = meant_or_allowed(name, nodes.iter().map(|node| node.name.as_str()));
            findings.add(item.mark, format!("there is no node {}", quoted(name)), hint);
            continue;
        };
        if let Err(first) = seen.insert(index, item.mark) {
            findings.add_duplicate(
                item.mark,
                first,
                format!("`{name}` is twice in `{what}`"),
                "keep one of them",
            );
        }
        members.push(NodeId(index as u8));
    }
    nodes.map(|_| members)
}

fn virtual_ips(
    node: &Node,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Vec<VirtualIp>> {
    let example = "{ address: 10.99.0.100, interface: eth0 }";
    let items = list(node, "virtual_ips", VIRTUAL_IPS_MAX, example, findings)?;
    let virtual_ips: Vec<_> = items.iter().map(|item| virtual_ip(item, surroundings, findings)).collect();
    virtual_ips.into_iter().collect()
}

fn virtual_ip(
    node: &Node,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings,
) -> Option<VirtualIp> {
    let fields = Fields::open(node, &VIRTUAL_IP, findings)?;
    let address = fields
        .required("address", "address: 10.99.0.100", findings)
        .and_then(|node| virtual_address(node, surroundings, findings));
    let interface =
        fields.required("interface", "interface: eth0", findings).and_then(|node| interface(node, findings));
    Some(VirtualIp { address: address?, interface: interface? })
}

fn virtual_address(
    node: &Node,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings,
) -> Option<IpAddr> {
    let address = ip(node, findings)?;
    if address.is_loopback() {
        let hint = "write an address of the clients' network";
        findings.add(node.mark, format!("{address} never leaves its host"), hint);
        return None;
    }
    if let Some(first) = surroundings.node_addresses.first(&address) {
        let message = format!("the virtual IP {address} is the address of a node");
        findings.add_duplicate(node.mark, first, message, "a virtual IP is an address of its own");
    }
    if let Err(first) = surroundings.virtual_ips.insert(address, node.mark) {
        let hint = "a module has its own; write all its rules there";
        findings.add_duplicate(node.mark, first, format!("the virtual IP {address} is there twice"), hint);
    }
    Some(address)
}

/// As the kernel has it (dev_valid_name): no slash, colon or blank, neither `.` nor `..`.
pub(super) fn interface(node: &Node, findings: &mut Findings) -> Option<String> {
    let name = text(node, "an interface", findings)?;
    let allowed = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if name.is_empty()
        || name.len() > INTERFACE_BYTES_MAX
        || [".", ".."].contains(&name)
        || !name.chars().all(allowed)
    {
        let hint = format!("write the name as `ip link` shows it, {INTERFACE_BYTES_MAX} characters at most");
        findings.add(node.mark, format!("{} cannot be an interface", quoted(name)), hint);
        return None;
    }
    Some(name.to_owned())
}
