//! `cargo xtask bench WHAT`.

use anyhow::Result;
use clap::Subcommand;

use crate::{setup, step};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Nanoseconds a packet of the kernel's filter, net of an empty program (needs root).
    Filter {
        /// One JSON object on the standard output.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    match arguments.what {
        What::Filter { json } => filter(json),
    }
}

/// The kernel object is always built with all optimisation; the profile of what drives it does not matter.
fn filter(json: bool) -> Result<()> {
    let mut cargo = step::cargo();
    cargo.args(["run", "--quiet", "--package", "safekit-tests", "--bin", "bench-filter", "--"]);
    if json {
        cargo.arg("--json");
    }
    step::run("measuring the filter", &mut cargo)
}
