//! The keys of a mirror: which directories two nodes have in common, and over which network.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::decode::{Fields, Keys, choice, duration, list, port, text};
use super::error::{Findings, meant_or_allowed, quoted};
use super::module::{Surroundings, members};
use super::tree::{Mark, Node};
use super::{Mirror, Replicated};
use crate::types::replica::Acknowledge;
use crate::types::{NetworkId, NodeId};

pub(super) const MIRROR: Keys = Keys {
    of: "a mirror",
    known: &["name", "kind", "nodes", "replicate", "replication", "start"],
    later: &[
        "virtual_ips",
        "default_primary",
        "after",
        "services",
        "variables",
        "scripts",
        "checks",
        "max_loop",
        "after_max_loop",
        "failover",
        "witness",
    ],
};
pub(super) const REPLICATED: Keys = Keys {
    of: "a replicated directory",
    known: &["directory", "acknowledge", "require"],
    later: &["exclude"],
};
pub(super) const REPLICATION: Keys =
    Keys { of: "`replication`", known: &["network", "port", "max_stall"], later: &["bandwidth", "verify"] };

pub(super) const ACKNOWLEDGES: [(&str, Acknowledge); 3] =
    [("disk", Acknowledge::Disk), ("memory", Acknowledge::Memory), ("each_write", Acknowledge::EachWrite)];
/// Each is a file system of its own.
pub(super) const DIRECTORIES_MAX: usize = 16;
pub(super) const PORT_DEFAULT: u16 = 4900;
pub(super) const MAX_STALL_DEFAULT: Duration = Duration::from_secs(2);
/// Below, a busy network would count as a lost node; above, applications give up themselves.
const MAX_STALL_MIN: Duration = Duration::from_millis(100);
const MAX_STALL_MAX: Duration = Duration::from_secs(60);
/// Changes that are under way reach the disk, and the directories are given back.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);
pub const FORCED_STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// NAME_MAX and PATH_MAX of the kernel, less a closing zero.
pub(super) const FILE_NAME_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 4095;

/// The word of the configuration file.
pub const fn acknowledge_word(acknowledge: Acknowledge) -> &'static str {
    match acknowledge {
        Acknowledge::Disk => "disk",
        Acknowledge::Memory => "memory",
        Acknowledge::EachWrite => "each_write",
    }
}

/// What the mirrors before this one have taken.
#[derive(Default)]
pub(super) struct Taken {
    directories: Vec<(PathBuf, [NodeId; 2], Mark)>,
    ports: Vec<(NetworkId, u16, [NodeId; 2], Mark)>,
}

pub(super) fn mirror(
    fields: &Fields<'_>,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Mirror> {
    let pair = pair(fields, surroundings.nodes, findings);
    let directories = fields
        .required("replicate", "replicate: [{ directory: /var/lib/shop }]", findings)
        .and_then(|node| directories(node, pair, &mut surroundings.mirrors, findings));
    let replication = replication(fields, pair, surroundings, findings);
    let (network, port, max_stall) = replication?;
    Some(Mirror { nodes: pair?, directories: directories?, network, port, max_stall })
}

/// All nodes of the cluster where none are named and there are two.
fn pair(fields: &Fields<'_>, nodes: Option<&[super::Node]>, findings: &mut Findings) -> Option<[NodeId; 2]> {
    let (named, mark) = match fields.optional("nodes") {
        Some(node) => (members(node, nodes, findings)?, node.mark),
        None if fields.has("nodes") => return None,
        None => ((0..nodes?.len()).map(|index| NodeId(index as u8)).collect(), fields.mark()),
    };
    match <[NodeId; 2]>::try_from(named.as_slice()) {
        // A name that is there twice has been reported.
        Ok(pair) => (pair[0] != pair[1]).then_some(pair),
        Err(_) => {
            let count = named.len();
            let nodes = if count == 1 { "node" } else { "nodes" };
            let hint = "a mirror has two copies: name two nodes, for example `nodes: [web1, web2]`";
            findings.add(mark, format!("a mirror of {count} {nodes}"), hint);
            None
        }
    }
}

fn directories(
    node: &Node,
    pair: Option<[NodeId; 2]>,
    taken: &mut Taken,
    findings: &mut Findings,
) -> Option<Vec<Replicated>> {
    let items = list(node, "replicate", DIRECTORIES_MAX, "{ directory: /var/lib/shop }", findings)?;
    let read: Vec<_> = items.iter().map(|item| replicated(item, pair, taken, findings)).collect();
    read.into_iter().collect()
}

fn replicated(
    node: &Node,
    pair: Option<[NodeId; 2]>,
    taken: &mut Taken,
    findings: &mut Findings,
) -> Option<Replicated> {
    let fields = Fields::open(node, &REPLICATED, findings)?;
    let directory = fields
        .required("directory", "directory: /var/lib/shop", findings)
        .and_then(|node| Some((directory(node, findings)?, node.mark)));
    let acknowledge = fields
        .optional("acknowledge")
        .map_or(Some(Acknowledge::Disk), |node| choice(node, "acknowledge", &ACKNOWLEDGES, &[], findings));
    let require = match fields.optional("require") {
        Some(node) => Some(file_name(node, findings)?),
        None => None,
    };
    let (directory, mark) = directory?;
    if let Some(pair) = pair {
        check_apart(&directory, pair, mark, taken, findings);
        taken.directories.push((directory.clone(), pair, mark));
    }
    Some(Replicated { directory, acknowledge: acknowledge?, require })
}

/// Absolute, without `.`, `..` or needless slashes, and not the root of everything.
fn directory(node: &Node, findings: &mut Findings) -> Option<PathBuf> {
    let given = text(node, "`directory`", findings)?;
    let mut complain = |message: String, hint: &str| {
        findings.add(node.mark, message, hint);
        None
    };
    if !given.starts_with('/') || given.contains('\0') || given.len() > PATH_BYTES_MAX {
        return complain(
            format!("{} is no absolute path", quoted(given)),
            "write the whole path, like /var/lib/shop",
        );
    }
    let is_plain = |part: &str| !matches!(part, "." | "..");
    if !given.split('/').all(is_plain) {
        return complain(
            format!("{} goes over `.` or `..`", quoted(given)),
            "write the path without them, as `realpath` prints it",
        );
    }
    let names = Path::new(given).components().filter(|part| matches!(part, Component::Normal(_)));
    let directory: PathBuf = [Component::RootDir].into_iter().chain(names).collect();
    if directory == Path::new("/") {
        return complain(
            "the root of the file system cannot be replicated".to_owned(),
            "write the application's own directory, like /var/lib/shop",
        );
    }
    Some(directory)
}

/// Of a file directly in the directory.
fn file_name(node: &Node, findings: &mut Findings) -> Option<String> {
    let name = text(node, "`require`", findings)?;
    if name.is_empty()
        || [".", ".."].contains(&name)
        || name.contains(['/', '\0'])
        || name.len() > FILE_NAME_BYTES_MAX
    {
        let hint = "write the name of a file that is directly in the directory, like `.is-mounted`";
        findings.add(node.mark, format!("{} is no name of a file", quoted(name)), hint);
        return None;
    }
    Some(name.to_owned())
}

/// A directory within another would be captured twice.
fn check_apart(directory: &Path, pair: [NodeId; 2], mark: Mark, taken: &Taken, findings: &mut Findings) {
    for (other, _, first) in taken.directories.iter().filter(|(_, nodes, _)| share_a_node(*nodes, pair)) {
        let shown = directory.display();
        if other == directory {
            let message = format!("{shown} is replicated twice");
            findings.add_duplicate(mark, *first, message, "keep one of them");
        } else if directory.starts_with(other) || other.starts_with(directory) {
            let message = format!("{shown} and {} lie within each other", other.display());
            let hint = "replicate the outer one alone, or two directories beside each other";
            findings.add_duplicate(mark, *first, message, hint);
        }
    }
}

fn share_a_node(some: [NodeId; 2], others: [NodeId; 2]) -> bool {
    some.iter().any(|node| others.contains(node))
}

fn replication(
    fields: &Fields<'_>,
    pair: Option<[NodeId; 2]>,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings,
) -> Option<(NetworkId, u16, Duration)> {
    let (keys, mark) = match fields.optional("replication") {
        Some(node) => (Some(Fields::open(node, &REPLICATION, findings)?), node.mark),
        None if fields.has("replication") => return None,
        None => (None, fields.mark()),
    };
    let of = |key| keys.as_ref().and_then(|keys| keys.optional(key));
    let network = network(of("network"), mark, pair, surroundings, findings);
    let port_mark = of("port").map_or(mark, |node| node.mark);
    let port = of("port").map_or(Some(PORT_DEFAULT), |node| port(node, findings));
    let max_stall = of("max_stall").map_or(Some(MAX_STALL_DEFAULT), |node| max_stall(node, findings));
    let (network, port, pair) = (network?, port?, pair?);
    check_port(network, port, pair, port_mark, surroundings, findings);
    Some((network, port, max_stall?))
}

/// The one that is named, or the first that both nodes are in.
fn network(
    named: Option<&Node>,
    mark: Mark,
    pair: Option<[NodeId; 2]>,
    surroundings: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<NetworkId> {
    let name = match named {
        Some(node) => Some((text(node, "a network's name", findings)?, node.mark)),
        None => None,
    };
    let (networks, nodes) = (surroundings.networks?, surroundings.nodes?);
    let members = pair.map(|pair| pair.map(|node| &nodes[usize::from(node.0)]));
    let Some((name, mark)) = name else {
        let members = members?;
        let both = |index: &usize| members.iter().all(|node| node.addresses[*index].is_some());
        let found = (0..networks.len()).find(both);
        if found.is_none() {
            let message = format!("{} and {} have no network in common", members[0].name, members[1].name);
            findings.add(mark, message, "give both an address in one network of the cluster");
        }
        return found.map(|index| NetworkId(index as u8));
    };
    let Some(index) = networks.iter().position(|network| network.name == name) else {
        let hint = meant_or_allowed(name, networks.iter().map(|network| network.name.as_str()));
        findings.add(mark, format!("there is no network {}", quoted(name)), hint);
        return None;
    };
    if let Some(outside) = members?.iter().find(|node| node.addresses[index].is_none()) {
        let message = format!("{} has no address in the network {name}", outside.name);
        findings.add(mark, message, "give it one, or name a network that both nodes are in");
        return None;
    }
    Some(NetworkId(index as u8))
}

fn check_port(
    network: NetworkId,
    port: u16,
    pair: [NodeId; 2],
    mark: Mark,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings,
) {
    let heartbeat = surroundings.networks.map(|networks| networks[usize::from(network.0)].port);
    if heartbeat == Some(port) {
        let message = format!("port {port} is that of the network's heartbeats");
        findings.add(mark, message, "write `replication: { port: … }` with a port that nothing else uses");
    }
    let taken = &mut surroundings.mirrors.ports;
    let same = |(other, known, nodes, _): &&(NetworkId, u16, [NodeId; 2], Mark)| {
        *other == network && *known == port && share_a_node(*nodes, pair)
    };
    if let Some((.., first)) = taken.iter().find(same) {
        let message = format!("two mirrors of one node use port {port} in one network");
        let hint = format!(
            "give each its own, for example `replication: {{ port: {} }}`",
            port.wrapping_add(1).max(1)
        );
        findings.add_duplicate(mark, *first, message, &hint);
    }
    taken.push((network, port, pair, mark));
}

fn max_stall(node: &Node, findings: &mut Findings) -> Option<Duration> {
    let span = duration(node, "max_stall", findings)?;
    if !(MAX_STALL_MIN..=MAX_STALL_MAX).contains(&span) {
        let hint = "write a span from 100ms to 1m: an application waits so long for a node that is silent";
        findings.add(node.mark, format!("a `max_stall` of {}", super::duration::print(span)), hint);
        return None;
    }
    Some(span)
}

#[cfg(test)]
mod tests;
