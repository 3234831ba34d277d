//! A farm of real daemons under load: plays one scenario and says what came of it. Exit code 1: a promise was broken.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use safekit::front::demo::interrupt::Interrupt;
use safekit_tests::lab;
use safekit_tests::load::options::Options;
use safekit_tests::load::{self, Programs, server};

#[derive(Parser)]
#[command(name = "load", args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    options: Option<Options>,
}

#[derive(Subcommand)]
enum Verb {
    /// The application of a node.
    #[command(hide = true)]
    Serve(server::ServeArgs),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (arguments.verb, arguments.options) {
        (Some(Verb::Serve(serve)), _) => server::run(&serve).map(|()| true),
        (None, Some(options)) => play(&options),
        (None, None) => Err(anyhow::anyhow!("say which --scenario")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn play(options: &Options) -> anyhow::Result<bool> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "this needs root for namespaces and packet filters"
    );
    let own = std::env::current_exe()?;
    let beside = own.parent().context("a program lies in a directory")?.join("safekit");
    let safekit: PathBuf = if beside.is_file() { beside } else { lab::binary()? };
    let interrupt = Interrupt::on_signals()?;
    let report = load::run(options, &Programs { safekit, server: own }, &interrupt)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.summary());
    }
    Ok(report.ok)
}
