//! `cargo xtask build`: the kernel object (by the build script) and the binary.

use crate::{cargo, setup, step};

pub(crate) fn run() -> anyhow::Result<()> {
    setup::run()?;
    step("build: safekit, and the kernel object inside it");
    cargo(["build", "--package", "safekit"])
}
