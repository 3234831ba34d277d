//! Prints the table of events: hole and overlap, beside the figures of the reference. Or the table of large farms.

use clap::Parser;
use safekit::engine::farm::Rules;
use safekit_tests::sim::farms::{self, Farm, SIZES};
use safekit_tests::sim::scenario::{TABLE, measure, median};

#[derive(Parser)]
struct Arguments {
    /// Runs a row.
    #[arg(long, default_value_t = 100)]
    runs: u64,
    /// Large farms instead: what a kill and what heartbeats cost, against the number of nodes.
    #[arg(long)]
    farms: bool,
}

fn main() {
    let Arguments { runs, farms } = Arguments::parse();
    if farms { print_farms(runs.min(5)) } else { print_events(runs) }
}

fn print_farms(runs: u64) {
    println!(
        "a second, per node:             unicast out          multicast out        in                   engine"
    );
    println!(
        "nodes  served again, max  |  datagrams   kB/s  |  datagrams   kB/s  |  datagrams   kB/s  |  us a step  core"
    );
    for nodes in SIZES {
        let runs = if nodes > 32 { runs.min(2) } else { runs };
        let measured: Vec<Farm> = (0..runs).map(|seed| farms::measure(nodes, seed)).collect();
        let last = measured.last().expect("at least one run");
        let worst = measured.iter().map(|farm| farm.converged_ms).fold(0.0, f64::max);
        let mut times: Vec<f64> = measured.iter().map(|farm| farm.converged_ms).collect();
        let (peers, kilo) = ((nodes - 1) as f64, last.beats * last.bytes / 1000.0);
        println!(
            "{nodes:>5}  {:>5.0} ms, {worst:>4.0} ms  |  {:>9.0} {:>6.0}  |  {:>9.0} {:>6.0}  |  {:>9.0} {:>6.0}  |  {:>9.1}  {:>3.0} %",
            median(&mut times),
            last.beats * peers,
            kilo * peers,
            last.beats,
            kilo,
            last.beats * peers,
            kilo * peers,
            last.step.as_nanos() as f64 / 1000.0,
            last.step.as_secs_f64() * last.steps * 100.0,
        );
        println!(
            "       a heartbeat has {:.0} bytes, {} at most in the quiet, {} at most of all",
            last.bytes, last.bytes_quiet_max, last.bytes_max
        );
    }
}

fn print_events(runs: u64) {
    println!(
        "{:<32} {:>5} {:>5}  {:>17} {:>17}  {:>15} {:>15}",
        "", "", "", "hole", "reference", "overlap", "reference"
    );
    for row in TABLE {
        let measured: Vec<_> = (0..runs).map(|seed| measure(row, seed, Rules::ALL)).collect();
        let figures = |mut values: Vec<f64>| {
            let middle = median(&mut values);
            (middle, values.last().copied().unwrap_or_default())
        };
        let hole = figures(measured.iter().map(|run| run.hole_ms).collect());
        let overlap = figures(measured.iter().map(|run| run.overlap_ms).collect());
        println!(
            "{:<32} N={:<3} {:>3.0} %  {:>6.1} /{:>6.1} ms {:>6.1} /{:>6.1} ms  {:>5.1} /{:>5.1} ms {:>5.1} /{:>5.1} ms",
            format!("{:?}", row.event),
            row.nodes,
            row.loss * 100.0,
            hole.0,
            hole.1,
            row.hole.0,
            row.hole.1,
            overlap.0,
            overlap.1,
            row.overlap.0,
            row.overlap.1,
        );
    }
}
