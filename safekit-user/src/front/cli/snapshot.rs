//! `safekit snapshot`: everything that helps to find a fault, in one file, without secrets.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::doctor::Gather;
use super::{Asking, Format, err, fail, out};
use crate::config::{self, CONFIG_FILE_DEFAULT, Config};
use crate::engine::bundle::names::Names;
use crate::engine::bundle::prepare;
use crate::engine::bundle::secrets::{Secrets, variables};
use crate::engine::doctor::judge;
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::bundle::{Item, Written};
use crate::types::snapshot::API_VERSION;
use crate::types::{Command, Reply, Snapshot};

#[derive(Args, Debug)]
pub struct SnapshotArgs {
    /// Where the bundle goes. Default: here, under a name of the node and the time.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace addresses and the names of hosts, nodes and the cluster, the same ones everywhere.
    #[arg(long)]
    pub anonymize: bool,
    /// The configuration file, the same on every node.
    #[arg(long, value_name = "FILE", default_value = CONFIG_FILE_DEFAULT)]
    pub config: PathBuf,
    /// Where the daemon's durable state lives.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/safekit")]
    pub state_dir: PathBuf,
    /// A summary for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    /// Also what this other node's daemon says; may be given several times.
    #[arg(long = "node", value_name = "NAME", conflicts_with = "all")]
    pub nodes: Vec<String>,
    /// Also what the daemons of all other nodes say.
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub asking: Asking,
}

/// What was written, or why not, with the next step.
pub type Outcome = Result<Written, (anyhow::Error, &'static str)>;

/// Who looks at this machine and writes the file; the wiring knows.
pub struct Hands {
    pub collect: fn(state_dir: &Path, modules: &[String]) -> Vec<Item>,
    pub host_names: fn() -> Vec<String>,
    pub default_name: fn(node: &str) -> PathBuf,
    pub write: fn(path: &Path, top: &str, items: &[Item]) -> Outcome,
    pub facts: Gather,
}

/// As the reader of configurations has it.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Script runs of each module that are asked of another node.
const RUNS_ASKED: u32 = 20;

pub fn run(args: &SnapshotArgs, hands: &Hands) -> Exit {
    let text = read_config(&args.config);
    let config = config::load(&args.config).ok();
    let host_names = (hands.host_names)();
    let mut asked = Asked::default();
    asked.node_itself(args);
    let me = asked.snapshot.as_ref().map(|snapshot| snapshot.node.clone()).or_else(|| {
        let config = config.as_ref()?;
        host_names.iter().find(|name| config.node(name).is_some()).cloned()
    });
    asked.other_nodes(args, config.as_ref(), me.as_deref());
    let modules: Vec<String> =
        config.iter().flat_map(|config| &config.modules).map(|module| module.name.clone()).collect();
    let mut items = vec![match &text {
        Ok(text) => Item::whole("config/safekit.yaml", text.clone()),
        Err(why) => Item::lacking("config/safekit.yaml", why.clone()),
    }];
    items.push(doctor(args, config.as_ref(), me.as_deref(), asked.snapshot.clone(), hands.facts));
    items.append(&mut asked.items);
    items.extend((hands.collect)(&args.state_dir, &modules));
    let texts = text.iter().chain(&asked.configurations);
    let secrets = Secrets::new(texts.flat_map(|text| variables(text)));
    let known = known_names(config.as_ref(), asked.snapshot.as_ref(), &host_names);
    let node = me.unwrap_or_else(|| host_names.last().cloned().unwrap_or_default());
    let top = match known.iter().find(|(name, _)| args.anonymize && *name == node) {
        Some((_, other)) => other.clone(),
        None => node,
    };
    let names = args.anonymize.then(|| Names::new(known));
    let items = prepare(items, &secrets, names);
    let path = args.out.clone().unwrap_or_else(|| (hands.default_name)(&top));
    match (hands.write)(&path, &format!("safekit-snapshot-{top}"), &items) {
        Ok(written) => {
            out(&told(&path, &written, args.output));
            Exit::Done
        }
        Err((error, next_step)) => {
            fail(error.as_ref(), next_step);
            Exit::Failed
        }
    }
}

fn told(path: &Path, written: &Written, output: Format) -> String {
    if output == Format::Json {
        let lacking: Vec<_> =
            written.lacking.iter().map(|(path, why)| json!({ "path": path, "why": why })).collect();
        let told = json!({
            "apiVersion": API_VERSION,
            "file": path,
            "files": written.items,
            "bytes": written.bytes,
            "lacking": lacking,
        });
        return format!("{told:#}");
    }
    let mut text =
        format!("{}: {} files, {} KiB\n", path.display(), written.items, written.bytes.div_ceil(1024));
    for (path, why) in &written.lacking {
        text += &format!("  not whole: {path}: {why}\n");
    }
    text + &format!("next step: look into it before you send it: tar -xzf {}", path.display())
}

fn read_config(path: &Path) -> Result<String, String> {
    let facts = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if !facts.is_file() || facts.len() > CONFIG_BYTES_MAX {
        return Err("no regular file, or too large".to_owned());
    }
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| format!("cannot be read: {error}"))
}

fn doctor(
    args: &SnapshotArgs,
    config: Option<&Config>,
    me: Option<&str>,
    daemon: Option<Snapshot>,
    gather: Gather,
) -> Item {
    const PATH: &str = "doctor.json";
    let Some(config) = config else {
        return Item::lacking(PATH, "the configuration has faults: `safekit config check` names them");
    };
    let Some(id) = me.and_then(|name| config.node(name)) else {
        return Item::lacking(PATH, "this host is no node of the configuration");
    };
    match gather(config, id, &args.asking.run_dir, &args.state_dir, daemon) {
        Ok(facts) => json_item(PATH, &judge(&facts)),
        Err(error) => Item::lacking(PATH, format!("{error:#}")),
    }
}

fn json_item(path: impl Into<String>, value: &impl Serialize) -> Item {
    match serde_json::to_string(value) {
        Ok(text) => Item::whole(path, text),
        Err(error) => Item::lacking(path, error.to_string()),
    }
}

/// What daemons say.
#[derive(Default)]
struct Asked {
    items: Vec<Item>,
    /// Of the node that was asked.
    snapshot: Option<Snapshot>,
    /// Of today and before, as text: scripts were given their variables.
    configurations: Vec<String>,
}

impl Asked {
    fn node_itself(&mut self, args: &SnapshotArgs) {
        match Client::connect(&args.asking.socket()).and_then(|mut client| self.all_of(&mut client, "daemon"))
        {
            Ok(snapshot) => self.snapshot = Some(snapshot),
            Err(error) => self.items.push(Item::lacking("daemon", error.to_string())),
        }
    }

    fn other_nodes(&mut self, args: &SnapshotArgs, config: Option<&Config>, me: Option<&str>) {
        let all: Vec<String> = match (args.all, config) {
            (true, Some(config)) => config.cluster.nodes.iter().map(|node| node.name.clone()).collect(),
            _ => args.nodes.clone(),
        };
        for node in all.iter().filter(|node| Some(node.as_str()) != me) {
            let prefix = format!("nodes/{node}");
            let client = Client::connect(&args.asking.socket()).map(|client| client.at(Some(node)));
            let asked = client.and_then(|mut client| {
                let snapshot = self.all_of(&mut client, &prefix)?;
                self.logs_of(&mut client, &prefix, &snapshot)
            });
            if let Err(error) = asked {
                // What it said before it fell silent stays.
                err(&format!("{node}: {error}"));
                self.items.push(Item::lacking(prefix, error.to_string()));
            }
        }
    }

    /// Ends at the first silence, so that a daemon that hangs costs one wait.
    fn all_of(&mut self, client: &mut Client, prefix: &str) -> Result<Snapshot, Error> {
        let Reply::Status { snapshot } = client.ask(&Command::Status)? else { return Err(Error::Unexpected) };
        self.items.push(json_item(format!("{prefix}/status.json"), &snapshot));
        for module in &snapshot.modules {
            let name = &module.name;
            let rules = client.ask(&Command::Rules { module: name.clone() })?;
            self.items.push(json_item(format!("{prefix}/modules/{name}/rules.json"), &rules));
            let mut resources = Vec::new();
            for resource in &module.resources {
                let command = Command::Resource { module: name.clone(), name: resource.name.clone() };
                resources.push(client.ask(&command)?);
            }
            self.items.push(json_item(format!("{prefix}/modules/{name}/resources.json"), &resources));
        }
        let history = client.ask(&Command::ConfigHistory)?;
        self.items.push(json_item(format!("{prefix}/config-history.json"), &history));
        if let Reply::ConfigText { text, .. } = client.ask(&Command::ConfigText { number: None })? {
            self.configurations.push(text.clone());
            self.items.push(Item::whole(format!("{prefix}/config.yaml"), text));
        }
        if let Reply::ConfigHistory { entries } = history {
            for entry in entries {
                let before = Command::ConfigText { number: Some(entry.version.number) };
                if let Reply::ConfigText { text, .. } = client.ask(&before)? {
                    self.configurations.push(text);
                }
            }
        }
        Ok(*snapshot)
    }

    /// Of this node they are read from its files.
    fn logs_of(&mut self, client: &mut Client, prefix: &str, snapshot: &Snapshot) -> Result<(), Error> {
        for module in &snapshot.modules {
            let name = &module.name;
            let command = Command::Logs { module: name.clone(), script: None, last: RUNS_ASKED };
            let Reply::Runs { runs } = client.ask(&command)? else { continue };
            self.items.push(json_item(format!("{prefix}/logs/{name}/runs.json"), &runs));
            for run in runs {
                let command = Command::LogPage { module: name.clone(), run: run.name.clone(), from: 0 };
                if let Reply::LogPage { page } = client.ask(&command)? {
                    let note = (!page.is_last).then(|| "only its beginning".to_owned());
                    let path = format!("{prefix}/logs/{name}/{}.log", run.name);
                    self.items.push(Item { path, text: page.text, note });
                }
            }
        }
        Ok(())
    }
}

/// What `--anonymize` replaces by name, and by what: nodes are numbered in the order of the configuration.
fn known_names(
    config: Option<&Config>,
    snapshot: Option<&Snapshot>,
    host_names: &[String],
) -> Vec<(String, String)> {
    let nodes: Vec<String> = match (config, snapshot) {
        (Some(config), _) => config.cluster.nodes.iter().map(|node| node.name.clone()).collect(),
        (None, Some(snapshot)) => snapshot.nodes.iter().map(|node| node.name.clone()).collect(),
        (None, None) => Vec::new(),
    };
    let clusters =
        config.map(|config| &config.cluster.name).into_iter().chain(snapshot.map(|it| &it.cluster));
    let clusters: Vec<String> = clusters.cloned().collect();
    let taken: Vec<&String> = nodes.iter().chain(&clusters).chain(host_names).collect();
    // A replacement that is somebody's name would be read as that.
    let free = |words: [&'static str; 3]| {
        let is_free = |word: &&str| taken.iter().all(|name| !name.to_ascii_lowercase().starts_with(*word));
        words.into_iter().find(is_free).unwrap_or("anonymous")
    };
    let (node, cluster) = (free(["node", "member", "machine"]), free(["cluster", "site", "group"]));
    let mut known: Vec<(String, String)> =
        nodes.into_iter().enumerate().map(|(index, name)| (name, format!("{node}{}", index + 1))).collect();
    for name in host_names {
        let short = name.split('.').next().unwrap_or_default();
        let of_node =
            known.iter().find(|(node, _)| node == short || node == name).map(|(_, other)| other.clone());
        known.push((name.clone(), of_node.unwrap_or_else(|| format!("{node}0"))));
    }
    known.extend(clusters.into_iter().map(|name| (name, cluster.to_owned())));
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_gets_a_word_that_is_nobodys_name() {
        let text = "
cluster:
  name: cluster7
  networks: [{ name: lan }]
  nodes:
    - { name: node2, addresses: { lan: 10.0.0.1 } }
    - { name: web, addresses: { lan: 10.0.0.2 } }
modules: [{ name: a, kind: light }]
";
        let config = config::parse(text, "a.yaml").expect("a configuration");
        let hosts = ["web.example.org".to_owned(), "web".to_owned()];
        let known = known_names(Some(&config), None, &hosts);
        let expected = [
            ("node2", "member1"),
            ("web", "member2"),
            ("web.example.org", "member2"),
            ("web", "member2"),
            ("cluster7", "site"),
        ];
        assert_eq!(known, expected.map(|(name, other)| (name.to_owned(), other.to_owned())));
    }
}
