//! What operators changed at run time, kept over a restart of the whole cluster.
//!
//! One small file in the state directory, replaced as a whole: a crash leaves the old one or the new one. Nodes are
//! kept by name. Weights belong to the rules as they were: another configuration starts without them, and a drained
//! node stays drained. What peers have in force counts more than the file: it is the start of a cluster, no command.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::durable;
use crate::config::{Config, ownership_hash};
use crate::types::share::{WEIGHTS_SET_MAX, WeightSet};
use crate::types::{Adjustments, Generation, NodeId};

const FILE: &str = "generation.json";
/// Of the shape of the file.
const VERSION: u32 = 1;
/// Larger than any that this program writes.
const BYTES_MAX: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// Of the configuration that the weights belong to.
    config: u64,
    counter: u32,
    proposer: String,
    drained: Vec<String>,
    weights: Vec<WeightSet>,
}

/// As configured where there is no file, or none that can be read: the log says why.
pub fn load(state_dir: &Path, config: &Config) -> Generation {
    let path = state_dir.join(FILE);
    match read(&path) {
        Ok(Some(stored)) => stored.generation(config),
        Ok(None) => Generation::configured(),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "cannot read the weights and drains of before");
            Generation::configured()
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Stored>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let stored: Stored = serde_json::from_reader(io::Read::take(file, BYTES_MAX))?;
    if stored.version != VERSION || stored.weights.len() > WEIGHTS_SET_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "of another version"));
    }
    Ok(Some(stored))
}

impl Stored {
    fn of(generation: &Generation, config: &Config) -> Self {
        let drained = generation.adjustments.drained.iter();
        Self {
            version: VERSION,
            config: ownership_hash(config),
            counter: generation.counter,
            proposer: config.name(generation.proposer).to_owned(),
            drained: drained.map(|node| config.name(node).to_owned()).collect(),
            weights: generation.adjustments.weights.clone(),
        }
    }

    fn generation(self, config: &Config) -> Generation {
        let same = self.config == ownership_hash(config);
        let known = |set: &WeightSet| {
            usize::from(set.group.0) < config.groups.len()
                && usize::from(set.node.0) < config.cluster.nodes.len()
        };
        let mut weights: Vec<_> = self.weights.into_iter().filter(|set| same && known(set)).collect();
        weights.sort_unstable();
        weights.dedup_by_key(|set| (set.group, set.node));
        Generation {
            counter: self.counter,
            proposer: config.node(&self.proposer).unwrap_or(NodeId(0)),
            adjustments: Adjustments {
                drained: self.drained.iter().filter_map(|name| config.node(name)).collect(),
                weights,
                // Each node says at its start how well it is.
                health: Vec::new(),
            },
        }
    }
}

/// Writes each newest generation until the sender is dropped. Those in between may be left out.
pub async fn keep(state_dir: PathBuf, config: Config, mut generations: watch::Receiver<Generation>) {
    while generations.changed().await.is_ok() {
        let stored = Stored::of(&generations.borrow_and_update(), &config);
        let directory = state_dir.clone();
        let written = tokio::task::spawn_blocking(move || write(&directory, &stored)).await;
        if let Err(error) = written.map_err(io::Error::other).flatten() {
            tracing::error!(%error, "cannot keep weights and drains: a restart of the whole cluster forgets them");
        }
    }
}

fn write(state_dir: &Path, stored: &Stored) -> io::Result<()> {
    durable::replace(&state_dir.join(FILE), &serde_json::to_vec_pretty(stored)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{GroupId, NodeSet};

    const FARM: &str = "
cluster:
  name: shop
  networks: [{ name: lan }]
  nodes:
    - { name: web1, addresses: { lan: 10.99.0.1 } }
    - { name: web2, addresses: { lan: 10.99.0.2 } }
modules:
  - name: www
    kind: farm
    virtual_ips: [{ address: 10.99.0.100, interface: eth0 }]
    rules: [{ protocol: tcp, port: 80 }]
";

    fn config(text: &str) -> Config {
        crate::config::parse(text, "farm.yaml").expect("a farm")
    }

    fn state_dir(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("safekit-generations-{}-{name}", std::process::id()))
    }

    #[test]
    fn what_was_kept_comes_back_and_weights_only_with_their_configuration() {
        let (directory, before) = (state_dir("kept"), config(FARM));
        let weights = vec![WeightSet { group: GroupId(0), node: NodeId(1), weight: 7 }];
        let adjustments = Adjustments { drained: NodeSet::of(NodeId(0)), weights, health: Vec::new() };
        let generation = Generation { counter: 3, proposer: NodeId(1), adjustments };
        write(&directory, &Stored::of(&generation, &before)).expect("a directory of our own");
        assert_eq!(load(&directory, &before), generation);

        let swapped =
            FARM.replace("web1, a", "web3, a").replace("web2, a", "web1, a").replace("web3, a", "web2, a");
        let after = load(&directory, &config(&swapped));
        assert_eq!(after.adjustments.drained, NodeSet::of(NodeId(1)), "web1 has another number now");
        assert_eq!((after.counter, after.adjustments.weights.len()), (3, 0));
        std::fs::remove_dir_all(directory).expect("it is there");
    }

    #[test]
    fn nothing_and_nonsense_are_as_configured() {
        let directory = state_dir("nonsense");
        assert_eq!(load(&directory, &config(FARM)), Generation::configured());
        std::fs::create_dir_all(&directory).expect("a directory of our own");
        for text in ["", "{", "[]", "{\"version\":99}", "\u{0}\u{0}"] {
            std::fs::write(directory.join(FILE), text).expect("it is ours");
            assert_eq!(load(&directory, &config(FARM)), Generation::configured(), "{text:?}");
        }
        std::fs::remove_dir_all(directory).expect("it is there");
    }
}
