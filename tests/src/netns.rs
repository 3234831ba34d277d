//! Namespaces for one thread: network and mounts of its own. They end with the thread, however it ends, and leave
//! nothing behind.

use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// An empty directory of the story's own, in memory.
pub const SCRATCH: &str = "/mnt";

/// Runs `story` on a thread of its own in a new network namespace whose loopback is up, with [`SCRATCH`] to write in.
pub fn in_new_namespace<T: Send>(story: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = || {
        // SAFETY: namespaces and working directory change for this thread only, and nobody shares its descriptors' table.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
            .context("new namespaces need root: run the privileged tests as root")?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("scratch", SCRATCH, "tmpfs", MountFlags::empty(), None)
            .context("cannot mount a scratch directory")?;
        ip("link set lo up")?;
        story()
    };
    thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// `ip` with the words of a line.
pub fn ip(line: &str) -> Result<String> {
    let output = Command::new("ip").args(line.split_whitespace()).output().context("cannot run `ip`")?;
    ensure!(output.status.success(), "`ip {line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sets a sysctl of the caller's network namespace (/proc/sys/net is the caller's, whoever mounted /proc).
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}
