//! `cargo xtask load --scenario S [--json] …`: real daemons under thousands of connections.

use std::ffi::OsString;

use crate::{build, cargo, step};

pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    build::run()?;
    step("load: a farm in network namespaces (as root)");
    let mut command: Vec<OsString> =
        ["run", "--quiet", "--package", "safekit-tests", "--bin", "load", "--"].map(Into::into).to_vec();
    command.extend_from_slice(arguments);
    cargo(command)
}
