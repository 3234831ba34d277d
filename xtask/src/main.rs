//! The project's own tool: `cargo xtask VERB`. An index of verbs; each has its file.
//!
//! It depends on nothing of the project, because it runs before the kernel object can be built.

mod bench;
mod build;
mod setup;
mod step;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tool", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Brings what a build needs and this machine lacks; does nothing when all is there.
    Setup,
    /// Sets up, then builds the kernel object and the binary that embeds it.
    Build(build::Arguments),
    /// Measures, and prints ratios and figures.
    Bench(bench::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().verb {
        Verb::Setup => setup::run(),
        Verb::Build(arguments) => build::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
    }
}
