//! One farm for all tests of the filter: its configuration, the filter loaded with it, and the same world on the host.

mod host;
mod roads;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::TestRunOptions;
use safekit::config::{
    self, Balance, Cluster, Config, Delivery, Farm, Group, Kind, Module, Network, Node, Ports, Protocol,
    Rule, Share, VirtualIp,
};
use safekit::driver::datapath::{Counter, Datapath, Plan};
use safekit::engine::farm::Table;
use safekit::types::{Bucket, BucketBits, GroupId, Instant, NodeId, Timing};
use safekit_ebpf::abi::{self, Address};
use safekit_ebpf::verdict::{BucketState, Reason};

pub use host::{Host, Notes};
pub use roads::HostRoads;

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 100);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
/// On an interface that frames in tests do not come in by.
pub const VIP_ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 100);
/// The device of a test run is the loopback of its namespace.
pub const INTERFACE: u32 = 1;
pub const INTERFACE_ELSEWHERE: u32 = 77;
pub const OWN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
pub const HASH_KEY: [u8; 16] = *b"a cluster's key.";
/// This node's hop mark before a hop is filled in: the third and fourth byte are of the halves of the key, put together.
pub const MARK: [u8; 6] = [0x02, 0x48, 0x13, 0x07, 0, 0];
/// The group of [`VIP`] and [`VIP6`].
pub const GROUP: GroupId = GroupId(1);

pub const PORT_CONNECTION: u16 = 80;
pub const PORT_CLIENT: u16 = 443;
pub const PORT_NETWORK: u16 = 8080;
pub const PORT_UDP: u16 = 53;
/// A range, one port of which has a rule and a group of its own.
pub const PORTS_RANGE: Ports = Ports { first: 2000, last: 2999 };
pub const PORT_IN_RANGE: u16 = 2500;
/// By networks of other lengths than usual.
pub const PORT_WIDE: u16 = 3100;
pub const BALANCE_WIDE: Balance = Balance::ClientNetwork { ipv4: 9, ipv6: 33 };
/// With `evidence: flows`.
pub const PORT_TCP_FLOWS: u16 = 5000;
pub const PORT_UDP_FLOWS: u16 = 5001;
/// Of the rule at [`PORT_IN_RANGE`].
pub const GROUP_IN_RANGE: GroupId = GroupId(2);
/// Of a farm with one virtual IP and a rule for any port.
pub const GROUP_ANY: GroupId = GroupId(3);
pub const VIP_ANY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 110);
/// Those that this node has a part in.
pub const GROUPS: [GroupId; 3] = [GROUP, GROUP_IN_RANGE, GROUP_ANY];

/// Three farms; the first is of the other node only, so that groups and places in maps differ.
pub fn config() -> Config {
    let ranged = |group, protocol, ports, balance| Rule {
        protocol,
        ports,
        balance,
        evidence: config::Evidence::Sockets,
        group,
    };
    let by_flows = |protocol, port| Rule {
        evidence: config::Evidence::Flows,
        ..ranged(GROUP, protocol, Ports::one(port), Balance::Connection)
    };
    let rule = |group, protocol, port, balance| ranged(group, protocol, Ports::one(port), balance);
    let vip = |address: IpAddr, interface: &str| VirtualIp { address, interface: interface.into() };
    let node = |name: &str| Node { name: name.into(), addresses: vec![Some(Ipv4Addr::LOCALHOST.into())] };
    let group =
        |id, module: &str, weights| Group { id, module: module.into(), share: Share::Weighted(weights) };
    let elsewhere = Farm {
        name: "elsewhere".into(),
        nodes: vec![NodeId(1)],
        virtual_ips: vec![vip(Ipv4Addr::new(10, 97, 0, 100).into(), "eth0")],
        delivery: Delivery::Flood,
        rules: vec![rule(GroupId(0), Protocol::Tcp, 25, Balance::Client)],
        group: GroupId(0),
        drain_timeout: Duration::ZERO,
    };
    let www = Farm {
        name: "www".into(),
        nodes: vec![NodeId(0), NodeId(1)],
        virtual_ips: vec![
            vip(VIP_ELSEWHERE.into(), "eth1"),
            vip(VIP.into(), "eth0"),
            vip(VIP6.into(), "eth0"),
        ],
        delivery: Delivery::Flood,
        rules: vec![
            rule(GROUP, Protocol::Tcp, PORT_CONNECTION, Balance::Connection),
            rule(GROUP, Protocol::Tcp, PORT_CLIENT, Balance::Client),
            rule(GROUP, Protocol::Tcp, PORT_NETWORK, Balance::NETWORK),
            rule(GROUP, Protocol::Udp, PORT_UDP, Balance::Connection),
            ranged(GROUP, Protocol::Tcp, PORTS_RANGE, Balance::Connection),
            rule(GROUP_IN_RANGE, Protocol::Tcp, PORT_IN_RANGE, Balance::Client),
            rule(GROUP, Protocol::Tcp, PORT_WIDE, BALANCE_WIDE),
            ranged(GROUP, Protocol::Udp, PORTS_RANGE, Balance::Client),
            by_flows(Protocol::Tcp, PORT_TCP_FLOWS),
            by_flows(Protocol::Udp, PORT_UDP_FLOWS),
        ],
        group: GROUP,
        drain_timeout: Duration::ZERO,
    };
    let any = Farm {
        name: "any".into(),
        nodes: vec![NodeId(0)],
        virtual_ips: vec![vip(VIP_ANY.into(), "eth0")],
        delivery: Delivery::Flood,
        rules: vec![ranged(GROUP_ANY, Protocol::Tcp, Ports::ANY, Balance::Connection)],
        group: GROUP_ANY,
        drain_timeout: Duration::ZERO,
    };
    let timing = Timing {
        interval: Duration::from_millis(25),
        timeout: Duration::from_millis(200),
        lease: Duration::from_millis(100),
    };
    Config {
        cluster: Cluster {
            name: "shop".into(),
            key_file: "cluster.key".into(),
            networks: vec![Network { name: "lan".into(), port: 4800 }],
            nodes: vec![node("web1"), node("web2")],
            timing,
        },
        modules: vec![Module::farm(elsewhere), Module::farm(www), Module::farm(any)],
        groups: vec![
            group(GroupId(0), "elsewhere", vec![0, 1]),
            group(GROUP, "www", vec![1, 1]),
            group(GROUP_IN_RANGE, "www", vec![1, 2]),
            group(GROUP_ANY, "any", vec![1, 0]),
        ],
        console: None,
    }
}

pub fn plan() -> Plan {
    Plan::of(&config(), NodeId(0), HASH_KEY).expect("the fixture fits the filter")
}

/// The same under directed delivery.
pub fn directed_plan() -> Plan {
    let mut config = config();
    for module in &mut config.modules {
        if let Kind::Farm(farm) = &mut module.kind {
            farm.delivery = Delivery::Directed;
        }
    }
    Plan::of(&config, NodeId(0), HASH_KEY).expect("the fixture fits the filter")
}

/// What a frame came to: the action, the frame as it is now, and the one counter that rose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub action: Action,
    pub bytes: Vec<u8>,
    pub reason: Reason,
    /// 0 = outside, then virtual IPs, then rules.
    pub scope: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pass,
    Drop,
    Transmit,
}

/// A state of all buckets at once, and of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    pub state: BucketState,
    pub lease: bool,
}

pub const CIRCUMSTANCES: [Circumstances; 5] = [
    Circumstances { state: BucketState::Foreign, lease: true },
    Circumstances { state: BucketState::Mine, lease: true },
    Circumstances { state: BucketState::Gained, lease: true },
    Circumstances { state: BucketState::Lost, lease: true },
    Circumstances { state: BucketState::Mine, lease: false },
];

pub fn uniform(state: BucketState) -> Table {
    let mine = matches!(state, BucketState::Mine | BucketState::Gained);
    let transitional = matches!(state, BucketState::Lost | BucketState::Gained);
    let set = |all: bool| BucketBits::from_fn(abi::BUCKETS, |_| all);
    Table { mine: set(mine), transitional: set(transitional) }
}

/// A table in which one bucket differs from all others.
pub fn all_but(state: BucketState, bucket: Bucket, other: BucketState) -> Table {
    let mut table = uniform(state);
    let one = uniform(other);
    for (bits, wanted) in [(&mut table.mine, &one.mine), (&mut table.transitional, &one.transitional)] {
        if wanted.contains(bucket) {
            bits.insert(bucket);
        } else {
            bits.remove(bucket);
        }
    }
    table
}

/// The filter in this kernel.
pub struct Loaded {
    pub datapath: Datapath,
}

impl Loaded {
    /// Fails where the kernel does not let us: a privileged test never passes by skipping.
    pub fn new() -> Result<Self> {
        Self::with_lease(config().cluster.timing.lease)
    }

    /// A cluster's lease decides which clock the filter reads.
    pub fn with_lease(lease: Duration) -> Result<Self> {
        Self::with_plan(&Plan { lease, ..plan() })
    }

    pub fn with_plan(plan: &Plan) -> Result<Self> {
        let interface = |name: &str| if name == "eth0" { INTERFACE } else { INTERFACE_ELSEWHERE };
        let datapath = Datapath::load_for_test(plan, |name| (interface(name), OWN_MAC))
            .context("the filter does not load: the datapath tests need root")?;
        Ok(Self { datapath })
    }

    pub fn set(&mut self, circumstances: Circumstances) -> Result<()> {
        self.write_table(&uniform(circumstances.state))?;
        self.set_lease(circumstances.lease)
    }

    /// The same in each group.
    pub fn write_table(&mut self, table: &Table) -> Result<()> {
        for group in GROUPS {
            self.datapath.write_table(group, table)?;
        }
        Ok(())
    }

    pub fn set_lease(&mut self, lease: bool) -> Result<()> {
        Ok(self.datapath.set_lease(if lease { FAR } else { Instant(0) })?)
    }

    /// Runs one frame (Ethernet's 14 bytes at least: the kernel refuses less).
    pub fn run(&self, frame: &[u8]) -> Result<Outcome> {
        let before = self.datapath.counters()?;
        let (action, bytes) = self.run_uncounted(frame)?;
        let (scope, reason) = self.only_increment(&before, &self.datapath.counters()?)?;
        Ok(Outcome { action, bytes, reason, scope })
    }

    pub fn run_uncounted(&self, frame: &[u8]) -> Result<(Action, Vec<u8>)> {
        let mut output = vec![0; frame.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut output);
        let result = self.datapath.test_run(abi::PROGRAM, options)?;
        output.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Transmit,
            other => anyhow::bail!("the filter returned the XDP action {other}"),
        };
        Ok((action, output))
    }

    fn only_increment(&self, before: &[Counter], after: &[Counter]) -> Result<(u32, Reason)> {
        let old = |counter: &Counter| {
            let same = before.iter().find(|old| old.scope == counter.scope && old.reason == counter.reason);
            same.map_or(0, |old| old.packets)
        };
        let risen: Vec<_> = after.iter().filter(|counter| counter.packets != old(counter)).collect();
        let [counter] = risen[..] else { anyhow::bail!("not one counter rose but {risen:?}") };
        anyhow::ensure!(
            counter.packets == old(counter) + 1,
            "one frame was counted more than once: {counter:?}"
        );
        Ok((self.datapath.shared_counters().place(&counter.scope), counter.reason))
    }
}

/// A lease that no test outlives: an hour on the boot clock of any machine that has been up for less than 500 years.
const FAR: Instant = Instant(u64::MAX / 2);

pub fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::v4(v4.to_bits()),
        IpAddr::V6(v6) => Address::v6(v6.octets()),
    }
}

pub fn ip_address(address: Address) -> IpAddr {
    let bits = u128::from(address.0) << 64 | u128::from(address.1);
    Ipv6Addr::from_bits(bits).to_canonical()
}
