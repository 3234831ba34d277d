//! `safekit check list|off|on|set`: what watches a module, and maintenance.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::resource::Word;
use super::{Asking, Format, err, module, out};
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::snapshot::API_VERSION;
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
    pub asking: Asking,
}

#[derive(Args, Debug)]
pub struct OnArgs {
    /// The module.
    pub module: String,
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
    pub asking: Asking,
}

pub fn run(args: &CheckArgs) -> Exit {
    let result = match &args.what {
        What::List(args) => list(args),
        What::Off(args) => {
            let for_ms = args.span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
            tell(&args.asking, &Command::Checks { module: args.module.clone(), on: false, for_ms })
        }
        What::On(args) => {
            tell(&args.asking, &Command::Checks { module: args.module.clone(), on: true, for_ms: None })
        }
        What::Set(args) => tell(
            &args.asking,
            &Command::Report {
                module: args.module.clone(),
                check: args.check.clone(),
                state: args.state.state(),
            },
        ),
    };
    result.unwrap_or_else(|error| error.report())
}

fn list(args: &ListArgs) -> Result<Exit, Error> {
    let mut client = Client::connect(&args.asking.socket())?;
    let Reply::Status { snapshot } = client.ask(&Command::Status)? else { return Err(Error::Unexpected) };
    let Some(found) = snapshot.modules.iter().find(|module| module.name == args.module) else {
        let known: Vec<&str> = snapshot.modules.iter().map(|module| module.name.as_str()).collect();
        err(&format!(
            "error: there is no module {} on this node\nnext: name one of: {}",
            args.module,
            known.join(", ")
        ));
        return Ok(Exit::Failed);
    };
    out(&match args.output {
        Format::Json => {
            format!("{:#}", serde_json::json!({ "apiVersion": API_VERSION, "checks": found.checks }))
        }
        Format::Table if found.checks.is_empty() => {
            format!("{} has no checks: add `checks:` to its configuration", found.name)
        }
        Format::Table => module::checks(found, snapshot.taken).trim_end().to_owned(),
    });
    Ok(Exit::Done)
}

fn tell(asking: &Asking, command: &Command) -> Result<Exit, Error> {
    match Client::connect(&asking.socket())?.ask(command)? {
        Reply::Accepted { .. } => Ok(Exit::Done),
        Reply::Refused { error, next_step } => {
            err(&format!("error: {error}\nnext: {next_step}"));
            Ok(Exit::Failed)
        }
        _ => Err(Error::Unexpected),
    }
}
