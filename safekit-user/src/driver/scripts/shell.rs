//! One script: `/bin/sh -c` in a session of its own, until it ends or is ended.
//!
//! ```text
//! spawn: a shell that waits for a line ──▶ cgroup, record on disk ──▶ the line: it becomes the script ──▶ its end
//! ```
//!
//! A daemon that dies in between closes the pipe, and the shell ends without having done anything.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::cgroup::{self, Cgroup};
use super::output::Output;
use super::processes::{Leader, Processes};
use super::records::Kept;
use super::units::{self, Unit};
use super::{Place, Run, Way};
use crate::driver::clock;
use crate::types::Instant;
use crate::types::module::ScriptEnd;

/// Waits for its line, and becomes a shell with the script: the same process, so that the record stays true.
const GATE: &str = "read -r go || exit 125; exec </dev/null; exec /bin/sh -c \"$0\" \"$@\"";
/// Between the request to end and the end by force, at a deadline.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// A process that was killed is gone soon, unless the kernel itself waits for something.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a script's output is looked at: a flood grows no longer than that.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a run may take.
pub(super) struct Limits {
    deadline: Instant,
    killed: watch::Receiver<bool>,
}

/// Why a run must end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Deadline,
    Kill,
}

impl Limits {
    pub(super) fn new(within: Duration, killed: watch::Receiver<bool>) -> Self {
        Self { deadline: clock::now() + within, killed }
    }

    /// May be waited for again and again.
    pub(super) async fn reached(&mut self) -> Reached {
        let left = self.deadline.since(clock::now());
        tokio::select! {
            biased;
            Ok(_) = self.killed.wait_for(|killed| *killed) => Reached::Kill,
            () = sleep(left) => Reached::Deadline,
        }
    }
}

impl From<Reached> for ScriptEnd {
    fn from(reached: Reached) -> Self {
        match reached {
            Reached::Deadline => Self::TimedOut,
            Reached::Kill => Self::Killed,
        }
    }
}

/// A script behind its gate.
pub(super) struct Begun {
    pub(super) script: Running,
    pub(super) processes: Processes,
    /// A line opens it.
    pub(super) gate: Gate,
}

/// How its end is waited for.
pub(super) enum Running {
    Child(Child),
    Unit(Unit),
}

pub(super) enum Gate {
    Pipe(ChildStdin),
    Fifo(units::Fifo),
}

impl Running {
    /// May be asked again and again.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Child(child) => child.wait().await,
            Self::Unit(unit) => unit.wait().await,
        }
    }
}

pub(super) async fn run(
    way: Way,
    place: &Place,
    text: &str,
    run: &Run,
    kept: &mut Kept,
    limits: &mut Limits,
) -> ScriptEnd {
    let begun = match way {
        Way::Children => begin(place, text, run, kept).await,
        Way::Units => units::begin(place, text, run, kept, limits).await,
    };
    let Begun { mut script, processes, gate } = match begun {
        Ok(begun) => begun,
        Err(end) => return end,
    };
    kept.belongs_to(&processes);
    let fifo = match gate {
        Gate::Pipe(mut pipe) => {
            let _ended_already = pipe.write_all(b"\n").await;
            None
        }
        Gate::Fifo(fifo) => {
            fifo.open_the_gate();
            Some(fifo)
        }
    };
    let ended = tokio::select! {
        status = script.wait() => Ok(status),
        reached = limits.reached() => Err(reached),
        () = watch_output(&mut kept.output) => unreachable!("it watches for ever"),
    };
    let end = match ended {
        Ok(Ok(status)) => end_of(status, &kept.output),
        Ok(Err(error)) => {
            ScriptEnd::Failed { code: None, last_line: format!("it cannot be waited for: {error}") }
        }
        Err(reached) => {
            kept.ends_by_force();
            end_by_force(&mut script, &processes, &mut kept.output).await;
            reached.into()
        }
    };
    drop(fifo);
    match script {
        Running::Unit(unit) => unit.leave().await,
        Running::Child(_) => {
            if let Some(path) = processes.cgroup {
                Cgroup::at(path).remove_if_empty();
            }
        }
    }
    end
}

async fn begin(place: &Place, text: &str, run: &Run, kept: &Kept) -> Result<Begun, ScriptEnd> {
    let spawned = command(place, text, run, &kept.output).spawn();
    let mut child = spawned.map_err(|error| not_started(place, &error))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it has not been waited for");
    let Some(leader) = Leader::of(pid) else {
        let _gone = child.kill().await;
        return Err(ScriptEnd::NotStarted { why: "/proc does not show its process".to_owned() });
    };
    let processes = Processes { leader, cgroup: enclose(&place.module, kept.name(), pid) };
    let gate = Gate::Pipe(child.stdin.take().expect("it is a pipe"));
    Ok(Begun { script: Running::Child(child), processes, gate })
}

async fn watch_output(output: &mut Output) {
    loop {
        sleep(LOOK_INTERVAL).await;
        output.look();
    }
}

/// A polite request first; then everything goes, also what the script had started and what has left its session.
async fn end_by_force(child: &mut Running, processes: &Processes, output: &mut Output) {
    processes.ask_to_end();
    tokio::select! {
        _ended = child.wait() => {}
        () = sleep(TERM_GRACE) => {}
        () = watch_output(output) => unreachable!("it watches for ever"),
    }
    processes.end();
    if timeout(REAP_TIMEOUT, child.wait()).await.is_err() {
        tracing::error!(pid = processes.leader.pid, "a killed script does not go: the kernel waits in it");
    }
    if let Some(path) = &processes.cgroup {
        // Its last members go within milliseconds; then it can go too.
        for _ in 0..20 {
            let cgroup = Cgroup::at(path.clone());
            cgroup.remove_if_empty();
            if !cgroup.path().is_dir() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn enclose(module: &str, run: &str, pid: i32) -> Option<std::path::PathBuf> {
    cgroup::sweep(module);
    let cgroup = Cgroup::make(module, run)?;
    match cgroup.add(pid) {
        Ok(()) => Some(cgroup.path().to_owned()),
        Err(error) => {
            tracing::debug!(%error, "a script runs without a cgroup");
            cgroup.remove_if_empty();
            None
        }
    }
}

/// The shell at its gate, and what it will be.
pub(super) fn words(place: &Place, text: &str, run: &Run) -> Vec<String> {
    let mut words = vec![
        "/bin/sh".to_owned(),
        "-c".to_owned(),
        GATE.to_owned(),
        shell_text(text, &place.directory),
        place.module.clone(),
    ];
    if run.force {
        words.push("force".to_owned());
    }
    words.extend([run.from.word().to_owned(), run.to.word().to_owned(), run.action.clone()]);
    // A NUL cannot be passed on, and would fail the whole start.
    words.iter().map(|word| word.replace('\0', " ")).collect()
}

/// All that a script finds in its environment.
pub(super) fn environment(place: &Place, run: &Run) -> Vec<(String, OsString)> {
    let mut all: Vec<(String, OsString)> = Vec::new();
    for (name, otherwise) in [("PATH", PATH_DEFAULT), ("LANG", "C.UTF-8"), ("HOME", "/")] {
        all.push((name.to_owned(), std::env::var_os(name).unwrap_or_else(|| otherwise.into())));
    }
    if let Some(zone) = std::env::var_os("TZ") {
        all.push(("TZ".to_owned(), zone));
    }
    all.extend(place.variables.iter().map(|(name, value)| (name.clone(), value.into())));
    // The role that the script works for: a stop script that of the state it ends.
    let role = if word_is_stop(run) { run.from } else { run.to };
    let told = [
        ("SAFEKIT_MODULE", place.module.as_str()),
        ("SAFEKIT_NODE", &place.node),
        ("SAFEKIT_ROLE", role.word()),
        ("SAFEKIT_FROM", run.from.word()),
        ("SAFEKIT_TO", run.to.word()),
        ("SAFEKIT_ACTION", &run.action),
        ("SAFEKIT_CAUSE", &run.cause),
        ("SAFEKIT_FORCE", if run.force { "1" } else { "0" }),
    ];
    all.extend(told.map(|(name, value)| (name.to_owned(), value.replace('\0', " ").into())));
    all
}

fn command(place: &Place, text: &str, run: &Run, output: &Output) -> Command {
    let words = words(place, text, run);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(&place.directory);
    command.env_clear().envs(environment(place, run));
    command.stdin(Stdio::piped()).stdout(output.end_for_script()).stderr(output.end_for_script());
    // SAFETY: between fork and exec only two system calls are made, without memory or locks of this process.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            close_the_daemons_files();
            Ok(())
        });
    }
    command
}

fn word_is_stop(run: &Run) -> bool {
    crate::engine::module::order::is_stop(run.script)
}

/// At exec. An application that held one of the daemon's descriptors would hide its death, or keep its ports.
pub(super) fn close_the_daemons_files() {
    // SAFETY: it only marks descriptors, of this process, which is about to become another program.
    unsafe {
        // Before Linux 5.11 there is none: then only what std opened is closed, which is all that is known of.
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// A single word that names a file gets the arguments; for anything else they are `$1`, `$2`, `$3`.
fn shell_text(text: &str, directory: &Path) -> String {
    let word = text.trim();
    let plain = |char: char| char.is_alphanumeric() || matches!(char, '/' | '.' | '_' | '-' | '+');
    if word.is_empty() || word.starts_with('-') || !word.chars().all(plain) {
        return text.to_owned();
    }
    if word.contains('/') {
        return format!("{word} \"$@\"");
    }
    if directory.join(word).is_file() { format!("./{word} \"$@\"") } else { text.to_owned() }
}

fn end_of(status: ExitStatus, output: &Output) -> ScriptEnd {
    if status.success() {
        return ScriptEnd::Done;
    }
    let last_line = match (output.last_line(), status.signal()) {
        (line, Some(signal)) if line.is_empty() => format!("signal {signal}"),
        (line, Some(signal)) => format!("signal {signal}, after: {line}"),
        (line, None) => line,
    };
    ScriptEnd::Failed { code: status.code(), last_line }
}

fn not_started(place: &Place, error: &io::Error) -> ScriptEnd {
    let directory = &place.directory;
    let why = match error.kind() {
        io::ErrorKind::NotFound if !directory.is_dir() => {
            format!("there is no directory {}", directory.display())
        }
        _ => error.to_string(),
    };
    ScriptEnd::NotStarted { why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::scripts::tests::TempDir;

    #[test]
    fn a_single_file_gets_the_arguments() {
        let dir = TempDir::new("shell-text");
        std::fs::write(dir.path().join("start.sh"), "").unwrap();
        for (text, expected) in [
            ("start.sh", "./start.sh \"$@\""),
            ("/opt/app/start", "/opt/app/start \"$@\""),
            ("bin/start", "bin/start \"$@\""),
            ("true", "true"),
            ("systemctl start nginx", "systemctl start nginx"),
            ("./start.sh; echo $1", "./start.sh; echo $1"),
            ("", ""),
        ] {
            assert_eq!(shell_text(text, dir.path()), expected);
        }
    }
}
