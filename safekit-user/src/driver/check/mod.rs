//! The checks of one module: a task for each, which probes, hears of events, and tells what it found.
//!
//! ```text
//!  keeper ─ set_active ─▶┌───────┐─ look ───▶ process, tcp, http, ping, link, address, module, custom, witness
//!         ─ report ─────▶│ task  │◀─ stir ─── a death, a carrier, an address, a module, a node: look again now
//!         ◀─ findings ───│       │─ infos ──▶ screens
//!                        └───────┘ engine/check decides
//! ```

mod address;
mod custom;
mod http;
mod link;
mod module;
mod netlink;
mod ping;
mod process;
mod reporter;
mod sight;
mod task;
mod tcp;
mod witness;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::upkeep::{Check, CheckKind};
use crate::driver::clock;
use crate::types::Instant;
use crate::types::module::{CheckInfo, ModuleReport, ResourceState};

use task::{Said, Task};

/// A check's state is another one now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its place in the configuration's list.
    pub check: usize,
    pub state: ResourceState,
    pub output: String,
}

/// When another node was last heard, and what it said of its modules then.
pub type Remote = (Option<Instant>, Vec<ModuleReport>);

/// What the checks of a module look at, besides the world.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub module: String,
    /// This one's name.
    pub node: String,
    /// Where custom checks run.
    pub directory: PathBuf,
    /// Exported to custom checks.
    pub variables: Vec<(String, String)>,
    /// The modules of this node.
    pub modules: watch::Receiver<Arc<Vec<ModuleReport>>>,
    /// By node.
    pub remotes: watch::Receiver<Arc<Vec<Remote>>>,
    /// Of nodes, in the same order.
    pub names: Vec<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no check {name} that takes reports (custom, with `reports: true`)")]
pub struct NoSuchCheck {
    pub name: String,
}

/// The checks end when it is dropped, and with them the programs that they started.
#[derive(Debug)]
pub struct Handle {
    activity: watch::Sender<Vec<bool>>,
    reports: Vec<(String, Option<watch::Sender<Said>>)>,
    infos: Infos,
    tasks: Vec<Ends>,
}

/// A place for each check.
type Infos = Arc<Mutex<Vec<CheckInfo>>>;

/// Starts a task for each check; none is active yet.
#[expect(
    clippy::needless_pass_by_value,
    reason = "only the checks hold the channel: its end tells of theirs"
)]
pub fn start(checks: &[Check], surroundings: Surroundings, findings: mpsc::Sender<Finding>) -> Handle {
    let surroundings = Arc::new(surroundings);
    let infos: Infos = Arc::new(Mutex::new(checks.iter().map(unknown).collect()));
    let (activity, active) = watch::channel(vec![false; checks.len()]);
    let mut handle = Handle { activity, reports: Vec::new(), infos: Arc::clone(&infos), tasks: Vec::new() };
    for (place, check) in checks.iter().enumerate() {
        let (report, reports) = watch::channel(Said::default());
        let (active, infos, findings) = (active.clone(), Arc::clone(&infos), findings.clone());
        let task = Task::new(place, check.clone(), &surroundings, active, reports, infos, findings);
        handle.tasks.push(Ends(tokio::spawn(task.run())));
        handle.reports.push((check.name.clone(), takes_reports(check).then_some(report)));
    }
    handle
}

impl Handle {
    /// Which checks run now, by their places; those that are left out do not.
    pub fn set_active(&self, active: Vec<bool>) {
        self.activity.send_if_modified(|before| {
            let news = *before != active;
            *before = active;
            news
        });
    }

    /// What a program or a person says of the check `name`. The latest word counts.
    pub fn report(&self, name: &str, state: ResourceState, by: &str) -> Result<(), NoSuchCheck> {
        let known = self.reports.iter().find(|(known, _)| known == name);
        let Some((_, Some(report))) = known else { return Err(NoSuchCheck { name: name.to_owned() }) };
        report.send_modify(|said| {
            said.count += 1;
            (said.state, said.by) = (state, by.to_owned());
        });
        Ok(())
    }

    /// In the order of the configuration.
    pub fn infos(&self) -> Vec<CheckInfo> {
        self.infos.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// None has ended, which none does by itself.
    pub fn is_alive(&self) -> bool {
        self.tasks.iter().all(|task| !task.0.is_finished())
    }
}

fn takes_reports(check: &Check) -> bool {
    matches!(check.kind, CheckKind::Custom { reports: true, .. })
}

fn unknown(check: &Check) -> CheckInfo {
    CheckInfo {
        name: check.name.clone(),
        kind: check.kind.class().to_owned(),
        state: ResourceState::Init,
        active: false,
        action: check.action,
        since: clock::now(),
        took_ms: None,
        output: String::new(),
    }
}

/// A task that ends with what owns it.
#[derive(Debug)]
pub(in crate::driver) struct Ends(pub(in crate::driver) JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}
