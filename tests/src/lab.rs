//! The lab: farms in network namespaces, made of the same parts as `safekit demo`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::geteuid;
use safekit::driver::clock;
use safekit::front::demo::leftovers;
use safekit::front::demo::prefix::Prefix;
use safekit::front::demo::report::StepReport;
use safekit::front::demo::scenario::Audience;

/// Two farms at once on two cores would disturb each other's milliseconds.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for the lab; none when this user cannot have one. With SAFEKIT_LAB=1 that is a failure, so that a
/// continuous run never passes by skipping.
pub fn enter() -> Option<MutexGuard<'static, ()>> {
    if geteuid().is_root() {
        return Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
    }
    let demanded = std::env::var_os("SAFEKIT_LAB").is_some_and(|value| value == "1");
    assert!(!demanded, "SAFEKIT_LAB=1 and not root: the lab needs root for namespaces and packet filters");
    eprintln!("skipped: the lab needs root (SAFEKIT_LAB=1 makes this a failure)");
    None
}

/// The binary under test: `SAFEKIT_BIN`, or the one that was built beside this program.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("SAFEKIT_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let directory = own.parent().context("an executable is in a directory")?;
    // Tests live in target/PROFILE/deps, programs in target/PROFILE.
    let profile = if directory.ends_with("deps") { directory.parent() } else { Some(directory) };
    let profile = profile.context("deps is in target/PROFILE")?;
    let binary = profile.join("safekit");
    if !binary.is_file() {
        bail!("{} is missing; run `cargo xtask build`", binary.display());
    }
    Ok(binary)
}

/// Runs the binary under test.
pub fn safekit(arguments: &[&str]) -> anyhow::Result<std::process::Output> {
    Ok(Command::new(binary()?).args(arguments).output()?)
}

/// Waits until `ready`, asking every few milliseconds.
pub fn wait_until(what: &str, within: Duration, mut ready: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = clock::now() + within;
    while !ready() {
        if clock::now() > deadline {
            bail!("{what}: not within {within:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Nobody watches a test; what matters is in its assertions.
pub struct Nobody;

impl Audience for Nobody {
    fn caption(&self, text: &str) {
        eprintln!("… {text}");
    }

    fn result(&self, report: &StepReport) {
        eprintln!("  {}", report.sentence());
    }

    fn is_impatient(&self) -> bool {
        false
    }
}

/// What of a run is still on this machine, in words; empty when nothing is.
pub fn leftovers_of(run: Prefix) -> Vec<String> {
    let mut left: Vec<String> =
        leftovers::runs().into_iter().filter(|it| *it == run).map(|it| format!("names of {it}")).collect();
    let dir = leftovers::run_dir(run);
    left.extend(leftovers::mounts_under(&dir).iter().map(|mount| format!("mount {}", mount.display())));
    left.extend(processes_that_mention(&dir.to_string_lossy()));
    left
}

fn processes_that_mention(text: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(text).then(|| format!("process {}: {line}", entry.file_name().to_string_lossy()))
    });
    lines.collect()
}
