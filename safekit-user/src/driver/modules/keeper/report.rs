//! What a keeper tells other modules, other nodes and screens.

use super::Keeper;
use crate::config::Module;
use crate::driver::check;
use crate::driver::modules::Ground;
use crate::driver::modules::valve::Valve;
use crate::types::module::{ModuleReport, RemoteModule};
use crate::types::{Instant, ModuleInfo, NodeId};

impl Keeper {
    pub(super) fn report(&self) -> ModuleReport {
        ModuleReport {
            module: self.module.name.clone(),
            state: self.automaton.state(),
            cause: self.automaton.causes().into_iter().next(),
            starts: self.automaton.starts(),
            resources: self.resources.all().map(|it| (it.name, it.state)).collect(),
        }
    }

    pub(super) fn info(&self, now: Instant) -> ModuleInfo {
        ModuleInfo {
            name: self.module.name.clone(),
            kind: self.module.kind.word().to_owned(),
            state: self.automaton.state(),
            since: self.automaton.since(),
            causes: self.automaton.causes(),
            next_step: self.automaton.next_step(),
            loops: self.automaton.loops(now),
            loops_max: self.module.upkeep.max_loop.count,
            starts: self.automaton.starts(),
            scripts: self.tally.all(),
            share: self.valve.as_ref().map(Valve::share),
            maintenance: self.maintenance,
            checks: self.checks.infos(),
            resources: self.resources.all().collect(),
            remotes: remotes(&self.module, &self.ground, &self.remotes.borrow(), now),
        }
    }
}

/// The same module on the other nodes.
pub(in crate::driver::modules) fn remotes(
    module: &Module,
    ground: &Ground,
    heard: &[check::Remote],
    now: Instant,
) -> Vec<RemoteModule> {
    let elsewhere = module.nodes.iter().filter(|node| **node != ground.me);
    let one = |node: &NodeId| {
        let remote = heard.get(usize::from(node.0));
        let report = remote.and_then(|(_, it)| it.iter().find(|it| it.module == module.name));
        RemoteModule {
            node: ground.config.name(*node).to_owned(),
            state: report.map(|report| report.state),
            heard_ms: remote
                .and_then(|(heard, _)| *heard)
                .map(|heard| u64::try_from(now.since(heard).as_millis()).unwrap_or(u64::MAX)),
            cause: report.and_then(|report| report.cause.clone()),
        }
    };
    elsewhere.map(one).collect()
}
