//! What the modules of a node know from the life of the daemon before, read once when it starts.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{groups_of, own_modules};
use crate::config::{Config, Module};
use crate::driver::scripts::store::Store;
use crate::engine::copies::keeping;
use crate::engine::module::{Saved, share_at_start};
use crate::types::module::Maintenance;
use crate::types::{GroupId, NodeId};

/// What survives the daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) automaton: Option<Saved>,
    pub(super) maintenance: Option<Maintenance>,
    /// Of a mirror.
    #[serde(default)]
    pub(super) mirror: Option<keeping::Saved>,
    /// The configuration that its process was started with.
    #[serde(default)]
    pub(super) runs_with: Option<String>,
}

/// What one module finds.
pub(super) struct Found {
    pub(super) module: Module,
    pub(super) groups: Vec<GroupId>,
    pub(super) store: Store<Kept>,
    pub(super) kept: Kept,
    pub(super) same_machine_boot: bool,
    /// What the other nodes are told first, in percent.
    pub(super) share: u8,
}

pub struct Memory {
    pub(super) modules: Vec<Found>,
}

impl Memory {
    pub fn load(config: &Config, me: NodeId, state_dir: &Path) -> Self {
        let find = |module: &Module| {
            let store = Store::open(state_dir, &module.name);
            let (kept, same_machine_boot): (Kept, bool) = store.load();
            let share = share_at_start(&module.upkeep, kept.automaton.as_ref(), same_machine_boot);
            let groups = groups_of(config, module);
            Found { module: module.clone(), groups, store, kept, same_machine_boot, share }
        };
        Self { modules: own_modules(config, me).into_iter().map(find).collect() }
    }

    /// How well this node's applications are before anything is done.
    pub fn health(&self) -> Vec<(GroupId, u8)> {
        let of_module = |found: &Found| {
            let share = found.share;
            found.groups.clone().into_iter().map(move |group| (group, share))
        };
        self.modules.iter().flat_map(of_module).collect()
    }
}
