//! What a run leaves on the machine while it lives, and how it goes: names of namespaces, a directory, mounts in it.
//!
//! The same code cleans up after a run that ends and after one whose process was killed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use super::namespace::{NAMES_DIR, Namespace};
use super::prefix::Prefix;

/// All runs, one directory each.
const RUNS_DIR: &str = "/run/safekit-demo";
/// Says when the maker was started: a process id alone may have been given away again.
const MAKER_FILE: &str = "maker";

pub fn run_dir(prefix: Prefix) -> PathBuf {
    Path::new(RUNS_DIR).join(prefix.to_string())
}

/// Marks a run's directory as made by this process.
pub fn sign(run_dir: &Path) -> io::Result<()> {
    let started = started(std::process::id()).ok_or(io::ErrorKind::NotFound)?;
    std::fs::write(run_dir.join(MAKER_FILE), started.to_string())
}

/// Removes the runs whose makers are gone. Says what went, and what would not.
pub fn clean() -> (Vec<Prefix>, Vec<String>) {
    let orphans: Vec<Prefix> =
        runs().into_iter().filter(|run| !maker_lives(run.pid, &run_dir(*run))).collect();
    let failures = orphans.iter().flat_map(|run| remove(*run)).collect();
    (orphans, failures)
}

/// Everything on this machine that begins as a run's name does.
pub fn runs() -> BTreeSet<Prefix> {
    let names = names_in(Path::new(NAMES_DIR)).into_iter().chain(names_in(Path::new(RUNS_DIR)));
    names.filter_map(|name| Prefix::parse(&name)).collect()
}

/// Removes one run: its processes, namespaces, mounts and directory. Goes on after a failure, and lists them.
pub fn remove(prefix: Prefix) -> Vec<String> {
    let mut failures = Vec::new();
    for name in names_in(Path::new(NAMES_DIR)) {
        if Prefix::parse(&name) == Some(prefix) {
            match Namespace::open(&name) {
                Ok(namespace) => {
                    namespace.kill_all();
                    note(&mut failures, namespace.remove().map_err(io::Error::other));
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
    }
    failures.extend(remove_tree(&run_dir(prefix)));
    // Only the last run takes the common directory along; others keep it by being in it.
    let _others = std::fs::remove_dir(RUNS_DIR);
    failures
}

/// Removes a directory with the BPF file systems that are mounted in it.
pub fn remove_tree(dir: &Path) -> Vec<String> {
    let mut failures = Vec::new();
    for mount in mounts_under(dir) {
        // Pins hold programs and maps alive; in another mount namespace the file system may outlive this unmount.
        remove_files(&mount);
        note(&mut failures, rustix::mount::unmount(&mount, UnmountFlags::DETACH).map_err(io::Error::from));
    }
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => note(&mut failures, result),
    }
    failures
}

/// Mount points below `dir`, the innermost first.
pub fn mounts_under(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    below.reverse();
    below
}

/// Unpins what is pinned in a BPF file system.
fn remove_files(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        // What stays is freed with the file system.
        let _left = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
}

fn maker_lives(pid: u32, run_dir: &Path) -> bool {
    let Some(started) = started(pid) else { return false };
    match std::fs::read_to_string(run_dir.join(MAKER_FILE)) {
        Ok(signed) => signed == started.to_string(),
        // Not signed yet, or no directory: the process id is all there is to go by.
        Err(_) => true,
    }
}

/// When a process was started, in clock ticks since boot. None when it does not run (any more).
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 2 is the command in parentheses and may contain anything; proc(5) counts from 1, so 22 is 20 after it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn note(failures: &mut Vec<String>, result: io::Result<()>) {
    if let Err(error) = result {
        failures.push(error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_was_started_and_an_impossible_one_was_not() {
        assert!(started(std::process::id()).is_some());
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn a_reused_process_id_is_not_the_maker() {
        let own = std::process::id();
        let dir = std::env::temp_dir().join(format!("safekit-maker-{own}"));
        assert!(maker_lives(own, &dir), "unsigned: the process id decides");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(MAKER_FILE), "1").unwrap();
        assert!(!maker_lives(own, &dir), "signed by a process that started at another time");
        sign(&dir).unwrap();
        assert!(maker_lives(own, &dir));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
