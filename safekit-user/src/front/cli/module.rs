//! `safekit start`, `stop`, `restart`, `stopstart`, `forcestop`: the verbs of a module, and `module explain`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::status::{plain_table, span, trimmed};
use super::{Asking, Format, err, out};
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::command::RuleState;
use crate::types::module::{ModuleInfo, Role, Status, Verb};
use crate::types::snapshot::API_VERSION;
use crate::types::{Command, Instant, Reply, Snapshot};

#[derive(Args, Debug)]
pub struct VerbArgs {
    /// The module, on this node.
    pub module: String,
    /// Give up waiting after so long; the module goes on.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = crate::config::duration::parse)]
    pub timeout: Duration,
    /// Return when the daemon has taken the command.
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Args, Debug)]
pub struct ModuleArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand, Debug)]
pub enum What {
    /// Which failover rules hold on this node, and why.
    Explain(ExplainArgs),
}

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The module.
    pub module: String,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Asks, then waits until the module has come to rest.
pub fn run(args: &VerbArgs, verb: Verb) -> Exit {
    match ask(args, verb) {
        Ok(exit) => exit,
        Err(error) => error.report(),
    }
}

fn ask(args: &VerbArgs, verb: Verb) -> Result<Exit, Error> {
    let mut client = Client::connect(&args.asking.socket())?;
    match client.ask(&Command::Module { module: args.module.clone(), verb })? {
        Reply::Accepted { .. } if args.no_wait => Ok(Exit::Done),
        Reply::Accepted { at } => wait(&mut client, args, verb, at),
        Reply::Refused { error, next_step } => {
            err(&format!("error: {error}\nnext: {next_step}"));
            Ok(Exit::Failed)
        }
        _ => Err(Error::Unexpected),
    }
}

fn wait(client: &mut Client, args: &VerbArgs, verb: Verb, accepted: Instant) -> Result<Exit, Error> {
    let deadline = crate::driver::clock::now() + args.timeout;
    client.send(&Command::Watch)?;
    let mut last = None;
    loop {
        let Reply::Status { snapshot } = client.receive(SILENCE_MAX)? else { return Err(Error::Unexpected) };
        let module = snapshot.modules.iter().find(|module| module.name == args.module);
        let Some(module) = module.filter(|_| snapshot.taken > accepted) else { continue };
        let state = module.state;
        if last.replace(state) != Some(state) {
            out(&format!("{}: {state}{}", module.name, because(module)));
        }
        if let Some(exit) = outcome(module, verb) {
            return Ok(exit);
        }
        if crate::driver::clock::now() >= deadline {
            err(&format!(
                "error: {} is {state} after {}\nnext: `safekit status {}`, or wait longer with --timeout",
                module.name,
                span(args.timeout),
                module.name
            ));
            return Ok(Exit::Failed);
        }
    }
}

/// None while scripts run.
fn outcome(module: &ModuleInfo, verb: Verb) -> Option<Exit> {
    let wants_down = matches!(verb, Verb::Stop | Verb::Forcestop);
    match (module.state.role, module.state.status) {
        (_, Status::Transient) => None,
        (Role::Stop, Status::NotReady | Status::Ready) if wants_down => Some(Exit::Done),
        (Role::Up | Role::Alone | Role::Prim | Role::Second, Status::Ready) if !wants_down => {
            Some(Exit::Done)
        }
        // Blocked, or given up: it does not go on by itself at once.
        (Role::Stop | Role::Wait, Status::NotReady | Status::Ready) if !wants_down => {
            if let Some(next_step) = &module.next_step {
                err(&format!("next: {next_step}"));
            }
            Some(Exit::Failed)
        }
        (Role::Stop | Role::Wait | Role::Up | Role::Alone | Role::Prim | Role::Second, _) => None,
    }
}

fn because(module: &ModuleInfo) -> String {
    match module.causes.first() {
        Some(cause) => format!(", because {cause}"),
        None => String::new(),
    }
}

pub fn module(args: &ModuleArgs) -> Exit {
    let What::Explain(args) = &args.what;
    match explain(args) {
        Ok(exit) => exit,
        Err(error) => error.report(),
    }
}

fn explain(args: &ExplainArgs) -> Result<Exit, Error> {
    let mut client = Client::connect(&args.asking.socket())?;
    match client.ask(&Command::Rules { module: args.module.clone() })? {
        Reply::Rules { rules } => {
            out(&match args.output {
                Format::Table => explained(&rules),
                Format::Json => {
                    format!("{:#}", serde_json::json!({ "apiVersion": API_VERSION, "rules": rules }))
                }
            });
            Ok(Exit::Done)
        }
        Reply::Refused { error, next_step } => {
            err(&format!("error: {error}\nnext: {next_step}"));
            Ok(Exit::Failed)
        }
        _ => Err(Error::Unexpected),
    }
}

fn explained(rules: &[RuleState]) -> String {
    let mut table = plain_table(&["RULE", "HOLDS", "ACTION", "WHEN", "BECAUSE"]);
    for rule in rules {
        let holds = match rule.holds {
            Some(true) => "yes",
            Some(false) => "no",
            None => "undecided",
        };
        table.add_row([&rule.name, holds, rule.action.word(), &rule.when, &rule.because.join(", ")]);
    }
    trimmed(&table)
}

/// The part of `safekit status` about modules.
pub fn section(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for module in &snapshot.modules {
        text += &one(module, snapshot);
        text += "\n";
    }
    text
}

fn one(module: &ModuleInfo, snapshot: &Snapshot) -> String {
    let age = span(snapshot.taken.since(module.since));
    let mut text = format!("MODULE {}, {}: {} since {age}", module.name, module.kind, module.state);
    if let Some(share) = module.share.filter(|share| *share < 100) {
        text += &format!(", {share} % of its share of traffic");
    }
    text += "\n";
    if !module.causes.is_empty() {
        text += &format!("  because {}\n", module.causes.join("; because "));
    }
    if let Some(next_step) = &module.next_step {
        text += &format!("  next: {next_step}\n");
    }
    if module.loops > 0 {
        text += &format!("  {} of at most {} automatic actions taken\n", module.loops, module.loops_max);
    }
    if let Some(maintenance) = module.maintenance {
        let end = maintenance
            .until
            .map_or_else(String::new, |until| format!(" for another {}", span(until.since(snapshot.taken))));
        text += &format!("  checks are off{end}: `safekit check on {}`\n", module.name);
    }
    text += &checks(module, snapshot.taken);
    let remotes: Vec<String> = module.remotes.iter().map(remote).collect();
    if !remotes.is_empty() {
        text += &format!("  elsewhere: {}\n", remotes.join(", "));
    }
    text
}

pub fn checks(module: &ModuleInfo, taken: Instant) -> String {
    if module.checks.is_empty() {
        return String::new();
    }
    let mut table = plain_table(&["  CHECK", "KIND", "STATE", "SINCE", "ACTION", "LAST OUTPUT"]);
    for check in &module.checks {
        let state = if check.active { check.state.word() } else { "off" };
        let since = span(taken.since(check.since));
        table.add_row([
            &format!("  {}", check.name),
            check.kind.as_str(),
            state,
            &since,
            check.action.word(),
            check.output.lines().next().unwrap_or_default(),
        ]);
    }
    format!("{}\n", trimmed(&table))
}

fn remote(remote: &crate::types::module::RemoteModule) -> String {
    match (remote.state, remote.heard_ms) {
        (Some(state), Some(ms)) if ms < FRESH_MS => format!("{} {state}", remote.node),
        (Some(state), Some(ms)) => {
            format!("{} unknown ({state} {} ago)", remote.node, span(Duration::from_millis(ms)))
        }
        (Some(_) | None, _) => format!("{} unknown", remote.node),
    }
}

/// A node says every second how its modules are.
const FRESH_MS: u64 = 3_000;
