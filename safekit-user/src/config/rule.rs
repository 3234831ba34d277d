//! The rules of a farm: which packets it takes, and how they are shared out.

use super::decode::{Fields, Keys, choice, list, map, port, word};
use super::error::{Findings, meant_or_allowed, quoted};
use super::module::{Surroundings, line, members};
use super::tree::{Mark, Node, Value};
use super::{Balance, Evidence, Group, Ports, Protocol, Rule, Share};
use crate::types::share::WEIGHT_MAX;
use crate::types::{GroupId, NodeId};

pub(super) const RULES_MAX: usize = 64;
/// The filter holds so many tables.
const GROUPS_MAX: usize = 64;

pub(super) const RULE: Keys = Keys {
    of: "a rule",
    known: &["protocol", "port", "balance", "prefix", "nodes", "weights", "cascade", "evidence"],
    later: &[],
};
pub(super) const PREFIX: Keys = Keys { of: "`prefix`", known: &["ipv4", "ipv6"], later: &[] };

pub(super) const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
pub(super) const BALANCES: [(&str, Balance); 3] =
    [("connection", Balance::Connection), ("client", Balance::Client), ("client_network", Balance::NETWORK)];
pub(super) const EVIDENCES: [(&str, Evidence); 2] =
    [("sockets", Evidence::Sockets), ("flows", Evidence::Flows)];

impl Protocol {
    /// The word of the configuration file, as for the others below.
    pub fn name(self) -> &'static str {
        word(&PROTOCOLS, &self)
    }
}

impl Balance {
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientNetwork { .. } => word(&BALANCES, &Self::NETWORK),
            Self::Connection | Self::Client => word(&BALANCES, &self),
        }
    }
}

impl Evidence {
    pub fn name(self) -> &'static str {
        word(&EVIDENCES, &self)
    }
}

/// The groups of one farm: its own first, then one for each other way of sharing that its rules ask for.
pub(super) struct Sharing<'s, 'n> {
    module: &'s str,
    nodes: Option<&'n [super::Node]>,
    members: Option<&'s [NodeId]>,
    groups: &'s mut Vec<Group>,
    own: Option<GroupId>,
    /// Where the module begins: what is said about all of its groups is said there.
    mark: Mark,
    full: bool,
}

impl<'s, 'n> Sharing<'s, 'n> {
    /// Nothing can be said about the shares of a module that has no name, members or weights of its own.
    pub(super) fn new(
        module: Option<&'s str>,
        own: Option<Share>,
        members: Option<&'s [NodeId]>,
        surroundings: &'s mut Surroundings<'n>,
        mark: Mark,
    ) -> Self {
        let nodes = surroundings.nodes;
        let groups = &mut surroundings.groups;
        let mut sharing =
            Self { module: module.unwrap_or_default(), nodes, members, groups, own: None, mark, full: false };
        sharing.own = own.and_then(|share| sharing.add(share));
        sharing
    }

    /// The group of rules that say nothing about their share.
    pub(super) fn own_group(&self, findings: &mut Findings) -> Option<GroupId> {
        if self.full {
            let message = format!("more than {GROUPS_MAX} ways of sharing in all modules together");
            findings.add(self.mark, message, "give more rules the same `nodes` and `weights`");
        }
        self.own
    }

    fn group_of(&mut self, share: Share) -> Option<GroupId> {
        let of_this = self.groups.iter().skip(usize::from(self.own?.0));
        let known = of_this.filter(|group| group.share == share).map(|group| group.id).next();
        known.or_else(|| self.add(share))
    }

    fn add(&mut self, share: Share) -> Option<GroupId> {
        let id = GroupId(self.groups.len() as u16);
        self.full |= self.groups.len() >= GROUPS_MAX;
        if self.full {
            return None;
        }
        self.groups.push(Group { id, module: self.module.to_owned(), share });
        Some(id)
    }
}

pub(super) fn rules(
    node: &Node,
    sharing: &mut Sharing<'_, '_>,
    findings: &mut Findings,
) -> Option<Vec<Rule>> {
    let items = list(node, "rules", RULES_MAX, "{ protocol: tcp, port: 80 }", findings)?;
    let mut seen = Vec::new();
    let rules: Vec<_> = items.iter().map(|item| rule(item, &mut seen, sharing, findings)).collect();
    rules.into_iter().collect()
}

fn rule(
    node: &Node,
    seen: &mut Vec<(Protocol, Ports, Mark)>,
    sharing: &mut Sharing<'_, '_>,
    findings: &mut Findings,
) -> Option<Rule> {
    let fields = Fields::open(node, &RULE, findings)?;
    let protocol = fields
        .required("protocol", "protocol: tcp", findings)
        .and_then(|node| choice(node, "protocol", &PROTOCOLS, &[], findings));
    let ports = fields.required("port", "port: 80", findings).and_then(|node| ports(node, findings));
    let balance = balance(&fields, findings);
    let evidence = fields
        .optional("evidence")
        .map_or(Some(Evidence::Sockets), |node| choice(node, "evidence", &EVIDENCES, &[], findings));
    let group = group(&fields, sharing, findings);
    let (protocol, ports) = (protocol?, ports?);
    check_overlap(protocol, ports, node.mark, seen, findings);
    Some(Rule { protocol, ports, balance: balance?, evidence: evidence?, group: group? })
}

/// A port, `8000-8099`, or `any`.
fn ports(node: &Node, findings: &mut Findings) -> Option<Ports> {
    let Value::Text(text) = &node.value else {
        return port(node, findings).map(Ports::one);
    };
    if text == "any" {
        return Some(Ports::ANY);
    }
    let Some((first, last)) = text.split_once('-') else {
        return port(node, findings).map(Ports::one);
    };
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Some(Ports { first, last }),
        (Some(first), Some(last)) => {
            findings.add(
                node.mark,
                format!("{} ends before it begins", quoted(text)),
                format!("did you mean `{last}-{first}`?"),
            );
            None
        }
        _ => {
            let hint = "write a port, a range like `8000-8099`, or `any`";
            findings.add(node.mark, format!("{} is no range of ports", quoted(text)), hint);
            None
        }
    }
}

/// Of two rules the narrower counts, so one must lie within the other, or they share no port.
fn check_overlap(
    protocol: Protocol,
    ports: Ports,
    mark: Mark,
    seen: &mut Vec<(Protocol, Ports, Mark)>,
    findings: &mut Findings,
) {
    let name = protocol.name();
    for (_, other, first) in seen.iter().filter(|(known, ..)| *known == protocol) {
        let apart = other.last < ports.first || ports.last < other.first;
        let inside = |inner: &Ports, outer: &Ports| outer.contains(inner.first) && outer.contains(inner.last);
        if *other == ports {
            let message = format!("two rules are for {name} port {ports}");
            findings.add_duplicate(mark, *first, message, "keep one of them");
        } else if !apart && !inside(&ports, other) && !inside(other, &ports) {
            let message = format!("two rules for {name} overlap: {other} and {ports}");
            findings.add_duplicate(mark, *first, message, "let one lie within the other, or part them");
        }
    }
    seen.push((protocol, ports, mark));
}

fn balance(fields: &Fields<'_>, findings: &mut Findings) -> Option<Balance> {
    let balance = fields
        .optional("balance")
        .map_or(Some(Balance::Connection), |node| choice(node, "balance", &BALANCES, &[], findings))?;
    let Some(node) = fields.optional("prefix") else { return Some(balance) };
    let Balance::ClientNetwork { ipv4, ipv6 } = balance else {
        let hint = "write `balance: client_network` with it, or remove it";
        findings.add(node.mark, "`prefix` belongs to `balance: client_network`", hint);
        return None;
    };
    let prefix = Fields::open(node, &PREFIX, findings)?;
    let mut bits = |key, most, default| match prefix.optional(key) {
        Some(node) => number(node, key, 1, most, findings).map(|bits| bits as u8),
        None => Some(default),
    };
    let (ipv4, ipv6) = (bits("ipv4", 32, ipv4), bits("ipv6", 128, ipv6));
    Some(Balance::ClientNetwork { ipv4: ipv4?, ipv6: ipv6? })
}

/// `nodes` and `weights`, or `cascade`, or the module's own share. What a rule does not say is as in its module.
fn group(fields: &Fields<'_>, sharing: &mut Sharing<'_, '_>, findings: &mut Findings) -> Option<GroupId> {
    let (nodes, of_module) = (sharing.nodes, sharing.members);
    let weighs = fields.optional("weights");
    let own = fields.optional("nodes").map(|node| (node.mark, members(node, nodes, findings)));
    if let Some((mark, Some(own))) = &own {
        check_members(*mark, own, of_module, nodes, findings);
    }
    if let Some(node) = fields.optional("cascade") {
        if weighs.is_some() || own.is_some() {
            let hint =
                "in a cascade the first that is there takes all: its list says who, and in which order";
            findings.add(node.mark, "`cascade` and `nodes` or `weights` exclude each other", hint);
            return None;
        }
        let line = line(node, "cascade", nodes, findings)?;
        check_members(node.mark, &line, of_module, nodes, findings);
        return sharing.group_of(Share::Cascade(line));
    }
    let mut base = match sharing.own.map(|own| &sharing.groups[usize::from(own.0)].share) {
        Some(Share::Weighted(weights)) => weights.clone(),
        Some(Share::Cascade(_)) | None => return None,
    };
    if own.is_none() && weighs.is_none() {
        return sharing.own;
    }
    let who = match own {
        Some((_, who)) => Some(who?),
        None => None,
    };
    if let Some(who) = &who {
        // Whoever is named serves, also where the module itself gives it nothing.
        for (index, weight) in base.iter_mut().enumerate() {
            *weight = if who.contains(&NodeId(index as u8)) { (*weight).max(1) } else { 0 };
        }
    }
    let share = match weighs {
        Some(node) => weights(node, nodes, who.as_deref().or(of_module), base, findings)?,
        None => Share::Weighted(base),
    };
    sharing.group_of(share)
}

fn check_members(
    mark: Mark,
    these: &[NodeId],
    of_module: Option<&[NodeId]>,
    nodes: Option<&[super::Node]>,
    findings: &mut Findings,
) {
    let (Some(of_module), Some(nodes)) = (of_module, nodes) else { return };
    if let Some(stranger) = these.iter().find(|node| !of_module.contains(node)) {
        let name = &nodes[usize::from(stranger.0)].name;
        let hint = "a rule shares its traffic among nodes of its module";
        findings.add(mark, format!("`{name}` is no node of the module"), hint);
    }
}

/// `{ web1: 2, web2: 1 }`: members that are not named keep the weight that they have.
pub(super) fn weights(
    node: &Node,
    nodes: Option<&[super::Node]>,
    members: Option<&[NodeId]>,
    mut weights: Vec<u32>,
    findings: &mut Findings,
) -> Option<Share> {
    let entries = map(node, "`weights`", findings)?;
    let (nodes, members) = (nodes?, members?);
    let names = members.iter().map(|member| nodes[usize::from(member.0)].name.as_str());
    for entry in entries {
        let weight = number(&entry.value, "a weight", 0, u64::from(WEIGHT_MAX), findings);
        let place = members.iter().find(|member| nodes[usize::from(member.0)].name == entry.key);
        match (place, weight) {
            (Some(member), Some(weight)) => weights[usize::from(member.0)] = weight as u32,
            (Some(_), None) => {}
            (None, _) => {
                let message = format!("{} is no node of this rule or module", quoted(&entry.key));
                findings.add(entry.key_mark, message, meant_or_allowed(&entry.key, names.clone()));
            }
        }
    }
    if weights.iter().all(|weight| *weight == 0) {
        findings.add(node.mark, "all weights are 0: nobody would serve", "give at least one node a weight");
        return None;
    }
    Some(Share::Weighted(weights))
}

fn number(node: &Node, what: &str, least: u64, most: u64, findings: &mut Findings) -> Option<u64> {
    let number = match &node.value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::Null
        | Value::Bool(_)
        | Value::Fraction(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_) => None,
    };
    let found = number.filter(|number| (least..=most).contains(number));
    if found.is_none() {
        let message = format!("{what} is no whole number from {least} to {most}");
        findings.add(node.mark, message, format!("write a number from {least} to {most}"));
    }
    found
}
