//! The demo's wires: namespaces as machines, a bridge as switch, all of it gone when the value is dropped.
//!
//! ```text
//!   PREFIX-n1        PREFIX-n2        PREFIX-n3        PREFIX-c
//!   eth0   eth1      eth0   eth1      eth0   eth1      eth0
//!    │      └───┐     │      └───┐     │      └───┐     │
//!   ─┴──────────┼─────┴──────────┼─────┴──────────┼─────┴─  lan     10.99.0.0/24 ┐ bridges, in
//!               └────────────────┴────────────────┘         backup  10.98.0.0/24 ┘ PREFIX-sw
//! ```
//!
//! No interface is ever made in the machine's own namespace, so nothing of its network is touched.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::leftovers;
use super::namespace::Namespace;
use super::prefix::Prefix;
use crate::types::NodeId;

/// More would make the addresses below ambiguous, and the screen unreadable.
pub const NODES_MAX: usize = 8;

pub const VIRTUAL_IP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 100);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 200);

/// The same with IPv6, where a topology has it. Documentation prefixes would do as well; these are local ones.
pub const VIRTUAL_IP_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 99, 0, 0, 0, 0, 0, 0x100);
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 99, 0, 0, 0, 0, 0, 0x200);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the command `ip` is missing; install the package iproute2")]
    NoIproute2,
    #[error("cannot run `ip`")]
    Run(#[source] io::Error),
    #[error("`ip {arguments}` failed: {message}")]
    Ip { arguments: String, message: String },
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Namespace(#[from] super::namespace::Error),
    #[error("a demo has two to {NODES_MAX} nodes, not {0}")]
    NodeCount(usize),
}

/// Which of a node's two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Lan,
    Backup,
}

impl Network {
    pub const ALL: [Self; 2] = [Self::Lan, Self::Backup];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Backup => "backup",
        }
    }

    pub const fn interface(self) -> &'static str {
        match self {
            Self::Lan => "eth0",
            Self::Backup => "eth1",
        }
    }

    fn mac(self, node: NodeId) -> String {
        let [_, network, _, host] = self.address(node).octets();
        format!("0a:53:4b:00:{network:02x}:{host:02x}")
    }

    pub const fn address(self, node: NodeId) -> Ipv4Addr {
        let network = match self {
            Self::Lan => 99,
            Self::Backup => 98,
        };
        Ipv4Addr::new(10, network, 0, node.0 + 1)
    }
}

/// What the clients' network carries. The backup network has IPv4 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    Ipv4,
    Ipv4And6,
}

/// A switch, nodes and a client, of one run.
#[derive(Debug)]
pub struct Topology {
    prefix: Prefix,
    families: Families,
    run_dir: PathBuf,
    client: Option<Namespace>,
    /// None while the node is powered off.
    nodes: Vec<Option<Namespace>>,
}

pub fn node_name(node: NodeId) -> String {
    format!("n{}", node.0 + 1)
}

/// Whose network card in the clients' network this is.
pub fn node_of_card(mac: [u8; 6]) -> Option<NodeId> {
    let [_, network, _, _] = Network::Lan.address(NodeId(0)).octets();
    let host = (mac[..5] == [0x0a, 0x53, 0x4b, 0, network]).then_some(mac[5])?;
    host.checked_sub(1).filter(|index| usize::from(*index) < NODES_MAX).map(NodeId)
}

/// A node's address in the clients' network.
pub const fn address_v6(node: NodeId) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 99, 0, 0, 0, 0, 0, node.0 as u16 + 1)
}

impl Topology {
    pub fn build(nodes: usize) -> Result<Self, Error> {
        Self::build_with(nodes, Families::Ipv4)
    }

    pub fn build_with(nodes: usize, families: Families) -> Result<Self, Error> {
        static BUILT: AtomicU32 = AtomicU32::new(0);
        if !(2..=NODES_MAX).contains(&nodes) {
            return Err(Error::NodeCount(nodes));
        }
        let prefix = Prefix::of_this_process(BUILT.fetch_add(1, Ordering::Relaxed));
        let run_dir = leftovers::run_dir(prefix);
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { action, path, source }
        };
        std::fs::create_dir_all(&run_dir).map_err(file("make the directory", &run_dir))?;
        // From here on the value exists, so whatever fails below is removed by its drop.
        let mut topology = Self { prefix, families, run_dir, client: None, nodes: Vec::new() };
        topology.nodes.resize_with(nodes, || None);
        leftovers::sign(&topology.run_dir).map_err(file("write into", &topology.run_dir))?;
        topology.add_switch()?;
        topology.add_client()?;
        for node in topology.ids() {
            topology.add_node(node)?;
        }
        Ok(topology)
    }

    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// For sockets, keys and logs of this run.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// All nodes, powered or not.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(|index| NodeId(index as u8))
    }

    /// None while the node is powered off.
    pub fn node(&self, node: NodeId) -> Option<&Namespace> {
        self.nodes[usize::from(node.0)].as_ref()
    }

    pub fn client(&self) -> &Namespace {
        self.client.as_ref().expect("build() adds the client before it returns a topology")
    }

    /// Pulls both cables at the switch's side, as a power cut does: the node sends and hears nothing more.
    pub fn link_down(&self, node: NodeId) -> Result<(), Error> {
        self.set_ports(node, "down")
    }

    pub fn link_up(&self, node: NodeId) -> Result<(), Error> {
        self.set_ports(node, "up")
    }

    /// Takes a node's port out of the clients' network, or back in: the cable keeps its carrier, and nothing passes.
    pub fn lan_port(&self, node: NodeId, connected: bool) -> Result<(), Error> {
        let port = port(node, Network::Lan);
        let line = if connected {
            format!("link set {port} master lan\n")
        } else {
            format!("link set {port} nomaster\n")
        };
        ip_batch(&self.switch_name(), &line)
    }

    /// Takes a node away with everything that runs on it.
    pub fn remove_node(&mut self, node: NodeId) -> Result<(), Error> {
        let Some(namespace) = self.nodes[usize::from(node.0)].take() else { return Ok(()) };
        namespace.kill_all();
        // The kernel destroys namespaces in its own time; the ports go now, so that the node can come back at once.
        let mut batch = String::new();
        for network in Network::ALL {
            _ = writeln!(batch, "link del {}", port(node, network));
        }
        ip_batch(&self.switch_name(), &batch)?;
        namespace.remove()?;
        Ok(())
    }

    /// Plugs a node in (again).
    pub fn add_node(&mut self, node: NodeId) -> Result<(), Error> {
        let namespace = Namespace::add(&self.name_of(&node_name(node)))?;
        self.settle_ipv6(&namespace)?;
        let (mut ports, mut inside) = (String::new(), String::from("link set lo up\n"));
        for network in Network::ALL {
            let (port, interface) = (port(node, network), network.interface());
            _ = writeln!(ports, "link add {port} type veth peer name {interface} netns {}", namespace.name());
            _ = writeln!(ports, "link set {port} master {} up", network.name());
            // A machine that comes back has the network cards that it had.
            _ = writeln!(inside, "link set {interface} address {}", network.mac(node));
            _ = writeln!(inside, "addr add {}/24 dev {interface}", network.address(node));
            _ = writeln!(inside, "link set {interface} up");
        }
        if self.families == Families::Ipv4And6 {
            _ = writeln!(inside, "addr add {}/64 dev {} nodad", address_v6(node), Network::Lan.interface());
        }
        // Owned by the topology before anything more can fail.
        let name = namespace.name().to_owned();
        self.nodes[usize::from(node.0)] = Some(namespace);
        ip_batch(&self.switch_name(), &ports)?;
        ip_batch(&name, &inside)
    }

    fn add_switch(&self) -> Result<(), Error> {
        let switch = Namespace::add(&self.switch_name())?;
        switch.without_ipv6()?;
        let mut batch = String::from("link set lo up\n");
        for network in Network::ALL {
            // Snooping would send multicast only to those who asked; learning stays on, as on any switch.
            _ = writeln!(
                batch,
                "link add {} type bridge mcast_snooping 0 stp_state 0 forward_delay 0",
                network.name()
            );
            _ = writeln!(batch, "link set {} up", network.name());
        }
        ip_batch(switch.name(), &batch)
    }

    fn add_client(&mut self) -> Result<(), Error> {
        let client = Namespace::add(&self.name_of("c"))?;
        self.settle_ipv6(&client)?;
        // Fresh source ports are what spreads the client's connections over buckets.
        client.sysctl("net/ipv4/ip_local_port_range", "10240 65535")?;
        let port = format!(
            "link add c-lan type veth peer name eth0 netns {}\nlink set c-lan master lan up\n",
            client.name()
        );
        ip_batch(&self.switch_name(), &port)?;
        let mut inside = format!("link set lo up\naddr add {CLIENT}/24 dev eth0\nlink set eth0 up\n");
        if self.families == Families::Ipv4And6 {
            _ = writeln!(inside, "addr add {CLIENT_V6}/64 dev eth0 nodad");
        }
        ip_batch(client.name(), &inside)?;
        self.client = Some(client);
        Ok(())
    }

    fn settle_ipv6(&self, namespace: &Namespace) -> Result<(), super::namespace::Error> {
        match self.families {
            Families::Ipv4 => namespace.without_ipv6(),
            Families::Ipv4And6 => namespace.with_steady_ipv6(),
        }
    }

    fn set_ports(&self, node: NodeId, state: &str) -> Result<(), Error> {
        let mut batch = String::new();
        for network in Network::ALL {
            _ = writeln!(batch, "link set {} {state}", port(node, network));
        }
        ip_batch(&self.switch_name(), &batch)
    }

    /// The switch's namespace, for tests that rewire it.
    pub fn switch_name(&self) -> String {
        self.name_of("sw")
    }

    /// A name for a machine of this run: it goes with the run.
    pub fn name_of(&self, machine: &str) -> String {
        format!("{}-{machine}", self.prefix)
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        self.client = None;
        self.nodes.clear();
        for failure in leftovers::remove(self.prefix) {
            eprintln!("warning: {failure}; `safekit demo clean` tries again");
        }
    }
}

/// The switch's end of a node's cable.
fn port(node: NodeId, network: Network) -> String {
    format!("{}-{}", node_name(node), network.name())
}

/// Runs lines of `ip` in a namespace, in one process: the whole topology takes tenths of a second.
pub fn ip_batch(namespace: &str, lines: &str) -> Result<(), Error> {
    let arguments = format!("-n {namespace} -batch -");
    let output = feed(Command::new("ip").args(arguments.split(' ')), lines).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound { Error::NoIproute2 } else { Error::Run(error) }
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Error::Ip { arguments, message })
}

fn feed(command: &mut Command, input: &str) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    match stdin.write_all(input.as_bytes()) {
        // It ended before it read all: its own message says why.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
        _ => drop(stdin),
    }
    child.wait_with_output()
}
