//! Two nodes of a mirror in a network and with mounts of their own, all of which end with the story, however it ends.
//!
//! ```text
//!   safekit replica --node a                                   safekit replica --node b
//!   127.0.0.1  ──── dials ────▶  127.0.0.3 (road)  ──────────▶  127.0.0.2
//!   BASE/a/data, mounted over                                  BASE/b/data, mounted over
//! ```
//!
//! Nothing waits without a deadline. A call into a mount may hang all the same, so a watchdog kills the nodes when a story
//! takes too long, which ends such calls, and then this program.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal};
use safekit::driver::clock;
use safekit::driver::replica::service::socket_path;
use safekit::front::demo::farm::write_key;
use safekit::types::Instant;
use safekit::types::mirror::{CopyInfo, MirrorOrder, ReplicaReply, ReplicaRequest};
use safekit::types::replica::MirrorRole;
use safekit_tests::lab;
use safekit_tests::netns::{SCRATCH, in_new_namespace};

use crate::road::Road;
use crate::trees;

pub(crate) const MODULE: &str = "db";
pub(crate) const NODES: [&str; 2] = ["a", "b"];
/// The directory that is replicated, below that of its node.
const DATA: &str = "data";
/// For whatever a story waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// A request to a node's process: it answers at once, unless it was stopped.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);
/// Calls into a dead mount end with its process; whoever still does not is ended with this program.
const GRACE: Duration = Duration::from_secs(15);
/// All stories together, but for one that was asked for more rounds than that.
const TIER_MAX: Duration = Duration::from_secs(600);
/// Of a process's log, for whoever reads about a failure.
const LAST_LINES: usize = 30;

const CONFIG: &str = "\
cluster:
  name: shop
  key_file: KEY
  networks: [{ name: lan, port: 4800 }]
  nodes:
    - { name: a, addresses: { lan: 127.0.0.1 } }
    - { name: b, addresses: { lan: PEER } }
modules:
  - name: db
    kind: mirror
    replicate: [{ directory: DIRECTORY, acknowledge: POLICY }]
    replication: { network: lan, port: 4900, max_stall: STALL }
";

/// What is different from story to story.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// A word of the configuration.
    pub(crate) acknowledge: &'static str,
    pub(crate) max_stall: Duration,
    /// The directory of this node is a file system of its own in memory, with so many bytes.
    pub(crate) bytes: [Option<u64>; 2],
    /// The story is ended by force after so long.
    pub(crate) within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            acknowledge: "disk",
            max_stall: Duration::from_secs(2),
            bytes: [None, None],
            within: Duration::from_secs(90),
        }
    }
}

/// Tells a story on a stage of its own, on a thread in namespaces of its own; threads and processes that it starts are in
/// there as well. Without root it is skipped, as everything in the lab.
pub(crate) fn story(
    name: &str,
    options: Options,
    tell: impl FnOnce(&mut Stage) -> Result<()> + Send,
) -> Result<()> {
    let Some(_alone) = lab::enter() else { return Ok(()) };
    let base = base_directory(name)?;
    let killed: Victims = Arc::default();
    let _watchdog = Watchdog::start(name, time_left(options.within), Arc::clone(&killed));
    in_new_namespace(move || {
        let mut stage = Stage::make(base, options, killed)?;
        let told = tell(&mut stage);
        told.map_err(|error| anyhow::anyhow!("{error:#}\n{}", stage.last_words()))
    })
}

fn time_left(within: Duration) -> Duration {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    let end = *BEGUN.get_or_init(clock::now) + TIER_MAX;
    if within > TIER_MAX { within } else { within.min(end.since(clock::now())) }
}

/// Beside the program, because it has to be a disk; what runs that were killed have left there is removed.
fn base_directory(name: &str) -> Result<PathBuf> {
    const PREFIX: &str = "safekit-mirror-";
    let program = lab::binary()?;
    let beside = program.parent().context("the binary is in a directory")?;
    for entry in fs::read_dir(beside)?.flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        let process = found.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _in_use = fs::remove_dir_all(entry.path());
        }
    }
    Ok(beside.join(format!("{PREFIX}{}-{name}", std::process::id())))
}

type Victims = Arc<Mutex<Vec<Pid>>>;

/// Ends a story that takes too long.
struct Watchdog(#[expect(dead_code, reason = "its end is noticed by the thread")] Sender<()>);

impl Watchdog {
    fn start(name: &str, within: Duration, victims: Victims) -> Self {
        let (alive, told) = mpsc::channel::<()>();
        let name = name.to_owned();
        std::thread::spawn(move || {
            if told.recv_timeout(within) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            eprintln!("the story {name} takes longer than {within:?}: its nodes are killed");
            for victim in locked(&victims).iter() {
                let _ended = rustix::process::kill_process(*victim, Signal::KILL);
            }
            if told.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the story {name} does not end: this program does");
                std::process::exit(1);
            }
        });
        Self(alive)
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Stage {
    base: PathBuf,
    nodes: [Option<Child>; 2],
    /// The directories as they are below their mounts.
    below: [OwnedFd; 2],
    pub(crate) road: Road,
    victims: Victims,
}

impl Stage {
    fn make(base: PathBuf, options: Options, victims: Victims) -> Result<Self> {
        fs::create_dir(&base).with_context(|| base.display().to_string())?;
        let key = base.join("cluster.key");
        write_key(&key)?;
        for (at, node) in NODES.iter().enumerate() {
            let directory = base.join(node).join(DATA);
            fs::create_dir_all(&directory)?;
            if let Some(bytes) = options.bytes[at] {
                let size = std::ffi::CString::new(format!("size={bytes}"))?;
                mount("small", &directory, "tmpfs", MountFlags::empty(), size.as_c_str())?;
            }
            fs::create_dir_all(run_dir(at))?;
            // Only the node that dials needs the other one's address: it gets that of the road.
            let peer = if at == 0 { "127.0.0.3" } else { "127.0.0.2" };
            let text = CONFIG
                .replace("KEY", &key.to_string_lossy())
                .replace("PEER", peer)
                .replace("DIRECTORY", &directory.to_string_lossy())
                .replace("POLICY", options.acknowledge)
                .replace("STALL", &format!("{}ms", options.max_stall.as_millis()));
            fs::write(base.join(format!("{node}.yaml")), text)?;
        }
        let open = |node: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, base.join(node).join(DATA), flags, Mode::empty())
        };
        let below = [open(NODES[0])?, open(NODES[1])?];
        let road = Road::open("127.0.0.3:4900".parse()?, "127.0.0.2:4900".parse()?)?;
        Ok(Self { base, nodes: [None, None], below, road, victims })
    }

    /// Both run, and the first serves, with the second in sync.
    pub(crate) fn mirrored(&mut self) -> Result<()> {
        self.start(0)?;
        self.start(1)?;
        self.until_met()?;
        self.order(0, MirrorOrder::Prim { force: false })?;
        self.until_in_sync(0)
    }

    /// The process of this node; it is mounted when this returns.
    pub(crate) fn start(&mut self, at: usize) -> Result<()> {
        ensure!(self.nodes[at].is_none(), "it runs");
        let node = NODES[at];
        let log = File::options().create(true).append(true).open(self.log(at))?;
        let mut command = Command::new(lab::binary()?);
        command.args(["replica", "--module", MODULE, "--node", node]);
        command.arg("--config").arg(self.base.join(format!("{node}.yaml")));
        command.arg("--run-dir").arg(run_dir(at)).arg("--state-dir").arg(self.base.join(node));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let maker = rustix::process::getpid();
        // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(move || end_with(maker)) };
        let child = command.spawn()?;
        locked(&self.victims).push(Pid::from_child(&child));
        self.nodes[at] = Some(child);
        self.until("a node that answers", |stage| Ok(stage.info(at).is_ok()))
    }

    pub(crate) fn signal(&self, at: usize, signal: Signal) -> Result<()> {
        Ok(rustix::process::kill_process(self.pid(at)?, signal)?)
    }

    pub(crate) fn pid(&self, at: usize) -> Result<Pid> {
        Ok(Pid::from_child(self.nodes[at].as_ref().context("it does not run")?))
    }

    /// As a process dies that nobody has asked to.
    pub(crate) fn kill(&mut self, at: usize) -> Result<()> {
        self.signal(at, Signal::KILL)?;
        self.gone(at, PATIENCE)?;
        Ok(())
    }

    /// In order: it has to succeed.
    pub(crate) fn stop(&mut self, at: usize) -> Result<()> {
        ensure!(self.ask(at, &ReplicaRequest::Stop)? == ReplicaReply::Taken);
        let status = self.gone(at, PATIENCE)?;
        ensure!(status.success(), "{} ended with {status}", NODES[at]);
        Ok(())
    }

    fn gone(&mut self, at: usize, within: Duration) -> Result<std::process::ExitStatus> {
        let deadline = clock::now() + within;
        loop {
            let child = self.nodes[at].as_mut().context("it does not run")?;
            if let Some(status) = child.try_wait()? {
                self.forget(at);
                return Ok(status);
            }
            ensure!(clock::now() < deadline, "the process of {} does not end within {within:?}", NODES[at]);
            std::thread::sleep(LOOK);
        }
    }

    fn forget(&mut self, at: usize) {
        if let Some(child) = self.nodes[at].take() {
            let pid = Pid::from_child(&child);
            locked(&self.victims).retain(|victim| *victim != pid);
        }
    }

    /// Where applications of this node find the directory.
    pub(crate) fn mount(&self, at: usize) -> PathBuf {
        self.base.join(NODES[at]).join(DATA)
    }

    /// The same directory underneath, whether it is mounted over or not.
    pub(crate) fn below(&self, at: usize) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.below[at].as_raw_fd()))
    }

    pub(crate) fn config(&self, at: usize) -> PathBuf {
        self.base.join(format!("{}.yaml", NODES[at]))
    }

    fn log(&self, at: usize) -> PathBuf {
        self.base.join(format!("{}.log", NODES[at]))
    }

    /// An error also where the process takes no order now.
    pub(crate) fn order(&self, at: usize, order: MirrorOrder) -> Result<()> {
        match self.ask(at, &ReplicaRequest::Order { order })? {
            ReplicaReply::Taken => Ok(()),
            other => bail!("{order:?} was answered with {other:?}"),
        }
    }

    pub(crate) fn info(&self, at: usize) -> Result<CopyInfo> {
        match self.ask(at, &ReplicaRequest::Watch)? {
            ReplicaReply::Copies { copies } => {
                copies.into_iter().next().context("no directory is replicated")
            }
            other => bail!("a watch was answered with {other:?}"),
        }
    }

    /// The first answer of the process.
    pub(crate) fn ask(&self, at: usize, request: &ReplicaRequest) -> Result<ReplicaReply> {
        let mut stream = UnixStream::connect(socket_path(&run_dir(at), MODULE))?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        serde_json::from_str(&answer).with_context(|| format!("no answer but {answer:?}"))
    }

    /// An error of `ready` ends the wait: it may be none that passes.
    pub(crate) fn until(&mut self, what: &str, ready: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        self.until_within(what, PATIENCE, ready)
    }

    pub(crate) fn until_within(
        &mut self,
        what: &str,
        within: Duration,
        mut ready: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = clock::now() + within;
        while !ready(self).with_context(|| what.to_owned())? {
            self.none_has_ended().with_context(|| what.to_owned())?;
            ensure!(clock::now() < deadline, "{what}: not within {within:?}");
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn none_has_ended(&mut self) -> Result<()> {
        for (node, child) in NODES.iter().zip(&mut self.nodes) {
            if let Some(child) = child
                && let Some(status) = child.try_wait()?
            {
                bail!("the process of {node} ended with {status}");
            }
        }
        Ok(())
    }

    pub(crate) fn until_met(&mut self) -> Result<()> {
        self.until("the nodes meet", |stage| Ok(stage.info(0)?.connected && stage.info(1)?.connected))
    }

    pub(crate) fn until_role(&mut self, at: usize, role: MirrorRole) -> Result<()> {
        let what = format!("{} is {role:?}", NODES[at]);
        self.until(&what, |stage| Ok(stage.info(at)?.role == role))
    }

    pub(crate) fn until_in_sync(&mut self, leader: usize) -> Result<()> {
        let roles = (MirrorRole::Prim, MirrorRole::Second);
        let what = format!("{} serves, and the other copy is equal", NODES[leader]);
        self.until(&what, |stage| Ok((stage.info(leader)?.role, stage.info(1 - leader)?.role) == roles))
    }

    /// Both directories underneath are the same in everything; nobody may write. Times of what was modified are told a
    /// little later than the change.
    pub(crate) fn until_same(&mut self) -> Result<()> {
        let deadline = clock::now() + PATIENCE;
        loop {
            let difference = trees::difference(&self.below(0), &self.below(1))?;
            let Some(difference) = difference else { return Ok(()) };
            self.none_has_ended()?;
            ensure!(clock::now() < deadline, "the copies differ: {difference}");
            std::thread::sleep(LOOK * 5);
        }
    }

    /// For whoever reads about a failure.
    fn last_words(&self) -> String {
        let mut said = String::new();
        for (at, node) in NODES.iter().enumerate() {
            let log = fs::read(self.log(at)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let lines = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            let info = self.nodes[at].is_some().then(|| self.info(at));
            said += &format!("--- {node}: {info:#?}\n{lines}\n");
        }
        said
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for at in 0..NODES.len() {
            if let Some(child) = &mut self.nodes[at] {
                let _ended = child.kill();
                if let Err(error) = self.gone(at, GRACE) {
                    eprintln!("warning: {error}");
                }
            }
            while unmount(self.mount(at), UnmountFlags::DETACH).is_ok() {}
            let _gone = fs::remove_dir_all(run_dir(at));
        }
        if let Err(error) = fs::remove_dir_all(&self.base) {
            eprintln!("warning: cannot remove {}: {error}", self.base.display());
        }
    }
}

/// In the namespace's own scratch, because names of sockets are short.
fn run_dir(at: usize) -> PathBuf {
    Path::new(SCRATCH).join("run").join(NODES[at])
}

fn end_with(maker: Pid) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // Had the maker died before the line above, no signal would ever come.
    if rustix::process::getppid() != Some(maker) {
        return Err(std::io::ErrorKind::Interrupted.into());
    }
    Ok(())
}

pub(crate) fn write_and_sync(path: &Path, contents: &[u8]) -> Result<()> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    file.write_all(contents)?;
    Ok(file.sync_all()?)
}
