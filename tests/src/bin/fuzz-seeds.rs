//! Writes what the fuzzer begins with, one file each, into the folder named: the packets of the table, what nodes say.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Inputs that a fuzz target begins with")]
struct Arguments {
    /// As in `fuzz/fuzz_targets`; one without seeds begins with nothing.
    #[arg(long, default_value = "packet")]
    target: String,
    folder: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { target, folder } = Arguments::parse();
    let seeds = match target.as_str() {
        "packet" => safekit_tests::fuzz::seeds(),
        "link" => safekit_tests::link::seeds(),
        "beat" => safekit_tests::beat::seeds(),
        "control" => safekit_tests::control::seeds(),
        "replica" => safekit_tests::twin::seeds(),
        _ => Vec::new(),
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (place, seed) in seeds.iter().enumerate() {
        let path = folder.join(format!("seed-{place:04}"));
        std::fs::write(&path, seed).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
