//! The binary: verbs of the command line to their functions.

use clap::Parser;
use safekit::front::cli::{config, keygen};
use safekit::front::exit::Exit;

/// High availability for ordinary Linux servers
#[derive(Parser)]
#[command(name = "safekit", version)]
enum Cli {
    /// Configuration files
    Config(config::Args),
    /// Make the key of a cluster
    Keygen(keygen::Args),
}

fn main() -> Exit {
    match Cli::parse() {
        Cli::Config(args) => config::run(&args),
        Cli::Keygen(args) => keygen::run(&args),
    }
}
