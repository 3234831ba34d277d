//! A module of the configuration, as its automaton, its scripts and its checks know it.

use std::time::Duration;

use crate::config::upkeep::SCRIPT_TIMEOUT_DEFAULT;
use crate::config::{Kind, Module};
use crate::driver::check;
use crate::driver::modules::{Board, Ground};
use crate::driver::scripts::Place;
use crate::engine::module::{self, Setup};
use crate::types::module::Script;

pub(super) fn setup(module: &Module) -> Setup {
    let upkeep = &module.upkeep;
    let mut scripts: Vec<(Script, Duration)> =
        upkeep.scripts.iter().map(|spec| (spec.script, spec.timeout)).collect();
    for script in [Script::StartBoth, Script::StopBoth] {
        if !upkeep.services.is_empty() && scripts.iter().all(|(known, _)| *known != script) {
            scripts.push((script, SCRIPT_TIMEOUT_DEFAULT));
        }
    }
    let drains = upkeep.traffic.drain_on_stop && !scripts.is_empty();
    let (kind, drain) = match &module.kind {
        Kind::Farm(farm) => (module::Kind::Farm, Some(farm.drain_timeout).filter(|_| drains)),
        Kind::Light => (module::Kind::Light, None),
        Kind::Mirror(_) => (module::Kind::Mirror, None),
    };
    Setup {
        name: module.name.clone(),
        kind,
        boot: upkeep.boot,
        boot_delay: upkeep.boot_delay,
        after: upkeep.after.clone(),
        scripts,
        max_loop: upkeep.max_loop,
        drain_on_stop: drain,
    }
}

pub(super) fn place_of(module: &Module, ground: &Ground) -> Place {
    Place {
        state_dir: ground.state_dir.clone(),
        module: module.name.clone(),
        node: ground.config.name(ground.me).to_owned(),
        directory: module.upkeep.directory.clone(),
        variables: module.upkeep.variables.clone(),
        scripts: module.upkeep.scripts.clone(),
        services: module.upkeep.services.clone(),
    }
}

pub(super) fn surroundings(module: &Module, ground: &Ground, board: &Board) -> check::Surroundings {
    check::Surroundings {
        module: module.name.clone(),
        node: ground.config.name(ground.me).to_owned(),
        directory: module.upkeep.directory.clone(),
        variables: module.upkeep.variables.clone(),
        modules: board.reports(),
        remotes: ground.remotes.clone(),
        names: ground.config.cluster.nodes.iter().map(|node| node.name.clone()).collect(),
    }
}
