//! Runs a module's scripts and services: one at a time, each in a session of its own, with a deadline and a log.
//!
//! A script ends when its own process ends. What it leaves behind (a server that went into the background) lives on;
//! only a script that is ended by force takes all of its session with it. Output goes to a file, so nothing blocks a
//! script, and what is beyond the file's bound is left out.

pub mod logs;
pub mod services;
pub mod store;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::clock;
use crate::config::upkeep::ScriptSpec;
use crate::engine::module::order::word;
use crate::types::module::{Role, RunId, Script, ScriptEnd};
use logs::Log;

/// Between the request to end and the end by force.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// A process that was killed is gone soon, unless the kernel itself waits for something.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);

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

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    pub run: RunId,
    pub script: Script,
    pub force: bool,
    pub from: Role,
    pub to: Role,
    pub action: String,
    pub cause: String,
    pub timeout: Duration,
}

pub struct Runner {
    place: Place,
    ends: mpsc::Sender<(RunId, ScriptEnd)>,
    /// The one under way: the sender ends it by force.
    under_way: Option<(RunId, watch::Sender<bool>)>,
}

impl Runner {
    pub fn new(place: Place, ends: mpsc::Sender<(RunId, ScriptEnd)>) -> Self {
        Self { place, ends, under_way: None }
    }

    /// Starts it; its end comes through the channel.
    pub fn run(&mut self, run: Run) {
        let (kill, killed) = watch::channel(false);
        self.under_way = Some((run.run, kill));
        let (place, ends) = (self.place.clone(), self.ends.clone());
        tokio::spawn(async move {
            let id = run.run;
            let end = place.run(&run, killed).await;
            // A keeper that is gone waits for nothing.
            let _gone = ends.send((id, end)).await;
        });
    }

    pub fn restart_services(&mut self, run: RunId, names: &[String], within: Duration) {
        let names = if names.is_empty() { self.place.services.clone() } else { names.to_vec() };
        let ends = self.ends.clone();
        self.under_way = None;
        tokio::spawn(async move {
            let end = match services::restart(&names, within).await {
                Ok(()) => ScriptEnd::Done,
                Err(error) => ScriptEnd::Failed { code: None, last_line: error.to_string() },
            };
            let _gone = ends.send((run, end)).await;
        });
    }

    pub fn kill(&self, run: RunId) {
        if let Some((under_way, kill)) = &self.under_way
            && *under_way == run
        {
            kill.send_replace(true);
        }
    }

    /// Another configuration, from the next run on.
    pub fn move_to(&mut self, place: Place) {
        self.place = place;
    }

    /// Scripts of a daemon that died: they are ended before anything else runs.
    pub async fn end_leftovers(&self) {
        let path = self.place.leader_file();
        let Some(leader) = std::fs::read_to_string(&path).ok().and_then(|text| Leader::read(&text)) else {
            return;
        };
        if leader.lives() {
            tracing::warn!(module = self.place.module, pid = leader.pid, "ends a script of a daemon before");
            end_group(leader.pid).await;
        }
        let _gone = std::fs::remove_file(&path);
    }
}

impl Place {
    fn dir(&self) -> PathBuf {
        store::module_dir(&self.state_dir, &self.module)
    }

    fn leader_file(&self) -> PathBuf {
        self.dir().join("running")
    }

    /// Services before the start script, and after the stop script, the last first.
    async fn run(&self, run: &Run, mut killed: watch::Receiver<bool>) -> ScriptEnd {
        let mut log = match Log::create(&self.dir(), word(run.script), run.force) {
            Ok(log) => log,
            Err(error) => return ScriptEnd::NotStarted { why: format!("its log: {error}") },
        };
        let up = run.script == Script::StartBoth && !self.services.is_empty();
        let down = run.script == Script::StopBoth && !self.services.is_empty();
        if up && let Err(error) = services::start(&self.services, run.timeout).await {
            log.note(&error.to_string());
            return ScriptEnd::Failed { code: None, last_line: error.to_string() };
        }
        let end = match self.scripts.iter().find(|spec| spec.script == run.script) {
            Some(spec) => self.run_script(spec, run, &mut log, &mut killed).await,
            None => ScriptEnd::Done,
        };
        log.finish(&end);
        if down && let Err(error) = services::stop(&self.services, run.timeout).await {
            log.note(&error.to_string());
            return ScriptEnd::Failed { code: None, last_line: error.to_string() };
        }
        end
    }

    async fn run_script(
        &self,
        spec: &ScriptSpec,
        run: &Run,
        log: &mut Log,
        killed: &mut watch::Receiver<bool>,
    ) -> ScriptEnd {
        let mut child = match self.spawn(spec, run, log) {
            Ok(child) => child,
            Err(error) => return ScriptEnd::NotStarted { why: error.to_string() },
        };
        let leader = child.id().and_then(Leader::of);
        if let Some(leader) = &leader {
            let _unwritten = store::replace(&self.leader_file(), leader.write().as_bytes());
        }
        let ended = tokio::select! {
            status = child.wait() => status.map_err(|error| ScriptEnd::NotStarted { why: error.to_string() }),
            () = tokio::time::sleep(run.timeout) => Err(ScriptEnd::TimedOut),
            () = told_to_end(killed) => Err(ScriptEnd::Killed),
        };
        let end = match ended {
            Ok(status) => end_of(status, log),
            Err(end) => {
                if let Some(leader) = &leader {
                    end_group(leader.pid).await;
                }
                // Reaped, so that nothing is left of it.
                let _reaped = timeout(REAP_TIMEOUT, child.wait()).await;
                end
            }
        };
        let _gone = std::fs::remove_file(self.leader_file());
        end
    }

    fn spawn(&self, spec: &ScriptSpec, run: &Run, log: &Log) -> io::Result<Child> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{} \"$@\"", spec.run), word(run.script)]);
        if run.force {
            command.arg("force");
        }
        command.args([run.from.word(), run.to.word(), &run.action]);
        command.current_dir(&self.directory).env_clear();
        for name in ["PATH", "LANG", "TZ"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
            .env("SAFEKIT_MODULE", &self.module)
            .env("SAFEKIT_NODE", &self.node)
            .env("SAFEKIT_ROLE", run.to.word())
            .env("SAFEKIT_FROM", run.from.word())
            .env("SAFEKIT_TO", run.to.word())
            .env("SAFEKIT_ACTION", &run.action)
            .env("SAFEKIT_CAUSE", &run.cause)
            .env("SAFEKIT_FORCE", if run.force { "1" } else { "0" });
        command.stdin(Stdio::null()).stdout(log.descriptor()?).stderr(log.descriptor()?);
        // SAFETY: setsid is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(())
            });
        }
        command.spawn()
    }
}

async fn told_to_end(killed: &mut watch::Receiver<bool>) {
    if killed.wait_for(|killed| *killed).await.is_err() {
        // Nobody is left who could tell.
        std::future::pending::<()>().await;
    }
}

fn end_of(status: ExitStatus, log: &Log) -> ScriptEnd {
    if status.success() {
        return ScriptEnd::Done;
    }
    ScriptEnd::Failed { code: status.code(), last_line: log.last_line() }
}

/// The leader of a session, told apart from whoever gets its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leader {
    pid: u32,
    /// In ticks since boot: field 22 of /proc/PID/stat.
    started: u64,
}

impl Leader {
    fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: start_of(pid)? })
    }

    fn write(self) -> String {
        format!("{} {}\n", self.pid, self.started)
    }

    fn read(text: &str) -> Option<Self> {
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    fn lives(self) -> bool {
        start_of(self.pid) == Some(self.started)
    }
}

fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Asked first, then by force: the whole session, also those of it that made process groups of their own.
async fn end_group(leader: u32) {
    let signal = |signal| {
        for pid in session_of(leader) {
            let _gone = rustix::process::kill_process(pid, signal);
        }
        if let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
            let _gone = kill_process_group(group, signal);
        }
    };
    signal(Signal::TERM);
    let deadline = clock::now() + TERM_GRACE;
    while clock::now() < deadline && !session_of(leader).is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    signal(Signal::KILL);
}

/// Live processes of the session that `leader` began.
fn session_of(leader: u32) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_session = entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().take(4).collect();
        let zombie = fields.first() == Some(&"Z");
        (!zombie && fields.get(3)?.parse() == Ok(leader)).then(|| Pid::from_raw(pid)).flatten()
    });
    of_session.collect()
}

/// Whether a module has anything to start at all.
pub fn has_application(scripts: &[ScriptSpec], services: &[String]) -> bool {
    !services.is_empty() || !scripts.is_empty()
}

/// For messages.
pub fn log_dir(state_dir: &Path, module: &str) -> PathBuf {
    store::module_dir(state_dir, module).join("scripts")
}
