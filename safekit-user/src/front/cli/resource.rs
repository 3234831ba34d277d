//! `safekit resource list|get|set`: what checks and rules know of a module, and its history.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::place::{Told, Where, of_module, tell_each};
use super::status::{plain_table, span, trimmed};
use super::{Asking, Format};
use crate::front::control_client::Error;
use crate::front::exit::Exit;
use crate::types::command::ResourceChange;
use crate::types::module::{ResourceInfo, ResourceState};
use crate::types::{Command, Instant, ModuleInfo, Reply};

#[derive(Args, Debug)]
pub struct ResourceArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand, Debug)]
pub enum What {
    /// List all resources of a module.
    List(ListArgs),
    /// Show one resource with its history.
    Get(GetArgs),
    /// Say what a resource is; a check of the same name says otherwise at its next change.
    Set(SetArgs),
}

#[derive(Args, Debug)]
pub struct ListArgs {
    /// The module.
    pub module: String,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args, Debug)]
pub struct GetArgs {
    /// The module.
    pub module: String,
    /// Its class and name, as `resource list` has them: `tcp.http`.
    pub name: String,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args, Debug)]
pub struct SetArgs {
    /// The module.
    pub module: String,
    /// Its class and name: `custom.backup`.
    pub name: String,
    /// What it is from now on.
    #[arg(value_enum)]
    pub state: Word,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args, Debug)]
pub struct How {
    #[command(flatten)]
    pub place: Where,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Word {
    Up,
    Down,
}

impl Word {
    pub const fn state(self) -> ResourceState {
        match self {
            Self::Up => ResourceState::Up,
            Self::Down => ResourceState::Down,
        }
    }
}

pub fn run(args: &ResourceArgs) -> Exit {
    let result = match &args.what {
        What::List(args) => list(args),
        What::Get(args) => {
            one(&args.how, &Command::Resource { module: args.module.clone(), name: args.name.clone() })
        }
        What::Set(args) => one(
            &args.how,
            &Command::SetResource {
                module: args.module.clone(),
                name: args.name.clone(),
                state: args.state.state(),
            },
        ),
    };
    result.unwrap_or_else(|error| error.report())
}

fn list(args: &ListArgs) -> Result<Exit, Error> {
    let How { place, output, asking } = &args.how;
    of_module(asking, place, *output, &args.module, |module, taken| {
        (listed(module, taken), json!({ "resources": module.resources }))
    })
}

fn listed(module: &ModuleInfo, taken: Instant) -> String {
    if module.resources.is_empty() {
        return format!("{} has no resources: it has no checks, and nobody has set one", module.name);
    }
    let mut table = plain_table(&["RESOURCE", "STATE", "SINCE", "BY"]);
    for resource in &module.resources {
        let since = span(taken.since(resource.since));
        table.add_row([resource.name.as_str(), resource.state.word(), &since, who(&resource.by)]);
    }
    trimmed(&table)
}

fn one(How { place, output, asking }: &How, command: &Command) -> Result<Exit, Error> {
    tell_each(asking, place, *output, command, |reply| match reply {
        Reply::Resource { resource, history, taken } => Ok(Told {
            text: told(&resource, &history, taken),
            value: json!({ "resource": resource, "history": history }),
            exit: Exit::Done,
        }),
        _ => Err(Error::Unexpected),
    })
}

fn told(resource: &ResourceInfo, history: &[ResourceChange], now: Instant) -> String {
    let mut lines = vec![format!(
        "{}: {} since {}, by {}",
        resource.name,
        resource.state.word(),
        span(now.since(resource.since)),
        who(&resource.by)
    )];
    let changes = history.iter().rev();
    lines.extend(changes.map(|change| {
        format!("  {} ago: {}, by {}", span(now.since(change.at)), change.state.word(), who(&change.by))
    }));
    lines.join("\n")
}

/// A check that was switched off has said nothing.
fn who(by: &str) -> &str {
    by.trim_end_matches(": ")
}
