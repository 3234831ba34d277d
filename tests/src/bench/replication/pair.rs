//! Two real daemons that keep one directory twice, brought up as an operator does.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use safekit::front::demo::farm::write_key;
use safekit::front::demo::topology::{Network, node_name};
use safekit::types::Instant;
use safekit::types::mirror::{CopyInfo, ResyncInfo, SyncState};
use safekit::types::replica::{Acknowledge, MirrorRole};
use serde_json::Value;

use super::machine::{DATA, Lab, Machine, NODES, Running};
use crate::lab::binary;

/// How it is configured: words in capitals are filled in.
pub const SAFEKIT: &str = "\
cluster:
  name: bench
  key_file: KEY
  networks:
    - { name: lan, port: 4800 }
    - { name: backup, port: 4800 }
  nodes:
    NODES

modules:
  - name: db
    kind: mirror
    replicate:
      - { directory: DIRECTORY, acknowledge: POLICY }
    replication: { network: backup, port: 4900 }
";
const MODULE: &str = "db";

/// What the second node is told; that it follows is waited for by the copies' own words.
const FOLLOW: [&str; 3] = ["second", MODULE, "--no-wait"];

const START_TIMEOUT: Duration = Duration::from_secs(60);
const IN_SYNC_TIMEOUT: Duration = Duration::from_secs(300);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Pair<'lab> {
    lab: &'lab Lab,
    daemons: [Option<Running>; 2],
    machines: [Machine<'lab>; 2],
}

impl<'lab> Pair<'lab> {
    /// An error, with what the program says, where it takes no such configuration.
    pub fn make(lab: &'lab Lab, acknowledge: Acknowledge, directories: [&Path; 2]) -> Result<Self> {
        let [own, other] = directories;
        let machines =
            [Machine::make(lab, NODES[0], own, || Ok(()))?, Machine::make(lab, NODES[1], other, || Ok(()))?];
        let key = lab.base().join("cluster.key");
        if !key.exists() {
            write_key(&key)?;
        }
        let pair = Self { lab, daemons: [None, None], machines };
        // Nothing is left of a pair before.
        for node in 0..NODES.len() {
            std::fs::remove_dir_all(lab.directory(&state(node))?)?;
        }
        std::fs::write(pair.config(), yaml(&key, acknowledge)?)?;
        let mut check = pair.machines[0].command(binary()?)?;
        check.args(["config", "check"]).arg(pair.config());
        let checked = pair.machines[0].run("safekit", check, COMMAND_TIMEOUT);
        checked.context("this safekit takes no configuration of a mirror")?;
        Ok(pair)
    }

    /// Both up for the first time, the first node serves, and both copies are equal when this returns.
    pub fn start(&mut self) -> Result<()> {
        self.start_daemon(0)?;
        self.start_daemon(1)?;
        self.insist(0, &["prim", MODULE, "--timeout", "20s"])?;
        self.insist(1, &FOLLOW)?;
        self.wait_in_sync(IN_SYNC_TIMEOUT)
    }

    /// Until the daemon takes the order: it has to be up, and to have heard of the other.
    fn insist(&mut self, node: usize, words: &[&str]) -> Result<()> {
        let mut refusal = None;
        let taken = self.lab.wait_until("a daemon that takes an order", START_TIMEOUT, || {
            self.none_has_ended()?;
            refusal = self.order(node, words).err();
            Ok(refusal.is_none())
        });
        taken.with_context(|| format!("{}: {refusal:?}", words.join(" ")))
    }

    pub fn into_parts(self) -> (Vec<Running>, Vec<Machine<'lab>>) {
        (self.daemons.into_iter().flatten().collect(), self.machines.into_iter().collect())
    }

    pub fn machine(&self, node: usize) -> &Machine<'lab> {
        &self.machines[node]
    }

    fn start_daemon(&mut self, node: usize) -> Result<()> {
        let (machine, name) = (&self.machines[node], node_name(NODES[node]));
        let mut command = machine.command(binary()?)?;
        command.arg("daemon").args(["--node", &name]).arg("--config").arg(self.config());
        command.arg("--run-dir").arg(self.lab.run_dir().join(&name));
        command.arg("--state-dir").arg(self.lab.directory(&state(node))?);
        self.daemons[node] = Some(machine.start("daemon", command)?);
        Ok(())
    }

    /// The module stops on the second node, and the first goes on alone.
    pub fn part(&self) -> Result<()> {
        self.order(1, &["stop", MODULE])?;
        self.lab.wait_until("a node that serves alone", START_TIMEOUT, || {
            Ok(self.copy(0).is_ok_and(|copy| copy.role == MirrorRole::Alone))
        })
    }

    /// … and comes back. Both copies are equal when this returns.
    pub fn rejoin(&mut self) -> Result<()> {
        self.order(1, &["start", MODULE])?;
        self.insist(1, &FOLLOW)?;
        self.wait_in_sync(IN_SYNC_TIMEOUT)
    }

    pub fn end(mut self) -> Result<()> {
        for mut daemon in self.daemons.iter_mut().rev().filter_map(Option::take) {
            daemon.process.signal(Signal::TERM);
            daemon.process.wait(STOP_TIMEOUT).with_context(|| daemon.last_words())?;
        }
        Ok(())
    }

    pub fn order(&self, node: usize, words: &[&str]) -> Result<String> {
        self.machines[node].run("safekit", self.command(node, words)?, COMMAND_TIMEOUT)
    }

    fn command(&self, node: usize, words: &[&str]) -> Result<Command> {
        let mut command = self.machines[node].command(binary()?)?;
        command.args(words).arg("--run-dir").arg(self.lab.run_dir().join(node_name(NODES[node])));
        Ok(command)
    }

    /// The only copy that the node keeps. A mirror that is not well is told by the exit code, and by the status, too.
    pub fn copy(&self, node: usize) -> Result<CopyInfo> {
        let status = self.command(node, &["mirror", "status", MODULE, "-o", "json"])?;
        let (_, said) = self.machines[node].outcome("safekit", status, COMMAND_TIMEOUT)?;
        let said: Value = serde_json::from_str(&said).with_context(|| format!("no status but: {said}"))?;
        copies(&said)?.into_iter().next().context("no directory is replicated")
    }

    /// The first one that has ended and did not begin with `before`. What is told may be a second old.
    pub fn resync_after(&self, before: Option<Instant>) -> Result<ResyncInfo> {
        let mut found = None;
        self.lab.wait_until("a resynchronisation that has ended", IN_SYNC_TIMEOUT, || {
            let resync = self.copy(0)?.resync;
            found = resync.filter(|it| Some(it.since) != before && it.ended.is_some());
            Ok(found.is_some())
        })?;
        found.context("it was found just now")
    }

    pub fn wait_in_sync(&mut self, within: Duration) -> Result<()> {
        let mut last = None;
        let waited = self.lab.wait_until("two equal copies", within, || {
            self.none_has_ended()?;
            // A daemon that has just been started does not answer at once.
            let Ok(copy) = self.copy(0) else { return Ok(false) };
            let equal = copy.role == MirrorRole::Prim && copy.connected && copy.sync == SyncState::InSync;
            last = Some(format!("{:?}, {:?}: {}", copy.role, copy.sync, copy.why));
            Ok(equal)
        });
        waited.with_context(|| last.unwrap_or_else(|| "no status".to_owned()))
    }

    fn none_has_ended(&mut self) -> Result<()> {
        for daemon in self.daemons.iter_mut().flatten() {
            if let Some(status) = daemon.process.ended()? {
                bail!("a daemon ended with {status}: {}", daemon.last_words());
            }
        }
        Ok(())
    }

    fn config(&self) -> std::path::PathBuf {
        self.lab.base().join("safekit.yaml")
    }
}

fn state(node: usize) -> String {
    format!("{}-state", node_name(NODES[node]))
}

fn yaml(key: &Path, acknowledge: Acknowledge) -> Result<String> {
    let node = |node| {
        let (lan, backup) = (Network::Lan.address(node), Network::Backup.address(node));
        format!("    - {{ name: {}, addresses: {{ lan: {lan}, backup: {backup} }} }}\n", node_name(node))
    };
    let policy = serde_json::to_value(acknowledge)?;
    Ok(SAFEKIT
        .replace("KEY", &key.to_string_lossy())
        .replace("    NODES\n", &NODES.map(node).concat())
        .replace("DIRECTORY", DATA)
        .replace("POLICY", policy.as_str().context("a policy is a word")?))
}

/// Wherever they stand in an answer.
fn copies(said: &Value) -> Result<Vec<CopyInfo>> {
    fn find(value: &Value) -> Option<&Value> {
        match value {
            Value::Object(fields) => fields.get("copies").or_else(|| fields.values().find_map(find)),
            Value::Array(values) => values.iter().find_map(find),
            _ => None,
        }
    }
    let copies = find(said).context("the status knows of no copies")?;
    serde_json::from_value(copies.clone()).context("the status of a copy is not as agreed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_found_in_an_answer() {
        let copy = serde_json::json!({
            "directory": DATA, "role": "PRIM", "generation": null, "sync": "in_sync", "why": "", "cannotLead": null,
            "connected": true, "frozen": false, "behindOperations": 0, "behindBytes": 0, "recordedRegions": 0,
            "writeLatency": { "count": 0, "p50Us": 0, "p99Us": 0 },
            "flushLatency": { "count": 0, "p50Us": 0, "p99Us": 0 },
            "stalls": 0, "refused": 0, "sentBytes": 77, "receivedBytes": 0, "resync": null, "verification": null,
        });
        let said =
            serde_json::json!({ "apiVersion": "v1", "mirrors": [{ "module": "db", "copies": [copy] }] });
        let found = copies(&said).unwrap();
        assert_eq!((found.len(), found[0].sync, found[0].sent_bytes), (1, SyncState::InSync, 77));
        assert!(copies(&serde_json::json!({ "apiVersion": "v1" })).is_err());
    }

    #[test]
    fn a_policy_is_written_as_operators_write_it() {
        let text = yaml(Path::new("key"), Acknowledge::EachWrite).unwrap();
        assert!(text.contains("{ directory: /mnt/data, acknowledge: each_write }"), "{text}");
        assert!(
            text.contains("    - { name: n2, addresses: { lan: 10.99.0.2, backup: 10.98.0.2 } }\n"),
            "{text}"
        );
    }
}
