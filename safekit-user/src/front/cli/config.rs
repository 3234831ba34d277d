//! `safekit config check` and `safekit config show`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{self, Config, Module, duration};
use crate::front::exit::Exit;

#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

#[derive(Subcommand, Debug)]
pub enum ConfigVerb {
    /// Check a file without touching anything. Exit code 1 and every problem with its place, or one line of what it is.
    Check(FileArgs),
    /// Print the configuration in force: defaults filled in.
    Show(FileArgs),
}

#[derive(Args, Debug)]
pub struct FileArgs {
    #[arg(value_name = "FILE", default_value = "/etc/safekit/safekit.yaml")]
    pub file: PathBuf,
}

pub fn run(args: &ConfigArgs) -> Exit {
    match &args.verb {
        ConfigVerb::Check(file) => with(file, summary),
        ConfigVerb::Show(file) => with(file, effective),
    }
}

fn with(args: &FileArgs, print: impl FnOnce(&Config) -> String) -> Exit {
    match config::load(&args.file) {
        Ok(config) => {
            print!("{}", print(&config));
            Exit::Done
        }
        Err(errors) => {
            eprintln!("{errors}");
            Exit::Failed
        }
    }
}

fn summary(config: &Config) -> String {
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let modules: Vec<String> = config
        .modules
        .iter()
        .map(|Module::Farm(farm)| {
            let addresses: Vec<String> = farm.virtual_ips.iter().map(|vip| vip.address.to_string()).collect();
            format!("farm {} ({}, {})", farm.name, addresses.join(", "), count(farm.rules.len(), "rule"))
        })
        .collect();
    format!(
        "OK: cluster {}, {}, {}; {}\n",
        config.cluster.name,
        count(config.cluster.nodes.len(), "node"),
        count(config.cluster.networks.len(), "network"),
        modules.join("; ")
    )
}

/// YAML again, so that it can be compared with the file and read by [`config::parse`].
fn effective(config: &Config) -> String {
    let cluster = &config.cluster;
    let mut text = format!(
        "cluster:\n  name: {}\n  key_file: {}\n  networks:\n",
        cluster.name,
        quoted(&cluster.key_file)
    );
    for network in &cluster.networks {
        text += &format!("    - {{ name: {}, port: {} }}\n", network.name, network.port);
    }
    text += "  nodes:\n";
    for node in &cluster.nodes {
        let addresses = cluster.networks.iter().zip(&node.addresses);
        let addresses: Vec<String> = addresses
            .filter_map(|(network, address)| Some(format!("{}: \"{}\"", network.name, (*address)?)))
            .collect();
        text += &format!("    - {{ name: {}, addresses: {{ {} }} }}\n", node.name, addresses.join(", "));
    }
    let timing = cluster.timing;
    text += &format!(
        "  heartbeat: {{ interval: {}, timeout: {}, lease: {} }}\nmodules:\n",
        duration::print(timing.interval),
        duration::print(timing.timeout),
        duration::print(timing.lease)
    );
    for Module::Farm(farm) in &config.modules {
        text += &farm_text(config, farm);
    }
    text
}

fn farm_text(config: &Config, farm: &config::Farm) -> String {
    let names: Vec<&str> =
        farm.nodes.iter().map(|node| config.cluster.nodes[usize::from(node.0)].name.as_str()).collect();
    let delivery = match farm.delivery {
        config::Delivery::Flood => "flood",
    };
    let mut text = format!(
        "  - name: {}\n    kind: farm\n    nodes: [{}]\n    virtual_ips:\n",
        farm.name,
        names.join(", ")
    );
    for vip in &farm.virtual_ips {
        text += &format!("      - {{ address: \"{}\", interface: \"{}\" }}\n", vip.address, vip.interface);
    }
    text += &format!("    delivery: {delivery}\n    rules:\n");
    for rule in &farm.rules {
        let protocol = rule.protocol.name();
        let balance = rule.balance.name();
        text += &format!("      - {{ protocol: {protocol}, port: {}, balance: {balance} }}\n", rule.port);
    }
    text
}

fn quoted(path: &std::path::Path) -> String {
    // JSON's quoting is YAML's.
    serde_json::Value::from(path.to_string_lossy().into_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_means_the_same() {
        let sample = include_str!("../../../../configs/farm.yaml");
        let config = config::parse(sample, "farm.yaml").expect("the sample is valid");
        let shown = config::parse(&effective(&config), "shown").expect("what is shown is valid");
        assert_eq!(shown, config);
    }
}
