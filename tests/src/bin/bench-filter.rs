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
use safekit_ebpf::abi;
use safekit_ebpf::verdict::{BucketState, Reason};
use safekit_tests::fixture::{Circumstances, Loaded, PORT_CONNECTION, VIP};
use safekit_tests::netns::{in_new_namespace, ip, sysctl};
use safekit_tests::packets::{ACK, ethernet};
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
    /// Loaded for a lease so short that only the boot clock is exact enough.
    MineByExactClock,
    Foreign,
    TransitionalHit,
    TransitionalMiss,
}

const CASES: [Case; 6] = [
    Case::NotVip,
    Case::Mine,
    Case::MineByExactClock,
    Case::Foreign,
    Case::TransitionalHit,
    Case::TransitionalMiss,
];

impl Case {
    fn state(self) -> BucketState {
        match self {
            Self::NotVip | Self::Mine | Self::MineByExactClock => BucketState::Mine,
            Self::Foreign => BucketState::Foreign,
            Self::TransitionalHit | Self::TransitionalMiss => BucketState::Gained,
        }
    }

    fn frame(self) -> Vec<u8> {
        let (to, port) = match self {
            Self::NotVip => (NOT_VIP, PORT_CONNECTION),
            Self::Mine | Self::MineByExactClock | Self::Foreign | Self::TransitionalHit => {
                (VIP, PORT_CONNECTION)
            }
            Self::TransitionalMiss => (VIP, MISS_PORT),
        };
        ethernet([0x02; 6]).ipv4(client(0), to).tcp(FIRST_PORT, port, ACK).padded()
    }

    /// What must have been counted, or the figure is of something else.
    fn reason(self) -> Reason {
        match self {
            Self::NotVip => Reason::NotVip,
            Self::Mine | Self::MineByExactClock => Reason::Mine,
            Self::Foreign => Reason::Foreign,
            Self::TransitionalHit => Reason::Kept,
            Self::TransitionalMiss => Reason::NoSocket,
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
    let mut samples: Vec<(Case, usize, Vec<u64>, Vec<u64>)> =
        CASES.into_iter().flat_map(|case| [1, FLOWS].map(|flows| (case, flows, vec![], vec![]))).collect();
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
        self.filter(case).set(Circumstances { state: case.state(), lease: true })?;
        let before = self.counted(case)?;
        let gross = self.run(case, flows, abi::PROGRAM)?;
        let counted = self.counted(case)? - before;
        anyhow::ensure!(
            counted == u64::from(self.repeat),
            "{case:?} over {flows} flows: only {counted} of {} packets met the case",
            self.repeat
        );
        Ok((gross, self.run(case, flows, abi::PROGRAM_EMPTY)?))
    }

    fn filter(&mut self, case: Case) -> &mut Loaded {
        match case {
            Case::MineByExactClock => &mut self.exact,
            Case::NotVip | Case::Mine | Case::Foreign | Case::TransitionalHit | Case::TransitionalMiss => {
                &mut self.by_ticks
            }
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

    fn counted(&mut self, case: Case) -> Result<u64> {
        let counters = self.filter(case).datapath.counters()?;
        let matching = counters.iter().filter(|counter| counter.reason == case.reason());
        Ok(matching.map(|counter| counter.packets).sum())
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
    println!("{:<20} {:>8} {:>8} {:>8} {:>8} {:>8}", "case", "flows", "net ns", "min ns", "gross", "empty");
    for figure in &report.cases {
        println!(
            "{:<20} {:>8} {:>8} {:>8} {:>8} {:>8}",
            format!("{:?}", figure.case),
            figure.flows,
            figure.net_ns,
            figure.net_ns_min,
            figure.gross_ns,
            figure.empty_ns
        );
    }
}
