//! Our file system without anybody to replicate to: what the way through it costs by itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use safekit::driver::replica::capture::Captured;
use safekit::front::demo::interrupt::Interrupt;

use super::machine::{DATA, Lab, Machine, Running};

const READY: &str = "mounted";
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// This program again, in a process of its own, as the daemon keeps its directories.
pub fn start(lab: &Lab, machine: &Machine<'_>) -> Result<Running> {
    let mut command = machine.command(std::env::current_exe()?)?;
    command.args(["mount", DATA]);
    let mut running = machine.start("mount", command)?;
    lab.wait_until("a mounted directory", START_TIMEOUT, || {
        if let Some(status) = running.process.ended()? {
            bail!("the mount ended with {status}: {}", running.last_words());
        }
        Ok(running.said().contains(READY))
    })?;
    Ok(running)
}

/// Until a signal asks it to end.
pub fn serve(directory: &Path) -> Result<()> {
    let interrupt = Interrupt::on_signals()?;
    let captured = Captured::mount(directory)?;
    println!("{READY}");
    while interrupt.pause(Duration::from_secs(60)).is_ok() {}
    captured.unmount().context("cannot unmount")
}
