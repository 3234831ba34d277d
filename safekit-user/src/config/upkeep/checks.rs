//! `checks:`: what watches a module.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::super::decode::{Fields, Keys, Unique, choice, ip, list, name, port, text};
use super::super::error::{Findings, meant_or_allowed, quoted};
use super::super::module::interface;
use super::super::tree::{Node, Value};
use super::read::{action, command_line, positive, services, truth};
use super::{CHECK_INTERVAL_DEFAULT, CHECK_TIMEOUT_DEFAULT, Check, CheckKind, ModuleAt, When, Witness};
use crate::types::NodeId;
use crate::types::module::Action;

pub(in super::super) const CHECKS_MAX: usize = 64;
/// Processes and repetitions.
pub(in super::super) const COUNT_MAX: u32 = 100_000;
/// More often than that, looking costs more than what is looked at.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Of a compiled regular expression, as those who use it have it.
const PATTERN_BYTES_MAX: usize = 1 << 20;

pub(in super::super) const CHECK: Keys = Keys {
    of: "a check",
    known: &[
        "name",
        "when",
        "action",
        "services",
        "share_when_down",
        "process",
        "tcp",
        "http",
        "ping",
        "link",
        "address",
        "module",
        "custom",
        "witness",
    ],
    later: &[],
};
pub(in super::super) const WHENS: [(&str, When); 5] = [
    ("pre", When::Pre),
    ("up", When::Up),
    ("both", When::Both),
    ("prim", When::Prim),
    ("second", When::Second),
];
/// A check for these would never run here: only a mirror has the roles.
const WHENS_LATER: [&str; 2] = ["prim", "second"];

/// A kind, its keys, and what a check of it does where the file says nothing.
pub(in super::super) const CHECK_KINDS: [(&str, Keys, When, Action); 9] = [
    (
        "process",
        keys(
            "`process`",
            &["name", "arguments", "at_least", "at_most", "interval", "timeout", "rise", "fall"],
        ),
        When::Up,
        Action::Restart,
    ),
    (
        "tcp",
        keys("`tcp`", &["address", "port", "interval", "timeout", "rise", "fall"]),
        When::Up,
        Action::Restart,
    ),
    (
        "http",
        keys(
            "`http`",
            &["url", "port", "path", "status", "body", "verify", "interval", "timeout", "rise", "fall"],
        ),
        When::Up,
        Action::Restart,
    ),
    ("ping", keys("`ping`", &["address", "interval", "timeout", "rise", "fall"]), When::Pre, Action::Wait),
    ("link", keys("`link`", &["interface", "interval", "timeout", "rise", "fall"]), When::Pre, Action::Wait),
    (
        "address",
        keys("`address`", &["address", "interval", "timeout", "rise", "fall"]),
        When::Up,
        Action::Stopstart,
    ),
    (
        "module",
        keys("`module`", &["module", "node", "url", "interval", "timeout", "rise", "fall"]),
        When::Pre,
        Action::Wait,
    ),
    (
        "custom",
        keys("`custom`", &["run", "reports", "interval", "timeout", "rise", "fall"]),
        When::Up,
        Action::None,
    ),
    (
        "witness",
        keys("`witness`", &["node", "address", "interval", "timeout", "rise", "fall"]),
        When::Pre,
        Action::Wait,
    ),
];

/// Of the resources that checks report.
pub(super) const CLASSES: [&str; 9] =
    ["process", "tcp", "http", "ping", "link", "address", "module", "custom", "witness"];

const fn keys(of: &'static str, known: &'static [&'static str]) -> Keys {
    Keys { of, known, later: &[] }
}

/// `of_module`: the services that are restarted where a check names none.
pub(super) fn checks(
    node: &Node,
    nodes: Option<&[super::super::Node]>,
    of_module: &[String],
    findings: &mut Findings,
) -> Option<Vec<Check>> {
    let items = list(node, "checks", CHECKS_MAX, "{ name: http, tcp: { port: 80 } }", findings)?;
    let mut seen = Unique::default();
    let mut checks = Vec::new();
    let mut sound = true;
    for item in items {
        let Some(check) = check(item, nodes, findings) else {
            sound = false;
            continue;
        };
        if let Err(first) = seen.insert(check.name.clone(), item.mark) {
            let message = format!("the check {} is there twice", check.name);
            findings.add_duplicate(item.mark, first, message, "rename one of them");
        }
        sound &= makes_sense(item, &check, of_module, findings);
        checks.push(check);
    }
    sound.then_some(checks)
}

/// What each part allows and the whole does not.
fn makes_sense(node: &Node, check: &Check, of_module: &[String], findings: &mut Findings) -> bool {
    let (message, hint) = if check.action == Action::Wait && check.when != When::Pre {
        ("this check waits for what is not looked at in WAIT", "add `when: pre`, or choose another action")
    } else if check.action == Action::RestartService && check.services.is_empty() && of_module.is_empty() {
        ("there is no service to restart", "add `services: [nginx]` to the check or to the module")
    } else if check.action != Action::RestartService && !check.services.is_empty() {
        ("`services` of a check are for `restart_service`", "add `action: restart_service`, or remove them")
    } else if matches!(check.kind, CheckKind::Process { at_least, at_most: Some(most), .. } if most < at_least)
    {
        ("`at_most` is below `at_least`", "exchange them")
    } else {
        return true;
    };
    findings.add(node.mark, message, hint);
    false
}

fn check(node: &Node, nodes: Option<&[super::super::Node]>, findings: &mut Findings) -> Option<Check> {
    let fields = Fields::open(node, &CHECK, findings)?;
    let check_name = fields
        .required("name", "name: http", findings)
        .and_then(|node| name(node, "the name of a check", findings));
    let mut found = CHECK_KINDS.iter().filter(|(word, ..)| fields.has(word));
    let (kind, more) = (found.next(), found.next());
    let Some((word, keys, when, action)) = kind else {
        let hint = "add one of process, tcp, http, ping, link, address, module, custom, witness";
        findings.add(node.mark, "a check of no kind", hint);
        return None;
    };
    if more.is_some() {
        findings.add(node.mark, "a check of two kinds", "make it two checks");
        return None;
    }
    let inner = Fields::open(fields.optional(word)?, keys, findings)?;
    let spans = (inner.optional("interval"), inner.optional("timeout"));
    let interval = spans.0.map_or(Some(CHECK_INTERVAL_DEFAULT), |node| interval(node, findings));
    let timeout = spans.1.map_or(Some(CHECK_TIMEOUT_DEFAULT), |node| positive(node, "timeout", findings));
    let rise = inner.optional("rise").map_or(Some(1), |node| count(node, "rise", 1, findings));
    let fall = inner.optional("fall").map_or(Some(1), |node| count(node, "fall", 1, findings));
    let kind = kind_of(word, &inner, nodes, findings);
    let when = fields
        .optional("when")
        .map_or(Some(*when), |node| choice(node, "when", &WHENS[..3], &WHENS_LATER, findings));
    // What is looked at before the start decides about it; nothing is there to be restarted.
    let unsaid = if when == Some(When::Pre) && *action != Action::None { Action::Wait } else { *action };
    let action =
        fields.optional("action").map_or(Some(unsaid), |node| self::action(node, "action", findings));
    let services = fields.optional("services").map_or(Some(vec![]), |node| services(node, findings));
    let share = fields.optional("share_when_down").map(|node| percent(node, findings));
    let (interval, action) = (interval?, action?);
    // A probe ends before the next begins.
    let timeout = timeout?.min(interval);
    Some(Check {
        name: check_name?,
        kind: kind?,
        interval,
        timeout,
        rise: rise?,
        fall: fall?,
        when: when?,
        action,
        services: services?,
        share_when_down: match share {
            Some(share) => share?,
            None if action == Action::None => 100,
            None => 0,
        },
    })
}

fn interval(node: &Node, findings: &mut Findings) -> Option<Duration> {
    let span = positive(node, "interval", findings)?;
    if span < INTERVAL_MIN {
        findings.add(node.mark, "`interval` is below 10ms", "write at least `10ms`");
        return None;
    }
    Some(span)
}

fn count(node: &Node, what: &str, least: u32, findings: &mut Findings) -> Option<u32> {
    match &node.value {
        Value::Integer(number) => match u32::try_from(*number) {
            Ok(count) if (least..=COUNT_MAX).contains(&count) => return Some(count),
            Ok(_) | Err(_) => {}
        },
        Value::Null
        | Value::Bool(_)
        | Value::Fraction(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_) => {}
    }
    findings.add(
        node.mark,
        format!("`{what}` is no count"),
        format!("write a whole number from {least} to {COUNT_MAX}"),
    );
    None
}

fn percent(node: &Node, findings: &mut Findings) -> Option<u8> {
    match &node.value {
        Value::Integer(number @ 0..=100) => return u8::try_from(*number).ok(),
        _ => findings.add(node.mark, "`share_when_down` is no part of the share", "write percent: 0 to 100"),
    }
    None
}

fn kind_of(
    word: &str,
    fields: &Fields<'_>,
    nodes: Option<&[super::super::Node]>,
    findings: &mut Findings,
) -> Option<CheckKind> {
    match word {
        "process" => process(fields, findings),
        "tcp" => {
            let address = address_or_here(fields, findings);
            let port = fields.required("port", "port: 80", findings).and_then(|node| port(node, findings));
            Some(CheckKind::Tcp { address: address?, port: port? })
        }
        "http" => http(fields, findings),
        "ping" => {
            let node = fields.required("address", "address: 10.99.0.254", findings)?;
            Some(CheckKind::Ping { address: ip(node, findings)? })
        }
        "link" => {
            let node = fields.required("interface", "interface: eth0", findings)?;
            Some(CheckKind::Link { interface: interface(node, findings)? })
        }
        "address" => {
            let node = fields.required("address", "address: 10.99.0.100", findings)?;
            Some(CheckKind::Address { address: ip(node, findings)? })
        }
        "module" => module(fields, nodes, findings),
        "custom" => {
            let node = fields.required("run", "run: ./check", findings)?;
            let reports =
                fields.optional("reports").map_or(Some(false), |node| truth(node, "reports", findings));
            Some(CheckKind::Custom { run: command_line(node, findings)?, reports: reports? })
        }
        _ => witness(fields, nodes, findings),
    }
}

fn process(fields: &Fields<'_>, findings: &mut Findings) -> Option<CheckKind> {
    let node = fields.required("name", "name: nginx", findings)?;
    let name = text(node, "the name of a process", findings)?.to_owned();
    if name.is_empty() || name.contains(['/', '\0']) {
        let hint = "write the program's base name, as `ps -e` shows it";
        findings.add(node.mark, format!("{} is no name of a process", quoted(&name)), hint);
        return None;
    }
    let arguments = fields.optional("arguments").map(|node| regex(node, findings));
    let at_least = fields.optional("at_least").map_or(Some(1), |node| count(node, "at_least", 0, findings));
    let at_most = fields.optional("at_most").map(|node| count(node, "at_most", 1, findings));
    let arguments = match arguments {
        Some(arguments) => Some(arguments?),
        None => None,
    };
    let at_most = match at_most {
        Some(at_most) => Some(at_most?),
        None => None,
    };
    Some(CheckKind::Process { name, arguments, at_least: at_least?, at_most })
}

/// Linear in what it reads, and checked here, so that it is one ever after.
fn regex(node: &Node, findings: &mut Findings) -> Option<String> {
    let pattern = text(node, "a regular expression", findings)?;
    match regex::bytes::RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build() {
        Ok(_) => Some(pattern.to_owned()),
        Err(error) => {
            let last = error.to_string();
            let last = last.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            findings.add(node.mark, format!("{} is no regular expression", quoted(pattern)), last);
            None
        }
    }
}

fn address_or_here(fields: &Fields<'_>, findings: &mut Findings) -> Option<IpAddr> {
    fields.optional("address").map_or(Some(Ipv4Addr::LOCALHOST.into()), |node| ip(node, findings))
}

fn http(fields: &Fields<'_>, findings: &mut Findings) -> Option<CheckKind> {
    let url = match fields.optional("url") {
        Some(node) => {
            if let Some(port) = fields.optional("port").or(fields.optional("path")) {
                findings.add(port.mark, "`url` says port and path itself", "keep one of both ways");
                return None;
            }
            url(node, findings)?
        }
        None => {
            let port = fields.required("port", "port: 80", findings).and_then(|node| port(node, findings))?;
            let path = fields.optional("path").map_or(Some("/"), |node| text(node, "a path", findings))?;
            format!("http://127.0.0.1:{port}/{}", path.trim_start_matches('/'))
        }
    };
    let status = fields.optional("status").map_or(Some((200, 299)), |node| status(node, findings));
    let body = match fields.optional("body") {
        Some(node) => Some(regex(node, findings)?),
        None => None,
    };
    let verify = fields.optional("verify").map_or(Some(true), |node| truth(node, "verify", findings));
    Some(CheckKind::Http { url, status: status?, body, verify: verify? })
}

fn url(node: &Node, findings: &mut Findings) -> Option<String> {
    let url = text(node, "a URL", findings)?;
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let has_host = rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '['));
    if !has_host || !url.chars().all(|c| c.is_ascii_graphic()) {
        findings.add(node.mark, format!("{} is no URL", quoted(url)), "write http://127.0.0.1:8080/health");
        return None;
    }
    Some(url.to_owned())
}

/// `200`, or `200-299`.
fn status(node: &Node, findings: &mut Findings) -> Option<(u16, u16)> {
    let written = match &node.value {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Fraction(_) | Value::List(_) | Value::Map(_) => String::new(),
    };
    let (first, last) = written.split_once('-').unwrap_or((&written, &written));
    match (first.parse(), last.parse()) {
        (Ok(first @ 100..=599), Ok(last @ 100..=599)) if first <= last => Some((first, last)),
        _ => {
            findings.add(node.mark, format!("{} is no status", quoted(&written)), "write 200, or 200-299");
            None
        }
    }
}

fn node_id(node: &Node, nodes: Option<&[super::super::Node]>, findings: &mut Findings) -> Option<NodeId> {
    let name = text(node, "a node's name", findings)?;
    let nodes = nodes?;
    let index = nodes.iter().position(|node| node.name == name);
    if index.is_none() {
        let hint = meant_or_allowed(name, nodes.iter().map(|node| node.name.as_str()));
        findings.add(node.mark, format!("there is no node {}", quoted(name)), hint);
    }
    index.map(|index| NodeId(index as u8))
}

fn module(
    fields: &Fields<'_>,
    nodes: Option<&[super::super::Node]>,
    findings: &mut Findings,
) -> Option<CheckKind> {
    let node = fields.required("module", "module: db", findings)?;
    let module = name(node, "the name of a module", findings)?;
    let at = match (fields.optional("node"), fields.optional("url")) {
        (Some(node), None) => ModuleAt::Node(node_id(node, nodes, findings)?),
        (None, Some(node)) => ModuleAt::Url(url(node, findings)?),
        (None, None) => ModuleAt::Here,
        (Some(_), Some(node)) => {
            findings.add(node.mark, "a module of a node and of a URL", "keep one of them");
            return None;
        }
    };
    Some(CheckKind::Module { module, at })
}

fn witness(
    fields: &Fields<'_>,
    nodes: Option<&[super::super::Node]>,
    findings: &mut Findings,
) -> Option<CheckKind> {
    match (fields.optional("node"), fields.optional("address")) {
        (Some(node), None) => Some(CheckKind::Witness(Witness::Node(node_id(node, nodes, findings)?))),
        (None, Some(node)) => Some(CheckKind::Witness(Witness::Address(ip(node, findings)?))),
        (None, None) | (Some(_), Some(_)) => {
            findings.add(
                fields.mark(),
                "a witness is one node or one address",
                "write `node: web3`, or `address: 10.99.0.254`",
            );
            None
        }
    }
}
