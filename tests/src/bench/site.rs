//! The machines: three servers, one or two balancers, a client, on the demo's switch.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal};
use safekit::driver::clock;
use safekit::driver::datapath::VirtualMac;
use safekit::front::control_client::Client;
use safekit::front::demo::farm::write_key;
use safekit::front::demo::namespace::Namespace;
use safekit::front::demo::process::Process;
use safekit::front::demo::topology::{Network, Topology, VIRTUAL_IP, ip_batch, node_name};
use safekit::front::demo::web;
use safekit::types::{self, Instant, NodeId, Reply};

use super::cpu;
use super::rivals::{self, Advertisement, Balancer, Iptables, SHARED_MAC};
use crate::lab::{binary, wait_until};

pub const SERVERS: usize = 3;
pub const PORT: u16 = 80;
/// The machine of the balancers, and its understudy.
pub const BALANCER: NodeId = NodeId(3);
pub const UNDERSTUDY: NodeId = NodeId(4);
/// Of the same three servers, for the contestant that needs no daemon.
pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 101);
const CLIENTS: std::ops::RangeInclusive<u8> = 201..=224;
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(25);

/// Who answers on the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Web {
    /// From its package, one worker.
    Nginx,
    /// The demo's own: for runs on machines without the package.
    Demo,
}

/// Everything of it ends with the value.
pub struct Site {
    // Dropped first: processes before the machines they run on.
    daemons: Vec<Process>,
    others: Vec<Process>,
    topology: Topology,
}

impl Site {
    /// Machines with web servers; balancers' cables are unplugged.
    pub fn build(balancers: usize, web: Web) -> Result<Self> {
        let topology = Topology::build(SERVERS + balancers)?;
        write_key(&topology.run_dir().join("cluster.key"))?;
        let mut site = Self { daemons: Vec::new(), others: Vec::new(), topology };
        let mut lines = String::new();
        for client in site.clients() {
            writeln!(lines, "addr add {client}/24 dev eth0")?;
        }
        let mac = VirtualMac(SHARED_MAC);
        writeln!(lines, "neigh add {CLUSTER_IP} lladdr {mac} dev eth0 nud permanent")?;
        ip_batch(site.client().name(), &lines)?;
        for node in site.topology.ids().skip(SERVERS) {
            site.topology.link_down(node)?;
        }
        for node in site.servers() {
            site.start_web(node, web)?;
        }
        Ok(site)
    }

    pub fn client(&self) -> &Namespace {
        self.topology.client()
    }

    /// Addresses that the client asks from.
    pub fn clients(&self) -> Vec<Ipv4Addr> {
        CLIENTS.map(|host| Ipv4Addr::new(10, 99, 0, host)).collect()
    }

    pub fn servers(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.topology.ids().take(SERVERS)
    }

    pub fn addresses(&self) -> Vec<SocketAddrV4> {
        self.servers().map(|node| SocketAddrV4::new(Network::Lan.address(node), PORT)).collect()
    }

    /// Whose processor time is the lab's, the client's thread apart.
    pub fn processes(&self) -> Vec<Pid> {
        let nodes = self.topology.ids().filter_map(|node| self.topology.node(node));
        let mut all: Vec<Pid> = nodes.flat_map(Namespace::processes).collect();
        all.extend(cpu::softirq_threads());
        all
    }

    fn machine(&self, node: NodeId) -> Result<&Namespace> {
        self.topology.node(node).with_context(|| format!("{} is powered off", node_name(node)))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.topology.run_dir().join(name)
    }

    fn start(&self, what: &str, node: NodeId, command: Command) -> Result<Process> {
        let name = node_name(node);
        let log = self.file(&format!("{name}-{what}.log"));
        Ok(Process::start(&format!("{what} of {name}"), command, self.machine(node)?, &log)?)
    }

    fn start_web(&mut self, node: NodeId, web: Web) -> Result<()> {
        let name = node_name(node);
        let command = match web {
            Web::Nginx => {
                let (dir, config) = (self.topology.run_dir(), self.file(&format!("{name}-nginx.conf")));
                std::fs::write(&config, rivals::nginx_server(dir, &name, PORT))?;
                rivals::nginx(&config)
            }
            Web::Demo => {
                let mut command = Command::new(binary()?);
                command.args(["demo-web", "--listen", &format!("0.0.0.0:{PORT}"), "--name", &name]);
                command
            }
        };
        let process = self.start("web", node, command)?;
        self.others.push(process);
        self.wait_listening(node, PORT)
    }

    fn wait_listening(&self, node: NodeId, port: u16) -> Result<()> {
        let machine = self.machine(node)?;
        let up = wait_until("a server that listens", START_TIMEOUT, || web::is_up(machine, port));
        up.with_context(|| {
            let words: Vec<String> = self.others.iter().map(Process::last_words).collect();
            format!("port {port} of {}: {}", node_name(node), words.join(" | "))
        })
    }

    /// Our farm over the servers, at rest when this returns.
    pub fn start_daemons(&mut self, profile: &str) -> Result<()> {
        let config = self.file("safekit.yaml");
        std::fs::write(&config, self.yaml(profile))?;
        for node in self.servers() {
            let name = node_name(node);
            let mut command = Command::new(binary()?);
            command.arg("daemon").args(["--node", &name]).arg("--config").arg(&config);
            command.arg("--run-dir").arg(self.file(&name));
            command.arg("--state-dir").arg(self.file(&format!("{name}-state")));
            let process = self.start("daemon", node, command)?;
            self.daemons.push(process);
        }
        let at_rest = wait_until("a farm at rest", START_TIMEOUT, || {
            self.servers().all(|node| self.is_converged(node).unwrap_or(false))
        });
        at_rest.with_context(|| self.daemons.iter().map(Process::last_words).collect::<Vec<_>>().join("\n"))
    }

    fn is_converged(&self, node: NodeId) -> Result<bool> {
        let mut daemon = Client::connect(&self.file(&node_name(node)).join("control.sock"))?;
        let Reply::Status { snapshot } = daemon.ask(&types::Command::Status)? else { return Ok(false) };
        Ok(snapshot.verdict == types::snapshot::Verdict::Converged)
    }

    /// Clean stops: filters and virtual IPs are gone when this returns.
    pub fn stop_daemons(&mut self) -> Result<()> {
        for daemon in &self.daemons {
            daemon.signal(Signal::TERM);
        }
        for mut daemon in self.daemons.drain(..) {
            let status = daemon.wait(STOP_TIMEOUT)?;
            ensure!(status.success(), "a daemon ended with {status}: {}", daemon.last_words());
        }
        Ok(())
    }

    fn yaml(&self, profile: &str) -> String {
        let node = |node| {
            let (lan, backup) = (Network::Lan.address(node), Network::Backup.address(node));
            format!("    - {{ name: {}, addresses: {{ lan: {lan}, backup: {backup} }} }}\n", node_name(node))
        };
        rivals::SAFEKIT
            .replace("KEY", &self.file("cluster.key").to_string_lossy())
            .replace("    NODES\n", &self.servers().map(node).collect::<String>())
            .replace("PROFILE", profile)
            .replace("ADDRESS", &VIRTUAL_IP.to_string())
            .replace("PORT", &PORT.to_string())
    }

    /// While on, frames to the servers go to all of them, as frames to a virtual MAC do, and the two that they are not
    /// for give them up: what the lab's switch costs by itself when it floods.
    pub fn flood_servers(&self, on: bool) -> Result<()> {
        let mut lines = String::new();
        for node in self.servers() {
            let learning = if on { "off" } else { "on" };
            let port = lan_port(node);
            writeln!(lines, "link set dev {port} type bridge_slave learning {learning} fdb_flush")?;
        }
        Ok(ip_batch(&self.topology.switch_name(), &lines)?)
    }

    /// xt_cluster over the servers, or nothing of it.
    pub fn cluster_rules(&self, on: bool) -> Result<()> {
        let verb = if on { "add" } else { "del" };
        let mac = VirtualMac(SHARED_MAC);
        for node in self.servers() {
            let machine = self.machine(node)?;
            let addresses = format!("addr {verb} {CLUSTER_IP}/32 dev lo\nmaddr {verb} {mac} dev eth0\n");
            ip_batch(machine.name(), &addresses)?;
            let own_number = usize::from(node.0) + 1;
            machine.inside(|| {
                if on {
                    Iptables::Nft.add_cluster_rules(CLUSTER_IP, SERVERS, own_number)
                } else {
                    Iptables::Nft.remove_cluster_rules()
                }
            })??;
        }
        Ok(())
    }

    /// Starts a balancer on its machine.
    pub fn start_balancer(&mut self, node: NodeId, balancer: Balancer, port: u16) -> Result<()> {
        let config = self.file(&format!("{}-{}.conf", node_name(node), balancer.program()));
        let servers = self.addresses();
        std::fs::write(&config, balancer.config(self.topology.run_dir(), port, &servers))?;
        let process = self.start(balancer.program(), node, balancer.command(&config))?;
        self.others.push(process);
        self.wait_listening(node, port)
    }

    pub fn start_keepalived(&mut self, node: NodeId, advertisement: Advertisement) -> Result<()> {
        let name = node_name(node);
        let config = self.file(&format!("{name}-keepalived.conf"));
        let priority = if node == BALANCER { 150 } else { 100 };
        std::fs::write(&config, rivals::keepalived_config(&name, advertisement, priority, VIRTUAL_IP))?;
        let pids = self.file(&format!("{name}-keepalived"));
        let process = self.start("keepalived", node, rivals::keepalived(&config, &pids))?;
        self.others.push(process);
        Ok(())
    }

    pub fn has_virtual_ip(&self, node: NodeId) -> bool {
        let Some(machine) = self.topology.node(node) else { return false };
        let listing =
            Command::new("ip").args(["-n", machine.name(), "-o", "addr", "show", "dev", "eth0"]).output();
        let wanted = format!(" {VIRTUAL_IP}/");
        listing.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&wanted))
    }

    /// Plugs a balancer in at a port that gets no copies of frames for others, as if it were not there.
    pub fn plug_aside(&self, node: NodeId) -> Result<()> {
        self.plug(node)?;
        let port = lan_port(node);
        let line = format!("link set dev {port} type bridge_slave flood off mcast_flood off\n");
        Ok(ip_batch(&self.topology.switch_name(), &line)?)
    }

    pub fn plug(&self, node: NodeId) -> Result<()> {
        Ok(self.topology.link_up(node)?)
    }

    /// Power off: the cables, then everything that runs there. Says when.
    pub fn kill(&self, node: NodeId) -> Result<Instant> {
        let fault = clock::now();
        self.topology.link_down(node)?;
        self.machine(node)?.kill_all();
        Ok(fault)
    }
}

/// The switch's end of a cable.
fn lan_port(node: NodeId) -> String {
    format!("{}-{}", node_name(node), Network::Lan.name())
}
