//! What it costs a node to drop a frame that is another node's: our filter against the kernel's xt_cluster.
//!
//! ```text
//!   BPF_PROG_TEST_RUN with live frames: the kernel's own packet generator, on the calling core
//!     native      frame ─▶ filter ─▶ drop                                        (no socket buffer)
//!     generic     frame ─▶ pass ─▶ socket buffer ─▶ filter in the stack ─▶ drop
//!     xt_cluster  frame ─▶ pass ─▶ socket buffer ─▶ ip_rcv ─▶ conntrack ─▶ mangle: CLUSTER no ─▶ drop
//!     buffer      frame ─▶ pass ─▶ socket buffer ─▶ not addressed to this host ─▶ drop   (the floor of the last two)
//! ```
//!
//! The generator recycles its pages as a driver does and sends nothing over a wire, so what is measured is the
//! receiving side alone. That each frame was dropped by the contestant is read from its own counter.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{TestRunAttrs, TestRunOptions};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use rustix::time::{ClockId, clock_gettime};
use safekit::driver::datapath::{Datapath, ModeChoice};
use safekit::types::Instant;
use safekit_ebpf::abi;
use safekit_ebpf::verdict::{BucketState, Reason};
use serde::Serialize;

use super::Spread;
use super::rivals::{Iptables, SHARED_MAC};
use crate::fixture::{GROUP, PORT_CONNECTION, VIP, plan, uniform};
use crate::netns::{SCRATCH, in_new_namespace, ip};
use crate::packets::{ACK, SYN, ethernet};

/// An address that is nobody's: the stack gives such a frame up at once.
const OTHER_HOST: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const FLOWS: usize = 8;
/// As many as a driver takes in one poll.
const BATCH: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    Native,
    Generic,
    XtCluster(Iptables),
    Buffer,
}

pub const CONTESTANTS: [Contestant; 5] = [
    Contestant::Native,
    Contestant::Generic,
    Contestant::XtCluster(Iptables::Legacy),
    Contestant::XtCluster(Iptables::Nft),
    Contestant::Buffer,
];

impl Contestant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "safekit, in the driver (native XDP)",
            Self::Generic => "safekit, in the stack (generic XDP)",
            Self::XtCluster(Iptables::Legacy) => "xt_cluster, iptables-legacy",
            Self::XtCluster(Iptables::Nft) => "xt_cluster, iptables-nft",
            Self::Buffer => "floor: a socket buffer made and given up",
        }
    }

    /// Where frames for it are sent.
    fn mac(self) -> [u8; 6] {
        match self {
            Self::Native | Self::Generic | Self::XtCluster(_) => SHARED_MAC,
            Self::Buffer => OTHER_HOST,
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Native => abi::PROGRAM,
            Self::Generic | Self::XtCluster(_) | Self::Buffer => abi::PROGRAM_EMPTY,
        }
    }
}

/// What the foreign frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Of connections that another node holds.
    Established,
    /// Of connections that another node will take.
    Opening,
}

pub const KINDS: [Kind; 2] = [Kind::Established, Kind::Opening];

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    pub contestant: Contestant,
    pub kind: Kind,
    pub packets_per_second: Spread,
    pub cpu_ns_per_packet: Spread,
}

struct Sample {
    packets_per_second: f64,
    cpu_ns_per_packet: f64,
}

/// Interleaved rounds of `packets` each.
pub fn measure(rounds: usize, packets: u32) -> Result<Vec<Figure>> {
    in_new_namespace(|| {
        let mut node = Node::new(packets)?;
        let pairs = KINDS.into_iter().flat_map(|kind| CONTESTANTS.map(|contestant| (contestant, kind)));
        let mut samples: Vec<(Contestant, Kind, Vec<Sample>)> =
            pairs.map(|(contestant, kind)| (contestant, kind, Vec::new())).collect();
        for _ in 0..rounds {
            for (contestant, kind, taken) in &mut samples {
                taken.push(node.round(*contestant, *kind)?);
            }
        }
        let figures = samples.into_iter().map(|(contestant, kind, taken)| {
            let spread = |of: fn(&Sample) -> f64| Spread::over(&taken, of).context("no round");
            Ok(Figure {
                contestant,
                kind,
                packets_per_second: spread(|sample| sample.packets_per_second)?,
                cpu_ns_per_packet: spread(|sample| sample.cpu_ns_per_packet)?,
            })
        });
        figures.collect()
    })
}

/// The receiving machine: eth0 as in the fixture's configuration, and the program that generates.
struct Node {
    /// Not attached: native frames run through it by hand.
    filter: Datapath,
    eth0: u32,
    /// All of them another node's, by either way to count.
    clients: Vec<Ipv4Addr>,
    packets_per_flow: u32,
}

impl Node {
    fn new(packets: u32) -> Result<Self> {
        for name in ["eth0", "eth1"] {
            ip(&format!("link add {name} type veth peer name far-{name}"))?;
            ip(&format!("link set {name} up"))?;
            ip(&format!("link set far-{name} up"))?;
        }
        ip(&format!("address add {VIP}/32 dev lo"))?;
        ip("address add 10.99.0.1/24 dev eth0")?;
        let eth0 = netdevice::name_to_index(&socket(AddressFamily::INET, SocketType::DGRAM, None)?, "eth0")?;
        let mut filter = Datapath::load_for_test(&plan(), |_| (eth0, [0x02, 0, 0, 0, 0, 1]))?;
        own_nothing(&mut filter)?;
        let packets_per_flow = packets / FLOWS as u32;
        let mut node = Self { filter, eth0, clients: Vec::new(), packets_per_flow };
        node.clients = node.foreign_clients()?;
        Ok(node)
    }

    /// xt_cluster hashes the client's address with its own key: its rule is asked which clients are not its node's.
    fn foreign_clients(&self) -> Result<Vec<Ipv4Addr>> {
        let iptables = Iptables::Legacy;
        let rules = Rules::install(iptables)?;
        let mut foreign = Vec::new();
        for host in 10..=250 {
            let client = Ipv4Addr::new(10, 99, 0, host);
            let before = rules.dropped()?;
            // A handshake's third packet that nobody awaits, if it should pass: the stack answers with a reset.
            self.generate(abi::PROGRAM_EMPTY, &frame(SHARED_MAC, client, 40_000, SYN), 1)?;
            if rules.dropped()? > before {
                foreign.push(client);
            }
            if foreign.len() == FLOWS {
                return Ok(foreign);
            }
        }
        bail!("xt_cluster calls only {} of 241 clients another node's", foreign.len())
    }

    fn round(&mut self, contestant: Contestant, kind: Kind) -> Result<Sample> {
        let (sample, dropped) = match contestant {
            Contestant::Native => self.counted(contestant, kind, |node| foreign(&node.filter))?,
            Contestant::Generic => {
                let pins = Path::new(SCRATCH).join("pins");
                let mut attached = Datapath::load(&plan(), Some(&pins), ModeChoice::Generic)?;
                own_nothing(&mut attached)?;
                let outcome = self.counted(contestant, kind, |_| foreign(&attached))?;
                attached.detach()?;
                outcome
            }
            Contestant::XtCluster(iptables) => {
                let rules = Rules::install(iptables)?;
                self.counted(contestant, kind, |_| rules.dropped())?
            }
            Contestant::Buffer => {
                let packets = u64::from(self.packets());
                // Given up before anything counts it; what it is made of is the other cases' first half.
                self.counted(contestant, kind, |_| Ok(0)).map(|(sample, _)| (sample, packets))?
            }
        };
        ensure!(
            dropped == u64::from(self.packets()),
            "{}: dropped {dropped} of {} frames",
            contestant.name(),
            self.packets()
        );
        Ok(sample)
    }

    fn counted(
        &self,
        contestant: Contestant,
        kind: Kind,
        count: impl Fn(&Self) -> Result<u64>,
    ) -> Result<(Sample, u64)> {
        let flags = match kind {
            Kind::Established => ACK,
            Kind::Opening => SYN,
        };
        let frames = self.clients.iter().zip(40_000..);
        let frames: Vec<_> =
            frames.map(|(client, port)| frame(contestant.mac(), *client, port, flags)).collect();
        let before = count(self)?;
        let (mut took_ns, cpu) = (0.0, thread_cpu_ns());
        for frame in &frames {
            let mean = self.generate(contestant.program(), frame, self.packets_per_flow)?;
            took_ns += mean.as_nanos() as f64;
        }
        let cpu_ns = thread_cpu_ns() - cpu;
        let sample = Sample {
            packets_per_second: 1e9 * frames.len() as f64 / took_ns,
            cpu_ns_per_packet: cpu_ns as f64 / f64::from(self.packets()),
        };
        Ok((sample, count(self)? - before))
    }

    /// The mean time of a frame, as the kernel's own clock around the loop says: making the generator, which takes
    /// milliseconds, is not in it (but in the processor time of the thread).
    fn generate(&self, program: &'static str, frame: &[u8], packets: u32) -> Result<Duration> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, self.eth0, 0, 0].map(u32::to_ne_bytes).concat();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.repeat = packets;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let result = self.filter.test_run(program, options);
        Ok(result.context("the kernel generates no frames (Linux 5.18 does)")?.duration)
    }

    fn packets(&self) -> u32 {
        self.packets_per_flow * FLOWS as u32
    }
}

/// xt_cluster on eth0 of the caller's namespace, as the first of three nodes; removed when dropped.
struct Rules {
    iptables: Iptables,
}

impl Rules {
    fn install(iptables: Iptables) -> Result<Self> {
        let rules = Self { iptables };
        iptables.add_cluster_rules(VIP, 3, 1)?;
        Ok(rules)
    }

    fn dropped(&self) -> Result<u64> {
        self.iptables.dropped()
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        if let Err(error) = self.iptables.remove_cluster_rules() {
            eprintln!("warning: {error:#}");
        }
    }
}

fn frame(to: [u8; 6], client: Ipv4Addr, port: u16, flags: u8) -> Vec<u8> {
    let mut bytes = ethernet(to).ipv4(client, VIP).tcp(port, PORT_CONNECTION, flags).for_a_stack();
    bytes.resize(60, 0);
    bytes
}

/// Every frame is another node's.
fn own_nothing(filter: &mut Datapath) -> Result<()> {
    filter.write_table(GROUP, &uniform(BucketState::Foreign))?;
    Ok(filter.set_lease(Instant(u64::MAX / 2))?)
}

fn foreign(filter: &Datapath) -> Result<u64> {
    let counters = filter.counters()?;
    let matching = counters.iter().filter(|counter| counter.reason == Reason::Foreign);
    Ok(matching.map(|counter| counter.packets).sum())
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
