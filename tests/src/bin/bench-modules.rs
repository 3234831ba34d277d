//! Many modules on one node: see [`safekit_tests::bench::modules`].

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use safekit_tests::bench::modules::{Amount, Report, measure};
use safekit_tests::bench::{Spread, application};

#[derive(Parser)]
#[command(about = "Many light modules on one node: start, idle, memory, deaths")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Seconds instead of minutes: four modules, one round of each.
    #[arg(long)]
    quick: bool,
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=99))]
    modules: u16,
    /// Of the checks, in seconds.
    #[arg(long, default_value_t = 10)]
    interval: u32,
}

/// The applications are this program, too.
#[derive(Subcommand)]
enum Part {
    #[command(hide = true)]
    Application { name: String, port: u16, pid_file: PathBuf },
    #[command(hide = true)]
    Accept { name: String },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.part {
        Some(Part::Application { name, port, pid_file }) => return application::start(name, *port, pid_file),
        Some(Part::Accept { .. }) => return application::accept(),
        None => {}
    }
    ensure!(rustix::process::geteuid().is_root(), "this needs root for namespaces");
    let (modules, interval_seconds) = (arguments.modules, arguments.interval);
    let amount = if arguments.quick {
        Amount { modules: 4, interval_seconds, starts: 1, windows: 1, window_seconds: 2, deaths: 2 }
    } else {
        Amount { modules, interval_seconds, starts: 5, windows: 5, window_seconds: 20, deaths: 32 }
    };
    let report = measure(amount)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&report));
    }
    Ok(())
}

fn table(report: &Report) -> String {
    let Amount { modules, interval_seconds, .. } = report.amount;
    let line = |what: &str, it: Spread, unit: &str| {
        format!("| {what} | {:.2} {unit} | {:.2} to {:.2} |\n", it.median, it.min, it.max)
    };
    let mut text = format!(
        "{modules} light modules, each with a process and two checks every {interval_seconds} s. {}, {}, load {}\n\n\
         | | median | range |\n|---|---:|---:|\n",
        report.machine.processor, report.machine.build, report.machine.load_average
    );
    for (what, spread, unit) in [
        ("start of the daemon to all Ready", report.start_ms, "ms"),
        ("… with one module", report.start_of_one_ms, "ms"),
        ("idle, of one processor", report.idle_percent, "%"),
        ("… with one module", report.idle_percent_of_one, "%"),
        ("the whole machine meanwhile", report.machine_percent, "%"),
        ("death of a process to its module leaving Ready", report.detected_ms, "ms"),
        ("… to its successor accepting connections", report.restarted_ms, "ms"),
        ("… to Ready", report.ready_ms, "ms"),
    ] {
        text.push_str(&line(what, spread, unit));
    }
    let memory = report.memory;
    text.push_str(&format!(
        "| memory (Pss) | {:.1} MiB | {:.1} with one module |\n\n",
        memory.proportional, memory.proportional_of_one
    ));
    for goal in &report.goals {
        let word = if goal.met { "met" } else { "MISSED" };
        text.push_str(&format!("{word}: {}: {:.2}, at most {}\n", goal.goal, goal.measured, goal.bar));
    }
    text
}
