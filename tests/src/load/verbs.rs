//! The verbs of the command line that scenarios use, if this binary has them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use safekit::front::demo::farm::Farm;
use safekit::types::NodeId;

pub(super) struct Verbs {
    safekit: PathBuf,
    help: String,
}

impl Verbs {
    pub(super) fn of(safekit: &Path) -> anyhow::Result<Self> {
        let output = Command::new(safekit).arg("--help").output();
        let output = output.with_context(|| format!("cannot run {}", safekit.display()))?;
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Self { safekit: safekit.to_owned(), help })
    }

    pub(super) fn has(&self, verb: &str) -> bool {
        self.help.lines().any(|line| line.split_whitespace().next() == Some(verb) && line.starts_with("  "))
    }

    /// An error that says plainly what is missing.
    pub(super) fn demand(&self, verb: &str) -> anyhow::Result<()> {
        if !self.has(verb) {
            bail!("this {} has no verb `{verb}`; the scenario needs it", self.safekit.display());
        }
        Ok(())
    }

    /// Starts a command that asks the daemon of `asked`.
    pub(super) fn start(&self, farm: &Farm, asked: NodeId, words: &[&str]) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.safekit);
        command.args(words).arg("--run-dir").arg(farm.node_dir(asked));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("cannot run safekit {}", words.join(" ")))
    }

    /// Runs it to its end, which must be a success, and says what it said.
    pub(super) fn run(&self, farm: &Farm, asked: NodeId, words: &[&str]) -> anyhow::Result<String> {
        finished(self.start(farm, asked, words)?, words)
    }
}

pub(super) fn finished(child: Child, words: &[&str]) -> anyhow::Result<String> {
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    if !output.status.success() {
        bail!("safekit {} failed ({}): {said}", words.join(" "), output.status);
    }
    Ok(said)
}
