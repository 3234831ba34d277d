//! Machines of the benchmark: namespaces of the lab's network, with mounts of their own and a disk in common.
//!
//! ```text
//!   n1: /mnt/data ─▶ DIRECTORY/PREFIX-replication/…     n2: /mnt/data ─▶ DIRECTORY/PREFIX-replication/…
//! ```
//!
//! Every contestant's directory has the same path on both machines, as on two real ones, and is another directory of
//! the same file system. What is mounted is seen in there only, and is gone when the last process is.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use safekit::driver::clock;
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::leftovers;
use safekit::front::demo::namespace::Namespace;
use safekit::front::demo::prefix::Prefix;
use safekit::front::demo::process::Process;
use safekit::front::demo::topology::{Topology, node_name};
use safekit::types::{Instant, NodeId};

use crate::netns::SCRATCH;

pub const NODES: [NodeId; 2] = [NodeId(0), NodeId(1)];
/// Where applications find the directory that is measured.
pub const DATA: &str = "/mnt/data";
const NAME: &str = "replication";

/// Two machines and their disk. All of it ends with the value.
pub struct Lab {
    topology: Topology,
    base: PathBuf,
    interrupt: Interrupt,
    deadline: Instant,
    logs: Cell<u32>,
}

impl Lab {
    /// `directory`: where the measured disk is; nothing is waited for after `within`.
    pub fn build(directory: &Path, interrupt: Interrupt, within: Duration) -> Result<Self> {
        sweep(directory);
        let topology = Topology::build(NODES.len())?;
        let base = directory.join(format!("{}-{NAME}", topology.prefix()));
        let lab = Self { topology, base, interrupt, deadline: clock::now() + within, logs: Cell::new(0) };
        std::fs::create_dir(&lab.base).with_context(|| format!("cannot make {}", lab.base.display()))?;
        Ok(lab)
    }

    pub fn base(&self) -> &Path {
        &self.base
    }

    pub fn run_dir(&self) -> &Path {
        self.topology.run_dir()
    }

    pub fn network(&self, node: NodeId) -> Result<&Namespace> {
        self.topology.node(node).with_context(|| format!("{} is powered off", node_name(node)))
    }

    /// An error when somebody wants it all to end.
    pub fn go_on(&self) -> Result<()> {
        self.interrupt.check()?;
        ensure!(clock::now() < self.deadline, "the benchmark's time is over");
        Ok(())
    }

    /// A failure in words that do not depend on where this run has its files.
    pub fn words(&self, error: &anyhow::Error) -> String {
        format!("{error:#}").replace(&*self.base.to_string_lossy(), "DIRECTORY")
    }

    /// A new empty directory on the measured disk.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.base.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// What one contestant has left to write does not burden the next.
    pub fn settle(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.base)?)?)
    }

    /// Whatever runs on the machines.
    pub fn end_all(&self) {
        for node in self.topology.ids() {
            if let Some(machine) = self.topology.node(node) {
                machine.kill_all();
            }
        }
    }

    /// Asks often enough for a person, and seldom enough that the asking does not slow what is waited for.
    pub fn wait_until(
        &self,
        what: &str,
        within: Duration,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = clock::now() + within;
        while !ready()? {
            ensure!(clock::now() < deadline, "{what}: not within {within:?}");
            self.go_on()?;
            self.interrupt.pause(Duration::from_millis(200))?;
        }
        Ok(())
    }

    fn next_log(&self, node: NodeId, what: &str) -> PathBuf {
        self.logs.set(self.logs.get() + 1);
        self.base.join(format!("{}-{:04}-{what}.log", node_name(node), self.logs.get()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end_all();
        if let Err(error) = std::fs::remove_dir_all(&self.base) {
            eprintln!("warning: cannot remove {}: {error}", self.base.display());
        }
    }
}

/// Runs of this benchmark that were killed: they left their processes, names and directory.
fn sweep(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(prefix) = name.ends_with(&format!("-{NAME}")).then(|| Prefix::parse(&name)).flatten() else {
            continue;
        };
        if Path::new("/proc").join(prefix.pid.to_string()).exists() {
            continue;
        }
        let mut failures = leftovers::remove(prefix);
        failures.extend(leftovers::remove_tree(&entry.path()));
        for failure in failures {
            eprintln!("warning: {failure}");
        }
    }
}

/// One node, as a contestant has it.
pub struct Machine<'lab> {
    lab: &'lab Lab,
    node: NodeId,
    mounts: OwnedFd,
}

impl<'lab> Machine<'lab> {
    /// With an empty [`SCRATCH`] of its own, and `directory` at [`DATA`]. `prepare` may mount more.
    pub fn make(
        lab: &'lab Lab,
        node: NodeId,
        directory: &Path,
        prepare: impl FnOnce() -> Result<()> + Send,
    ) -> Result<Self> {
        let work = || {
            // SAFETY: this thread alone changes its mounts and working directory, and nobody shares its descriptors' table.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("new mounts need root")?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            mount(NAME, SCRATCH, "tmpfs", MountFlags::empty(), None)?;
            std::fs::create_dir(DATA)?;
            mount_bind(directory, DATA)?;
            prepare()?;
            Ok(OwnedFd::from(File::open("/proc/thread-self/ns/mnt")?))
        };
        let made: Result<OwnedFd> = std::thread::scope(|scope| {
            scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let mounts = made.with_context(|| format!("cannot make the mounts of {}", node_name(node)))?;
        Ok(Self { lab, node, mounts })
    }

    /// To be started on this machine, and with its mounts.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mounts = self.mounts.try_clone()?;
        let mut command = Command::new(program);
        let enter = move || {
            move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Runs on until it is dropped.
    pub fn start(&self, what: &str, command: Command) -> Result<Running> {
        let log = self.lab.next_log(self.node, what);
        let name = format!("{what} of {}", node_name(self.node));
        let process = Process::start(&name, command, self.lab.network(self.node)?, &log)?;
        Ok(Running { process, log })
    }

    /// What it printed, and it has to succeed. Ended by force after `within`, or when all shall end.
    pub fn run(&self, what: &str, command: Command, within: Duration) -> Result<String> {
        let (status, said) = self.outcome(what, command, within)?;
        ensure!(status.success(), "{what} ended with {status}: {}", said.trim_end());
        Ok(said)
    }

    /// However it ended.
    pub fn outcome(&self, what: &str, command: Command, within: Duration) -> Result<(ExitStatus, String)> {
        let deadline = clock::now() + within;
        let mut running = self.start(what, command)?;
        let status = loop {
            if let Some(status) = running.process.ended()? {
                break status;
            }
            self.lab.go_on()?;
            ensure!(
                clock::now() < deadline,
                "{what} has not ended within {within:?}: {}",
                running.last_words()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let said = running.said();
        let _kept_until_the_end = std::fs::remove_file(&running.log);
        Ok((status, said))
    }

    /// Bytes that have passed an interface, both ways.
    pub fn bytes_passed(&self, interface: &str) -> Result<u64> {
        // Not `/proc/net`: that is of the first thread of this process.
        let table = self
            .lab
            .network(self.node)?
            .inside(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        bytes_of(&table, interface).with_context(|| format!("no {interface} on {}", node_name(self.node)))
    }

    /// How the file system at hand is served; none where no process does.
    pub fn fuse_transport(&self) -> Result<Option<String>> {
        let processes = self.lab.network(self.node)?.processes();
        Ok(processes.iter().find_map(|pid| transport_of(&format!("/proc/{}", pid.as_raw_nonzero()))))
    }
}

/// The columns are receive: bytes and seven more, then transmit: bytes and more.
fn bytes_of(table: &str, interface: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    let columns: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    Some(columns.first()? + columns.get(8)?)
}

/// By what a process holds open: requests come over the device, or over rings where the kernel lets them.
fn transport_of(process: &str) -> Option<String> {
    let descriptors = std::fs::read_dir(format!("{process}/fd")).ok()?.flatten();
    let targets: Vec<PathBuf> =
        descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
    let count = |name: &str| targets.iter().filter(|target| target.as_path() == Path::new(name)).count();
    let (devices, rings) = (count("/dev/fuse"), count("anon_inode:[io_uring]"));
    let allowed = std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    let allowed = allowed.is_ok_and(|word| word.trim() == "Y");
    match (devices, rings) {
        (0, _) => None,
        (_, 1..) if allowed => Some(format!("io_uring, {rings} rings")),
        (1, _) => Some("/dev/fuse".to_owned()),
        (devices, _) => Some(format!("/dev/fuse, {devices} descriptors")),
    }
}

/// A process that stays, and where it writes to.
pub struct Running {
    pub process: Process,
    log: PathBuf,
}

impl Running {
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn last_words(&self) -> String {
        self.process.last_words()
    }
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn bytes_are_those_received_and_sent() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n    \
                     lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n  eth1:1000 9 0 0 0 0 0 0 234 3 0 0 0 0 0 0\n";
        assert_eq!(bytes_of(table, "eth1"), Some(1234));
        assert_eq!(bytes_of(table, "lo"), Some(14));
        assert_eq!(bytes_of(table, "eth"), None);
    }
}
