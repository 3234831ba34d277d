//! What the commands about mirrors say, word by word, at a real daemon. The process that keeps the directories is one that
//! only speaks as the real one does: this program once more, at the test `stand_in`.

use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::{Context as _, Result, ensure};
use safekit::types::NodeId;
use safekit_tests::{lab, replica};

use crate::stage::{N1, N2, PATIENCE, Stage};
use crate::verbs::same;

/// `SAFEKIT_BLESS=1` writes it anew, for reading in the diff.
const SEEN: &str = include_str!("mirror.txt");
/// The socket of a stand-in.
const SOCKET: &str = "SAFEKIT_STAND_IN";

#[test]
#[ignore = "the process of the other test, which starts it"]
fn stand_in() -> Result<()> {
    replica::serve(&PathBuf::from(std::env::var_os(SOCKET).context("it is started by the other test")?))
}

struct StandIn(Child);

impl StandIn {
    fn start(stage: &Stage, node: NodeId) -> Result<Self> {
        let socket = stage.farm.node_dir(node).join("replica-db.sock");
        let child = Command::new(std::env::current_exe()?)
            .args(["--exact", "mirror::stand_in", "--ignored", "--nocapture"])
            .env(SOCKET, &socket)
            .spawn()?;
        let it = Self(child);
        lab::wait_until("the stand-in listens", PATIENCE, || socket.exists())?;
        Ok(it)
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(_)))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn commands_about_mirrors_say_what_follows_and_what_to_do_next() -> Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut stage = Stage::with_a_mirror()?;
    for line in ["mirror status", "prim db", "prim www", "prim nothing", "mirror verify nothing", "status db"]
    {
        stage.types(N1, line)?;
    }
    let mut one = StandIn::start(&stage, N1)?;
    let mut other = StandIn::start(&stage, N2)?;
    for line in [
        "start db --all",
        "mirror status db",
        "prim db",
        "mirror verify db",
        "prim db --force",
        "wait db --for ALONE --timeout 10s",
        "wait db --for PRIM --timeout 1s",
        "second db --node n2",
        "mirror status db --node n2",
        "mirror status nothing",
        "mirror verify db",
        "status db",
        "logs db",
        "module explain db",
        "check off db",
        "audit -n 3 --utc",
        "events db --utc",
    ] {
        stage.types(N1, line)?;
    }
    stage.types(N2, "wait db --for SECOND --timeout 10s")?;
    stage.types_for(N1, "mirror status -o json", "/mirrors/0/copies/0/role")?;
    stage.types(N1, "stop db --all")?;
    stage.types(N1, "mirror status db")?;
    lab::wait_until("both have ended", PATIENCE, || one.has_ended() && other.has_ended())?;
    for section in stage.transcript.split("\n== ").filter(|section| section.contains("\n! error")) {
        ensure!(section.contains("\n! next: "), "no next step: {section}");
    }
    same("mirror.txt", SEEN, &stage.transcript)
}
