//! The lab: farms in network namespaces, made of the same parts as `safekit demo`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::geteuid;
use safekit::driver::clock;

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

/// The binary under test: `SAFEKIT_BIN`, or the one that was built beside this test.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("SAFEKIT_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let profile =
        test.parent().and_then(|deps| deps.parent()).context("tests live in target/PROFILE/deps")?;
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
