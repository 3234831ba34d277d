//! What the filter costs, in nanoseconds a packet, net of an empty program that is measured beside it.
//!
//! BPF_PROG_TEST_RUN repeats a program inside the kernel and tells the mean. One flow flatters every table, so each case
//! also runs over 65,536 flows: a wrapper changes the client before each repetition and tail-calls the program; the
//! wrapper before an empty program is what is subtracted then. Rounds of all cases are interleaved, so that a busy
//! machine slows them alike, and medians are reported.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::TestRunOptions;
use clap::Parser;
use rustix::net::{AddressFamily, SocketType, bind, connect, listen, socket};
use safekit::engine::farm::Table;
use safekit::types::BucketBits;
use safekit_ebpf::abi;
use safekit_ebpf::verdict::{BucketState, Reason};
use safekit_tests::fixture::{
    Circumstances, Loaded, PORT_CONNECTION, PORT_TCP_FLOWS, PORT_UDP, VIP, uniform,
};
use safekit_tests::netns::{in_new_namespace, ip, sysctl};
use safekit_tests::packets::{ACK, SYN, ethernet};
use serde::Serialize;

#[derive(Parser)]
#[command(about = "Nanoseconds a packet of the farm filter, net of an empty program")]
struct Arguments {
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Interleaved rounds; the median counts.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Repetitions inside the kernel, each round and case.
    #[arg(long, default_value_t = 200_000)]
    repeat: u32,
}

/// 256 addresses with 256 ports each, as the wrapper makes them.
const FLOWS: usize = 65_536;
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 0);
const FIRST_PORT: u16 = 0x8000;
const NOT_VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Nobody is connected to it: every lookup misses.
const MISS_PORT: u16 = safekit_tests::fixture::PORT_NETWORK;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    NotVip,
    Mine,
    /// The same, and the audit counts it, as any packet that opens a connection.
    MineSyn,
    /// Loaded for a lease so short that only the boot clock is exact enough.
    MineByExactClock,
    Foreign,
    TransitionalHit,
    TransitionalMiss,
    /// One bucket in twenty is on the move, as after a small change of the farm.
    #[serde(rename = "transitional-5-percent")]
    Transitional5Percent,
    /// An error of ICMP that quotes a TCP packet of ours.
    QuotedError,
    /// A later fragment that follows its first one.
    FragmentFollows,
    /// A later fragment of a datagram that is not known.
    FragmentStray,
    /// A rule with `evidence: flows`.
    FlowsMine,
    FlowsLost,
}

const CASES: [Case; 13] = [
    Case::NotVip,
    Case::Mine,
    Case::MineSyn,
    Case::MineByExactClock,
    Case::Foreign,
    Case::TransitionalHit,
    Case::TransitionalMiss,
    Case::Transitional5Percent,
    Case::QuotedError,
    Case::FragmentFollows,
    Case::FragmentStray,
    Case::FlowsMine,
    Case::FlowsLost,
];

impl Case {
    /// The wrapper writes where a client's port stands: in an error of ICMP its kind stands there, and a fragment of
    /// another client has no first one.
    fn flows(self) -> &'static [usize] {
        match self {
            Self::QuotedError | Self::FragmentFollows => &[1],
            Self::Transitional5Percent => &[FLOWS],
            _ => &[1, FLOWS],
        }
    }

    fn table(self) -> Table {
        match self {
            Self::Foreign => uniform(BucketState::Foreign),
            Self::TransitionalHit | Self::TransitionalMiss => uniform(BucketState::Gained),
            Self::FlowsLost => uniform(BucketState::Lost),
            Self::Transitional5Percent => {
                let moving = BucketBits::from_fn(abi::BUCKETS, |bucket| bucket.0 % 20 == 0);
                Table { transitional: moving, ..uniform(BucketState::Mine) }
            }
            _ => uniform(BucketState::Mine),
        }
    }

    fn frame(self) -> Vec<u8> {
        let from_client = |to| ethernet([0x02; 6]).ipv4(client(0), to);
        let tcp = |to, port, flags| from_client(to).tcp(FIRST_PORT, port, flags).padded();
        match self {
            Self::NotVip => tcp(NOT_VIP, PORT_CONNECTION, ACK),
            Self::Mine
            | Self::MineByExactClock
            | Self::Foreign
            | Self::TransitionalHit
            | Self::Transitional5Percent => tcp(VIP, PORT_CONNECTION, ACK),
            Self::MineSyn => tcp(VIP, PORT_CONNECTION, SYN),
            Self::TransitionalMiss => tcp(VIP, MISS_PORT, ACK),
            Self::FlowsMine | Self::FlowsLost => tcp(VIP, PORT_TCP_FLOWS, ACK),
            Self::QuotedError => {
                let quoted =
                    ethernet([0x02; 6]).ipv4(VIP, client(0)).tcp(PORT_CONNECTION, FIRST_PORT, ACK).quoted();
                from_client(VIP).icmp_error(3, 4, &quoted).padded()
            }
            Self::FragmentFollows => {
                from_client(VIP).fragment_id(1).fragment(9, false).other_protocol(17).padded()
            }
            Self::FragmentStray => {
                from_client(VIP).fragment_id(2).fragment(9, false).other_protocol(17).padded()
            }
        }
    }

    /// One of these must have been counted, or the figure is of something else.
    fn reasons(self) -> &'static [Reason] {
        match self {
            Self::NotVip => &[Reason::NotVip],
            Self::Mine | Self::MineSyn | Self::MineByExactClock | Self::FlowsMine => &[Reason::Mine],
            Self::Foreign => &[Reason::Foreign],
            Self::TransitionalHit => &[Reason::Kept],
            Self::TransitionalMiss => &[Reason::NoSocket],
            Self::Transitional5Percent => &[Reason::Kept, Reason::Mine],
            Self::QuotedError => &[Reason::IcmpError],
            Self::FragmentFollows => &[Reason::FragmentFollows],
            Self::FragmentStray => &[Reason::Fragment],
            Self::FlowsLost => &[Reason::KeptFlow, Reason::NoFlow],
        }
    }

    /// How many of a hundred packets must have been counted under the first of the reasons. Flows that come round one
    /// after the other push each other out of the newcomers before their second packet, as a flood's do: of that many
    /// the filter knows about a quarter, and each of them costs it a write.
    fn first_reason_percent(self, flows: usize) -> std::ops::RangeInclusive<u64> {
        match (self, flows) {
            (Self::Transitional5Percent, _) => 4..=6,
            (Self::FlowsLost, FLOWS) => 10..=60,
            _ => 100..=100,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    kernel: String,
    lease_clock: String,
    rounds: usize,
    repeat: u32,
    live_connections: usize,
    cases: Vec<Figure>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Figure {
    case: Case,
    flows: usize,
    /// Median of the filter less the median of the empty program.
    net_ns: i64,
    /// The same of the fastest rounds: what the machine does when nobody disturbs it.
    net_ns_min: i64,
    gross_ns: u64,
    empty_ns: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let report = in_new_namespace(|| measure(&arguments))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<Report> {
    let _listener = connect_all()?;
    let (by_ticks, exact) = (Loaded::new()?, Loaded::with_lease(Duration::from_millis(10))?);
    let mut bench = Bench { by_ticks, exact, repeat: arguments.repeat };
    let every = CASES.into_iter().flat_map(|case| case.flows().iter().map(move |flows| (case, *flows)));
    let mut samples: Vec<(Case, usize, Vec<u64>, Vec<u64>)> =
        every.map(|(case, flows)| (case, flows, vec![], vec![])).collect();
    for _ in 0..arguments.rounds {
        for (case, flows, gross, empty) in &mut samples {
            let (one, other) = bench.round(*case, *flows)?;
            gross.push(one);
            empty.push(other);
        }
    }
    let figure = |(case, flows, mut gross, mut empty): (Case, usize, Vec<u64>, Vec<u64>)| {
        gross.sort_unstable();
        empty.sort_unstable();
        let (gross_ns, empty_ns) = (gross[gross.len() / 2], empty[empty.len() / 2]);
        let net = |a: u64, b: u64| a as i64 - b as i64;
        Figure {
            case,
            flows,
            net_ns: net(gross_ns, empty_ns),
            net_ns_min: net(gross[0], empty[0]),
            gross_ns,
            empty_ns,
        }
    };
    Ok(Report {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        lease_clock: format!("{:?}", bench.by_ticks.datapath.lease_clock()),
        rounds: arguments.rounds,
        repeat: arguments.repeat,
        live_connections: FLOWS,
        cases: samples.into_iter().map(figure).collect(),
    })
}

struct Bench {
    by_ticks: Loaded,
    exact: Loaded,
    repeat: u32,
}

impl Bench {
    /// The filter and the empty program, one after the other, in nanoseconds a repetition.
    fn round(&mut self, case: Case, flows: usize) -> Result<(u64, u64)> {
        self.prime(case, flows)?;
        self.filter(case).write_table(&case.table())?;
        let before = self.counted(case)?;
        let gross = self.run(case, flows, abi::PROGRAM)?;
        let counted: Vec<u64> = self.counted(case)?.iter().zip(&before).map(|(new, old)| new - old).collect();
        let repeat = u64::from(self.repeat);
        anyhow::ensure!(
            counted.iter().sum::<u64>() == repeat,
            "{case:?} over {flows} flows: of {repeat} packets only {counted:?} met the case"
        );
        let percent = counted[0] * 100 / repeat;
        anyhow::ensure!(
            case.first_reason_percent(flows).contains(&percent),
            "{case:?} over {flows} flows: {percent} % for the first of {:?}",
            case.reasons()
        );
        Ok((gross, self.run(case, flows, abi::PROGRAM_EMPTY)?))
    }

    /// What has to pass before, so that the filter knows it.
    fn prime(&mut self, case: Case, flows: usize) -> Result<()> {
        self.filter(case).set(Circumstances { state: BucketState::Mine, lease: true })?;
        match case {
            Case::FragmentFollows => {
                let first = ethernet([0x02; 6]).ipv4(client(0), VIP).fragment_id(1).fragment(0, true);
                let first = first.udp(FIRST_PORT, PORT_UDP, 8).padded();
                self.filter(case).run_uncounted(&first)?;
            }
            Case::FlowsLost => {
                self.run(case, flows, abi::PROGRAM)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn filter(&mut self, case: Case) -> &mut Loaded {
        match case {
            Case::MineByExactClock => &mut self.exact,
            _ => &mut self.by_ticks,
        }
    }

    fn run(&mut self, case: Case, flows: usize, program: &'static str) -> Result<u64> {
        let frame = case.frame();
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.repeat = self.repeat;
        let datapath = &mut self.filter(case).datapath;
        let entry = if flows == 1 {
            program
        } else {
            datapath.set_next_program(program)?;
            abi::PROGRAM_FLOWS
        };
        Ok(datapath.test_run(entry, options)?.duration.as_nanos() as u64)
    }

    /// By reason of the case.
    fn counted(&mut self, case: Case) -> Result<Vec<u64>> {
        let counters = self.filter(case).datapath.counters()?;
        let of = |reason: &Reason| {
            let matching = counters.iter().filter(|counter| counter.reason == *reason);
            matching.map(|counter| counter.packets).sum()
        };
        Ok(case.reasons().iter().map(of).collect())
    }
}

fn client(index: u8) -> Ipv4Addr {
    let [a, b, c, _] = CLIENTS.octets();
    Ipv4Addr::new(a, b, c, index)
}

/// A real connection for each flow that the wrapper makes: its server's end, waiting to be accepted, which takes no
/// descriptor. The client's end is closed in repair mode, which tells nobody. All end with the listener.
fn connect_all() -> Result<OwnedFd> {
    sysctl("net.core.somaxconn", &(2 * FLOWS).to_string())?;
    ip(&format!("address add {VIP}/32 dev lo"))?;
    ip(&format!("route add local {CLIENTS}/24 dev lo"))?;
    let server = SocketAddrV4::new(VIP, PORT_CONNECTION);
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&listener, &server)?;
    listen(&listener, 2 * FLOWS as i32)?;
    for flow in 0..FLOWS {
        let end = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        let from = SocketAddrV4::new(client(flow as u8), FIRST_PORT + (flow >> 8) as u16);
        bind(&end, &from).with_context(|| format!("cannot bind {from}"))?;
        connect(&end, &server).with_context(|| format!("cannot connect {from}"))?;
        forget(&end).context("cannot set TCP_REPAIR")?;
    }
    Ok(listener)
}

/// Makes closing silent.
fn forget(end: &OwnedFd) -> std::io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one integer, which lives.
    let answer = unsafe {
        libc::setsockopt(
            end.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn print(report: &Report) {
    println!(
        "Linux {}, lease by {}, median of {} rounds of {}, {} live connections",
        report.kernel, report.lease_clock, report.rounds, report.repeat, report.live_connections
    );
    println!("{:<22} {:>8} {:>8} {:>8} {:>8} {:>8}", "case", "flows", "net ns", "min ns", "gross", "empty");
    for figure in &report.cases {
        println!(
            "{:<22} {:>8} {:>8} {:>8} {:>8} {:>8}",
            format!("{:?}", figure.case),
            figure.flows,
            figure.net_ns,
            figure.net_ns_min,
            figure.gross_ns,
            figure.empty_ns
        );
    }
}
