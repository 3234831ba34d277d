//! A cgroup (version 2) for each run: no process leaves it, whatever it does, and `cgroup.kill` ends all at once.
//!
//! They are made below the daemon's own: `…/safekit.MODULE/RUN`. No controller is switched on, so processes may live
//! beside them. One stays as long as an application lives in it that the run has left behind.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// Rounds of reading members that fork meanwhile, on kernels without `cgroup.kill` (before 5.14).
const ROUNDS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// None where this machine or this user has none.
    pub(super) fn make(module: &str, run: &str) -> Option<Self> {
        let path = of_module(module)?.join(run);
        match fs::create_dir_all(&path) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "no cgroup for a script");
                None
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn add(&self, pid: i32) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
    }

    pub(super) fn kill(&self) {
        if !self.0.is_dir() || fs::write(self.0.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        for _ in 0..ROUNDS_MAX {
            let pids = self.pids();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                let _gone = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
    }

    pub(super) fn is_inhabited(&self) -> bool {
        !self.pids().is_empty()
    }

    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).collect()
    }

    /// The kernel keeps it while anybody lives in it.
    pub(super) fn remove_if_empty(&self) {
        if fs::remove_dir(&self.0).is_ok()
            && let Some(of_module) = self.0.parent()
        {
            let _others_are_there = fs::remove_dir(of_module);
        }
    }
}

/// Those of earlier runs in which nobody lives any more.
pub(super) fn sweep(module: &str) {
    for cgroup in of_runs(module) {
        cgroup.remove_if_empty();
    }
}

/// Ends what runs of this script have left behind.
pub(super) fn kill_left_by(module: &str, script: &str) {
    for cgroup in of_runs(module) {
        let name = cgroup.0.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if is_run_of(&name, script) {
            cgroup.kill();
        }
    }
}

/// `20261123T080320.007Z_start_both-force`
pub(super) fn is_run_of(run: &str, script: &str) -> bool {
    run.split_once('_').is_some_and(|(_, rest)| rest.split('-').next() == Some(script))
}

fn of_runs(module: &str) -> Vec<Cgroup> {
    let Some(dir) = of_module(module) else { return Vec::new() };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).map(|entry| Cgroup(entry.path())).collect()
}

fn of_module(module: &str) -> Option<PathBuf> {
    Some(own()?.join(format!("safekit.{module}")))
}

/// Where another one is, by the name that the kernel and systemd have for it.
pub(super) fn named(name: &str) -> Option<PathBuf> {
    locate(&fs::read_to_string("/proc/self/mountinfo").ok()?, &format!("0::{name}\n"))
}

/// That of this process, as this process sees it.
fn own() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    locate(&mounts, &membership)
}

fn locate(mounts: &str, membership: &str) -> Option<PathBuf> {
    let own = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        if !right.starts_with("cgroup2 ") {
            return None;
        }
        let fields: Vec<&str> = left.split(' ').collect();
        let (root, mount) = (*fields.get(3)?, *fields.get(4)?);
        // What is mounted may be a part of the tree only: containers.
        let below = if root == "/" { own } else { own.strip_prefix(root)? };
        Some(Path::new(mount).join(below.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::locate;
    use std::path::Path;

    #[test]
    fn the_own_cgroup_is_found_where_it_is_mounted() {
        let pure = "25 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let hybrid = "24 1 0:21 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n25 1 0:22 / /sys/fs/cgroup/unified rw shared:1 - cgroup2 none rw\n";
        let part = "25 1 0:22 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (mounts, membership, expected) in [
            (pure, "0::/system.slice/safekit.service\n", Some("/sys/fs/cgroup/system.slice/safekit.service")),
            (pure, "0::/\n", Some("/sys/fs/cgroup/")),
            (hybrid, "4:memory:/a\n0::/\n", Some("/sys/fs/cgroup/unified/")),
            (part, "0::/box/a\n", Some("/sys/fs/cgroup/a")),
            (part, "0::/elsewhere\n", None),
            (pure, "4:memory:/a\n", None),
            ("", "0::/\n", None),
        ] {
            assert_eq!(locate(mounts, membership).as_deref(), expected.map(Path::new), "{membership}");
        }
    }
}
