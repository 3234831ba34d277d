//! `safekit check list|off|on|set`: what watches a module, and maintenance.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::place::{Told, Where, of_module, tell_each};
use super::resource::Word;
use super::{Asking, Format, module, status};
use crate::front::control_client::Error;
use crate::front::exit::Exit;
use crate::types::{Command, Reply};

#[derive(Args, Debug)]
pub struct CheckArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand, Debug)]
pub enum What {
    /// List the checks of a module, and what they found last.
    List(ListArgs),
    /// Begin maintenance: nothing is checked, and nothing is restarted. Remembered over restarts.
    Off(OffArgs),
    /// End maintenance: checks and their actions are there again.
    On(OnArgs),
    /// Report what the program of a custom check with `reports: true` has found.
    Set(SetArgs),
}

#[derive(Args, Debug)]
pub struct ListArgs {
    /// The module.
    pub module: String,
    #[command(flatten)]
    pub place: Where,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Args, Debug)]
pub struct OffArgs {
    /// The module.
    pub module: String,
    /// Switch them on again by themselves after so long.
    #[arg(long = "for", value_name = "DURATION", value_parser = crate::config::duration::parse)]
    pub span: Option<Duration>,
    #[command(flatten)]
    pub place: Where,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Args, Debug)]
pub struct OnArgs {
    /// The module.
    pub module: String,
    #[command(flatten)]
    pub place: Where,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Args, Debug)]
pub struct SetArgs {
    /// The module.
    pub module: String,
    /// Its name, without `custom.`.
    pub check: String,
    /// What it is found to be.
    #[arg(value_enum)]
    pub state: Word,
    #[command(flatten)]
    pub place: Where,
    #[command(flatten)]
    pub asking: Asking,
}

pub fn run(args: &CheckArgs) -> Exit {
    let result = match &args.what {
        What::List(args) => list(args),
        What::Off(args) => {
            let for_ms = args.span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
            let command = Command::Checks { module: args.module.clone(), on: false, for_ms };
            let text = match args.span {
                Some(time) => format!("the checks of {} are off for {}", args.module, status::span(time)),
                None => format!("the checks of {0} are off until `safekit check on {0}`", args.module),
            };
            tell(&args.asking, &args.place, &command, &text)
        }
        What::On(args) => {
            let command = Command::Checks { module: args.module.clone(), on: true, for_ms: None };
            tell(&args.asking, &args.place, &command, &format!("the checks of {} are on", args.module))
        }
        What::Set(args) => {
            let (module, check, state) = (args.module.clone(), args.check.clone(), args.state.state());
            let text = format!("custom.{check} of {module} is reported {}", state.word());
            tell(&args.asking, &args.place, &Command::Report { module, check, state }, &text)
        }
    };
    result.unwrap_or_else(|error| error.report())
}

fn list(args: &ListArgs) -> Result<Exit, Error> {
    of_module(&args.asking, &args.place, args.output, &args.module, |module, taken| {
        let text = if module.checks.is_empty() {
            format!("{} has no checks: add `checks:` to its configuration", module.name)
        } else {
            module::checks(module, taken).trim_end().to_owned()
        };
        (text, json!({ "checks": module.checks }))
    })
}

/// `done` is said when a daemon has taken it.
fn tell(asking: &Asking, place: &Where, command: &Command, done: &str) -> Result<Exit, Error> {
    tell_each(asking, place, Format::Table, command, |reply| match reply {
        Reply::Accepted { .. } => {
            Ok(Told { text: done.to_owned(), value: json!({ "done": done }), exit: Exit::Done })
        }
        _ => Err(Error::Unexpected),
    })
}
