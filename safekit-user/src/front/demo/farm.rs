//! Real daemons from a real file on the demo's machines, and what can happen to them.

use std::ffi::OsString;
use std::io;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use rustix::process::{Pid, Signal};

use super::process::{self, Process};
use super::timeline::Timeline;
use super::topology::{self, Families, Network, Topology, VIRTUAL_IP, node_name};
use super::watch::{Sight, Watcher};
use super::{leftovers, web};
use crate::driver::clock;
use crate::types::{Instant, NodeId};

pub const MODULE: &str = "www";
/// Of the virtual IP's only rule.
pub const PORT: u16 = 80;
const WEB_TIMEOUT: Duration = Duration::from_secs(10);
/// A daemon hands over in milliseconds; its connections get a few seconds to say goodbye.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Topology(#[from] topology::Error),
    #[error(transparent)]
    Process(#[from] process::Error),
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the system has no random numbers")]
    Random,
    #[error("cannot start a watching thread")]
    Watch(#[source] io::Error),
    #[error("{0} is powered off")]
    Off(String),
    #[error("{0} does not run a daemon")]
    NoDaemon(String),
    #[error("the web server of {node} does not answer: {last_words}")]
    Web { node: String, last_words: String },
    #[error("the daemon of {node} has ended:\n{last_words}")]
    Ended { node: String, last_words: String },
    #[error("cannot tell which process is the daemon of {node}: {why}")]
    NoPid { node: String, why: String },
}

/// What a farm is made of: the demo's, or that of a test.
#[derive(Clone, Debug)]
pub struct Design {
    pub nodes: usize,
    pub families: Families,
    pub virtual_ips: Vec<IpAddr>,
    /// As in the configuration: `flood`, `multicast`, `directed`.
    pub delivery: String,
    /// Of the heartbeat: `fast`, `default`, `tolerant`.
    pub profile: String,
    /// As in the configuration, one flow mapping each.
    pub rules: Vec<String>,
    /// The web server's program and arguments; `--name NODE` is added. It listens on [`PORT`]. Empty: the module
    /// starts its application itself.
    pub server: Vec<OsString>,
    /// More keys of the module, as lines of the configuration without their indentation.
    pub upkeep: Vec<String>,
    /// More modules, as lines of the configuration without their indentation.
    pub modules: Vec<String>,
}

impl Design {
    /// The demo's: one virtual IP, one rule, and the web server that is part of `binary`.
    pub fn demo(binary: &Path, nodes: usize) -> Self {
        let listen = format!("0.0.0.0:{PORT}");
        Self {
            nodes,
            families: Families::Ipv4,
            virtual_ips: vec![VIRTUAL_IP.into()],
            delivery: "flood".to_owned(),
            profile: "default".to_owned(),
            rules: vec![format!("{{ protocol: tcp, port: {PORT}, balance: connection }}")],
            server: vec![binary.into(), "demo-web".into(), "--listen".into(), listen.into()],
            upkeep: Vec::new(),
            modules: Vec::new(),
        }
    }
}

/// A farm under way. Dropping it ends its processes first, then removes its machines.
pub struct Farm {
    watchers: Vec<Watcher>,
    machines: Vec<Machine>,
    downs: Vec<(NodeId, Instant)>,
    binary: PathBuf,
    config: PathBuf,
    server: Vec<OsString>,
    topology: Topology,
}

#[derive(Default)]
struct Machine {
    /// The daemon's parent: the process that `safekit daemon` is.
    daemon: Option<Process>,
    web: Option<Process>,
}

impl Farm {
    /// Builds the machines, writes key and configuration, and starts everything. `binary` is the safekit to run.
    ///
    /// The kernel kills the processes when the calling thread ends.
    pub fn build(binary: &Path, nodes: usize) -> Result<Self, Error> {
        let mut farm = Self::idle(binary, nodes)?;
        for node in farm.ids() {
            farm.start(node)?;
        }
        Ok(farm)
    }

    /// Machines and files; nothing runs yet.
    pub fn idle(binary: &Path, nodes: usize) -> Result<Self, Error> {
        Self::designed(binary, Design::demo(binary, nodes))
    }

    /// The same, of another design.
    pub fn designed(binary: &Path, design: Design) -> Result<Self, Error> {
        let topology = Topology::build_with(design.nodes, design.families)?;
        let config = topology.run_dir().join("safekit.yaml");
        write_key(&key_file(&topology))?;
        write(&config, yaml(&topology, &design).as_bytes(), 0o644)?;
        let watchers = topology
            .ids()
            .map(|node| Watcher::start(socket(&topology, node)))
            .collect::<io::Result<_>>()
            .map_err(Error::Watch)?;
        let machines = topology.ids().map(|_| Machine::default()).collect();
        let (binary, server) = (binary.to_owned(), design.server);
        Ok(Self { watchers, machines, downs: Vec::new(), binary, config, server, topology })
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.topology.ids()
    }

    /// The configuration file of all nodes.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// A node's own configuration, where there is one when its daemon starts.
    pub fn own_config(&self, node: NodeId) -> PathBuf {
        self.topology.run_dir().join(format!("{}.yaml", node_name(node)))
    }

    /// What `--run-dir` of a node is.
    pub fn node_dir(&self, node: NodeId) -> PathBuf {
        node_dir(&self.topology, node)
    }

    pub fn is_powered(&self, node: NodeId) -> bool {
        self.topology.node(node).is_some()
    }

    pub fn runs_daemon(&self, node: NodeId) -> bool {
        self.machines[usize::from(node.0)].daemon.is_some()
    }

    pub fn watcher(&self, node: NodeId) -> &Watcher {
        &self.watchers[usize::from(node.0)]
    }

    pub fn sight(&self, node: NodeId) -> Sight {
        self.watcher(node).sight().clone()
    }

    /// Everything that the daemons have reported so far.
    pub fn timeline(&self) -> Timeline {
        let reports = self.ids().flat_map(|node| {
            let events: Vec<_> = self.watcher(node).sight().events.iter().cloned().collect();
            events.into_iter().map(move |event| (node, event))
        });
        Timeline { reports: reports.collect(), downs: self.downs.clone() }
    }

    /// Buckets of all groups, as the daemons say; none before the first answer.
    pub fn buckets(&self) -> Option<u64> {
        self.ids().find_map(|node| {
            let sight = self.watcher(node).sight();
            let groups = sight.snapshot.as_ref()?.farms.iter().flat_map(|farm| &farm.groups);
            Some(groups.map(|group| u64::from(group.buckets)).sum()).filter(|buckets| *buckets > 0)
        })
    }

    /// Every node that runs a daemon owns buckets, and together they own all.
    pub fn is_whole(&self) -> bool {
        let timeline = self.timeline();
        let owned: Vec<u64> =
            self.ids().filter(|node| self.runs_daemon(*node)).map(|node| timeline.owned(node)).collect();
        owned.iter().all(|owned| *owned > 0) && self.buckets() == Some(owned.iter().sum())
    }

    /// A daemon that ended without being asked is an error with its last words.
    pub fn check_daemons(&mut self) -> Result<(), Error> {
        for (index, machine) in self.machines.iter_mut().enumerate() {
            let Some(daemon) = &mut machine.daemon else { continue };
            if daemon.ended()?.is_some() {
                let node = node_name(NodeId(index as u8));
                return Err(Error::Ended { node, last_words: daemon.last_words() });
            }
        }
        Ok(())
    }

    /// The end of a daemon's log.
    pub fn last_words(&self, node: NodeId) -> String {
        self.machines[usize::from(node.0)].daemon.as_ref().map(Process::last_words).unwrap_or_default()
    }

    /// Power off: the cables first, then everything on the machine, then the machine. Says when.
    pub fn kill(&mut self, node: NodeId) -> Result<Instant, Error> {
        if !self.is_powered(node) {
            return Err(Error::Off(node_name(node)));
        }
        let fault = clock::now();
        self.topology.link_down(node)?;
        let Machine { daemon, web } = std::mem::take(&mut self.machines[usize::from(node.0)]);
        // All are signalled before any is waited for.
        for process in [&daemon, &web].into_iter().flatten() {
            process.kill();
        }
        drop((daemon, web));
        self.downs.push((node, fault));
        self.topology.remove_node(node)?;
        // What a machine keeps in /run is gone when it comes back.
        for failure in leftovers::remove_tree(&self.node_dir(node)) {
            eprintln!("warning: {failure}");
        }
        Ok(fault)
    }

    /// Power on, with everything that starts at boot. Says when the daemon was started.
    pub fn revive(&mut self, node: NodeId) -> Result<Instant, Error> {
        self.topology.add_node(node)?;
        self.start(node)
    }

    /// Kills the daemon's process alone; its parent lives and sees it. Says when.
    pub fn crash(&mut self, node: NodeId) -> Result<Instant, Error> {
        let daemon = self.daemon_pid(node)?;
        let fault = clock::now();
        // It was checked a moment ago to be the child of our own process.
        let _gone = rustix::process::kill_process(daemon, Signal::KILL);
        self.downs.push((node, fault));
        Ok(fault)
    }

    /// Asks the daemon to leave. Says when; [`Farm::finish_stop`] waits for its end.
    pub fn stop(&mut self, node: NodeId) -> Result<Instant, Error> {
        let Some(daemon) = &self.machines[usize::from(node.0)].daemon else {
            return Err(Error::NoDaemon(node_name(node)));
        };
        let asked = clock::now();
        daemon.signal(Signal::TERM);
        Ok(asked)
    }

    /// Asks the daemon's parent to read the configuration and the binary again.
    pub fn reload(&self, node: NodeId) -> Result<Instant, Error> {
        let Some(daemon) = &self.machines[usize::from(node.0)].daemon else {
            return Err(Error::NoDaemon(node_name(node)));
        };
        let asked = clock::now();
        daemon.signal(Signal::HUP);
        Ok(asked)
    }

    /// The process that `safekit daemon` is: the parent of the daemon itself.
    pub fn parent_pid(&self, node: NodeId) -> Option<Pid> {
        self.machines[usize::from(node.0)].daemon.as_ref().map(Process::pid)
    }

    /// Ends the web server as good ones end, which moves its last connections, and waits for the daemon.
    pub fn finish_stop(&mut self, node: NodeId) -> Result<(), Error> {
        let machine = &mut self.machines[usize::from(node.0)];
        if let Some(web) = &mut machine.web {
            web.signal(Signal::TERM);
            web.wait(STOP_TIMEOUT)?;
        }
        machine.web = None;
        self.finish_leave(node)
    }

    /// Whether the daemon that was asked to stop has ended.
    pub fn has_left(&mut self, node: NodeId) -> Result<bool, Error> {
        match &mut self.machines[usize::from(node.0)].daemon {
            Some(daemon) => Ok(daemon.ended()?.is_some()),
            None => Ok(true),
        }
    }

    /// Waits for the daemon alone: the web server stays.
    pub fn finish_leave(&mut self, node: NodeId) -> Result<(), Error> {
        let machine = &mut self.machines[usize::from(node.0)];
        if let Some(daemon) = &mut machine.daemon {
            let status = daemon.wait(STOP_TIMEOUT)?;
            if !status.success() {
                let last_words = format!("{status}\n{}", daemon.last_words());
                return Err(Error::Ended { node: node_name(node), last_words });
            }
        }
        machine.daemon = None;
        self.downs.push((node, clock::now()));
        Ok(())
    }

    /// Starts what does not run: the daemon, and the web server. Says when the daemon was started.
    pub fn start(&mut self, node: NodeId) -> Result<Instant, Error> {
        if self.machines[usize::from(node.0)].web.is_none() && !self.server.is_empty() {
            self.start_web(node)?;
        }
        let began = clock::now();
        self.start_daemon(node)?;
        Ok(began)
    }

    /// The process that a crash kills: the daemon itself, checked to be the child of the parent we started.
    pub fn daemon_pid(&self, node: NodeId) -> Result<Pid, Error> {
        let Some(parent) = &self.machines[usize::from(node.0)].daemon else {
            return Err(Error::NoDaemon(node_name(node)));
        };
        let failed = |why: String| Error::NoPid { node: node_name(node), why };
        let file = self.node_dir(node).join("daemon.pid");
        let text = std::fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| failed(format!("{} holds {text:?}", file.display())))?;
        let its_parent = parent_of(pid);
        if its_parent != Some(parent.pid()) {
            return Err(failed(format!("{pid:?} is the child of {its_parent:?}")));
        }
        Ok(pid)
    }

    /// Starts the web server alone.
    pub fn start_web(&mut self, node: NodeId) -> Result<(), Error> {
        let name = node_name(node);
        let (program, arguments) = self.server.split_first().expect("a design names its server");
        let mut command = Command::new(program);
        command.args(arguments).args(["--name", &name]);
        let namespace = self.topology.node(node).ok_or_else(|| Error::Off(name.clone()))?;
        let log = self.topology.run_dir().join(format!("{name}-web.log"));
        let mut process = Process::start(&format!("the web server of {name}"), command, namespace, &log)?;
        let deadline = clock::now() + WEB_TIMEOUT;
        while !web::is_up(namespace, PORT) {
            if process.ended()?.is_some() || clock::now() > deadline {
                return Err(Error::Web { node: name, last_words: process.last_words() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.machines[usize::from(node.0)].web = Some(process);
        Ok(())
    }

    fn start_daemon(&mut self, node: NodeId) -> Result<(), Error> {
        let name = node_name(node);
        let mut command = Command::new(&self.binary);
        // Nodes share one file, unless somebody gave this one its own.
        let own = self.own_config(node);
        let config = if own.is_file() { &own } else { &self.config };
        command.arg("daemon").args(["--node", &name]).arg("--config").arg(config);
        command.arg("--run-dir").arg(self.node_dir(node));
        command.arg("--state-dir").arg(self.topology.run_dir().join(format!("{name}-state")));
        let namespace = self.topology.node(node).ok_or_else(|| Error::Off(name.clone()))?;
        let log = self.topology.run_dir().join(format!("{name}.log"));
        let process = Process::start(&format!("the daemon of {name}"), command, namespace, &log)?;
        self.machines[usize::from(node.0)].daemon = Some(process);
        Ok(())
    }
}

fn node_dir(topology: &Topology, node: NodeId) -> PathBuf {
    topology.run_dir().join(node_name(node))
}

fn socket(topology: &Topology, node: NodeId) -> PathBuf {
    node_dir(topology, node).join("control.sock")
}

fn key_file(topology: &Topology) -> PathBuf {
    topology.run_dir().join("cluster.key")
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().and_then(Pid::from_raw)
}

/// The same file that an operator would write.
fn yaml(topology: &Topology, design: &Design) -> String {
    let nodes: String = topology
        .ids()
        .map(|node| {
            let address = |network: Network| format!("{}: {}", network.name(), network.address(node));
            let [lan, backup] = Network::ALL.map(address);
            format!("    - {{ name: {}, addresses: {{ {lan}, {backup} }} }}\n", node_name(node))
        })
        .collect();
    let virtual_ip = |address: &IpAddr| format!("      - {{ address: \"{address}\", interface: eth0 }}\n");
    let virtual_ips: String = design.virtual_ips.iter().map(virtual_ip).collect();
    let indented =
        |lines: &[String], by: &str| -> String { lines.iter().map(|line| format!("{by}{line}\n")).collect() };
    let (upkeep, modules) = (indented(&design.upkeep, "    "), indented(&design.modules, "  "));
    let rules: String = design.rules.iter().map(|rule| format!("      - {rule}\n")).collect();
    format!(
        "cluster:
  name: demo
  key_file: {key}
  networks:
    - {{ name: lan, port: 4800 }}
    - {{ name: backup, port: 4800 }}
  nodes:
{nodes}  heartbeat: {{ profile: {profile} }}

modules:
  - name: {MODULE}
    kind: farm
    virtual_ips:
{virtual_ips}    delivery: {delivery}
    rules:
{rules}{upkeep}{modules}",
        key = key_file(topology).display(),
        profile = design.profile,
        delivery = design.delivery,
    )
}

/// A fresh key, for its owner's eyes only.
pub fn write_key(path: &Path) -> Result<(), Error> {
    let mut key = [0_u8; 32];
    SystemRandom::new().fill(&mut key).map_err(|_| Error::Random)?;
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    write(path, format!("{digits}\n").as_bytes(), 0o600)
}

fn write(path: &Path, text: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let mut file =
        std::fs::File::options().create_new(true).write(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text).map_err(failed)
}
