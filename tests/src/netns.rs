//! A network namespace for one thread: it ends with the thread, and leaves nothing behind.

use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs `story` on a thread of its own in a new network namespace whose loopback is up.
pub fn in_new_namespace<T: Send>(story: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let run = || {
            // SAFETY: only the network namespace changes, and only for this thread, which nobody else shares.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("a new network namespace needs root")?;
            ip("link set lo up")?;
            story()
        };
        match scope.spawn(run).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// `ip` with words from a line.
pub fn ip(line: &str) -> Result<String> {
    let output = Command::new("ip").args(line.split_whitespace()).output().context("cannot run `ip`")?;
    ensure!(output.status.success(), "`ip {line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sets a sysctl of the caller's namespace. /proc/thread-self/net is the caller's, /proc/sys/net likewise.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
}
