//! `safekit doctor`: what is well on this node, what is not, and what to type next.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Asking, Format, fail, out};
use crate::config::{self, CONFIG_FILE_DEFAULT, Config};
use crate::engine::doctor::facts::Facts;
use crate::engine::doctor::{judge, worst};
use crate::front::control_client::Client;
use crate::front::exit::Exit;
use crate::types::doctor::{Check, CheckState};
use crate::types::snapshot::API_VERSION;
use crate::types::{Command, NodeId, Reply, Snapshot};

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// The configuration file, the same on every node.
    #[arg(long, value_name = "FILE", default_value = CONFIG_FILE_DEFAULT)]
    pub config: PathBuf,
    /// Which node of the file this is. Default: the host name.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Where the daemon's durable state lives.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/safekit")]
    pub state_dir: PathBuf,
    /// Print only what needs attention.
    #[arg(short, long)]
    pub quiet: bool,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

/// How this node is looked at; the wiring knows who does it.
pub type Gather = fn(
    config: &Config,
    me: NodeId,
    run_dir: &Path,
    state_dir: &Path,
    daemon: Option<Snapshot>,
) -> anyhow::Result<Facts>;

pub fn run(args: &DoctorArgs, gather: Gather) -> Exit {
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            super::err(&errors.to_string());
            return Exit::Failed;
        }
    };
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = args.node.as_deref().unwrap_or_else(|| host.split('.').next().unwrap_or(&host));
    let Some(me) = config.node(name) else {
        let known: Vec<&str> = config.cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        super::err(&format!(
            "error: {} has no node {name}\nnext step: safekit doctor --node NAME, of {}",
            args.config.display(),
            known.join(", ")
        ));
        return Exit::Failed;
    };
    let facts = match gather(&config, me, &args.asking.run_dir, &args.state_dir, ask_daemon(args)) {
        Ok(facts) => facts,
        Err(error) => {
            fail(error.as_ref(), "sudo safekit doctor");
            return Exit::Failed;
        }
    };
    let checks = judge(&facts);
    match args.output {
        Format::Table => out(text(&checks, args.quiet).trim_end()),
        Format::Json => out(&json(name, &checks, args.quiet)),
    }
    match worst(&checks) {
        CheckState::Ok | CheckState::Unknown => Exit::Done,
        CheckState::Warning => Exit::Degraded,
        CheckState::Fault => Exit::Failed,
    }
}

/// None where no daemon answers; that is a fact and no error.
fn ask_daemon(args: &DoctorArgs) -> Option<Snapshot> {
    match Client::connect(&args.asking.socket()).ok()?.ask(&Command::Status).ok()? {
        Reply::Status { snapshot } => Some(*snapshot),
        _ => None,
    }
}

fn shown(checks: &[Check], quiet: bool) -> impl Iterator<Item = &Check> {
    checks
        .iter()
        .filter(move |check| !quiet || matches!(check.state, CheckState::Warning | CheckState::Fault))
}

/// Grouped by what was looked at; each line begins with its state, so that it can be searched for.
fn text(checks: &[Check], quiet: bool) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    let mut about = "";
    for check in shown(checks, quiet) {
        if check.about != about {
            text += if about.is_empty() { "" } else { "\n" };
            text += &format!("{}\n", check.about);
            about = &check.about;
        }
        text += &format!("  {:<8} {:<width$}  {}\n", check.state.as_str(), check.name, check.found);
        if let Some(remedy) = &check.remedy {
            text += &format!("           {:<width$}  next: {remedy}\n", "");
        }
    }
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let (faults, warnings) = (count(CheckState::Fault), count(CheckState::Warning));
    let unknown = match count(CheckState::Unknown) {
        0 => String::new(),
        some => format!(", {some} unknown"),
    };
    text += &format!("\n{} checks: {faults} faults, {warnings} warnings{unknown}\n", checks.len());
    text
}

fn json(node: &str, checks: &[Check], quiet: bool) -> String {
    let object = serde_json::json!({
        "apiVersion": API_VERSION,
        "node": node,
        "worst": worst(checks),
        "checks": shown(checks, quiet).collect::<Vec<_>>(),
    });
    format!("{object:#}")
}
