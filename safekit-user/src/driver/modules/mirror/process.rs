//! The process that keeps a mirror's directories, by its descriptor: a number could be another's by now.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitStatus;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Told;
use crate::driver::scripts::lasting::{Begun, last_words};

pub(super) struct Process {
    pub(super) pid: u32,
    handle: OwnedFd,
    waiting: JoinHandle<()>,
}

impl Process {
    /// Its end is told.
    pub(super) fn watch(begun: Begun, log: PathBuf, told: mpsc::Sender<Told>) -> io::Result<Self> {
        let Begun { pid, child, .. } = begun;
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let handle = pidfd_open(number, PidfdFlags::NONBLOCK)?;
        let watched = handle.try_clone()?;
        let waiting = tokio::spawn(async move {
            let how = match end(watched, child).await {
                Ok(how) => how,
                Err(error) => format!("it cannot be watched: {error}"),
            };
            let words = last_words(&log);
            let how = if words.is_empty() { how } else { format!("{how}: {words}") };
            // A keeper that has gone waits for nothing.
            let _gone = told.send(Told::Ended(how)).await;
        });
        Ok(Self { pid, handle, waiting })
    }

    pub(super) fn kill(&self) {
        if let Err(error) = pidfd_send_signal(self.handle.as_fd(), Signal::KILL) {
            tracing::debug!(%error, pid = self.pid, "a replica has ended meanwhile");
        }
    }
}

impl Drop for Process {
    /// It lives on.
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

/// Readable once it has ended, whoever reaps it (pidfd_open(2)).
async fn end(handle: OwnedFd, child: Option<Child>) -> io::Result<String> {
    if let Some(mut child) = child {
        return child.wait().await.map(words);
    }
    // SAFETY: an OwnedFd is the same open descriptor until it is dropped.
    let watch = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }?;
    watch.readable().await.map(|_| "it ended".to_owned())
}

fn words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}
