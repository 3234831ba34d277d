//! Writes what the fuzzer begins with: the packets of the table, one file each, into the folder named.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

#[derive(Parser)]
#[command(about = "The packets of the table as inputs of the fuzzer")]
struct Arguments {
    folder: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { folder } = Arguments::parse();
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (place, seed) in safekit_tests::fuzz::seeds().iter().enumerate() {
        let path = folder.join(format!("seed-{place:04}"));
        std::fs::write(&path, seed).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
