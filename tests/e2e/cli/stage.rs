//! A real farm for commands to be typed at, and what they say, without what differs from run to run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use regex::Regex;
use safekit::front::demo::farm::{Design, Farm};
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::wait_whole;
use safekit::types::NodeId;
use safekit_tests::lab;

pub(crate) const N1: NodeId = NodeId(0);
pub(crate) const N2: NodeId = NodeId(1);
pub(crate) const N3: NodeId = NodeId(2);
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Lines of the module `www`; `DIR` is the directory of scripts.
const UPKEEP: [&str; 11] = [
    "scripts:",
    "  directory: DIR",
    "  timeout: 5s",
    "  start: echo started $SAFEKIT_MODULE on $SAFEKIT_NODE",
    "  stop: echo stopped",
    "checks:",
    "  - { name: file, custom: { run: \"test -e $SAFEKIT_NODE.up || { echo no file; exit 3; }\", interval: 300ms }, action: none }",
    "  - { name: backup, custom: { run: sleep 1000000, reports: true }, action: none }",
    "failover:",
    "  rules:",
    "    - { name: lonely, when: \"custom.disk == down and remote.state != UP\", do: stop }",
];
const BATCH: [&str; 3] =
    ["- name: batch", "  kind: light", "  scripts: { directory: DIR, start: ./batch, stop: \"true\" }"];

const MIRROR: [&str; 5] = [
    "- name: db",
    "  kind: mirror",
    "  nodes: [n1, n2]",
    "  replicate: [{ directory: /srv/db }]",
    "  start: { boot: \"off\" }",
];

const VERBS: [&str; 7] = ["start ", "stop ", "restart ", "stopstart ", "forcestop ", "prim ", "second "];

/// Three nodes with a farm and a light module. What commands say is kept, section by section.
pub(crate) struct Stage {
    pub(crate) farm: Farm,
    pub(crate) files: PathBuf,
    pub(crate) transcript: String,
}

impl Stage {
    pub(crate) fn build() -> Result<Self> {
        Self::with(false, &BATCH)
    }

    /// With a mirror on two of the nodes, which is not started.
    pub(crate) fn with_a_mirror() -> Result<Self> {
        Self::with(false, &MIRROR)
    }

    /// Without the key file that the others share: it can be changed.
    pub(crate) fn with_own_keys() -> Result<Self> {
        Self::with(true, &BATCH)
    }

    fn with(own_keys: bool, modules: &[&str]) -> Result<Self> {
        let binary = lab::binary()?;
        let files = std::env::temp_dir().join(format!("safekit-verbs-{}", std::process::id()));
        std::fs::create_dir_all(&files)?;
        for node in ["n1", "n2", "n3"] {
            std::fs::write(files.join(format!("{node}.up")), "")?;
        }
        let here = |lines: &[&str]| -> Vec<String> {
            lines.iter().map(|line| line.replace("DIR", &files.display().to_string())).collect()
        };
        let design = Design { upkeep: here(&UPKEEP), modules: here(modules), ..Design::demo(&binary, 3) };
        let mut farm = Farm::designed(&binary, design)?;
        for node in farm.ids() {
            // Each its own, as on machines of their own: configurations are applied.
            let own = farm.own_config(node);
            std::fs::copy(farm.config(), &own)?;
            if own_keys {
                let key = own.with_extension("key");
                std::fs::copy(own.with_file_name("cluster.key"), &key)?;
                let text = std::fs::read_to_string(&own)?;
                std::fs::write(&own, text.replace("cluster.key", name_of(&key)?))?;
            }
            farm.start(node)?;
        }
        wait_whole(&mut farm, &Interrupt::default())?;
        let stage = Self { farm, files, transcript: String::new() };
        stage.wait_connected()?;
        Ok(stage)
    }

    pub(crate) fn wait_connected(&self) -> Result<()> {
        lab::wait_until("all nodes are connected", PATIENCE, || {
            self.farm.ids().all(|node| {
                let links = self.farm.sight(node).snapshot.map(|it| it.links.nodes).unwrap_or_default();
                !links.is_empty() && links.iter().all(|link| link.connected && link.heard_ms.is_some())
            })
        })
    }

    /// Types it at a node, and keeps what is seen.
    pub(crate) fn types(&mut self, node: NodeId, line: &str) -> Result<()> {
        if line.starts_with("status") {
            lab::wait_until("buckets have stopped moving", PATIENCE, || {
                self.ask(node, "status").is_ok_and(|seen| !seen.out.starts_with("CONVERGING"))
            })?;
        }
        if line.starts_with("module explain www") && self.farm.is_powered(N3) {
            lab::wait_until("the others have said how they are", PATIENCE, || {
                self.ask(node, line).is_ok_and(|seen| !seen.out.contains("undecided"))
            })?;
        }
        let seen = self.ask(node, line)?;
        let mut text = normal(&seen.all(), &self.hidden());
        if VERBS.iter().any(|verb| line.starts_with(verb)) {
            text = at_rest(&text);
        }
        let line = normal(line, &self.hidden());
        write!(self.transcript, "== {}$ safekit {line}\n{text}[{}]\n\n", name(node), seen.code)?;
        Ok(())
    }

    /// The same of a part of its JSON.
    pub(crate) fn types_for(&mut self, node: NodeId, line: &str, pointer: &str) -> Result<()> {
        let seen = self.ask(node, line)?;
        let json: serde_json::Value = serde_json::from_str(&seen.out).with_context(|| seen.all())?;
        let part = json.pointer(pointer).with_context(|| format!("no {pointer} in {json:#}"))?;
        let text = normal(&format!("{part:#}\n"), &self.hidden());
        write!(
            self.transcript,
            "== {}$ safekit {line} | jq {pointer}\n{text}[{}]\n\n",
            name(node),
            seen.code
        )?;
        Ok(())
    }

    pub(crate) fn ask(&self, node: NodeId, line: &str) -> Result<Seen> {
        let dir = self.farm.node_dir(node);
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.extend(["--run-dir", dir.to_str().context("the run directory is plain text")?]);
        let output = lab::safekit(&words)?;
        Ok(Seen {
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
            code: output.status.code().map_or("a signal".to_owned(), |code| code.to_string()),
        })
    }

    /// Directories of this run, the longest first, and what stands for them.
    fn hidden(&self) -> Vec<(String, &'static str)> {
        vec![
            (self.files.display().to_string(), "<files>"),
            (self.farm.topology().run_dir().display().to_string(), "<run>"),
        ]
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.files);
    }
}

pub(crate) struct Seen {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: String,
}

impl Seen {
    /// What a person sees; errors after the rest, because two pipes have no common order.
    pub(crate) fn all(&self) -> String {
        let errors = self.err.lines().map(|line| format!("! {line}\n"));
        self.out.clone() + &errors.collect::<String>()
    }
}

fn name_of(file: &Path) -> Result<&str> {
    file.file_name().and_then(|name| name.to_str()).context("a plain name")
}

/// States on the way are seen or not, and those of several nodes come in any order.
fn at_rest(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.contains("(Transient)")).collect();
    lines.sort_unstable();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn name(node: NodeId) -> String {
    safekit::front::demo::topology::node_name(node)
}

/// Times, numbers of processes, and directories differ from run to run, and with them the widths of columns.
fn normal(text: &str, hidden: &[(String, &str)]) -> String {
    let mut text = text.to_owned();
    for (directory, stands) in hidden {
        text = text.replace(directory, stands);
    }
    for (pattern, stands) in [
        // JSON: moments and spans by the names of their fields.
        (r#""(since|at|taken|until|attempt)": \d+"#, r#""$1": <number>"#),
        (r#""(tookMs|heardMs)": (\d+|null)"#, r#""$1": <number>"#),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "<time>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (r"\d{8}T\d{6}\.\d{3}Z", "<time>"),
        (r"\b\d+(\.\d+)? (ms|s|min|h)\b", "<span>"),
        (r"process \d+", "process <number>"),
        // Of the farm: what depends on the moment and on the cards.
        (r"  packets: .*\n", ""),
        (r"in transition: \d+", "in transition: <number>"),
        // Numbers of proposals, of which some are not committed.
        (r"\bversion [1-9]\d*\b", "version <number>"),
        (r"([* ]) +[1-9]\d*  <time>", "$1  <number>  <time>"),
        (r#""number": [1-9]\d*"#, r#""number": <number>"#),
        (r"([0-9a-f]{2}:){5}[0-9a-f]{2}", "<mac>"),
        (r"; \d+ rejected", "; <number> rejected"),
        // A node whose cables are cut may find the time to say that it hears nothing.
        (r"silent(: dead or cut off|; heard nothing before: look at its network)", "silent: <why>"),
        (r"\b\d+ connections of this node", "<number> connections of this node"),
        (r"(\S)  +", "$1  "),
    ] {
        let pattern = Regex::new(pattern).expect("a pattern of this table");
        text = pattern.replace_all(&text, stands).into_owned();
    }
    text
}

#[test]
fn what_differs_from_run_to_run_is_not_compared() {
    let hidden = [("/tmp/a-1".to_owned(), "<files>")];
    for (text, expected) in [
        ("UP since 3.4 s, 12 ms ago", "UP since <span>, <span> ago"),
        ("file      custom  up", "file  custom  up"),
        ("  /tmp/a-1/x at 2026-11-23T08:03:20.007Z", "  <files>/x at <time>"),
        ("\"since\": 123,", "\"since\": <number>,"),
        ("exit code 3; 2 rules", "exit code 3; 2 rules"),
    ] {
        assert_eq!(normal(text, &hidden), expected);
    }
}
