//! Upkeep as text again, with every default written out.

use serde::Serialize;
use serde_yaml::{Mapping, Value};

use super::super::decode::word;
use super::super::{Config, duration};
use super::checks::WHENS;
use super::read::{ACTIONS, AFTER_MAX_LOOP, ON_FAILURE};
use super::{Boot, Check, CheckKind, ModuleAt, Upkeep, Witness};

/// The keys of a module that are about its application; `traffic` only where there is some, and `start` alone where
/// nothing but the daemon's own work is started.
#[derive(Serialize)]
pub(in super::super) struct UpkeepView(Mapping);

impl UpkeepView {
    pub(in super::super) fn of(
        upkeep: &Upkeep,
        (has_application, has_traffic): (bool, bool),
        config: &Config,
    ) -> Self {
        let mut view = Mapping::new();
        let boot = match upkeep.boot {
            Boot::On => "on",
            Boot::Off => "off",
            Boot::Auto => "auto",
        };
        let delay = duration::print(upkeep.boot_delay);
        put(&mut view, "start", mapping([("boot", boot.into()), ("delay", delay.into())]));
        if !has_application {
            return Self(view);
        }
        put_list(&mut view, "after", upkeep.after.iter().map(|name| name.as_str().into()));
        put_list(&mut view, "services", upkeep.services.iter().map(|name| name.as_str().into()));
        if !upkeep.variables.is_empty() {
            let all = upkeep.variables.iter().map(|(name, value)| (name.as_str(), value.as_str().into()));
            put(&mut view, "variables", mapping(all));
        }
        put(&mut view, "scripts", scripts(upkeep));
        put_list(&mut view, "checks", upkeep.checks.iter().map(|check| check_view(check, config)));
        let max_loop = upkeep.max_loop;
        put(
            &mut view,
            "max_loop",
            match max_loop.count {
                0 => "off".into(),
                count => format!("{count} in {}", duration::print(max_loop.within)).into(),
            },
        );
        put(&mut view, "after_max_loop", word(&AFTER_MAX_LOOP, &max_loop.then).into());
        put(&mut view, "failover", failover(upkeep));
        if has_traffic {
            let traffic = &upkeep.traffic;
            put(
                &mut view,
                "traffic",
                mapping([
                    ("on_failure", word(&ON_FAILURE, &traffic.on_failure).into()),
                    ("slow_start", duration::print(traffic.slow_start).into()),
                    ("drain_on_stop", traffic.drain_on_stop.into()),
                ]),
            );
        }
        Self(view)
    }
}

fn put(view: &mut Mapping, key: &str, value: Value) {
    view.insert(key.into(), value);
}

fn put_list(view: &mut Mapping, key: &str, values: impl Iterator<Item = Value>) {
    let values: Vec<Value> = values.collect();
    if !values.is_empty() {
        put(view, key, Value::Sequence(values));
    }
}

fn mapping<'k>(entries: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    Value::Mapping(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

fn scripts(upkeep: &Upkeep) -> Value {
    let directory = upkeep.directory.display().to_string();
    let one = |spec: &super::ScriptSpec| {
        let timeout = duration::print(spec.timeout);
        (spec.script.word(), mapping([("run", spec.run.as_str().into()), ("timeout", timeout.into())]))
    };
    mapping([("directory", directory.into())].into_iter().chain(upkeep.scripts.iter().map(one)))
}

fn check_view(check: &Check, config: &Config) -> Value {
    let mut inner = kind_view(&check.kind, config);
    inner.push(("interval", duration::print(check.interval).into()));
    inner.push(("timeout", duration::print(check.timeout).into()));
    inner.push(("rise", check.rise.into()));
    inner.push(("fall", check.fall.into()));
    let mut view = vec![
        ("name", check.name.as_str().into()),
        (check.kind.class(), mapping(inner)),
        ("when", word(&WHENS, &check.when).into()),
        ("action", word(&ACTIONS, &check.action).into()),
        ("share_when_down", check.share_when_down.into()),
    ];
    if !check.services.is_empty() {
        let services = check.services.iter().map(|name| name.as_str().into()).collect();
        view.push(("services", Value::Sequence(services)));
    }
    mapping(view)
}

fn kind_view(kind: &CheckKind, config: &Config) -> Vec<(&'static str, Value)> {
    match kind {
        CheckKind::Process { name, arguments, at_least, at_most } => {
            let mut view = vec![("name", name.as_str().into()), ("at_least", (*at_least).into())];
            view.extend(arguments.as_ref().map(|pattern| ("arguments", pattern.as_str().into())));
            view.extend(at_most.map(|most| ("at_most", most.into())));
            view
        }
        CheckKind::Tcp { address, port } => {
            vec![("address", address.to_string().into()), ("port", (*port).into())]
        }
        CheckKind::Http { url, status, body, verify } => {
            let mut view = vec![
                ("url", url.as_str().into()),
                ("status", format!("{}-{}", status.0, status.1).into()),
                ("verify", (*verify).into()),
            ];
            view.extend(body.as_ref().map(|pattern| ("body", pattern.as_str().into())));
            view
        }
        CheckKind::Ping { address } | CheckKind::Address { address } => {
            vec![("address", address.to_string().into())]
        }
        CheckKind::Link { interface } => vec![("interface", interface.as_str().into())],
        CheckKind::Module { module, at } => {
            let mut view = vec![("module", module.as_str().into())];
            match at {
                ModuleAt::Here => {}
                ModuleAt::Node(node) => view.push(("node", config.name(*node).into())),
                ModuleAt::Url(url) => view.push(("url", url.as_str().into())),
            }
            view
        }
        CheckKind::Custom { run, reports } => {
            vec![("run", run.as_str().into()), ("reports", (*reports).into())]
        }
        CheckKind::Witness(Witness::Node(node)) => vec![("node", config.name(*node).into())],
        CheckKind::Witness(Witness::Address(address)) => vec![("address", address.to_string().into())],
    }
}

fn failover(upkeep: &Upkeep) -> Value {
    let failover = &upkeep.failover;
    let rules: Vec<Value> = failover
        .rules
        .iter()
        .map(|rule| {
            mapping([
                ("name", rule.name.as_str().into()),
                ("when", rule.when.to_string().into()),
                ("do", word(&ACTIONS, &rule.action).into()),
            ])
        })
        .collect();
    let mut view = vec![("automatic", failover.automatic.into())];
    if !rules.is_empty() {
        view.push(("rules", Value::Sequence(rules)));
    }
    if !failover.disabled.is_empty() {
        let disabled = failover.disabled.iter().map(|name| name.as_str().into()).collect();
        view.push(("disable", Value::Sequence(disabled)));
    }
    mapping(view)
}
