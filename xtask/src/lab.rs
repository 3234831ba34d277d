//! `cargo xtask lab clean`: removes namespaces, mounts and processes of demos and tests that were killed.

use std::ffi::OsString;

use anyhow::bail;

use crate::{build, demo};

pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    if arguments != ["clean"] {
        bail!("say what: `cargo xtask lab clean`");
    }
    if !demo::binary().is_file() {
        build::run()?;
    }
    demo::safekit_demo(arguments)
}
