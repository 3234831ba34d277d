//! A replicated directory against the directory as it is and its rivals: see [`safekit_tests::bench::replication`].

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use safekit::front::demo::interrupt::Interrupt;
use safekit_tests::bench::page::filled;
use safekit_tests::bench::replication::{Amount, files, measure, mounted, page, subject};

#[derive(Parser)]
#[command(
    about = "A replicated directory against the plain one, GlusterFS, cp and rsync",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// One JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Two minutes instead of 25: one round of everything, small.
    #[arg(long)]
    quick: bool,
    /// Put the figures into this results page, between its marks.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Interleaved rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// On the disk to measure; it has to keep trusted extended attributes [default: beside this program]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// This program on one of the machines.
#[derive(Subcommand)]
enum Part {
    #[command(hide = true)]
    Mount { directory: PathBuf },
    #[command(hide = true, subcommand)]
    Files(Files),
}

#[derive(Subcommand)]
enum Files {
    Create { directory: PathBuf, most: u64, seconds: f64 },
    Delete { directory: PathBuf },
    Change { file: PathBuf, pieces: u64 },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.part {
        Some(Part::Mount { directory }) => mounted::serve(directory),
        Some(Part::Files(files)) => use_files(files),
        None => bench(&arguments),
    }
}

fn use_files(files: &Files) -> Result<()> {
    let done = match files {
        Files::Create { directory, most, seconds } => {
            files::create(directory, *most, Duration::try_from_secs_f64(*seconds)?)?
        }
        Files::Delete { directory } => files::delete(directory)?,
        Files::Change { file, pieces } => files::change(file, *pieces)?,
    };
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}

fn bench(arguments: &Arguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "this needs root for namespaces and mounts");
    let own = std::env::current_exe()?;
    let beside = own.parent().context("a program lies in a directory")?;
    let directory = arguments.directory.as_deref().unwrap_or(beside);
    let amount = if arguments.quick { Amount::quick() } else { Amount::full(arguments.rounds) };
    let report = measure(directory, &subject::ALL, amount, &Interrupt::on_signals()?)?;
    if let Some(path) = &arguments.write {
        let old = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        std::fs::write(path, filled(&old, page::MARK, &page::markdown(&report))?)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", page::markdown(&report));
    }
    Ok(())
}
