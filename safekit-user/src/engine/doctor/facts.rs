//! What a node looks like, as far as a farm depends on it. `driver/doctor` gathers it, [`judge`](super::judge) judges.
//!
//! `None` and `Err` mean that it could not be learned, never that it is absent.

use std::net::IpAddr;

use crate::types::Snapshot;

#[derive(Clone, Debug)]
pub struct Facts {
    pub machine: Machine,
    /// Each interface that the file names for a virtual IP, once.
    pub interfaces: Vec<Interface>,
    /// The heartbeat's networks that this node has an address on.
    pub networks: Vec<Network>,
    pub virtual_ips: Vec<VirtualIp>,
    pub keeping: Keeping,
    /// Of the modules of this node that start something.
    pub applications: Vec<Application>,
    /// Directories of this node's mirrors.
    pub replicated: Vec<Replicated>,
    /// None: no daemon answers on this node.
    pub daemon: Option<Snapshot>,
}

#[derive(Clone, Debug)]
pub struct Machine {
    /// As `uname -r` says.
    pub release: String,
    pub root: bool,
    /// Of those that the daemon uses, by name.
    pub capabilities_missing: Result<Vec<&'static str>, String>,
    /// The filter loaded into the kernel for a moment, and on no interface.
    pub filter: Result<Filter, String>,
    pub btf: bool,
    pub bpffs: Option<bool>,
    pub clocksource: Option<String>,
    /// A thread tried it.
    pub real_time: Result<(), String>,
    pub memory_lock: MemoryLock,
    pub syncookies: Option<i64>,
    pub fastopen: Fastopen,
    /// `net.bridge.bridge-nf-call-iptables`; zero where the module is not loaded.
    pub bridge_netfilter: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
pub struct Filter {
    pub compiled: bool,
    /// The daemon's boot clock less the kernel's, in nanoseconds.
    pub clock_ahead_ns: i64,
    /// The lease is measured by ticks, which cost nothing, or by the exact clock.
    pub by_ticks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLock {
    Unlimited,
    Bytes(u64),
}

/// Whether servers of this machine accept data with the SYN, and a fingerprint of the key that they check it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fastopen {
    Unknown,
    Off,
    On { key: Option<u32> },
}

#[derive(Clone, Debug)]
pub struct Interface {
    pub name: String,
    /// None: there is no such interface.
    pub link: Option<Link>,
    pub driver: Option<String>,
    /// Why the filter will be in generic mode; none where native mode will be tried.
    pub generic_because: Option<String>,
    /// Programs that are attached now.
    pub xdp: Vec<XdpProgram>,
    /// A filter of this node's daemon is pinned for this interface.
    pub xdp_is_ours: bool,
    /// Programs of traffic control, by place and name.
    pub tc: Result<Vec<String>, String>,
    pub offloads: Option<Offloads>,
    /// VLAN interfaces on top of it.
    pub vlans: Vec<String>,
    pub default_route: Option<bool>,
    /// The next four are what is in force: the greater of the interface's own value and that for all.
    pub rp_filter: Option<i64>,
    pub arp_ignore: Option<i64>,
    pub arp_announce: Option<i64>,
    pub ipv6_disabled: Option<bool>,
}

#[derive(Clone, Debug, Default)]
pub struct Link {
    pub up: bool,
    pub carrier: Option<bool>,
    pub mtu: u32,
    /// How many ask for every frame.
    pub promiscuity: u32,
    pub is_bridge: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    pub mode: &'static str,
    pub id: u32,
    pub name: String,
}

/// As `ethtool -k` calls them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    pub large_receive: bool,
    pub gro_hardware: bool,
    pub vlan_receive: bool,
}

#[derive(Clone, Debug)]
pub struct Network {
    pub name: String,
    pub own: IpAddr,
    pub port: u16,
    /// Where `own` is; none: on no interface of this host.
    pub interface: Option<String>,
    pub mtu: Option<u32>,
    pub heartbeat_port: PortState,
    /// None: they could not be asked.
    pub peers: Option<Vec<Peer>>,
    /// None: not asked, because no daemon runs here that could use them.
    pub doors: Option<Vec<Door>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    Free,
    /// Used by the daemon that answers on this node.
    Ours,
    /// By another process, named where it could be found.
    Taken(Option<String>),
    Unknown(String),
}

/// What came back of an echo request each, without fragments on the way there.
#[derive(Clone, Debug)]
pub struct Peer {
    pub node: String,
    pub address: IpAddr,
    pub small: bool,
    /// As large as the interface lets out.
    pub large: bool,
}

/// What the daemon keeps, and what it keeps time by.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// What is wrong with the cluster key's file, and the command that mends it.
    pub key: Result<(), (String, String)>,
    /// Whether something keeps the time of day right.
    pub clock_is_synchronised: Option<bool>,
    pub state_dir: String,
    /// For a user without privileges, on the file system of the state directory.
    pub state_bytes_free: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Application {
    pub module: String,
    pub services: Vec<Service>,
    pub scripts: Vec<ScriptFile>,
}

#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    /// None: systemd has it, and leaves it to safekit.
    pub trouble: Option<ServiceTrouble>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceTrouble {
    /// It cannot be started: why, and what to type.
    Unusable { why: String, remedy: String },
    /// systemd starts it at boot by itself.
    StartsByItself,
    /// systemd could not be asked.
    Unknown(String),
}

/// A program that a script or a custom check names by its path.
#[derive(Clone, Debug)]
pub struct ScriptFile {
    /// `start_both`, `check disk`
    pub of: String,
    pub path: String,
    pub state: ScriptState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptState {
    Executable,
    Missing,
    NotExecutable,
}

/// Whether another node's cluster port takes connections.
#[derive(Clone, Debug)]
pub struct Door {
    pub node: String,
    pub address: IpAddr,
    pub state: DoorState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorState {
    Open,
    /// Its host said no at once.
    Refused,
    /// Nothing came back.
    Silent,
}

#[derive(Clone, Debug)]
pub struct VirtualIp {
    pub address: IpAddr,
    pub interface: String,
    /// Every interface that has it as an address.
    pub configured_on: Vec<String>,
    pub claim: Claim,
}

/// Who answered for a virtual IP on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The daemon runs here: then the filter answers.
    NotAsked,
    Nobody,
    /// Another node of this farm, with the virtual MAC.
    Farm,
    Stranger([u8; 6]),
    Failed(String),
}

/// A directory of a mirror.
#[derive(Clone, Debug)]
pub struct Replicated {
    pub module: String,
    pub directory: String,
    pub state: ReplicatedState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicatedState {
    Fit,
    /// Over it lies the mount of a mirror that runs.
    Mounted,
    /// Over it lies the mount of a process that has died.
    DeadMount,
    Missing,
    NoDirectory,
    /// The file that has to be in it is not.
    NoGuard(String),
    NoFuse(String),
    /// Its file system lacks trusted attributes or file handles.
    Unfit,
    Unknown(String),
}
