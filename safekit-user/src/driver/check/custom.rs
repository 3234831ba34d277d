//! A program of the operator's: exit code 0 is up, and its last line says why.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Surroundings;
use super::sight::Seen;
use crate::config::upkeep::Check;

/// Of what a program writes, only the end is kept.
const TAIL_BYTES_MAX: usize = 4096;
/// What it left behind may hold its output open: what was written before its end is there at once.
const LAST_WORDS: Duration = Duration::from_millis(50);

pub(super) struct Custom {
    check: String,
    run: String,
    around: Arc<Surroundings>,
}

impl Custom {
    pub(super) fn new(check: &Check, run: &str, around: &Arc<Surroundings>) -> Self {
        Self { check: check.name.clone(), run: run.to_owned(), around: Arc::clone(around) }
    }

    pub(super) async fn look(&self) -> Seen {
        let program = match Program::start(&self.check, &self.run, &self.around) {
            Ok(program) => program,
            Err(error) => return Seen::down(format!("cannot run it: {error}")),
        };
        match program.end().await {
            Ok((status, last_line)) if status.success() && last_line.is_empty() => Seen::up("exit code 0"),
            Ok((status, last_line)) if status.success() => Seen::up(last_line),
            Ok((status, last_line)) => Seen::down(ended(status, &last_line)),
            Err(error) => Seen::down(format!("cannot wait for it: {error}")),
        }
    }
}

/// `exit code 3: no space left`
pub(super) fn ended(status: ExitStatus, last_line: &str) -> String {
    // A signal has words of its own.
    let how = status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"));
    match last_line {
        "" => how,
        line => format!("{how}: {line}"),
    }
}

/// A shell in a process group of its own, which ends as a whole when this is dropped.
pub(super) struct Program {
    child: Child,
    group: Group,
    output: pipe::Receiver,
}

struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        // Its leader may have ended before the others, and all of them before this: then there is nobody to end.
        let _ended = self.0.map(|group| kill_process_group(group, Signal::KILL));
    }
}

impl Program {
    pub(super) fn start(check: &str, run: &str, around: &Surroundings) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let child = Command::new("/bin/sh")
            .args(["-c", run])
            .current_dir(&around.directory)
            .envs(around.variables.iter().map(|(name, value)| (name, value)))
            .env("SAFEKIT_MODULE", &around.module)
            .env("SAFEKIT_NODE", &around.node)
            .env("SAFEKIT_CHECK", check)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        Ok(Self { child, group, output })
    }

    /// How it ended, and the last line of what it wrote.
    pub(super) async fn end(mut self) -> io::Result<(ExitStatus, String)> {
        let mut tail = Vec::new();
        let status = tokio::select! {
            status = self.child.wait() => status?,
            () = keep_tail(&mut self.output, &mut tail) => self.child.wait().await?,
        };
        drop(self.group);
        let _unfinished = timeout(LAST_WORDS, keep_tail(&mut self.output, &mut tail)).await;
        let text = String::from_utf8_lossy(&tail);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        Ok((status, last.unwrap_or_default().trim().to_owned()))
    }
}

/// Reads to the end. Cancelled, it has lost nothing.
async fn keep_tail(output: &mut pipe::Receiver, tail: &mut Vec<u8>) {
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = output.read(&mut piece).await {
        tail.extend_from_slice(&piece[..length]);
        tail.drain(..tail.len().saturating_sub(TAIL_BYTES_MAX));
    }
}
