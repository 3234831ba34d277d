//! The section `cluster`: who is there, how they reach each other, and how fast they must answer.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::decode::{Fields, Keys, Unique, choice, duration, ip, list, map, name, port, text};
use super::error::{Findings, meant_or_allowed, quoted};
use super::tree::{Entry, Mark, Node};
use super::{Cluster, Network};
use crate::types::Timing;
use crate::types::ids::NODES_MAX;

pub(super) const PORT_DEFAULT: u16 = 4800;
pub const KEY_FILE_DEFAULT: &str = "/etc/safekit/cluster.key";
/// Each heartbeat goes out on every network.
pub(super) const NETWORKS_MAX: usize = 8;

pub(super) const CLUSTER: Keys =
    Keys { of: "`cluster`", known: &["name", "key_file", "networks", "nodes", "heartbeat"], later: &[] };
pub(super) const NETWORK: Keys = Keys { of: "a network", known: &["name", "port"], later: &[] };
pub(super) const NODE: Keys = Keys { of: "a node", known: &["name", "addresses"], later: &[] };
pub(super) const HEARTBEAT: Keys =
    Keys { of: "`heartbeat`", known: &["profile", "interval", "timeout", "lease"], later: &[] };

pub(super) const PROFILES: [(&str, Timing); 3] =
    [("fast", Timing::FAST), ("default", Timing::DEFAULT), ("tolerant", Timing::TOLERANT)];
const INTERVAL_MIN: Duration = Duration::from_millis(5);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Addresses of nodes by the place where they stand: a virtual IP must be none of them.
pub(super) type Addresses = Unique<IpAddr>;

pub(super) fn cluster(
    node: &Node,
    folder: &Path,
    addresses: &mut Addresses,
    findings: &mut Findings,
) -> Option<Cluster> {
    let fields = Fields::open(node, &CLUSTER, findings)?;
    let cluster_name = fields
        .required("name", "name: shop", findings)
        .and_then(|node| name(node, "a cluster's name", findings));
    let key_file = key_file(fields.optional("key_file"), folder, findings);
    let networks = fields
        .required("networks", "networks: [{ name: lan }]", findings)
        .and_then(|node| networks(node, findings));
    let nodes = fields
        .required("nodes", "nodes: [{ name: web1, addresses: { lan: 10.99.0.1 } }]", findings)
        .and_then(|node| nodes(node, networks.as_deref(), addresses, findings));
    let timing = fields.optional("heartbeat").map_or(Some(Timing::DEFAULT), |node| heartbeat(node, findings));
    Some(Cluster {
        name: cluster_name?,
        key_file: key_file?,
        networks: networks?,
        nodes: nodes?,
        timing: timing?,
    })
}

/// A relative path starts at the configuration file, wherever the command runs.
fn key_file(node: Option<&Node>, folder: &Path, findings: &mut Findings) -> Option<PathBuf> {
    let Some(node) = node else {
        return Some(PathBuf::from(KEY_FILE_DEFAULT));
    };
    let path = text(node, "`key_file`", findings)?;
    if path.is_empty() || path.contains('\0') {
        findings.add(node.mark, "`key_file` is no path", format!("for example {KEY_FILE_DEFAULT}"));
        return None;
    }
    Some(folder.join(path))
}

fn networks(node: &Node, findings: &mut Findings) -> Option<Vec<Network>> {
    let items = list(node, "networks", NETWORKS_MAX, "{ name: lan }", findings)?;
    let mut names = Unique::default();
    let networks: Vec<_> = items.iter().map(|item| network(item, &mut names, findings)).collect();
    networks.into_iter().collect()
}

fn network(node: &Node, names: &mut Unique<String>, findings: &mut Findings) -> Option<Network> {
    let fields = Fields::open(node, &NETWORK, findings)?;
    let name = unique_name(&fields, "network", names, findings);
    let port = fields.optional("port").map_or(Some(PORT_DEFAULT), |node| port(node, findings));
    Some(Network { name: name?, port: port? })
}

/// The field `name`, which no other `what` may have.
pub(super) fn unique_name(
    fields: &Fields<'_>,
    what: &str,
    names: &mut Unique<String>,
    findings: &mut Findings,
) -> Option<String> {
    let node = fields.required("name", "name: one", findings)?;
    let name = name(node, &format!("a {what}'s name"), findings)?;
    if let Err(first) = names.insert(name.clone(), node.mark) {
        let message = format!("two {what}s are called `{name}`");
        findings.add_duplicate(node.mark, first, message, "give each its own name");
        return None;
    }
    Some(name)
}

fn nodes(
    node: &Node,
    networks: Option<&[Network]>,
    addresses: &mut Addresses,
    findings: &mut Findings,
) -> Option<Vec<super::Node>> {
    let items = list(node, "nodes", NODES_MAX, "{ name: web1, addresses: { lan: 10.99.0.1 } }", findings)?;
    let mut seen = Seen { names: Unique::default(), addresses, families: Unique::default() };
    let nodes: Vec<_> = items.iter().map(|item| one_node(item, networks, &mut seen, findings)).collect();
    nodes.into_iter().collect()
}

/// What may be there once.
struct Seen<'a> {
    names: Unique<String>,
    addresses: &'a mut Addresses,
    /// First address of each network and family; a network has one family.
    families: Unique<(String, bool)>,
}

fn one_node(
    node: &Node,
    networks: Option<&[Network]>,
    seen: &mut Seen<'_>,
    findings: &mut Findings,
) -> Option<super::Node> {
    let fields = Fields::open(node, &NODE, findings)?;
    let name = unique_name(&fields, "node", &mut seen.names, findings);
    let addresses = fields
        .required("addresses", "addresses: { lan: 10.99.0.1 }", findings)
        .and_then(|node| node_addresses(node, networks, seen, findings));
    Some(super::Node { name: name?, addresses: addresses? })
}

fn node_addresses(
    node: &Node,
    networks: Option<&[Network]>,
    seen: &mut Seen<'_>,
    findings: &mut Findings,
) -> Option<Vec<Option<IpAddr>>> {
    let entries = map(node, "`addresses`", findings)?;
    if entries.is_empty() {
        findings.add(node.mark, "a node has no address", "write one for at least one network");
    }
    let mut addresses = vec![None; networks.map_or(0, <[_]>::len)];
    for entry in entries {
        let address = ip(&entry.value, findings);
        // Without the list of networks (it was wrong itself) nothing can be said about these names.
        let (Some(networks), Some(address)) = (networks, address) else {
            continue;
        };
        match networks.iter().position(|network| network.name == entry.key) {
            Some(index) => {
                check_address(entry, address, seen, findings);
                addresses[index] = Some(address);
            }
            None => {
                let hint = meant_or_allowed(&entry.key, networks.iter().map(|network| network.name.as_str()));
                findings.add(entry.key_mark, format!("there is no network {}", quoted(&entry.key)), hint);
            }
        }
    }
    networks.map(|_| addresses)
}

fn check_address(entry: &Entry, address: IpAddr, seen: &mut Seen<'_>, findings: &mut Findings) {
    let mark = entry.value.mark;
    if let Err(first) = seen.addresses.insert(address, mark) {
        let hint = "give each node its own, and each network another";
        findings.add_duplicate(mark, first, format!("{address} is there twice"), hint);
    }
    let network = entry.key.clone();
    if let Some(first) = seen.family_clash(network, address, mark) {
        let message = format!("{address} and another address of network `{}` differ in family", entry.key);
        findings.add_duplicate(mark, first, message, "use IPv4 or IPv6 for all nodes of a network");
    }
}

impl Seen<'_> {
    fn family_clash(&mut self, network: String, address: IpAddr, mark: Mark) -> Option<Mark> {
        let _ = self.families.insert((network.clone(), address.is_ipv6()), mark);
        self.families.first(&(network, !address.is_ipv6()))
    }
}

fn heartbeat(node: &Node, findings: &mut Findings) -> Option<Timing> {
    let fields = Fields::open(node, &HEARTBEAT, findings)?;
    let spans = ["interval", "timeout", "lease"];
    let own = spans.iter().any(|key| fields.has(key));
    if let Some(profile) = fields.optional("profile") {
        if own {
            let hint = "keep `profile`, or `interval`, `timeout` and `lease`";
            findings.add(profile.mark, "a profile and times of your own exclude each other", hint);
            return None;
        }
        return choice(profile, "profile", &PROFILES, &[], findings);
    }
    if !own && !fields.has("profile") {
        findings.add(fields.mark(), "`heartbeat` is empty", "for example `heartbeat: { profile: default }`");
        return None;
    }
    let mut span = |key, example| {
        fields
            .required(key, example, findings)
            .and_then(|node| Some((node.mark, duration(node, key, findings)?)))
    };
    let (interval, timeout, lease) = (
        span("interval", "interval: 25ms"),
        span("timeout", "timeout: 200ms"),
        span("lease", "lease: 100ms"),
    );
    let ((at_interval, interval), (at_timeout, timeout), (at_lease, lease)) = (interval?, timeout?, lease?);
    let timing = Timing { interval, timeout, lease };
    match broken_rule(timing) {
        None => Some(timing),
        Some((which, message)) => {
            let mark = [at_interval, at_timeout, at_lease][which as usize];
            findings.add(mark, message, "the profile `default` is interval 25ms, timeout 200ms, lease 100ms");
            None
        }
    }
}

#[derive(Clone, Copy)]
enum Which {
    Interval = 0,
    Timeout = 1,
    Lease = 2,
}

/// Two lost heartbeats must not end a lease, and a lease must have ended before the peers act. Peers give up on an
/// unacknowledged claim after three quarters of the timeout, and that point stays two intervals before its end.
fn broken_rule(Timing { interval, timeout, lease }: Timing) -> Option<(Which, String)> {
    let ms = |span: Duration| span.as_millis();
    if interval < INTERVAL_MIN {
        return Some((
            Which::Interval,
            format!("an interval of {} ms is below {} ms", ms(interval), ms(INTERVAL_MIN)),
        ));
    }
    if timeout > TIMEOUT_MAX {
        return Some((
            Which::Timeout,
            format!("a timeout of {} ms is above {} ms", ms(timeout), ms(TIMEOUT_MAX)),
        ));
    }
    if interval * 3 > lease {
        let least = ms(interval * 3);
        return Some((
            Which::Lease,
            format!("a lease of {} ms is below three intervals, {least} ms", ms(lease)),
        ));
    }
    if lease * 4 >= timeout * 3 {
        let bound = ms(timeout * 3 / 4);
        let message =
            format!("a lease of {} ms is not below three quarters of the timeout, {bound} ms", ms(lease));
        return Some((Which::Lease, message));
    }
    if interval * 8 > timeout {
        let least = ms(interval * 8);
        return Some((
            Which::Timeout,
            format!("a timeout of {} ms is below eight intervals, {least} ms", ms(timeout)),
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(interval: u64, timeout: u64, lease: u64) -> Timing {
        let [interval, timeout, lease] = [interval, timeout, lease].map(Duration::from_millis);
        Timing { interval, timeout, lease }
    }

    #[test]
    fn every_profile_keeps_the_rules() {
        for (name, profile) in PROFILES {
            assert!(broken_rule(profile).is_none(), "{name}");
        }
    }

    #[test]
    fn each_rule_has_its_edge() {
        for (interval, timeout, lease, fine) in [
            (5, 40, 15, true),
            (4, 40, 15, false),
            (5, 40, 14, false),
            (5, 40, 29, true),
            (5, 40, 30, false),
            (5, 39, 15, false),
            (100, 60_000, 500, true),
            (100, 60_001, 500, false),
        ] {
            assert_eq!(
                broken_rule(timing(interval, timeout, lease)).is_none(),
                fine,
                "{interval}/{timeout}/{lease}"
            );
        }
    }
}
