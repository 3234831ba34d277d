//! Runs a module's scripts and services: one at a time, each with a deadline, its output kept.
//!
//! ```text
//! Runner ─ run ──▶ task of the run: record ▶ services up ▶ script ▶ services down ▶ record ──▶ (RunId, ScriptEnd)
//!        ─ kill ─▶   "                     └─ each until it ends, its deadline, or a kill ─┘
//! ```
//!
//! A run ends when the script's own process does. What it leaves behind, as a server that went into the background,
//! lives on; only a run that is ended by force takes everything with it that it has started.

mod cgroup;
pub mod lasting;
pub mod logs;
mod output;
mod processes;
mod records;
pub mod services;
mod shell;
pub mod store;
#[cfg(test)]
pub(in crate::driver) mod tests;
mod units;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::clock;
use crate::config::upkeep::ScriptSpec;
use crate::types::logs::sentence;
use crate::types::module::{Role, RunId, Script, ScriptEnd};
use records::{Heading, Kept};
use services::Systemctl;
use shell::Limits;

/// What says how scripts run: the unit of systemd that also takes the daemon's rights away.
const WAY: &str = "SAFEKIT_SCRIPTS";
/// How often the logs of applications that go on printing are cut down.
const TEND_INTERVAL: Duration = Duration::from_secs(10);

/// How scripts run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As children of the daemon, with its rights and limits, in cgroups below its own.
    Children,
    /// Each as a unit of systemd, so that the limits of the daemon's own unit do not hold for them.
    Units,
}

impl Way {
    pub fn of_environment() -> Self {
        Self::of(std::env::var_os(WAY).as_deref())
    }

    fn of(value: Option<&OsStr>) -> Self {
        if value == Some(OsStr::new("units")) { Self::Units } else { Self::Children }
    }

    /// How the scripts of another process run: of its environment, as /proc has it.
    pub fn of_process(pid: u32) -> std::io::Result<Self> {
        let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
        let mut variables = environment.split(|byte| *byte == 0);
        let value = variables.find_map(|it| it.strip_prefix(WAY.as_bytes())?.strip_prefix(b"="));
        Ok(Self::of(value.map(OsStr::from_bytes)))
    }
}

/// Where a module's scripts live, and what they are told.
#[derive(Clone, Debug)]
pub struct Place {
    pub state_dir: PathBuf,
    pub module: String,
    pub node: String,
    pub directory: PathBuf,
    pub variables: Vec<(String, String)>,
    pub scripts: Vec<ScriptSpec>,
    pub services: Vec<String>,
}

/// One run of a script, and of the services that belong to it.
#[derive(Clone, Debug)]
pub struct Run {
    pub run: RunId,
    pub script: Script,
    pub force: bool,
    pub from: Role,
    pub to: Role,
    pub action: String,
    pub cause: String,
    /// For all of it.
    pub timeout: Duration,
}

pub struct Runner {
    way: Way,
    place: Place,
    systemctl: Systemctl,
    ends: mpsc::Sender<(RunId, ScriptEnd)>,
    /// The latest one: the sender ends it by force.
    latest: Option<(RunId, watch::Sender<bool>)>,
    /// Held by the run under way.
    turn: Arc<Mutex<()>>,
    tending: Option<JoinHandle<()>>,
}

/// What a run does, for its record and its task.
struct Errand {
    way: Way,
    place: Place,
    systemctl: Systemctl,
    kept: Kept,
    limits: Limits,
}

impl Runner {
    pub fn new(place: Place, ends: mpsc::Sender<(RunId, ScriptEnd)>) -> Self {
        Self::with_systemctl(place, ends, Systemctl::default())
    }

    /// Services by another systemd than the machine's.
    pub fn with_systemctl(
        place: Place,
        ends: mpsc::Sender<(RunId, ScriptEnd)>,
        systemctl: Systemctl,
    ) -> Self {
        Self {
            way: Way::of_environment(),
            place,
            systemctl,
            ends,
            latest: None,
            turn: Arc::default(),
            tending: None,
        }
    }

    /// Starts it; its end comes through the channel. While another one is under way, it is not started.
    pub fn run(&mut self, run: Run) {
        let (action, cause) = (run.action.clone(), run.cause.clone());
        let heading = Heading {
            script: run.script.word(),
            force: run.force,
            from: run.from.word(),
            to: run.to.word(),
            action: &action,
            cause: &cause,
        };
        self.start(run.run, &heading, run.timeout, |errand| async move { errand.perform(&run).await });
    }

    /// Only services, those of the module where none are named.
    pub fn restart_services(&mut self, run: RunId, names: &[String], timeout: Duration) {
        let names = if names.is_empty() { self.place.services.clone() } else { names.to_vec() };
        let heading = Heading {
            script: "restart_services",
            force: false,
            from: "",
            to: "",
            action: "restart_service",
            cause: &names.join(", "),
        };
        self.start(run, &heading, timeout, |mut errand| async move {
            let end = errand.systemctl.restart(&names, &mut errand.kept.output, &mut errand.limits).await;
            (errand, end)
        });
    }

    /// Ends it by force, with all that it has started; its end still comes through the channel.
    pub fn kill(&self, run: RunId) {
        if let Some((latest, kill)) = &self.latest
            && *latest == run
        {
            kill.send_replace(true);
        }
    }

    /// Another configuration, from the next run on.
    pub fn move_to(&mut self, place: Place) {
        self.place = place;
    }

    /// Ends the runs of a daemon that died, before anything else runs.
    pub async fn end_leftovers(&mut self) {
        let (dir, module) = (log_dir(&self.place.state_dir, &self.place.module), self.place.module.clone());
        let ended = tokio::task::spawn_blocking(move || {
            cgroup::sweep(&module);
            records::end_leftovers(&dir, &module);
            units::sweep(&module);
        });
        if let Err(error) = ended.await {
            tracing::error!(%error, "cannot look for scripts of a daemon before");
        }
        let dir = log_dir(&self.place.state_dir, &self.place.module);
        let tending = self.tending.replace(tokio::spawn(tend(dir)));
        assert!(tending.is_none(), "leftovers are ended once, at the start");
    }

    fn start<F>(
        &mut self,
        id: RunId,
        heading: &Heading<'_>,
        timeout: Duration,
        perform: impl FnOnce(Errand) -> F + Send + 'static,
    ) where
        F: Future<Output = (Errand, ScriptEnd)> + Send + 'static,
    {
        let ends = self.ends.clone();
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
            let why = "another script of the module has not ended yet".to_owned();
            tokio::spawn(async move { ends.send((id, ScriptEnd::NotStarted { why })).await });
            return;
        };
        let (kill, killed) = watch::channel(false);
        self.latest = Some((id, kill));
        let errand = Errand {
            way: self.way,
            place: self.place.clone(),
            systemctl: self.systemctl.clone(),
            kept: Kept::begin(&log_dir(&self.place.state_dir, &self.place.module), heading),
            limits: Limits::new(timeout, killed),
        };
        let begun = clock::now();
        tokio::spawn(async move {
            let (errand, end) = perform(errand).await;
            errand.kept.finish(&end, clock::now().since(begun));
            drop(turn);
            // A keeper that has gone waits for nothing.
            let _gone = ends.send((id, end)).await;
        });
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Some(tending) = &self.tending {
            tending.abort();
        }
    }
}

impl Errand {
    /// Services before the start script, and after the stop script.
    async fn perform(mut self, run: &Run) -> (Self, ScriptEnd) {
        let end = match run.script {
            Script::StartBoth => match self.services_up().await {
                ScriptEnd::Done => self.script(run).await,
                failed => failed,
            },
            Script::StopBoth => {
                let script = self.script(run).await;
                // Also when the script has failed: what can be stopped is.
                let services = self.services_down(run.force).await;
                if script == ScriptEnd::Done { services } else { script }
            }
            Script::Prestart
            | Script::Poststop
            | Script::Transition
            | Script::StartPrim
            | Script::StopPrim
            | Script::StartSecond
            | Script::StopSecond
            | Script::StartSec
            | Script::StopSec => self.script(run).await,
        };
        self.kept.output.say(&format!("[safekit: {}]", sentence(&end)));
        (self, end)
    }

    async fn services_up(&mut self) -> ScriptEnd {
        self.systemctl.start(&self.place.services, &mut self.kept.output, &mut self.limits).await
    }

    async fn services_down(&mut self, force: bool) -> ScriptEnd {
        self.systemctl.stop(&self.place.services, force, &mut self.kept.output, &mut self.limits).await
    }

    async fn script(&mut self, run: &Run) -> ScriptEnd {
        let Some(spec) = self.place.scripts.iter().find(|spec| spec.script == run.script) else {
            return ScriptEnd::Done;
        };
        let end = shell::run(self.way, &self.place, &spec.run, run, &mut self.kept, &mut self.limits).await;
        if run.force
            && let Some(start) = counterpart(run.script)
        {
            // A forced stop leaves nothing running that the start script has left behind.
            cgroup::kill_left_by(&self.place.module, start.word());
            units::kill_left_by(&self.place.module, start.word());
        }
        end
    }
}

/// Which script started what this one stops.
fn counterpart(stop: Script) -> Option<Script> {
    match stop {
        Script::StopBoth => Some(Script::StartBoth),
        Script::StopPrim => Some(Script::StartPrim),
        Script::StopSecond => Some(Script::StartSecond),
        Script::StopSec => Some(Script::StartSec),
        Script::Prestart
        | Script::Poststop
        | Script::Transition
        | Script::StartBoth
        | Script::StartPrim
        | Script::StartSecond
        | Script::StartSec => None,
    }
}

/// Until the runner is gone.
async fn tend(dir: PathBuf) {
    loop {
        tokio::time::sleep(TEND_INTERVAL).await;
        for path in records::outputs(&dir) {
            output::cut_file(&path);
        }
    }
}

/// Where a module keeps what it must not forget.
pub fn module_dir(state_dir: &Path, module: &str) -> PathBuf {
    state_dir.join("modules").join(module)
}

/// Where the output of a module's scripts is.
pub fn log_dir(state_dir: &Path, module: &str) -> PathBuf {
    module_dir(state_dir, module).join("scripts")
}
