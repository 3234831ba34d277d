//! The same farm on both sides of the kernel boundary: the loaded filter, and the host function over plain memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::Context;
use safekit::config::{self, Config};
use safekit::driver::clock;
use safekit::driver::datapath::{Datapath, Plan};
use safekit::engine::farm::Table;
use safekit::types::{Bucket, BucketBits, GroupId, Instant, NodeId};
use safekit_ebpf::abi::{self, Address, Rule, RuleKey, VirtualIp};
use safekit_ebpf::decide::arp_answer;
use safekit_ebpf::packet::{Ip, Ports};
use safekit_ebpf::verdict::Standing;
use safekit_ebpf::{Decision, Reason, Verdict, World, decide};

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 100);
pub const GROUP: GroupId = GroupId(0);
/// The loopback interface of every namespace, where frames of test runs seem to come from.
pub const LOOPBACK_INDEX: u32 = 1;
pub const OWN_MAC: [u8; 6] = [0x02, 0xaa, 0, 0, 0, 1];

const FILE: &str = "\
cluster:
  name: test
  key_file: unused
  networks: [{ name: lan, port: 4800 }]
  nodes: [{ name: n1, addresses: { lan: 10.99.0.1 } }]
modules:
  - name: www
    kind: farm
    virtual_ips: [{ address: 10.99.0.100, interface: lo }]
    rules:
      - { protocol: tcp, port: 80, balance: connection }
      - { protocol: tcp, port: 443, balance: client }
      - { protocol: udp, port: 53, balance: client_network }
";

pub fn config() -> Config {
    config::parse(FILE, "test").expect("the test's file is valid")
}

pub fn plan() -> Plan {
    Plan::new(&config(), NodeId(0), *b"a key for a test").expect("one farm fits")
}

/// A table in which every bucket stands alike.
pub fn uniform(standing: Standing) -> Table {
    let all = |wanted: bool| BucketBits::from_fn(abi::BUCKETS, |_| wanted);
    Table {
        mine: all(matches!(standing, Standing::Mine | Standing::Gained)),
        transitional: all(matches!(standing, Standing::Gained | Standing::Lost)),
    }
}

/// A table whose buckets stand in all four ways, in turn.
pub fn mixed() -> Table {
    Table {
        mine: BucketBits::from_fn(abi::BUCKETS, |Bucket(bucket)| bucket % 2 == 0),
        transitional: BucketBits::from_fn(abi::BUCKETS, |Bucket(bucket)| bucket / 2 % 2 == 0),
    }
}

/// The farm as the host function sees it.
pub struct Host {
    virtual_ips: HashMap<Address, VirtualIp>,
    rules: HashMap<RuleKey, Rule>,
    hash_key: [u64; 2],
    table: Box<abi::Table>,
    pub lease_live: bool,
    /// Clients with a connection to the virtual IP, port 80.
    pub connections: Vec<SocketAddrV4>,
}

impl Host {
    pub fn new() -> Self {
        let plan = plan();
        Self {
            virtual_ips: plan.filter_virtual_ips().collect(),
            rules: plan.filter_rules().collect(),
            hash_key: plan.hash_key(),
            table: Box::new([0; abi::TABLE_WORDS]),
            lease_live: true,
            connections: Vec::new(),
        }
    }

    pub fn write_table(&mut self, table: &Table) {
        abi::pack(table.mine.words(), table.transitional.words(), &mut self.table);
    }

    /// The decision, and the frame as it is then.
    pub fn run(&self, frame: &[u8]) -> (Decision, Vec<u8>) {
        let decision = decide(frame, self);
        let mut left = frame.to_vec();
        match decision.verdict {
            Verdict::Untouched | Verdict::Drop => {}
            Verdict::Accept => left[..6].copy_from_slice(&OWN_MAC),
            Verdict::Answer => {
                let at = decision.answer.offset;
                let ethernet = frame[..12].try_into().expect("twelve bytes");
                let arp = frame[at..at + 28].try_into().expect("an ARP packet");
                let (header, packet) = arp_answer(ethernet, arp, OWN_MAC, decision.answer.mac);
                left[..12].copy_from_slice(&header);
                left[at..at + 28].copy_from_slice(&packet);
            }
        }
        (decision, left)
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl World for Host {
    fn hash_key(&self) -> [u64; 2] {
        self.hash_key
    }

    fn virtual_ip(&self, address: &Address) -> Option<VirtualIp> {
        self.virtual_ips.get(address).copied()
    }

    fn rule(&self, key: &RuleKey) -> Option<Rule> {
        self.rules.get(key).copied()
    }

    fn table_word(&self, _group: u16, bucket: u16) -> u64 {
        self.table[usize::from(bucket) / abi::BUCKETS_PER_WORD]
    }

    fn lease_live(&self) -> bool {
        self.lease_live
    }

    fn has_socket(&self, ip: &Ip, ports: Ports, _transport: usize) -> bool {
        let is_client = |client: &&SocketAddrV4| {
            Address::v4(client.ip().octets()) == ip.source && client.port() == u16::from_be(ports.source)
        };
        ip.target == Address::v4(VIP.octets())
            && u16::from_be(ports.target) == 80
            && self.connections.iter().any(|client| is_client(&client))
    }
}

/// The farm in the kernel of the caller's network namespace.
pub struct Kernel {
    pub datapath: Datapath,
}

impl Kernel {
    pub fn load() -> anyhow::Result<Self> {
        let mut datapath =
            Datapath::load(&plan(), None, Duration::from_millis(100)).context("load the filter")?;
        datapath.know(LOOPBACK_INDEX, OWN_MAC)?;
        Ok(Self { datapath })
    }

    pub fn write_table(&mut self, table: &Table) -> anyhow::Result<()> {
        Ok(self.datapath.write_table(GROUP, table)?)
    }

    /// Packets counted for a reason, over all modules.
    pub fn counted(&self, reason: Reason) -> u64 {
        let counters = self.datapath.counters();
        counters.iter().filter(|counter| counter.reason == reason).map(|counter| counter.packets).sum()
    }

    /// Long enough for a test, or over.
    pub fn set_lease(&mut self, live: bool) -> anyhow::Result<()> {
        let until = if live { clock::now() + Duration::from_secs(600) } else { Instant(0) };
        Ok(self.datapath.set_lease(until)?)
    }
}

/// What `xdp_action` a verdict becomes.
pub fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Drop => 1,
        Verdict::Untouched | Verdict::Accept => 2,
        Verdict::Answer => 3,
    }
}

/// Runs `test` on a thread in a network namespace of its own with its loopback interface up; it is gone with the thread.
pub fn in_namespace<T: Send>(test: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            #[expect(
                deprecated,
                reason = "the safe variant forbids only CLONE_FILES, which is not asked for"
            )]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
                .context("cannot make a network namespace: this test needs root")?;
            ip(&["link", "set", "lo", "up"])?;
            test()
        });
        thread.join().map_err(|_| anyhow::anyhow!("the test panicked; its message is above"))?
    })
}

/// Runs `ip` in the caller's namespace.
pub fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let status =
        std::process::Command::new("ip").args(arguments).status().context("cannot run ip (iproute2)")?;
    anyhow::ensure!(status.success(), "ip {} failed", arguments.join(" "));
    Ok(())
}

pub fn is_vip(address: IpAddr) -> bool {
    address == IpAddr::V4(VIP)
}
