//! `cargo xtask VERB`: the project's own tool. This file is the index; each verb has its file.
//!
//! It needs nothing but the toolchain, so that it can bring everything else.

mod bench;
mod build;
mod demo;
mod fuzz;
mod lab;
mod load;
mod setup;
mod sim;
mod test;

use std::ffi::{OsStr, OsString};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring this machine everything that the build and the tests need. Does nothing when all is there.
    Setup,
    /// Build the kernel object and the binary `safekit`.
    Build,
    /// Build, then show a whole farm on this machine.
    Demo(Rest),
    /// Build, then run all tests.
    Test(Rest),
    /// Measure: `bench filter [--json]`, `bench farm [--json] [--quick] [--write]`, `bench modules [--json] [--quick]`,
    /// `bench replication [--json] [--quick] [--write]`.
    Bench(Rest),
    /// Feed parsers what a coverage-guided fuzzer thinks of: `fuzz [--target packet|beat|link|control|rules] [--minutes N]`.
    Fuzz(fuzz::Arguments),
    /// Simulate: `sim --table` reproduces the table of events, holes and overlaps.
    Sim(Rest),
    /// Real daemons under load: `load --scenario kill [--json]`; `load --help` lists the scenarios.
    Load(Rest),
    /// Network namespaces of demo and tests: `lab clean` removes what a killed run left behind.
    Lab(Rest),
}

/// Handed on as it is.
#[derive(clap::Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Setup => setup::run(),
        Verb::Build => build::run(),
        Verb::Demo(rest) => demo::run(&rest.arguments),
        Verb::Test(rest) => test::run(&rest.arguments),
        Verb::Bench(rest) => bench::run(&rest.arguments),
        Verb::Fuzz(arguments) => fuzz::run(&arguments),
        Verb::Sim(rest) => sim::run(&rest.arguments),
        Verb::Load(rest) => load::run(&rest.arguments),
        Verb::Lab(rest) => lab::run(&rest.arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says a step, so that nobody wonders what takes so long.
fn step(text: &str) {
    eprintln!("==> {text}");
}

/// Runs a program with our terminal and wants it to succeed.
fn run<I: IntoIterator<Item: AsRef<OsStr>>>(program: &str, arguments: I) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    let status = command.args(arguments).status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} failed ({status})");
    }
    Ok(())
}

/// The cargo that runs us.
fn cargo<I: IntoIterator<Item: AsRef<OsStr>>>(arguments: I) -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    run(&cargo, arguments)
}
