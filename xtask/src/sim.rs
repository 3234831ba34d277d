//! `cargo xtask sim --table`: events, holes and overlaps, simulated over the real engine. `--farms`: large farms.

use std::ffi::OsString;

use anyhow::bail;

use crate::{cargo, setup, step};

pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    let Some((what, rest)) = arguments.split_first() else { bail!("say what: `cargo xtask sim --table`") };
    let farms = what == "--farms";
    if what != "--table" && !farms {
        bail!("there is no {}; there are: --table [--runs N], --farms [--runs N]", what.display());
    }
    setup::run()?;
    step("sim: the engines of whole farms on a virtual clock");
    let mut command: Vec<OsString> =
        ["run", "--quiet", "--package", "safekit-tests", "--bin", "sim-table", "--"].map(Into::into).to_vec();
    if farms {
        command.push("--farms".into());
    }
    command.extend_from_slice(rest);
    cargo(command)
}
