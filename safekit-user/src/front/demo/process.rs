//! Processes of the demo's machines: each in its namespace, in a process group of its own, dead when we are.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::namespace::Namespace;
use crate::driver::clock;

/// How long a SIGKILL may take.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start {what}")]
    Start {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot watch {what}")]
    Watch {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{what} did not end within {waited:?}")]
    Stuck { what: String, waited: Duration },
}

/// Killed, with its whole group, when dropped.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `namespace`; what it prints goes to `log`.
    ///
    /// The kernel kills it when the *thread* that called this ends, so call it from one that stays.
    pub fn start(what: &str, mut command: Command, namespace: &Namespace, log: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Start { what: what.to_owned(), source };
        let output = File::options().create(true).append(true).open(log).map_err(failed)?;
        let door = namespace.handle().as_raw_fd();
        let maker = rustix::process::getpid();
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(output.try_clone().map_err(failed)?).stderr(output);
        // SAFETY: between fork and exec the closure makes three system calls and allocates nothing; `door` is open
        // until spawn() below has returned, because `namespace` is borrowed.
        unsafe { command.pre_exec(move || move_in(door, maker)) };
        let child = command.spawn().map_err(failed)?;
        Ok(Self { what: what.to_owned(), child, log: log.to_owned() })
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The end of its log, for messages about a failure.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// None while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(|source| Error::Watch { what: self.what.clone(), source })
    }

    /// To the process itself, not to its group.
    pub fn signal(&self, signal: Signal) {
        // Not reaped yet, so the id is still its own; a process that ended takes no signal, and that is fine.
        let _ended = rustix::process::kill_process(self.pid(), signal);
    }

    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus, Error> {
        let deadline = clock::now() + within;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if clock::now() > deadline {
                return Err(Error::Stuck { what: self.what.clone(), waited: within });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Kills it and its group. Returns at once; the drop reaps.
    pub fn kill(&self) {
        let _ended = rustix::process::kill_process_group(self.pid(), Signal::KILL);
        self.signal(Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.ended() {
            self.kill();
            if let Err(error) = self.wait(KILL_TIMEOUT) {
                eprintln!("warning: {error}");
            }
        }
    }
}

fn move_in(door: i32, maker: Pid) -> io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    // SAFETY: the caller keeps the descriptor open over the fork; it is only borrowed here.
    let door = unsafe { std::os::fd::BorrowedFd::borrow_raw(door) };
    move_into_link_name_space(door, Some(LinkNameSpaceType::Network))?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // Had the maker died before the line above, no signal would ever come.
    if rustix::process::getppid() != Some(maker) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(())
}
