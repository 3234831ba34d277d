//! Nanoseconds a packet of the filter, net of an empty program measured in the same run.
//!
//! Rows are interleaved over several rounds, and a row's figure is the median of its rounds: on a shared machine the
//! differences within one run mean something, absolute numbers little. One flow in a loop flatters, so each row is
//! also measured with 65,536 clients in turn; the program that changes the client costs something itself, which is
//! measured with nothing behind it and taken off.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use clap::Parser;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use safekit::driver::datapath::measure::{Program, Stopwatch};
use safekit_ebpf::abi;
use safekit_ebpf::verdict::Standing;
use safekit_tests::filter::{GROUP, Kernel, VIP, in_namespace, ip, uniform};
use safekit_tests::packets::{ACK, Packet};

#[derive(Parser)]
struct Arguments {
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Rounds over all rows.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Runs of the program in each measurement.
    #[arg(long, default_value_t = 1_000_000)]
    repeat: u32,
    /// Set by ourselves: be the holder of this number.
    #[arg(long, hide = true)]
    hold: Option<u32>,
}

/// A kind of packet to measure.
struct Row {
    name: &'static str,
    standing: Standing,
    target: Ipv4Addr,
    /// The port has a listener and connections.
    served: bool,
    one_ns: Vec<f64>,
    many_ns: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(number) = arguments.hold {
        return hold(number);
    }
    in_namespace(|| {
        let rows = measure(&arguments)?;
        if arguments.json {
            println!("{:#}", json(&rows, &arguments));
        } else {
            print!("{}", table(&rows));
        }
        Ok(())
    })
}

fn rows() -> Vec<Row> {
    let row = |name, standing, target, served| Row {
        name,
        standing,
        target,
        served,
        one_ns: Vec::new(),
        many_ns: Vec::new(),
    };
    vec![
        row("not_vip", Standing::Mine, Ipv4Addr::new(10, 99, 0, 101), true),
        row("mine", Standing::Mine, VIP, true),
        row("foreign", Standing::Foreign, VIP, true),
        row("transitional_hit", Standing::Gained, VIP, true),
        row("transitional_miss", Standing::Gained, VIP, false),
    ]
}

fn measure(arguments: &Arguments) -> anyhow::Result<Vec<Row>> {
    let _holders = Holders::start()?;
    let mut kernel = Kernel::load()?;
    kernel.set_lease(true)?;
    let mut stopwatch = Stopwatch::new(kernel.datapath)?;
    let mut rows = rows();
    for round in 0..=arguments.rounds {
        for row in &mut rows {
            stopwatch.datapath().write_table(GROUP, &uniform(row.standing))?;
            let (one, many) = (frame(row), frame(row));
            let mut net = |many_flows: bool, frame: &[u8]| -> anyhow::Result<f64> {
                let mut time = |what| match many_flows {
                    false => stopwatch.one_flow(what, frame, arguments.repeat),
                    true => stopwatch.many_flows(what, frame, arguments.repeat),
                };
                let empty = time(Program::Empty)?;
                let filter = time(Program::Filter)?;
                Ok(filter.as_nanos() as f64 - empty.as_nanos() as f64)
            };
            let (one_ns, many_ns) = (net(false, &one)?, net(true, &many)?);
            // The first round warms up.
            if round > 0 {
                row.one_ns.push(one_ns);
                row.many_ns.push(many_ns);
            }
        }
    }
    Ok(rows)
}

/// A TCP segment of the first client that the scatterer makes, to a port with or without connections.
fn frame(row: &Row) -> Vec<u8> {
    let (address, port) = abi::scattered_client(0);
    let port_number = if row.served { 80 } else { 443 };
    Packet::ipv4(address.into(), row.target).tcp(u16::from_be_bytes(port), port_number, ACK).build()
}

/// Processes that hold a live connection of every client that the scatterer makes. One process may not hold them all:
/// the limit on open files is often low, and not ours to raise.
struct Holders(Vec<Child>);

const HOLDERS: u32 = 8;

impl Holders {
    fn start() -> anyhow::Result<Self> {
        for address in [format!("{VIP}/32"), "10.98.0.1/24".to_owned()] {
            ip(&["address", "add", &address, "dev", "lo"])?;
        }
        for last in 2..=4 {
            ip(&["address", "add", &format!("10.98.0.{last}/24"), "dev", "lo"])?;
        }
        let mut holders = Self(Vec::new());
        // One after the other: each has the listening port to itself while it connects.
        for number in 0..HOLDERS {
            let mut child = Command::new(std::env::current_exe()?)
                .args(["--hold", &number.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut ready = String::new();
            let output = child.stdout.take().context("a pipe was asked for")?;
            BufReader::new(output).read_line(&mut ready)?;
            holders.0.push(child);
            anyhow::ensure!(ready.trim() == "ready", "a holder of connections failed");
        }
        Ok(holders)
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It ends at the end of its input.
            drop(child.stdin.take());
            let _ended = child.wait();
        }
    }
}

/// A holder: connects its share of the clients, keeps the server's ends, and waits for the end of its input.
fn hold(number: u32) -> anyhow::Result<()> {
    let share = abi::SCATTERED_CLIENTS / HOLDERS;
    let listener = TcpListener::bind((VIP, 80))?;
    let mut ends = Vec::with_capacity(share as usize);
    for client in number * share..(number + 1) * share {
        let (address, port) = abi::scattered_client(client);
        let own = SocketAddrV4::new(address.into(), u16::from_be_bytes(port));
        // The client's end may go: the server's has a connection as long as nobody closes it.
        drop(connect(own).with_context(|| format!("cannot connect from {own}"))?);
        ends.push(listener.accept()?.0);
    }
    drop(listener);
    println!("ready");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn connect(own: SocketAddrV4) -> anyhow::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &own)?;
    rustix::net::connect(&socket, &SocketAddrV4::new(VIP, 80))?;
    Ok(socket)
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn least(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::INFINITY, f64::min)
}

fn json(rows: &[Row], arguments: &Arguments) -> serde_json::Value {
    let row = |row: &Row| {
        serde_json::json!({
            "packet": row.name,
            "oneFlowNs": median(&row.one_ns),
            "oneFlowNsMin": least(&row.one_ns),
            "manyFlowsNs": median(&row.many_ns),
            "manyFlowsNsMin": least(&row.many_ns),
        })
    };
    serde_json::json!({
        "apiVersion": "v1",
        "what": "ns per packet, net of an empty program measured in the same run; medians",
        "flows": abi::SCATTERED_CLIENTS,
        "rounds": arguments.rounds,
        "repeat": arguments.repeat,
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn table(rows: &[Row]) -> String {
    let mut text = "ns per packet, net of an empty program: median (least)\n\n".to_owned();
    text += &format!("{:<20} {:>14} {:>16}\n", "packet", "one flow", "65,536 flows");
    for row in rows {
        let figure = |figures: &[f64]| format!("{:.0} ({:.0})", median(figures), least(figures));
        text += &format!("{:<20} {:>14} {:>16}\n", row.name, figure(&row.one_ns), figure(&row.many_ns));
    }
    text
}
