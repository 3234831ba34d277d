//! The keys of a module that are about its application.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::super::decode::{Fields, Keys, Unique, choice, duration, list, map, name, text};
use super::super::error::{Findings, closest, meant_or_allowed, quoted};
use super::super::tree::{Mark, Node, Value};
use super::checks::{CLASSES, checks};
use super::expression::matches;
use super::{
    AfterMaxLoop, Boot, Check, CheckKind, Expression, Failover, FailoverRule, MaxLoop, ModuleAt, OnFailure,
    SCRIPT_TIMEOUT_DEFAULT, ScriptSpec, Traffic, Upkeep, When,
};
use crate::types::module::{Action, Script};

pub(in super::super) const START: Keys = Keys { of: "`start`", known: &["boot", "delay"], later: &[] };
pub(in super::super) const SCRIPTS: Keys = Keys {
    of: "`scripts`",
    known: &[
        "directory",
        "timeout",
        "start",
        "stop",
        "prestart",
        "poststop",
        "transition",
        "start_both",
        "stop_both",
    ],
    // Of a mirror: here they would never run.
    later: &["start_prim", "stop_prim", "start_second", "stop_second", "start_sec", "stop_sec"],
};
pub(in super::super) const SCRIPT: Keys = Keys { of: "a script", known: &["run", "timeout"], later: &[] };
pub(in super::super) const FAILOVER: Keys =
    Keys { of: "`failover`", known: &["automatic", "rules", "disable"], later: &[] };
pub(in super::super) const FAILOVER_RULE: Keys =
    Keys { of: "a failover rule", known: &["name", "when", "do"], later: &[] };
pub(in super::super) const TRAFFIC: Keys =
    Keys { of: "`traffic`", known: &["on_failure", "slow_start", "drain_on_stop"], later: &[] };

/// `start` and `stop` are the short words of farms and light modules.
const WORDS: [(&str, Script); 7] = [
    ("start", Script::StartBoth),
    ("stop", Script::StopBoth),
    ("prestart", Script::Prestart),
    ("poststop", Script::Poststop),
    ("transition", Script::Transition),
    ("start_both", Script::StartBoth),
    ("stop_both", Script::StopBoth),
];
pub(in super::super) const ACTIONS: [(&str, Action); 7] = [
    ("restart", Action::Restart),
    ("restart_service", Action::RestartService),
    ("stopstart", Action::Stopstart),
    ("stop", Action::Stop),
    ("wait", Action::Wait),
    ("none", Action::None),
    ("swap", Action::Swap),
];
/// Only a mirror has roles to exchange.
const ACTIONS_LATER: [&str; 1] = ["swap"];
pub(in super::super) const ON_FAILURE: [(&str, OnFailure); 2] =
    [("drain", OnFailure::Drain), ("reset", OnFailure::Reset)];
pub(in super::super) const AFTER_MAX_LOOP: [(&str, AfterMaxLoop); 2] =
    [("stop", AfterMaxLoop::Stop), ("backoff", AfterMaxLoop::Backoff)];
pub(in super::super) const BOOTS: [(&str, Boot); 3] =
    [("on", Boot::On), ("off", Boot::Off), ("auto", Boot::Auto)];
/// Written in the same language, beside the rules that checks bring along.
pub const DEFAULT_RULES: [&str; 4] = ["module_failure", "link_failure", "address_failure", "witness_failure"];

pub(in super::super) const SERVICES_MAX: usize = 32;
pub(in super::super) const VARIABLES_MAX: usize = 128;
pub(in super::super) const FAILOVER_RULES_MAX: usize = 64;
const LOOPS_MAX: u32 = 1000;

/// Modules that others refer to, once all are read.
#[derive(Default)]
pub(in super::super) struct Others {
    /// Who comes after whom, and where that is said.
    after: Vec<(String, Vec<(String, Mark)>)>,
    /// Modules of this cluster that checks look at.
    watched: Vec<(String, Mark)>,
}

pub(in super::super) fn upkeep(
    fields: &Fields<'_>,
    module: Option<&str>,
    folder: &Path,
    nodes: Option<&[super::super::Node]>,
    others: &mut Others,
    findings: &mut Findings,
) -> Option<Upkeep> {
    // Absolute, because a daemon changes its working directory.
    let folder = Path::new("/").join(folder);
    let mut upkeep = Upkeep { directory: folder.clone(), ..Upkeep::default() };
    if let Some(node) = fields.optional("start") {
        (upkeep.boot, upkeep.boot_delay) = start(node, findings)?;
    }
    if let Some(node) = fields.optional("after") {
        let after = names(node, "after", findings)?;
        upkeep.after = after.iter().map(|(name, _)| name.clone()).collect();
        others.after.push((module.unwrap_or_default().to_owned(), after));
    }
    if let Some(node) = fields.optional("services") {
        upkeep.services = services(node, findings)?;
    }
    if let Some(node) = fields.optional("variables") {
        upkeep.variables = variables(node, findings)?;
    }
    if let Some(node) = fields.optional("scripts") {
        scripts(node, &folder, &mut upkeep, findings)?;
    }
    if let Some(node) = fields.optional("checks") {
        upkeep.checks = checks(node, nodes, &upkeep.services, findings)?;
        let watched = upkeep.checks.iter().filter_map(|check| match &check.kind {
            CheckKind::Module { module, at: ModuleAt::Here | ModuleAt::Node(_) } => Some(module),
            _ => None,
        });
        others.watched.extend(watched.map(|name| (name.clone(), node.mark)));
    }
    if let Some(node) = fields.optional("max_loop") {
        let then = upkeep.max_loop.then;
        upkeep.max_loop = MaxLoop { then, ..max_loop(node, findings)? };
    }
    if let Some(node) = fields.optional("after_max_loop") {
        upkeep.max_loop.then = choice(node, "after_max_loop", &AFTER_MAX_LOOP, &[], findings)?;
    }
    if let Some(node) = fields.optional("failover") {
        upkeep.failover = failover(node, &upkeep.checks, findings)?;
    }
    if let Some(node) = fields.known("traffic").then(|| fields.optional("traffic")).flatten() {
        upkeep.traffic = traffic(node, findings)?;
    }
    Some(upkeep)
}

/// Modules that do not exist, and rings of modules that wait for each other.
pub(in super::super) fn follow_up(others: &Others, known: &[String], findings: &mut Findings) {
    let after: HashMap<&str, &[(String, Mark)]> =
        others.after.iter().map(|(module, after)| (module.as_str(), after.as_slice())).collect();
    for (name, mark) in others.watched.iter().filter(|(name, _)| !known.contains(name)) {
        let hint = meant_or_allowed(name, known.iter().map(String::as_str));
        findings.add(
            *mark,
            format!("a check looks at a module, and there is no module {}", quoted(name)),
            hint,
        );
    }
    for (module, names) in &others.after {
        for (name, mark) in names {
            if !known.contains(name) {
                let hint = meant_or_allowed(name, known.iter().map(String::as_str));
                findings.add(*mark, format!("there is no module {}", quoted(name)), hint);
            } else if leads_to(&after, name, module) {
                let hint = "of modules that wait for each other none would ever start";
                findings.add(*mark, format!("{module} comes after {name}, which comes after {module}"), hint);
            }
        }
    }
}

fn leads_to(after: &HashMap<&str, &[(String, Mark)]>, from: &str, to: &str) -> bool {
    let mut seen = vec![from.to_owned()];
    let mut next = 0;
    while next < seen.len() {
        if seen[next] == to {
            return true;
        }
        for (name, _) in after.get(seen[next].as_str()).copied().unwrap_or_default() {
            if !seen.contains(name) {
                seen.push(name.clone());
            }
        }
        next += 1;
    }
    false
}

/// A mirror runs nothing yet but the process that keeps its directories.
pub(in super::super) fn of_mirror(folder: &Path) -> Upkeep {
    Upkeep { directory: Path::new("/").join(folder), ..Upkeep::default() }
}

pub(in super::super) fn start(node: &Node, findings: &mut Findings) -> Option<(Boot, Duration)> {
    let fields = Fields::open(node, &START, findings)?;
    let boot = match fields.optional("boot") {
        None => Boot::On,
        // Other readers of YAML take `on` and `off` for truth values.
        Some(Node { value: Value::Bool(on), .. }) => {
            if *on {
                Boot::On
            } else {
                Boot::Off
            }
        }
        Some(node) => choice(node, "boot", &BOOTS, &[], findings)?,
    };
    let delay = match fields.optional("delay") {
        Some(node) => duration(node, "delay", findings)?,
        None => Duration::ZERO,
    };
    Some((boot, delay))
}

/// Each once, with its place.
fn names(node: &Node, what: &str, findings: &mut Findings) -> Option<Vec<(String, Mark)>> {
    let items = list(node, what, SERVICES_MAX, "db", findings)?;
    let mut seen = Unique::default();
    let mut names = Vec::new();
    for item in items {
        let name = name(item, "the name of a module", findings)?;
        if let Err(first) = seen.insert(name.clone(), item.mark) {
            findings.add_duplicate(
                item.mark,
                first,
                format!("`{name}` is twice in `{what}`"),
                "keep one of them",
            );
        }
        names.push((name, item.mark));
    }
    Some(names)
}

pub(super) fn services(node: &Node, findings: &mut Findings) -> Option<Vec<String>> {
    let items = list(node, "services", SERVICES_MAX, "nginx", findings)?;
    let service = |item: &Node, findings: &mut Findings| {
        let name = text(item, "a service", findings)?;
        // As systemd.unit(5) has it; nothing that a command line would take for an option.
        let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if name.is_empty() || name.starts_with('-') || name.len() > 255 || !name.chars().all(plain) {
            let hint = "write the name of a systemd unit, as in `nginx` or `postgresql@15-main`";
            findings.add(item.mark, format!("{} cannot be a service", quoted(name)), hint);
            return None;
        }
        Some(name.to_owned())
    };
    let services: Vec<_> = items.iter().map(|item| service(item, findings)).collect();
    services.into_iter().collect()
}

fn variables(node: &Node, findings: &mut Findings) -> Option<Vec<(String, String)>> {
    let entries = map(node, "`variables`", findings)?;
    if let Some(surplus) = entries.get(VARIABLES_MAX) {
        findings.add(
            surplus.key_mark,
            format!("{} variables", entries.len()),
            format!("at most {VARIABLES_MAX} are allowed"),
        );
        return None;
    }
    let mut variables = Vec::new();
    for entry in entries {
        let starts_well = entry.key.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let plain = entry.key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !starts_well || !plain || entry.key.starts_with("SAFEKIT_") {
            let hint = "letters, digits and `_` are allowed; names that begin with SAFEKIT_ are ours";
            findings.add(entry.key_mark, format!("{} cannot be a variable", quoted(&entry.key)), hint);
            continue;
        }
        let value = match &entry.value.value {
            Value::Text(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Fraction(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Null | Value::List(_) | Value::Map(_) => {
                text(&entry.value, "a variable", findings)?;
                continue;
            }
        };
        if value.contains('\0') {
            let hint = "remove it: no process can have it in its environment";
            findings.add(entry.value.mark, "a zero byte in a variable", hint);
        }
        variables.push((entry.key.clone(), value));
    }
    Some(variables)
}

fn scripts(node: &Node, folder: &Path, upkeep: &mut Upkeep, findings: &mut Findings) -> Option<()> {
    let fields = Fields::open(node, &SCRIPTS, findings)?;
    if let Some(node) = fields.optional("directory") {
        upkeep.directory = folder.join(text(node, "a directory", findings)?);
    }
    let timeout = match fields.optional("timeout") {
        Some(node) => positive(node, "timeout", findings)?,
        None => SCRIPT_TIMEOUT_DEFAULT,
    };
    let mut seen = Unique::default();
    for (word, script) in WORDS {
        let Some(node) = fields.optional(word) else { continue };
        if let Err(first) = seen.insert(script, node.mark) {
            let message = format!("`{word}` is there under two names");
            findings.add_duplicate(
                node.mark,
                first,
                message,
                "`start` is short for `start_both`, `stop` for `stop_both`",
            );
            continue;
        }
        let spec = one_script(node, script, timeout, findings)?;
        upkeep.scripts.push(spec);
    }
    upkeep.scripts.sort_by_key(|spec| spec.script);
    Some(())
}

fn one_script(node: &Node, script: Script, timeout: Duration, findings: &mut Findings) -> Option<ScriptSpec> {
    let (run, timeout) = match &node.value {
        Value::Map(_) => {
            let fields = Fields::open(node, &SCRIPT, findings)?;
            let run = fields.required("run", "run: ./start", findings)?;
            let timeout = match fields.optional("timeout") {
                Some(node) => positive(node, "timeout", findings)?,
                None => timeout,
            };
            (run, timeout)
        }
        _ => (node, timeout),
    };
    Some(ScriptSpec { script, run: command_line(run, findings)?, timeout })
}

pub(super) fn command_line(node: &Node, findings: &mut Findings) -> Option<String> {
    let line = text(node, "a command line", findings)?;
    if line.trim().is_empty() || line.contains('\0') {
        findings.add(node.mark, "this is no command line", "write what a shell is to run, like `./start`");
        return None;
    }
    Some(line.to_owned())
}

pub(super) fn action(node: &Node, what: &str, findings: &mut Findings) -> Option<Action> {
    choice(node, what, &ACTIONS[..6], &ACTIONS_LATER, findings)
}

pub(super) fn positive(node: &Node, what: &str, findings: &mut Findings) -> Option<Duration> {
    let span = duration(node, what, findings)?;
    if span.is_zero() {
        findings.add(node.mark, format!("`{what}` is nothing"), "write a span like 10s");
        return None;
    }
    Some(span)
}

/// `3 in 24h`, or `off`.
fn max_loop(node: &Node, findings: &mut Findings) -> Option<MaxLoop> {
    let off = MaxLoop { count: 0, ..Upkeep::default().max_loop };
    let hint = "write `3 in 24h`, or `off`";
    let text = match &node.value {
        Value::Bool(false) => return Some(off),
        _ => text(node, "`max_loop`", findings)?,
    };
    if text == "off" {
        return Some(off);
    }
    let parts = text.split_once(" in ").and_then(|(count, span)| {
        let count: u32 = count.trim().parse().ok()?;
        let within = super::super::duration::parse(span.trim()).ok()?;
        Some((count, within))
    });
    match parts {
        Some((count @ 1..=LOOPS_MAX, within)) if !within.is_zero() => Some(MaxLoop { count, within, ..off }),
        Some(_) | None => {
            findings.add(node.mark, format!("{} is no `max_loop`", quoted(text)), hint);
            None
        }
    }
}

fn failover(node: &Node, checks: &[Check], findings: &mut Findings) -> Option<Failover> {
    let fields = Fields::open(node, &FAILOVER, findings)?;
    let automatic = match fields.optional("automatic") {
        Some(node) => truth(node, "automatic", findings)?,
        None => true,
    };
    let mut rules = Vec::new();
    if let Some(node) = fields.optional("rules") {
        let example = "{ name: slow_link, when: \"link.lan == down\", do: wait }";
        let mut seen = Unique::default();
        for item in list(node, "rules", FAILOVER_RULES_MAX, example, findings)? {
            let rule = rule(item, checks, findings)?;
            if let Err(first) = seen.insert(rule.name.clone(), item.mark) {
                let message = format!("the rule {} is there twice", rule.name);
                findings.add_duplicate(item.mark, first, message, "rename one of them");
            }
            rules.push(rule);
        }
    }
    let mut disabled = Vec::new();
    if let Some(node) = fields.optional("disable") {
        for item in list(node, "disable", FAILOVER_RULES_MAX, "module_failure", findings)? {
            let rules: Vec<(&str, &str)> = DEFAULT_RULES.iter().map(|rule| (*rule, *rule)).collect();
            disabled.push(choice(item, "disable", &rules, &[], findings)?.to_owned());
        }
    }
    Some(Failover { automatic, rules, disabled })
}

fn rule(node: &Node, checks: &[Check], findings: &mut Findings) -> Option<FailoverRule> {
    let fields = Fields::open(node, &FAILOVER_RULE, findings)?;
    let rule_name = fields
        .required("name", "name: slow_link", findings)
        .and_then(|node| rule_name(node, checks, findings));
    let when = fields.required("when", "when: \"link.lan == down\"", findings).and_then(|node| {
        let line = text(node, "`when`", findings)?;
        match Expression::parse(line) {
            Ok(when) => Some(when),
            Err(error) => {
                let hint = "for example `tcp.http == down and remote.state == UP`";
                findings.add(node.mark, format!("{} is no rule: {error}", quoted(line)), hint);
                None
            }
        }
    });
    let action =
        fields.required("do", "do: stopstart", findings).and_then(|node| action(node, "do", findings));
    if let (Some(action), Some(when)) = (action, &when) {
        check_names(fields.optional("when")?.mark, when, action, checks, findings);
    }
    Some(FailoverRule { name: rule_name?, when: when?, action: action? })
}

/// Explanations and events tell rules apart by their names, those that nobody wrote included.
fn rule_name(node: &Node, checks: &[Check], findings: &mut Findings) -> Option<String> {
    let name = name(node, "the name of a rule", findings)?;
    let of_check = |check: &Check| format!("{}_{}", check.kind.class(), check.name) == name;
    if DEFAULT_RULES.contains(&name.as_str()) || checks.iter().any(of_check) {
        let hint = "choose another name: a check or a default brings this one along";
        findings.add(node.mark, format!("there is a rule {} already", quoted(&name)), hint);
        return None;
    }
    Some(name)
}

/// A rule over what nobody ever reports stays undecided for ever, and one that waits keeps its module from starting.
fn check_names(mark: Mark, when: &Expression, action: Action, checks: &[Check], findings: &mut Findings) {
    for name in when.names() {
        let Some((class, _)) = name.pattern.split_once('.') else { continue };
        let wild = name.pattern.contains(['*', '?']);
        let mut meant = checks.iter().filter(|check| matches(&name.pattern, &check.resource())).peekable();
        let of_check = CLASSES.contains(&class) && class != "custom";
        let close = closest(class, CLASSES).filter(|close| *close != class);
        if !wild && meant.peek().is_none() && (of_check || close.is_some()) {
            let there: Vec<String> = checks.iter().map(Check::resource).collect();
            let hint = meant_or_allowed(&name.pattern, there.iter().map(String::as_str));
            findings.add(mark, format!("no check here is {}", quoted(&name.pattern)), hint);
        } else if action == Action::Wait && !name.remote && meant.any(|check| check.when != When::Pre) {
            let hint = "add `when: pre` to that check, or let the rule do something else";
            findings.add(mark, format!("{} is not looked at in WAIT", quoted(&name.pattern)), hint);
        }
    }
}

fn traffic(node: &Node, findings: &mut Findings) -> Option<Traffic> {
    let fields = Fields::open(node, &TRAFFIC, findings)?;
    let mut traffic = Upkeep::default().traffic;
    if let Some(node) = fields.optional("on_failure") {
        traffic.on_failure = choice(node, "on_failure", &ON_FAILURE, &[], findings)?;
    }
    if let Some(node) = fields.optional("slow_start") {
        traffic.slow_start = duration(node, "slow_start", findings)?;
    }
    if let Some(node) = fields.optional("drain_on_stop") {
        traffic.drain_on_stop = truth(node, "drain_on_stop", findings)?;
    }
    Some(traffic)
}

pub(super) fn truth(node: &Node, what: &str, findings: &mut Findings) -> Option<bool> {
    match &node.value {
        Value::Bool(value) => Some(*value),
        Value::Text(word) if word == "on" || word == "yes" => Some(true),
        Value::Text(word) if word == "off" || word == "no" => Some(false),
        _ => {
            findings.add(node.mark, format!("`{what}` is neither true nor false"), "write true or false");
            None
        }
    }
}
