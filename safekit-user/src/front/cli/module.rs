//! `safekit module explain`, and what `safekit status` says of modules.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::place::{Told, Where, tell_each};
use super::status::{plain_table, span, trimmed};
use super::{Asking, Format};
use crate::front::control_client::Error;
use crate::front::exit::Exit;
use crate::types::command::RuleState;
use crate::types::module::ModuleInfo;
use crate::types::{Command, Instant, Reply, Snapshot};

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
    #[command(flatten)]
    pub place: Where,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

pub fn module(args: &ModuleArgs) -> Exit {
    let What::Explain(args) = &args.what;
    match explain(args) {
        Ok(exit) => exit,
        Err(error) => error.report(),
    }
}

fn explain(args: &ExplainArgs) -> Result<Exit, Error> {
    let command = Command::Rules { module: args.module.clone() };
    tell_each(&args.asking, &args.place, args.output, &command, |reply| match reply {
        Reply::Rules { rules } => {
            Ok(Told { text: explained(&rules), value: json!({ "rules": rules }), exit: Exit::Done })
        }
        _ => Err(Error::Unexpected),
    })
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
        let mut causes = module.causes.clone();
        // A start that failed again and again for one reason.
        causes.dedup();
        text += &format!("  because {}\n", causes.join("; because "));
    }
    if let Some(next_step) = &module.next_step {
        text += &format!("  next: {next_step}\n");
    }
    if module.loops > 0 {
        text += &format!(
            "  automatic actions taken: {}, at most {} are allowed\n",
            module.loops, module.loops_max
        );
    }
    if let Some(maintenance) = module.maintenance {
        let end = maintenance
            .until
            .map_or_else(String::new, |until| format!(" for another {}", span(until.since(snapshot.taken))));
        text += &format!("  checks are off{end}: `safekit check on {}`\n", module.name);
    }
    text += &super::mirror::brief(snapshot, &module.name);
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

pub(super) fn remote(remote: &crate::types::module::RemoteModule) -> String {
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
