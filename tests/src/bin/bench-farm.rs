//! Our farm against what a user would pick instead: see [`safekit_tests::bench`].

use anyhow::{Context as _, Result};
use clap::Parser;
use safekit_tests::bench::report::{Machine, Report};
use safekit_tests::bench::site::Web;
use safekit_tests::bench::{cases, dropping, failover, page};

#[derive(Parser)]
#[command(about = "The farm against direct access, HAProxy, nginx, xt_cluster and keepalived")]
struct Arguments {
    /// One JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// A few seconds, no packages: direct access and ours, one round.
    #[arg(long)]
    quick: bool,
    /// Put the figures into this results page, between its marks.
    #[arg(long, value_name = "FILE")]
    write: Option<std::path::PathBuf>,
    /// Interleaved rounds; the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

/// Rounds of kills: each is half a minute of machines that start and end.
const KILLS_MAX: usize = 5;
/// Foreign frames a round and contestant.
const FRAMES: u32 = 400_000;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let report = if arguments.quick { quick()? } else { full(arguments.rounds)? };
    if let Some(path) = &arguments.write {
        let old = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        std::fs::write(path, page::filled(&old, page::MARK, &page::markdown(&report))?)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", page::markdown(&report));
    }
    Ok(())
}

fn quick() -> Result<Report> {
    let amount = cases::Amount { rounds: 1, keep_alive: 20_000, fresh: 4_000, one_by_one: 300 };
    let requests = cases::measure(&cases::OURS_AND_DIRECT, Web::Demo, amount)?;
    Ok(Report::of(Machine::this(), amount, Vec::new(), requests, Vec::new()))
}

fn full(rounds: usize) -> Result<Report> {
    let amount = cases::Amount { rounds, keep_alive: 150_000, fresh: 25_000, one_by_one: 2_000 };
    eprintln!("==> foreign frames: {rounds} rounds");
    let frames = dropping::measure(rounds, FRAMES)?;
    let requests = cases::measure(&cases::ALL, Web::Nginx, amount)?;
    let kills = failover::measure(&failover::CONTESTANTS, rounds.min(KILLS_MAX))?;
    Ok(Report::of(Machine::this(), amount, frames, requests, kills))
}
