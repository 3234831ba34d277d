//! `cargo xtask fuzz [--target NAME] [--minutes N]`: coverage-guided fuzzing, on the host.
//!
//! The sanitizers want unstable flags, which the pinned compiler takes when told so: there is no second toolchain.

use std::process::Command;

use anyhow::{Context, bail};

use crate::{cargo, setup, step};

const CARGO_FUZZ_VERSION: &str = "0.13.2";
/// What the fuzzer finds is kept here from run to run; `fuzz/corpus` is the small part that tests replay.
const FOUND: &str = "target/fuzz/corpus";
const KEPT: &str = "fuzz/corpus";
/// Where the fuzzer puts an input that broke something, by target.
const ARTIFACTS: &str = "fuzz/artifacts";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to look at: `packet` is parser and verdict of the filter, `beat`, `link` and `control` what is heard of nodes
    /// and users, `rules` the language of failover rules, `replica` what a node hears of the other one of a mirror, and its
    /// record on the disk.
    #[arg(long, default_value = "packet")]
    target: String,
    /// How long to look.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    minutes: u32,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { target, minutes } = arguments;
    setup::run()?;
    cargo_fuzz()?;
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.args(["fuzz", "run", "--fuzz-dir", "fuzz", "--target-dir", "target/fuzz", target]);
    // That of the packets came first, and has no name.
    let found = if target == "packet" { FOUND.to_owned() } else { format!("{FOUND}-{target}") };
    step("fuzz: what is known of the target as seeds");
    let seeds = ["run", "--quiet", "--package", "safekit-tests", "--bin", "fuzz-seeds", "--"];
    cargo(seeds.into_iter().chain(["--target", target, &found]))?;
    command.arg(found);
    let kept = format!("{KEPT}/{target}");
    if std::path::Path::new(&kept).is_dir() {
        command.arg(kept);
    }
    step(&format!("fuzz: {target}, {minutes} minutes"));
    let seconds = format!("-max_total_time={}", u64::from(*minutes) * 60);
    command.args(["--", &seconds, "-timeout=10", "-max_len=4096", "-print_final_stats=1"]);
    let before = artifacts(target);
    let status = command.env("RUSTC_BOOTSTRAP", "1").status().context("cannot run cargo fuzz")?;
    match (artifacts(target) - before, status.success()) {
        (0, true) => Ok(()),
        (0, false) => bail!("the fuzzer did not run to its end ({status})"),
        (found, _) => bail!("the fuzzer has found something: {found} inputs in {ARTIFACTS}/{target}"),
    }
}

fn artifacts(target: &str) -> usize {
    std::fs::read_dir(format!("{ARTIFACTS}/{target}")).map_or(0, Iterator::count)
}

/// Brought by the first run of this verb, since nothing else needs it.
fn cargo_fuzz() -> anyhow::Result<()> {
    let version = Command::new("cargo").args(["fuzz", "--version"]).output();
    let expected = format!("cargo-fuzz {CARGO_FUZZ_VERSION}");
    if version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == expected) {
        return Ok(());
    }
    step(&format!("fuzz: cargo-fuzz {CARGO_FUZZ_VERSION} (compiles for about a minute)"));
    cargo(["install", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION, "--locked", "--force"])
}
