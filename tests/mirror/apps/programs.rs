//! Programs of others, as these stories run them: with a deadline for each, and ended with whoever started them.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal};
use safekit::driver::clock;

const LOOK: Duration = Duration::from_millis(10);
/// Lines of a program that nobody has read yet; full: the program waits.
const LINES_MAX: usize = 64;
/// Of what a program said, for whoever reads about a failure.
const LAST_BYTES: usize = 3_000;

/// So many rounds as the environment wants, or this many.
pub(crate) fn rounds(normally: usize) -> usize {
    let wanted = std::env::var("SAFEKIT_MIRROR_ROUNDS").ok();
    wanted.and_then(|rounds| rounds.parse().ok()).map_or(normally, |rounds: usize| rounds.max(1))
}

/// A longer run was asked for.
pub(crate) fn is_long() -> bool {
    std::env::var_os("SAFEKIT_MIRROR_ROUNDS").is_some()
}

/// Where cargo installs, unless it is on the path: as `cargo xtask setup` has it.
pub(crate) fn from_crate(name: &str) -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let installed = home.unwrap_or_default().join("bin").join(name);
    if installed.is_file() { installed } else { name.into() }
}

pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// On both of its outputs.
    pub(crate) said: String,
}

impl Ended {
    /// What it said, if it ended well.
    pub(crate) fn well(self) -> Result<String> {
        let from = self.said.len().saturating_sub(LAST_BYTES);
        let from = self.said.ceil_char_boundary(from);
        ensure!(self.status.success(), "ended with {}:\n{}", self.status, &self.said[from..]);
        Ok(self.said)
    }
}

/// Until it ends. `scratch` is a directory for what it says.
pub(crate) fn run(command: &mut Command, scratch: &Path, within: Duration) -> Result<Ended> {
    let name = command.get_program().to_string_lossy().into_owned();
    let path = scratch.join(format!("said-by-{:?}", std::thread::current().id()));
    said_to(command, &path)?;
    let mut child = spawn(command)?;
    let status = ended_within(&mut child, within);
    let said = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let status = status.with_context(|| format!("{name}: {said}"))?;
    Ok(Ended { status, said })
}

/// It reads nothing, and what it says goes to a file.
pub(crate) fn said_to(command: &mut Command, path: &Path) -> Result<()> {
    let said = File::create(path)?;
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
    Ok(())
}

/// As [`run`], and it has to end well.
pub(crate) fn run_well(command: &mut Command, scratch: &Path, within: Duration) -> Result<String> {
    let shown = format!("{command:?}");
    run(command, scratch, within)?.well().with_context(|| shown)
}

/// It ends with this thread.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    let maker = rustix::process::getpid();
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(move || end_with(maker)) };
    let spawned = command.spawn();
    spawned.with_context(|| {
        format!("cannot run {:?} (`cargo xtask setup` installs what is needed)", command.get_program())
    })
}

fn end_with(maker: Pid) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // Had the maker died before the line above, no signal would ever come.
    if rustix::process::getppid() != Some(maker) {
        return Err(std::io::ErrorKind::Interrupted.into());
    }
    Ok(())
}

/// Killed when it takes longer, which is an error.
pub(crate) fn ended_within(child: &mut Child, within: Duration) -> Result<ExitStatus> {
    let deadline = clock::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if clock::now() > deadline {
            child.kill()?;
            bail!("it does not end within {within:?}");
        }
        std::thread::sleep(LOOK);
    }
}

/// A program that answers each line with a line.
pub(crate) struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Talk {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let output = child.stdout.take().context("it has an output")?;
        let (told, lines) = sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        Ok(Self { child, input, lines })
    }

    /// The next line that it says after this one.
    pub(crate) fn ask(&mut self, line: &str, within: Duration) -> Result<String> {
        let input = self.input.as_mut().context("it listens")?;
        input.write_all(line.as_bytes())?;
        input.write_all(b"\n")?;
        self.lines.recv_timeout(within).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow!("no answer within {within:?} to {line}"),
            RecvTimeoutError::Disconnected => anyhow!("it ended instead of an answer to {line}"),
        })
    }

    /// Told nothing more, it ends by itself, and well.
    pub(crate) fn end(mut self, within: Duration) -> Result<()> {
        self.input = None;
        let status = ended_within(&mut self.child, within)?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ended = (self.child.kill(), self.child.wait());
    }
}
