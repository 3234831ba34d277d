//! `cargo xtask demo [ARGUMENTS]`: build, then `safekit demo ARGUMENTS`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::{build, run as execute, step};

pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    build::run()?;
    safekit_demo(arguments)
}

/// Runs the binary that was built. Builds nothing.
pub(crate) fn safekit_demo(arguments: &[OsString]) -> anyhow::Result<()> {
    let binary = binary();
    if !is_root() {
        let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        bail!("the demo needs root; it is built, so now: sudo {} demo {}", binary.display(), words.join(" "));
    }
    step(&format!("{} demo", binary.display()));
    let mut words = vec![OsString::from("demo")];
    words.extend_from_slice(arguments);
    execute(&binary.to_string_lossy(), words)
}

pub(crate) fn binary() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("debug/safekit")
}

pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

fn is_root() -> bool {
    // The owner of /proc/self is whom the kernel takes us for.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
