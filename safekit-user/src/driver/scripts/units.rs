//! A script as a unit of systemd, outside of the limits that the daemon's own unit sets.
//!
//! ```text
//! systemd-run ▶ unit: the shell at its gate (a FIFO) ▶ record on disk ▶ the line ▶ pidfd: its end ▶ systemctl show: how
//! safekit.MODULE.RUN.service     active (exited) as long as what the script left behind lives in its cgroup
//! ```
//!
//! systemd is asked over its private socket, so that no message bus is needed. A deadline, a kill and leftovers go by
//! process and cgroup, as for children. The unit counts no exit code as a failure: what it means is decided here.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::cgroup::{self, Cgroup, is_run_of};
use super::lasting::Lasting;
use super::output::last_line;
use super::processes::{Leader, Processes};
use super::records::Kept;
use super::shell::{Begun, Gate, Limits, Running, environment, words};
use super::{Place, Run};
use crate::types::module::ScriptEnd;

/// The one slice that systemd does not stop when the machine goes down: stop scripts run then.
const SLICE: &str = "system.slice";
/// systemd reaps a process within milliseconds.
const POLL: Duration = Duration::from_millis(5);
/// Of a question, and of what systemd needs to notice an end.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Signals that may end a process (signal(7)); others are ignored or stop it.
const SIGNALS: [&str; 23] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "XCPU", "XFSZ", "VTALRM", "PROF", "IO", "PWR", "SYS",
];

pub(super) struct Unit {
    name: String,
    cgroup: PathBuf,
    leader: AsyncFd<OwnedFd>,
}

/// The gate of a unit's shell; held open for the whole run, and gone with it.
pub(super) struct Fifo {
    path: PathBuf,
    end: File,
}

impl Fifo {
    fn make(path: PathBuf) -> io::Result<Self> {
        let _none_before = std::fs::remove_file(&path);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        // Both ends: opening one alone would wait for the other.
        let end = File::options().read(true).write(true).open(&path)?;
        Ok(Self { path, end })
    }

    pub(super) fn open_the_gate(&self) {
        // A pipe has room for a line.
        let _cannot_fail = (&self.end).write_all(b"\n");
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}

pub(super) async fn begin(
    place: &Place,
    text: &str,
    run: &Run,
    kept: &Kept,
    limits: &mut Limits,
) -> Result<Begun, ScriptEnd> {
    let begun = async {
        sweep_aside(&place.module).await;
        start(place, text, run, kept).await.map_err(|why| ScriptEnd::NotStarted { why })
    };
    tokio::select! {
        begun = begun => begun,
        reached = limits.reached() => Err(reached.into()),
    }
}

async fn start(place: &Place, text: &str, run: &Run, kept: &Kept) -> Result<Begun, String> {
    if !place.directory.is_dir() {
        return Err(format!("there is no directory {}", place.directory.display()));
    }
    let fifo = Fifo::make(kept.beside("gate")).map_err(|error| format!("cannot make its gate: {error}"))?;
    let name = unit_name(&place.module, kept.name());
    let started = command(&name, place, text, run, kept, &fifo).output().await;
    let started = started.map_err(|error| format!("cannot run systemd-run: {error}"))?;
    if !started.status.success() {
        return Err(format!("systemd did not start it: {}", last_line(&started.stderr)));
    }
    let facts = ask(&["show", "-p", "MainPID,ControlGroup", "--", &name]).await?;
    let pid: i32 = value(&facts, "MainPID").parse().unwrap_or(0);
    let leader = Leader::of(pid).filter(|_| pid > 1).ok_or("systemd names no process of it")?;
    let cgroup = cgroup::named(value(&facts, "ControlGroup")).ok_or("its cgroup is not to be seen")?;
    let waited = pid_descriptor(pid).map_err(|error| format!("cannot watch its process: {error}"))?;
    let processes = Processes { leader, cgroup: Some(cgroup.clone()) };
    let unit = Unit { name, cgroup, leader: waited };
    Ok(Begun { script: Running::Unit(unit), processes, gate: Gate::Fifo(fifo) })
}

fn pid_descriptor(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
    // SAFETY: the descriptor is moved in and owned by it; nobody else closes or replaces it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

impl Unit {
    /// Until its own process has ended, and systemd knows how.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let _gone = self.leader.readable().await?;
        let known = async {
            loop {
                let asked = ["show", "-p", "ExecMainCode,ExecMainStatus", "--", &self.name];
                let facts = ask(&asked).await.map_err(io::Error::other)?;
                if let Some(status) = exit_status(&facts) {
                    return Ok(status);
                }
                sleep(POLL).await;
            }
        };
        timeout(QUESTION_TIMEOUT, known).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// The unit stays where somebody lives in it.
    pub(super) async fn leave(self) {
        if !Cgroup::at(self.cgroup).is_inhabited()
            && let Err(error) = ask(&["stop", "--no-block", "--", &self.name]).await
        {
            tracing::debug!(%error, unit = self.name, "the unit of a script stays");
        }
    }
}

fn command(name: &str, place: &Place, text: &str, run: &Run, kept: &Kept, gate: &Fifo) -> Command {
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--no-ask-password", "--collect", "--remain-after-exit", "--service-type=exec"]);
    command.arg(format!("--unit={name}")).arg(format!("--slice={SLICE}"));
    command.arg(format!("--description=safekit: a script of module {}", place.module));
    // The process of the script alone is the unit's: what it leaves behind is the application.
    let mut properties = vec![
        "KillMode=process".to_owned(),
        "SendSIGKILL=no".to_owned(),
        // A machine that goes down refuses units that it would have to stop at once.
        "DefaultDependencies=no".to_owned(),
        format!("SuccessExitStatus={}", every_end()),
        format!("StandardInput=file:{}", gate.path.display()),
        "StandardError=inherit".to_owned(),
    ];
    properties.push(match kept.output.is_there() {
        true => format!("StandardOutput=append:{}", kept.beside("log").display()),
        false => "StandardOutput=null".to_owned(),
    });
    for property in properties {
        command.args(["-p", &property]);
    }
    // The folder not as WorkingDirectory=: that orders the unit after the mount it is on, and a machine that goes down
    // would wait to unmount it for the daemon, which waits for the script.
    command.args(["--", "/usr/bin/env", "-i"]);
    command.arg(literal(&format!("--chdir={}", place.directory.display())));
    for (name, value) in environment(place, run) {
        command.arg(literal(&format!("{name}={}", value.to_string_lossy())));
    }
    command.args(words(place, text, run).iter().map(|word| literal(word)));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A program that works for a module and outlives the daemon; its process.
pub(super) async fn start_lasting(lasting: &Lasting) -> Result<u32, String> {
    let name = lasting_name(&lasting.module, lasting.what);
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--no-ask-password", "--collect", "--service-type=exec"]);
    command.arg(format!("--unit={name}")).arg(format!("--slice={SLICE}"));
    command.arg(format!("--description=safekit: the {} of module {}", lasting.what, lasting.module));
    for property in [
        "KillMode=mixed",
        "DefaultDependencies=no",
        "StandardError=inherit",
        // Whoever writes to a replicated directory waits for it: it is the last to go.
        "OOMScoreAdjust=-1000",
        "LimitNOFILE=1048576",
    ] {
        command.args(["-p", property]);
    }
    command.args(["-p", &format!("StandardOutput=append:{}", lasting.log.display())]);
    command.arg("--").arg(literal(&lasting.program.to_string_lossy()));
    command.args(lasting.arguments.iter().map(|word| literal(&word.to_string_lossy())));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let started = timeout(QUESTION_TIMEOUT, command.output()).await.map_err(|_| "systemd does not answer")?;
    let started = started.map_err(|error| format!("cannot run systemd-run: {error}"))?;
    if !started.status.success() {
        return Err(format!("systemd did not start it: {}", last_line(&started.stderr)));
    }
    let facts = ask(&["show", "-p", "MainPID", "--", &name]).await?;
    let pid: u32 = value(&facts, "MainPID").parse().unwrap_or(0);
    if pid > 1 { Ok(pid) } else { Err("systemd names no process of it".to_owned()) }
}

/// Two dots, which no name of a run's unit has: `safekit.db..replica.service`
fn lasting_name(module: &str, what: &str) -> String {
    format!("{}.{what}.service", prefix(module))
}

/// systemd puts its own variables into words with a dollar sign; doubled, it is one again.
fn literal(word: &str) -> String {
    word.replace('$', "$$")
}

fn every_end() -> String {
    let mut all = String::new();
    for code in 1..=255 {
        let _infallible = write!(all, "{code} ");
    }
    for signal in SIGNALS {
        let _infallible = write!(all, "SIG{signal} ");
    }
    all
}

/// `safekit.www.20261123T080320.007Z_start_both.service`
fn unit_name(module: &str, run: &str) -> String {
    format!("{}{run}.service", prefix(module))
}

/// As systemd-escape(1) does, so that no two modules share one.
fn prefix(module: &str) -> String {
    let mut name = "safekit.".to_owned();
    for byte in module.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            name.push(char::from(byte));
        } else {
            let _infallible = write!(name, "\\x{byte:02x}");
        }
    }
    name + "."
}

/// `ExecMainCode` is that of waitid(2): 1 exited, 2 killed, 3 killed with a core.
fn exit_status(facts: &str) -> Option<ExitStatus> {
    let status: i32 = value(facts, "ExecMainStatus").parse().ok()?;
    match value(facts, "ExecMainCode") {
        "1" => Some(ExitStatus::from_raw(status << 8)),
        "2" | "3" => Some(ExitStatus::from_raw(status)),
        _ => None,
    }
}

fn value<'t>(facts: &'t str, key: &str) -> &'t str {
    let found = facts.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_default()
}

async fn ask(words: &[&str]) -> Result<String, String> {
    let mut command = Command::new("systemctl");
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let answered = timeout(QUESTION_TIMEOUT, command.output()).await;
    said(answered.map_err(|_| "systemd does not answer")?)
}

fn said(output: io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|error| format!("cannot run systemctl: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(last_line(&output.stderr)),
    }
}

/// Of the module's runs: their names, units, and cgroups.
fn of_runs(module: &str) -> Vec<(String, String, Cgroup)> {
    let Some(slice) = cgroup::named(&format!("/{SLICE}")) else { return Vec::new() };
    let prefix = prefix(module);
    let entries = std::fs::read_dir(slice).into_iter().flatten().flatten();
    let run = |entry: std::fs::DirEntry| {
        let unit = entry.file_name().to_str()?.to_owned();
        let run = unit.strip_prefix(&prefix)?.strip_suffix(".service")?.to_owned();
        Some((run, unit, Cgroup::at(entry.path())))
    };
    entries.filter_map(run).collect()
}

/// Units in which nobody lives any more.
pub(super) fn sweep(module: &str) {
    let empty = of_runs(module).into_iter().filter(|(_, _, cgroup)| !cgroup.is_inhabited());
    let names: Vec<String> = empty.map(|(_, unit, _)| unit).collect();
    if names.is_empty() {
        return;
    }
    let mut command = std::process::Command::new("systemctl");
    command.args(["stop", "--no-block", "--"]).args(names).stdin(Stdio::null());
    if let Err(error) = said(command.output()) {
        tracing::debug!(%error, "{module}: units of scripts stay");
    }
}

async fn sweep_aside(module: &str) {
    let module = module.to_owned();
    // What stays is swept the next time.
    let _swept = tokio::task::spawn_blocking(move || sweep(&module)).await;
}

/// Ends what runs of this script have left behind.
pub(super) fn kill_left_by(module: &str, script: &str) {
    for (run, _, cgroup) in of_runs(module) {
        if is_run_of(&run, script) {
            cgroup.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let of = |code: &str, status: &str| {
            exit_status(&format!("ExecMainStatus={status}\nExecMainCode={code}\n"))
        };
        assert_eq!(of("0", "0"), None, "it runs");
        assert!(of("1", "0").unwrap().success());
        assert_eq!(of("1", "143").unwrap().code(), Some(143));
        assert_eq!(of("2", "15").unwrap().signal(), Some(15));
        assert_eq!(of("3", "6").unwrap().signal(), Some(6));
        assert_eq!(exit_status(""), None);
    }

    #[test]
    fn no_two_modules_share_names_of_units() {
        assert_eq!(unit_name("www", "1Z_start_both"), "safekit.www.1Z_start_both.service");
        assert_ne!(prefix("a.b"), prefix("a_b"));
        assert!(!unit_name("a.b", "r").starts_with(&prefix("a")));
        assert_eq!(literal("a $1 ${HOME}"), "a $$1 $${HOME}");
    }
}
