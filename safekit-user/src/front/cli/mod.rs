//! The command line: a file per verb.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub mod adjust;
pub mod check;
pub mod config;
pub mod doctor;
pub mod events;
pub mod farm;
pub mod keygen;
pub mod logs;
pub mod manual;
pub mod mirror;
pub mod module;
pub mod place;
pub mod reload;
pub mod resource;
pub mod snapshot;
pub mod status;
pub mod verb;
pub mod wait;

use super::demo;

/// High availability for ordinary Linux servers: a virtual IP served by all nodes of a farm, without a load balancer.
#[derive(Parser, Debug)]
#[command(name = "safekit", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Run this node: virtual IP, packet filter, heartbeats. Ends cleanly on SIGTERM.
    Daemon(DaemonArgs),
    /// Show how the cluster is, as this node sees it.
    Status(status::StatusArgs),
    /// Wait until a module has reached a state.
    Wait(wait::WaitArgs),
    /// Start a module, on this node where nothing else is said.
    Start(verb::VerbArgs),
    /// Stop a module: its traffic first, then its application.
    Stop(verb::VerbArgs),
    /// Stop and start a module's application; the module keeps its role.
    Restart(verb::VerbArgs),
    /// Stop a module, and start it again.
    Stopstart(verb::VerbArgs),
    /// Stop a module at once: without waiting for connections, with forced scripts.
    Forcestop(verb::VerbArgs),
    /// Make this node's copies of a mirror those that serve.
    Prim(mirror::PrimArgs),
    /// Make this node's copies of a mirror follow the other node's.
    Second(mirror::SecondArgs),
    /// Look into a mirror: how its copies are, and whether they are equal.
    Mirror(mirror::MirrorArgs),
    /// Show what watches a module, and switch it off for maintenance.
    Check(check::CheckArgs),
    /// Show what a module's scripts have printed, and how they ended.
    Logs(logs::LogsArgs),
    /// Show or set what checks and rules know of a module.
    Resource(resource::ResourceArgs),
    /// Look into a module: its failover rules.
    Module(module::ModuleArgs),
    /// Give a node no new sessions, and wait until its last connection has ended.
    Drain(adjust::DrainArgs),
    /// Take a drain back.
    Undrain(adjust::UndrainArgs),
    /// Change a node's part of a module's traffic.
    Weight(adjust::WeightArgs),
    /// What happened on a node, and why.
    Events(events::EventsArgs),
    /// Who ordered what, and how it ended.
    Audit(events::AuditArgs),
    /// Restart the daemon with the program and configuration of today; live connections go on.
    Reload(reload::ReloadArgs),
    /// Look into a farm: who owns what, and why.
    Farm(farm::FarmArgs),
    /// Look at this node, and say what keeps the farm from working and what to type next.
    Doctor(doctor::DoctorArgs),
    /// Collect what helps to find a fault into one file, without secrets.
    Snapshot(snapshot::SnapshotArgs),
    /// Check a configuration file, show it, and give it to all nodes.
    Config(config::ConfigArgs),
    /// Make a cluster key, or give a running cluster another one.
    Keygen(keygen::KeygenArgs),
    /// Print what a shell needs to complete commands and options.
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write one for every command.
    Man(manual::ManArgs),
    /// Show a whole farm on this machine: three nodes, a client, a failure, a return.
    Demo(demo::DemoArgs),
    /// The process that keeps the directories of one mirror; the daemon starts it.
    #[command(hide = true)]
    Replica(ReplicaArgs),
    /// The demo's web server.
    #[command(hide = true)]
    DemoWeb(demo::web::WebArgs),
}

#[derive(Args, Clone, Debug)]
pub struct DaemonArgs {
    /// The configuration file, the same on every node.
    #[arg(long, value_name = "FILE", default_value = "/etc/safekit/safekit.yaml")]
    pub config: PathBuf,
    /// Which node of the file this is. Default: the host name.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Where the control socket and the pinned maps live.
    #[arg(long, value_name = "DIR", default_value = "/run/safekit")]
    pub run_dir: PathBuf,
    /// Where durable state lives.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/safekit")]
    pub state_dir: PathBuf,
    /// Set by the parent process: the life that this daemon is.
    #[arg(long, hide = true, value_name = "HEX")]
    pub boot: Option<String>,
    /// Set by the parent process: the descriptor by which it notices this daemon's death.
    #[arg(long, hide = true, value_name = "FD")]
    pub pulse: Option<i32>,
}

/// What the daemon says to the process that keeps a mirror's directories.
#[derive(Args, Clone, Debug)]
pub struct ReplicaArgs {
    /// The mirror.
    #[arg(long, value_name = "NAME")]
    pub module: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which node of the file this is.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Where it listens: `replica-MODULE.sock`.
    #[arg(long, value_name = "DIR")]
    pub run_dir: PathBuf,
    /// Where durable state lives.
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
}

/// Where to find the daemon, and how to print.
#[derive(Args, Clone, Debug)]
pub struct Asking {
    /// The daemon's run directory.
    #[arg(long, value_name = "DIR", default_value = "/run/safekit")]
    pub run_dir: PathBuf,
}

impl Asking {
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// A reader that has gone (`| head`) is no error of ours.
fn out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn err(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// An error with its causes, and what to do.
fn fail(error: &dyn std::error::Error, next_step: &str) {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let causes: String = causes.map(|cause| format!(": {cause}")).collect();
    err(&format!("error: {error}{causes}\nnext step: {next_step}"));
}
