//! Prints the table of events: hole and overlap, beside the figures of the reference.

use clap::Parser;
use safekit::engine::farm::Rules;
use safekit_tests::sim::scenario::{TABLE, measure, median};

#[derive(Parser)]
struct Arguments {
    /// Runs a row.
    #[arg(long, default_value_t = 100)]
    runs: u64,
}

fn main() {
    let Arguments { runs } = Arguments::parse();
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
