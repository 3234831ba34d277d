//! `cargo xtask build`.

use anyhow::Result;

use crate::{setup, step};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Optimised for the field, rather than for quick turns.
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let mut cargo = step::cargo();
    cargo.args(["build", "--package", "safekit"]);
    if arguments.release {
        cargo.arg("--release");
    }
    step::run("building the kernel object and the binary (the first time takes a few minutes)", &mut cargo)
}
