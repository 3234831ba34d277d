//! The binary `safekit`: daemon and command line in one. This file only wires.

use std::process::ExitCode;

use clap::Parser;
use safekit::front::cli::{self, Cli, Verb};
use safekit::front::demo;

mod life;

fn main() -> ExitCode {
    let exit = match Cli::parse().verb {
        Verb::Daemon(args) => life::daemon(&args),
        Verb::Status(args) => cli::status::run(&args),
        Verb::Wait(args) => cli::wait::run(&args),
        Verb::Farm(args) => cli::farm::run(&args),
        Verb::Config(args) => cli::config::run(&args),
        Verb::Keygen(args) => cli::keygen::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::DemoWeb(args) => demo::web::run(&args),
    };
    exit.into()
}
