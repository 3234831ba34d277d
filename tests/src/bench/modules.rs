//! Many light modules on one real node: how soon they are up, what they cost when nothing happens, and how soon a death
//! is seen and mended.
//!
//! ```text
//!   daemon starts ─▶ 32 start scripts ─▶ all Ready      start
//!   nothing happens for a while                         idle: processor time of daemon and parent, memory
//!   kill -9 ─▶ the module leaves Ready ─▶ stop, start ─▶ it accepts connections again       detected, restarted
//! ```
//!
//! Each module has a process of its own that listens, a start and a stop script, and two checks: process and tcp.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use safekit::driver::clock;
use safekit::front::control_client::Client;
use safekit::front::demo::farm::write_key;
use safekit::front::demo::process::Process;
use safekit::front::demo::topology::{Families, Network, Topology, node_name};
use safekit::types::module::{ModuleState, Role, Status};
use safekit::types::{self, Instant, NodeId, Reply, Snapshot};
use serde::Serialize;

use super::report::{Goal, Machine, at_most};
use super::{Spread, application, cpu};
use crate::lab::{binary, wait_until};

const NODE: NodeId = NodeId(0);
const UP: ModuleState = ModuleState::new(Role::Up, Status::Ready);
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const MEND_TIMEOUT: Duration = Duration::from_secs(10);
/// After the start, so that its last work is done.
const SETTLE: Duration = Duration::from_secs(2);
/// Between a mended death and the next, longer than a look that would still see the old one.
const CALM: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    pub modules: u16,
    /// Of both checks.
    pub interval_seconds: u32,
    /// Starts of the daemon with all of its modules.
    pub starts: usize,
    /// Windows of nothing, and how long each is.
    pub windows: usize,
    pub window_seconds: u32,
    pub deaths: usize,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub api_version: &'static str,
    pub machine: Machine,
    pub amount: Amount,
    pub goals: Vec<Goal>,
    /// From the start of the daemon until every module is Ready.
    pub start_ms: Spread,
    /// The same for its only module: what of it is the daemon itself.
    pub start_of_one_ms: Spread,
    /// Of one processor: daemon and parent.
    pub idle_percent: Spread,
    /// The same with one module.
    pub idle_percent_of_one: Spread,
    /// What the whole machine used meanwhile, others included: how far the figures can be trusted.
    pub machine_percent: Spread,
    pub memory: Memory,
    /// From the death of a process until its module has left Ready.
    pub detected_ms: Spread,
    /// Until the new process accepts connections.
    pub restarted_ms: Spread,
    /// Until the module is Ready again.
    pub ready_ms: Spread,
}

/// Daemon and parent, in MiB.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// What they have to themselves, and their part of what they share (Pss in smaps_rollup).
    pub proportional: f64,
    /// The same with one module.
    pub proportional_of_one: f64,
    pub resident: f64,
}

pub fn measure(amount: Amount) -> Result<Report> {
    let one = lives(Amount { modules: 1, deaths: 0, ..amount })?;
    let all = lives(amount)?;
    let spread = |samples: &[f64]| Spread::of(samples).context("nothing was measured");
    let start_ms = spread(&all.starts)?;
    let idle_percent = spread(&all.idle)?;
    let (detected_ms, restarted_ms) = (spread(&all.detected)?, spread(&all.restarted)?);
    let goals = vec![
        at_most("all modules Ready, ms after the start of the daemon", start_ms.median, 2000.0),
        at_most("idle, percent of a processor", idle_percent.median, 2.0),
        at_most("the death of a process is seen, ms", detected_ms.median, 50.0),
        at_most("a killed process serves again, ms", restarted_ms.max, 1000.0),
    ];
    Ok(Report {
        api_version: "v1",
        machine: Machine::this(),
        amount,
        goals,
        start_ms,
        start_of_one_ms: spread(&one.starts)?,
        idle_percent,
        idle_percent_of_one: spread(&one.idle)?,
        machine_percent: spread(&all.machine)?,
        memory: Memory {
            proportional: all.proportional,
            proportional_of_one: one.proportional,
            resident: all.resident,
        },
        detected_ms,
        restarted_ms,
        ready_ms: spread(&all.ready)?,
    })
}

/// What several lives of one daemon have shown.
#[derive(Default)]
struct Shown {
    starts: Vec<f64>,
    idle: Vec<f64>,
    machine: Vec<f64>,
    proportional: f64,
    resident: f64,
    detected: Vec<f64>,
    restarted: Vec<f64>,
    ready: Vec<f64>,
}

fn lives(amount: Amount) -> Result<Shown> {
    let mut shown = Shown::default();
    let mut site = Site::build(amount)?;
    for life in 0..amount.starts {
        shown.starts.push(ms(site.start()?));
        if life + 1 < amount.starts {
            site.stop()?;
        }
    }
    std::thread::sleep(SETTLE);
    for _ in 0..amount.windows {
        let spent = site.idle(Duration::from_secs(amount.window_seconds.into()))?;
        let share = |time: Duration| time.as_secs_f64() / spent.elapsed.as_secs_f64() * 100.0;
        shown.idle.push(share(spent.lab.saturating_sub(spent.client)));
        shown.machine.push(share(spent.machine));
    }
    (shown.proportional, shown.resident) = site.memory()?;
    for death in 0..amount.deaths {
        let module = u16::try_from(death)? % amount.modules;
        let death = site.kill(module)?;
        shown.detected.push(ms(death.detected));
        shown.restarted.push(ms(death.restarted));
        shown.ready.push(ms(death.ready));
        std::thread::sleep(CALM);
    }
    site.stop()?;
    Ok(shown)
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// One node and its applications. Everything of it ends with the value.
struct Site {
    daemon: Option<Process>,
    applications: Applications,
    binary: PathBuf,
    topology: Topology,
    modules: u16,
}

struct Death {
    detected: Duration,
    restarted: Duration,
    ready: Duration,
}

impl Site {
    fn build(amount: Amount) -> Result<Self> {
        // A switch needs two machines; the other one does nothing.
        let topology = Topology::build_with(2, Families::Ipv4)?;
        let dir = topology.run_dir();
        write_key(&dir.join("cluster.key"))?;
        std::fs::write(dir.join("safekit.yaml"), configuration(&topology, amount))?;
        let applications = Applications::prepare(&dir.join("applications"))?;
        Ok(Self { daemon: None, applications, binary: binary()?, modules: amount.modules, topology })
    }

    /// How long it took until all were Ready.
    fn start(&mut self) -> Result<Duration> {
        let dir = self.topology.run_dir();
        let mut command = Command::new(&self.binary);
        command.args(["daemon", "--node", &node_name(NODE)]).arg("--config").arg(dir.join("safekit.yaml"));
        command.arg("--run-dir").arg(self.run_dir()).arg("--state-dir").arg(dir.join("state"));
        let namespace = self.topology.node(NODE).context("the machine is on")?;
        let began = clock::now();
        let daemon = Process::start("the daemon", command, namespace, &dir.join("daemon.log"))?;
        let daemon = self.daemon.insert(daemon);
        let socket = dir.join(node_name(NODE)).join("control.sock");
        let mut all_ready = None;
        wait_until("all modules are Ready", START_TIMEOUT, || {
            let ready = status(&socket).is_ok_and(|snapshot| {
                snapshot.modules.len() == usize::from(self.modules)
                    && snapshot.modules.iter().all(|module| module.state == UP)
            });
            all_ready = ready.then(clock::now);
            ready
        })
        .with_context(|| daemon.last_words())?;
        Ok(all_ready.context("they were Ready a moment ago")?.since(began))
    }

    /// With all of its modules.
    fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("there is a daemon")?;
        daemon.signal(Signal::TERM);
        let status = daemon.wait(STOP_TIMEOUT)?;
        ensure!(status.success(), "{status}: {}", daemon.last_words());
        ensure!(self.applications.pids().is_empty(), "stop scripts leave no process behind");
        Ok(())
    }

    fn idle(&self, span: Duration) -> Result<cpu::Spent> {
        let processes = self.processes()?;
        let before = cpu::Reading::take(&processes)?;
        std::thread::sleep(span);
        Ok(before.until(&cpu::Reading::take(&processes)?))
    }

    /// In MiB: proportional, resident.
    fn memory(&self) -> Result<(f64, f64)> {
        let (mut proportional, mut resident) = (0.0, 0.0);
        for pid in self.processes()? {
            let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero()))?;
            proportional += kilobytes(&text, "Pss:")? / 1024.0;
            resident += kilobytes(&text, "Rss:")? / 1024.0;
        }
        Ok((proportional, resident))
    }

    fn kill(&self, module: u16) -> Result<Death> {
        let namespace = self.topology.node(NODE).context("the machine is on")?;
        let pid = self.applications.pid(module)?;
        let client = Client::connect(&self.socket())?;
        let mut seen = Follower { client, name: name(module), detected: None, ready: None };
        let killed = clock::now();
        kill_process(pid, Signal::KILL)?;
        let restarted = std::thread::scope(|scope| {
            let serves = scope.spawn(|| namespace.inside(|| self.serves_again(module, pid)));
            while seen.ready.is_none() && clock::now().since(killed) < MEND_TIMEOUT {
                seen.learn()?;
                std::thread::sleep(Duration::from_millis(1));
            }
            serves.join().expect("it only connects")?
        })?;
        let ready = seen.ready.with_context(|| format!("{} is not Ready again", name(module)))?;
        let detected = seen.detected.context("nobody has seen the death")?;
        Ok(Death {
            detected: detected.since(killed),
            restarted: restarted.since(killed),
            ready: ready.since(killed),
        })
    }

    /// When another process than `dead` accepts.
    fn serves_again(&self, module: u16, dead: Pid) -> Result<Instant> {
        wait_until("it serves again", MEND_TIMEOUT, || {
            self.applications.pid(module).is_ok_and(|pid| pid != dead)
                && TcpStream::connect((Ipv4Addr::LOCALHOST, port(module))).is_ok()
        })?;
        Ok(clock::now())
    }

    /// The daemon itself, and its parent.
    fn processes(&self) -> Result<Vec<Pid>> {
        let parent = self.daemon.as_ref().context("there is a daemon")?.pid();
        let text = std::fs::read_to_string(self.run_dir().join("daemon.pid"))?;
        let child = Pid::from_raw(text.trim().parse()?).context("a process number is positive")?;
        Ok(vec![parent, child])
    }

    fn run_dir(&self) -> PathBuf {
        self.topology.run_dir().join(node_name(NODE))
    }

    fn socket(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }
}

/// Asks for the state of one module again and again: a restart may take a few milliseconds, and a client that waits for
/// news gets the newest alone. The moments are the daemon's: both read the same clock.
struct Follower {
    client: Client,
    name: String,
    detected: Option<Instant>,
    ready: Option<Instant>,
}

impl Follower {
    fn learn(&mut self) -> Result<()> {
        let snapshot = match self.client.ask(&types::Command::Status)? {
            Reply::Status { snapshot } => snapshot,
            other => anyhow::bail!("no snapshot but {other:?}"),
        };
        let module = snapshot.modules.iter().find(|module| module.name == self.name);
        let module = module.with_context(|| format!("{} is known", self.name))?;
        if module.state != UP {
            self.detected.get_or_insert(module.since);
        } else if self.detected.is_some() {
            self.ready.get_or_insert(module.since);
        }
        Ok(())
    }
}

fn status(socket: &Path) -> Result<Snapshot> {
    match Client::connect(socket)?.ask(&types::Command::Status)? {
        Reply::Status { snapshot } => Ok(*snapshot),
        other => anyhow::bail!("no snapshot but {other:?}"),
    }
}

fn kilobytes(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(value.with_context(|| format!("no {name} in smaps_rollup"))?.parse()?)
}

/// The scripts' directory; what still runs of the applications is killed when it is dropped.
struct Applications(PathBuf);

impl Applications {
    fn prepare(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let own = std::env::current_exe()?;
        let program = own.display();
        script(
            dir,
            "start",
            &format!("exec '{program}' application \"$SAFEKIT_MODULE\" \"$PORT\" \"$SAFEKIT_MODULE.pid\""),
        )?;
        // What is dead but not yet buried by process 1 has ended, too; `kill -0` alone would wait for the burial.
        script(
            dir,
            "stop",
            "pid=$(cat \"$SAFEKIT_MODULE.pid\" 2>/dev/null) || exit 0\nkill -TERM \"$pid\" 2>/dev/null\n\
             while grep -qs '^State:.[^Z]' \"/proc/$pid/status\"; do sleep 0.02; done\nrm -f \"$SAFEKIT_MODULE.pid\"",
        )?;
        Ok(Self(dir.to_owned()))
    }

    fn pid(&self, module: u16) -> Result<Pid> {
        let text = std::fs::read_to_string(self.0.join(format!("{}.pid", name(module))))?;
        Pid::from_raw(text.trim().parse()?).context("a process number is positive")
    }

    /// Of all that run.
    fn pids(&self) -> Vec<Pid> {
        let files = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let pids = files.filter(|file| file.file_name().to_string_lossy().ends_with(".pid"));
        pids.filter_map(|file| Pid::from_raw(std::fs::read_to_string(file.path()).ok()?.trim().parse().ok()?))
            .filter(|pid| application::is_one(*pid))
            .collect()
    }
}

impl Drop for Applications {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}

fn script(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    Ok(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?)
}

fn name(module: u16) -> String {
    format!("m{module:02}")
}

fn port(module: u16) -> u16 {
    9000 + module
}

/// As an operator would write it.
fn configuration(topology: &Topology, amount: Amount) -> String {
    let (node, address) = (node_name(NODE), Network::Lan.address(NODE));
    let directory = topology.run_dir().join("applications");
    let mut text = format!(
        "cluster:\n  name: bench\n  key_file: cluster.key\n  networks: [{{ name: lan }}]\n  nodes:\n    \
         - {{ name: {node}, addresses: {{ lan: {address} }} }}\n\nmodules:\n"
    );
    let every = format!("interval: {}s", amount.interval_seconds);
    for (name, port) in (0..amount.modules).map(|module| (name(module), port(module))) {
        // Deaths are the measurement here, not a reason to stop.
        _ = write!(
            text,
            "  - name: {name}
    kind: light
    max_loop: off
    variables: {{ PORT: {port} }}
    scripts: {{ directory: {directory}, timeout: 30s, start: ./start, stop: ./stop }}
    checks:
      - {{ name: it, process: {{ name: {process}, arguments: ' accept {name}$', {every} }}, action: restart }}
      - {{ name: port, tcp: {{ port: {port}, {every} }}, action: restart }}
",
            directory = directory.display(),
            process = application::PROCESS,
        );
    }
    text
}
