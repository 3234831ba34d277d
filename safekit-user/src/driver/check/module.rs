//! The state of another module: of this node, or of another one as it said last.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::sight::Seen;
use super::witness::{Silence, heard};
use super::{Ends, Surroundings};
use crate::driver::clock;
use crate::types::NodeId;
use crate::types::module::{ModuleReport, Status};

/// Of this node.
pub(super) struct Here {
    module: String,
    modules: watch::Receiver<Arc<Vec<ModuleReport>>>,
    _stirs: Ends,
}

impl Here {
    pub(super) fn new(module: &str, around: &Surroundings, stir: &Arc<Notify>) -> Self {
        let (name, mut modules, stir) = (module.to_owned(), around.modules.clone(), Arc::clone(stir));
        let stirs = async move {
            let mut last = None;
            while modules.changed().await.is_ok() {
                let new = Some(is_ready(&modules.borrow_and_update(), &name).up);
                if new != last {
                    last = new;
                    stir.notify_one();
                }
            }
        };
        Self { module: module.to_owned(), modules: around.modules.clone(), _stirs: Ends(tokio::spawn(stirs)) }
    }

    pub(super) fn look(&self) -> Seen {
        is_ready(&self.modules.borrow(), &self.module)
    }
}

/// Of another node.
pub(super) struct There {
    module: String,
    node: NodeId,
    around: Arc<Surroundings>,
    _stirs: Ends,
}

impl There {
    pub(super) fn new(module: &str, node: NodeId, around: &Arc<Surroundings>, stir: &Arc<Notify>) -> Self {
        let (name, other) = (module.to_owned(), Arc::clone(around));
        let stirs = super::witness::stirs(around, stir, move || there(&other, node, &name).up);
        Self { module: module.to_owned(), node, around: Arc::clone(around), _stirs: stirs }
    }

    pub(super) fn look(&self) -> Seen {
        there(&self.around, self.node, &self.module)
    }
}

fn there(around: &Surroundings, node: NodeId, module: &str) -> Seen {
    let remotes = around.remotes.borrow();
    match heard(&remotes, node, clock::now()) {
        Ok(reports) => is_ready(reports, module),
        Err(silence @ (Silence::Never | Silence::For(_))) => Seen::down(silence.sentence(around, node)),
    }
}

fn is_ready(reports: &[ModuleReport], module: &str) -> Seen {
    let Some(report) = reports.iter().find(|report| report.module == module) else {
        return Seen::down(format!("there is no module {module}"));
    };
    match report.state.status {
        Status::Ready => Seen::up(format!("{module} is {}", report.state)),
        Status::NotReady | Status::Transient => Seen::down(format!("{module} is {}", report.state)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ModuleState;
    use crate::types::module::Role;

    #[test]
    fn only_a_ready_module_is_up() {
        let report = |state| ModuleReport {
            module: "base".into(),
            state,
            cause: None,
            starts: 1,
            resources: Vec::new(),
        };
        let up = |state, name| is_ready(&[report(state)], name).up;
        assert!(up(ModuleState::new(Role::Up, Status::Ready), "base"));
        assert!(!up(ModuleState::new(Role::Up, Status::Transient), "base"));
        assert!(!up(ModuleState::STOPPED, "base"));
        assert!(!up(ModuleState::new(Role::Up, Status::Ready), "another"));
    }
}
