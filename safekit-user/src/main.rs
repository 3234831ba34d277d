//! The binary `safekit`: daemon and command line in one. This file only wires.

use std::process::ExitCode;

use clap::Parser;
use safekit::front::cli::{self, Cli, Verb};
use safekit::front::demo;
use safekit::types::module::Verb::{Forcestop, Restart, Start, Stop, Stopstart};

mod life;

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    if !matches!(verb, Verb::Daemon(_) | Verb::Demo(_) | Verb::DemoWeb(_) | Verb::Replica(_)) {
        end_with_the_pipe();
    }
    let exit = match verb {
        Verb::Daemon(args) => life::daemon(&args),
        Verb::Status(args) => cli::status::run(&args),
        Verb::Wait(args) => cli::wait::run(&args),
        Verb::Prim(args) => cli::mirror::prim(&args),
        Verb::Second(args) => cli::mirror::second(&args),
        Verb::Mirror(args) => cli::mirror::run(&args),
        Verb::Start(args) => cli::verb::run(&args, Start),
        Verb::Stop(args) => cli::verb::run(&args, Stop),
        Verb::Restart(args) => cli::verb::run(&args, Restart),
        Verb::Stopstart(args) => cli::verb::run(&args, Stopstart),
        Verb::Forcestop(args) => cli::verb::run(&args, Forcestop),
        Verb::Check(args) => cli::check::run(&args),
        Verb::Logs(args) => cli::logs::run(&args),
        Verb::Resource(args) => cli::resource::run(&args),
        Verb::Module(args) => cli::module::module(&args),
        Verb::Drain(args) => cli::adjust::drain(&args),
        Verb::Undrain(args) => cli::adjust::undrain(&args),
        Verb::Weight(args) => cli::adjust::weight(&args),
        Verb::Events(args) => cli::events::events(&args, life::leftover),
        Verb::Audit(args) => cli::events::audit(&args, life::leftover),
        Verb::Reload(args) => cli::reload::run(&args),
        Verb::Farm(args) => cli::farm::run(&args),
        Verb::Doctor(args) => cli::doctor::run(&args, life::facts),
        Verb::Snapshot(args) => cli::snapshot::run(&args, &life::bundle()),
        Verb::Config(args) => cli::config::run(&args),
        Verb::Keygen(args) => cli::keygen::run(&args),
        Verb::Completions(args) => cli::manual::completions(&args),
        Verb::Man(args) => cli::manual::man(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::DemoWeb(args) => demo::web::run(&args),
        Verb::Replica(args) => life::replica(&args),
    };
    exit.into()
}

/// `safekit status | head -1` ends quietly, as other commands do; a daemon must not end that way.
fn end_with_the_pipe() {
    // SAFETY: the default action of a signal, set before there is any other thread.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
