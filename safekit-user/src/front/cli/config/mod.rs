//! `safekit config`: what a configuration file is, what is wrong with it, and how all nodes get it.

mod apply;

use std::path::PathBuf;

use super::{err, out};
use crate::config::{CONFIG_FILE_DEFAULT, Config, Kind, Module, effective, load, schema};
use crate::front::exit::Exit;

#[derive(clap::Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Say what the file is, or everything that is wrong with it
    Check(FileArg),
    /// Print the file as it takes effect, defaults written out
    Show(FileArg),
    /// Print the JSON schema of the file, for editors that complete keys and mark mistakes
    Schema,
    /// Give all nodes a configuration: everywhere, or nowhere
    Apply(apply::ApplyArgs),
    /// Show in what a file differs from the configuration in force
    Diff(apply::DiffArgs),
    /// List the last ten configurations, with who applied them and when
    History(apply::HistoryArgs),
    /// Go back to an earlier configuration, on all nodes
    Rollback(apply::RollbackArgs),
}

#[derive(clap::Args, Debug)]
struct FileArg {
    /// The configuration file
    #[arg(default_value = CONFIG_FILE_DEFAULT)]
    file: PathBuf,
}

pub fn run(args: &ConfigArgs) -> Exit {
    match &args.verb {
        Verb::Check(FileArg { file }) => with_config(file, |config| out(&summary(config))),
        Verb::Show(FileArg { file }) => with_config(file, |config| out(effective(config).trim_end())),
        Verb::Schema => {
            out(&format!("{:#}", schema()));
            Exit::Done
        }
        Verb::Apply(args) => apply::apply(args),
        Verb::Diff(args) => apply::show_diff(args),
        Verb::History(args) => apply::history(args),
        Verb::Rollback(args) => apply::rollback(args),
    }
}

fn with_config(file: &std::path::Path, show: impl FnOnce(&Config)) -> Exit {
    match load(file) {
        Ok(config) => {
            show(&config);
            Exit::Done
        }
        Err(errors) => {
            err(&errors.to_string());
            Exit::Failed
        }
    }
}

/// `shop: 3 nodes (web1, web2, web3), 2 networks, 1 module: farm www at 10.99.0.100`
fn summary(config: &Config) -> String {
    let cluster = &config.cluster;
    let nodes: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    let modules: Vec<String> = config.modules.iter().map(|module| module_summary(module, config)).collect();
    format!(
        "{}: {} ({}), {}, {}: {}",
        cluster.name,
        count(nodes.len(), "node"),
        nodes.join(", "),
        count(cluster.networks.len(), "network"),
        count(config.modules.len(), "module"),
        modules.join(", "),
    )
}

fn module_summary(module: &Module, config: &Config) -> String {
    match &module.kind {
        Kind::Farm(farm) => {
            let addresses: Vec<String> = farm.virtual_ips.iter().map(|vip| vip.address.to_string()).collect();
            format!("farm {} at {}", farm.name, addresses.join(" and "))
        }
        Kind::Light => format!("light {}", module.name),
        Kind::Mirror(mirror) => {
            let directories: Vec<String> =
                mirror.directories.iter().map(|it| it.directory.display().to_string()).collect();
            let [one, other] = mirror.nodes.map(|node| config.name(node));
            format!("mirror {} of {} on {one} and {other}", module.name, directories.join(" and "))
        }
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
