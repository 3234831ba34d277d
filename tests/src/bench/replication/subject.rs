//! Who is measured, and its life: brought up with an empty directory, used, gone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::Advice;
use rustix::process::Signal;
use safekit::types::replica::Acknowledge;
use serde::Serialize;

use super::machine::{DATA, Lab, Machine, NODES, Running};
use super::pair::Pair;
use super::{gluster, mounted};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The directory as it is, on one node.
    Plain,
    /// Our file system over it, on one node.
    Mount,
    /// Two real daemons.
    Replicated(Acknowledge),
    /// Its volume with two replicas, as packaged.
    Gluster,
}

pub const ALL: [Subject; 6] = [
    Subject::Plain,
    Subject::Mount,
    Subject::Replicated(Acknowledge::Disk),
    Subject::Replicated(Acknowledge::Memory),
    Subject::Replicated(Acknowledge::EachWrite),
    Subject::Gluster,
];

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain directory",
            Self::Mount => "safekit, the mount alone",
            Self::Replicated(Acknowledge::Disk) => "safekit, acknowledge: disk",
            Self::Replicated(Acknowledge::Memory) => "safekit, acknowledge: memory",
            Self::Replicated(Acknowledge::EachWrite) => "safekit, acknowledge: each_write",
            Self::Gluster => "GlusterFS, replica 2",
        }
    }
}

const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Where the other node may have what was acknowledged in memory only.
const ARRIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// One that is up. Everything of it ends with the value.
pub struct Life<'lab> {
    subject: Subject,
    // Dropped first: processes before the machines they run on.
    processes: Vec<Running>,
    machines: Vec<Machine<'lab>>,
    /// The directories underneath, of one node or of both.
    directories: Vec<PathBuf>,
    lab: &'lab Lab,
    pub transport: Option<String>,
}

impl<'lab> Life<'lab> {
    pub fn begin(subject: Subject, lab: &'lab Lab) -> Result<Self> {
        let wanted = if matches!(subject, Subject::Plain | Subject::Mount) { 1 } else { NODES.len() };
        let names = NODES.iter().take(wanted).map(|node| format!("data-{node:?}"));
        let directories = names.map(|name| lab.directory(&name)).collect::<Result<Vec<_>>>()?;
        // From here on the value exists, so whatever fails below is removed by its drop.
        let mut life =
            Self { subject, processes: Vec::new(), machines: Vec::new(), directories, lab, transport: None };
        match subject {
            Subject::Plain => {
                life.machines.push(Machine::make(lab, NODES[0], &life.directories[0], || Ok(()))?);
            }
            Subject::Mount => {
                let machine = Machine::make(lab, NODES[0], &life.directories[0], || Ok(()))?;
                life.processes.push(mounted::start(lab, &machine)?);
                life.machines.push(machine);
            }
            Subject::Replicated(acknowledge) => {
                let mut pair = Pair::make(lab, acknowledge, [&life.directories[0], &life.directories[1]])?;
                pair.start()?;
                (life.processes, life.machines) = pair.into_parts();
            }
            Subject::Gluster => {
                let bricks = [life.directories[0].as_path(), life.directories[1].as_path()];
                (life.processes, life.machines) = gluster::start(lab, bricks)?;
            }
        }
        life.transport = life.machine().fuse_transport()?;
        Ok(life)
    }

    /// Where applications run.
    pub fn machine(&self) -> &Machine<'lab> {
        &self.machines[0]
    }

    pub fn lab(&self) -> &'lab Lab {
        self.lab
    }

    /// The next reader of a file finds none of it in memory: not in the directory's own page cache either.
    pub fn forget(&self, name: &str, length: u64) -> Result<()> {
        for directory in &self.directories {
            let path = directory.join(name);
            let arrived = || Ok(path.metadata().is_ok_and(|it| it.len() == length));
            self.lab.wait_until("a file on both nodes", ARRIVE_TIMEOUT, arrived)?;
            let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
    }

    /// In order; what has not ended by then is ended by force.
    pub fn end(mut self) -> Result<()> {
        // Of the rival's volume nothing is wanted any more, and the head of a process namespace hears no such signal.
        if self.subject == Subject::Gluster {
            return Ok(());
        }
        for running in self.processes.iter().rev() {
            running.process.signal(Signal::TERM);
        }
        for mut running in self.processes.drain(..).rev() {
            running.process.wait(STOP_TIMEOUT).with_context(|| running.last_words())?;
        }
        Ok(())
    }
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        self.processes.clear();
        // Those that went into the background, too.
        self.lab.end_all();
        for directory in &self.directories {
            if let Err(error) = std::fs::remove_dir_all(directory) {
                eprintln!("warning: cannot remove {}: {error}", directory.display());
            }
        }
    }
}

/// Where an application's files are on a machine.
pub fn data(name: &str) -> String {
    Path::new(DATA).join(name).to_string_lossy().into_owned()
}
