//! `cargo xtask bench filter [--json]`: nanoseconds a packet in the kernel.

use std::ffi::OsString;

use anyhow::bail;

use crate::{cargo, setup, step};

pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    let Some((what, rest)) = arguments.split_first() else { bail!("say what: `cargo xtask bench filter`") };
    if what != "filter" {
        bail!("there is no benchmark {}; there is: filter", what.display());
    }
    setup::run()?;
    step("bench: the filter under BPF_PROG_TEST_RUN (as root)");
    let mut command: Vec<OsString> =
        ["run", "--quiet", "--package", "safekit-tests", "--bin", "bench-filter", "--"]
            .map(Into::into)
            .to_vec();
    command.extend_from_slice(rest);
    cargo(command)
}
