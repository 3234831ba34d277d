//! Scenarios about single kinds of packets: path-MTU errors, fragments, echo, a flood of SYNs.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use safekit::driver::clock;
use safekit::front::demo::farm::Farm;
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::namespace::Namespace;
use safekit::front::demo::topology::{ip_batch, node_name};
use socket2::{Domain, Protocol, Socket, Type};

use super::options::Options;
use super::probe::syn;
use super::report::Report;
use super::server::{DATAGRAM_PORT, DOWNLOAD_BYTES, DOWNLOAD_PORT, ECHO_PORT, pattern};
use super::stage::{Stage, design, source, virtual_ip, wait_for_owners};
use super::{Programs, echo};

/// Below what the client's own interface takes, above what IPv6 must be able to pass (RFC 8200, section 5).
const PATH_MTU: u32 = 1_300;
const DOWNLOADS_MIN: usize = 6;
const DOWNLOADS_MAX: usize = 40;
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(5);
const DATAGRAM_BYTES: usize = 20_000;
const DATAGRAMS: usize = 60;
const DATAGRAM_TIMEOUT: Duration = Duration::from_secs(2);
const FLOOD: Duration = Duration::from_secs(6);
const FLOOD_BATCH: u32 = 24;
const FLOOD_PAUSE: Duration = Duration::from_millis(2);

/// A farm at rest, without clients.
fn farm(options: &Options, programs: &Programs, interrupt: &Interrupt) -> anyhow::Result<Farm> {
    let mut farm = Farm::designed(&programs.safekit, design(options, programs))?;
    let all: Vec<_> = farm.ids().collect();
    for node in &all {
        farm.start(*node)?;
    }
    wait_for_owners(&mut farm, &all, interrupt)?;
    Ok(farm)
}

/// ```text
///   far ──1500── router ──1300?── no: the router's own end towards `far` has an MTU of 1300,
///                  │              so what the farm sends at 1500 comes back as an error to the virtual IP
///                 lan ── n1 n2 n3
/// ```
pub(super) fn pmtu(options: &Options, programs: &Programs, interrupt: &Interrupt) -> anyhow::Result<Report> {
    let farm = farm(options, programs, interrupt)?;
    let (router, far) = wire_router(&farm, options.family)?;
    let target = SocketAddr::new(virtual_ip(options.family), DOWNLOAD_PORT);
    let mut served: BTreeMap<String, usize> = BTreeMap::new();
    let (mut failed, mut slowest, mut done) = (Vec::new(), 0.0_f64, 0);
    while done < DOWNLOADS_MIN || (served.len() < usize::from(options.nodes) && done < DOWNLOADS_MAX) {
        interrupt.check()?;
        done += 1;
        let began = clock::now();
        match far.inside(|| download(target))? {
            Ok(node) => {
                *served.entry(node).or_default() += 1;
                slowest = slowest.max(clock::now().since(began).as_secs_f64() * 1e3);
            }
            Err(error) => failed.push(format!("{error:#}")),
        }
        if failed.len() > 3 {
            break;
        }
    }
    let errors = path_errors(&router, options.family)?;
    let measured = BTreeMap::from([
        ("downloads".to_owned(), done as f64),
        ("download_bytes".to_owned(), DOWNLOAD_BYTES as f64),
        ("download_slowest_ms".to_owned(), slowest),
        ("nodes_that_served".to_owned(), served.len() as f64),
        ("path_errors".to_owned(), errors as f64),
    ]);
    let mut broken: Vec<String> =
        failed.iter().map(|error| format!("a download over the small MTU failed: {error}")).collect();
    if served.len() < usize::from(options.nodes) {
        broken.push(format!("only {:?} served", served.keys().collect::<Vec<_>>()));
    }
    if errors == 0 {
        broken.push("the router sent no path-MTU error: nothing was tested".to_owned());
    }
    Ok(Report::bare(options, measured, broken))
}

fn wire_router(farm: &Farm, family: u8) -> anyhow::Result<(Namespace, Namespace)> {
    let topology = farm.topology();
    let router = Namespace::add(&topology.name_of("r"))?;
    let far = Namespace::add(&topology.name_of("f"))?;
    for namespace in [&router, &far] {
        namespace.with_steady_ipv6()?;
    }
    router.sysctl("net/ipv4/ip_forward", "1")?;
    router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    let (lan, outside, inside, net, nodad) = if family == 6 {
        ("fd00:63::254/64", "fd00:61::254/64", "fd00:61::1/64", "fd00:61::/64", "nodad")
    } else {
        ("10.99.0.254/24", "10.97.0.254/24", "10.97.0.1/24", "10.97.0.0/24", "")
    };
    let address = |with_prefix: &str| with_prefix.split('/').next().unwrap_or_default().to_owned();
    ip_batch(
        &topology.switch_name(),
        &format!(
            "link add r-lan type veth peer name lan netns {}\nlink set r-lan master lan up\n",
            router.name()
        ),
    )?;
    ip_batch(
        router.name(),
        &format!(
            "link set lo up\naddr add {lan} dev lan {nodad}\nlink set lan up\n\
             link add far type veth peer name eth0 netns {}\naddr add {outside} dev far {nodad}\n\
             link set far mtu {PATH_MTU} up\n",
            far.name()
        ),
    )?;
    let routed = format!(
        "addr add {inside} dev eth0 {nodad}\nlink set eth0 up\nroute add default via {}\n",
        address(outside)
    );
    ip_batch(far.name(), &format!("link set lo up\n{routed}"))?;
    for node in farm.ids() {
        let namespace = topology.node(node).with_context(|| format!("{} is off", node_name(node)))?;
        ip_batch(namespace.name(), &format!("route add {net} via {}\n", address(lan)))?;
    }
    Ok((router, far))
}

/// Reads all of it, checks each byte, and says who served.
fn download(target: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, DOWNLOAD_TIMEOUT).context("no connection")?;
    stream.set_read_timeout(Some(DOWNLOAD_TIMEOUT))?;
    let mut name = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).context("no name")?;
        name.push(byte[0]);
        ensure!(name.len() < 32, "a name without an end");
    }
    let mut buffer = vec![0; 65_536];
    let mut place = 0;
    loop {
        let length = stream.read(&mut buffer).with_context(|| format!("after {place} bytes"))?;
        if length == 0 {
            break;
        }
        let expected = (place..place + length).map(pattern);
        ensure!(expected.eq(buffer[..length].iter().copied()), "wrong bytes after {place}");
        place += length;
    }
    ensure!(place == DOWNLOAD_BYTES, "it ended after {place} bytes");
    Ok(String::from_utf8_lossy(&name).trim().to_owned())
}

/// How many path-MTU errors a machine has sent.
fn path_errors(namespace: &Namespace, family: u8) -> anyhow::Result<u64> {
    if family == 6 {
        let text = namespace.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp6"))??;
        let line = text.lines().find_map(|line| line.strip_prefix("Icmp6OutPktTooBigs"));
        return Ok(line.and_then(|value| value.trim().parse().ok()).unwrap_or_default());
    }
    counter(namespace, "snmp", "Icmp", "OutDestUnreachs")
}

/// A counter of /proc/net/snmp or netstat: a line of names, and one of values.
fn counter(namespace: &Namespace, file: &str, group: &str, name: &str) -> anyhow::Result<u64> {
    let text = namespace.inside(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")))??;
    let prefix = format!("{group}:");
    let mut lines = text.lines().filter(|line| line.starts_with(&prefix));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let value = pairs.find(|(it, _)| *it == name).and_then(|(_, value)| value.parse().ok());
    value.with_context(|| format!("{file} has no {group} {name}"))
}

pub(super) fn fragments(
    options: &Options,
    programs: &Programs,
    interrupt: &Interrupt,
) -> anyhow::Result<Report> {
    let farm = farm(options, programs, interrupt)?;
    let target = SocketAddr::new(virtual_ip(options.family), DATAGRAM_PORT);
    let from = source(options.family, 0);
    let mut served: HashMap<String, usize> = HashMap::new();
    let (mut lost, mut doubled) = (0, 0);
    for number in 0..DATAGRAMS {
        interrupt.check()?;
        let answers = farm.topology().client().inside(|| exchange(from, target, number as u8))??;
        lost += usize::from(answers.is_empty());
        doubled += answers.len().saturating_sub(1);
        answers.into_iter().for_each(|name| *served.entry(name).or_default() += 1);
        if lost > 5 {
            break;
        }
    }
    let measured = BTreeMap::from([
        ("exchanges".to_owned(), DATAGRAMS as f64),
        ("datagram_bytes".to_owned(), DATAGRAM_BYTES as f64),
        ("unanswered".to_owned(), lost as f64),
        ("answered_twice".to_owned(), doubled as f64),
        ("nodes_that_served".to_owned(), served.len() as f64),
    ]);
    let mut broken = Vec::new();
    if lost > 0 {
        broken.push(format!("{lost} datagrams of {DATAGRAM_BYTES} bytes were not answered"));
    }
    if doubled > 0 {
        broken.push(format!("{doubled} datagrams were answered twice"));
    }
    if served.len() < usize::from(options.nodes) {
        broken.push(format!("only {} nodes served", served.len()));
    }
    Ok(Report::bare(options, measured, broken))
}

/// Sends one datagram and says who answered it with the same bytes.
fn exchange(from: IpAddr, target: SocketAddr, number: u8) -> anyhow::Result<Vec<String>> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(target)?;
    let question: Vec<u8> = (0..DATAGRAM_BYTES).map(|place| pattern(place) ^ number).collect();
    socket.send(&question)?;
    let mut names = Vec::new();
    let mut buffer = vec![0; 65_536];
    socket.set_read_timeout(Some(DATAGRAM_TIMEOUT))?;
    // An error is the end of the wait; an ICMP error, too, is no answer.
    while let Ok(length) = socket.recv(&mut buffer) {
        let answer = &buffer[..length];
        let end = answer.iter().position(|byte| *byte == b'\n').context("an answer without a name")?;
        ensure!(answer[end + 1..] == question, "an answer with other bytes");
        names.push(String::from_utf8_lossy(&answer[..end]).into_owned());
        // A second answer would be right behind.
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    }
    Ok(names)
}

pub(super) fn ping(options: &Options, programs: &Programs, interrupt: &Interrupt) -> anyhow::Result<Report> {
    let farm = farm(options, programs, interrupt)?;
    let clients: Vec<IpAddr> = (0..echo::CLIENTS).map(|number| source(options.family, number)).collect();
    let prefix = if options.family == 6 { "64 dev eth0 nodad" } else { "24 dev eth0" };
    let lines: String = clients[1..].iter().map(|address| format!("addr add {address}/{prefix}\n")).collect();
    let client = farm.topology().client();
    ip_batch(client.name(), &lines)?;
    let answers = client.inside(|| echo::ask(&clients, virtual_ip(options.family)))??;
    let unanswered = answers.iter().filter(|count| **count == 0).count();
    let doubled = answers.iter().filter(|count| **count > 1).count();
    let measured = BTreeMap::from([
        ("requests".to_owned(), answers.len() as f64),
        ("unanswered".to_owned(), unanswered as f64),
        ("answered_more_than_once".to_owned(), doubled as f64),
    ]);
    let mut broken = Vec::new();
    if unanswered > 0 {
        broken.push(format!("{unanswered} echo requests had no answer"));
    }
    if doubled > 0 {
        broken.push(format!("{doubled} echo requests had more than one answer"));
    }
    Ok(Report::bare(options, measured, broken))
}

/// SYNs from random sources to the port of the clients, while these work on.
pub(super) fn flood(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let family = stage.options.family;
    // Answers to the flood must leave, or the kernels would keep no half-open connection.
    let (net, via) =
        if family == 6 { ("2001:db8:5::/48", source(6, 0)) } else { ("198.18.0.0/15", source(4, 0)) };
    for node in stage.farm.ids() {
        let namespace = stage.farm.topology().node(node).context("all nodes are on")?;
        ip_batch(namespace.name(), &format!("route add {net} via {via}\n"))?;
    }
    let before = cookies(&stage.farm)?;
    stage.act(format!("a flood of SYNs from random addresses of {net} for {} s", FLOOD.as_secs()));
    let target = SocketAddr::new(virtual_ip(family), ECHO_PORT);
    let interrupt = stage.interrupt.clone();
    let sent = stage.farm.topology().client().inside(|| send_flood(target, &interrupt))??;
    let cookies = cookies(&stage.farm)? - before;
    stage.act(format!("the flood is over: {sent} SYNs, {cookies} cookies sent"));
    stage.notes.push(("flood_syns".to_owned(), sent as f64));
    stage.notes.push(("cookies_sent".to_owned(), cookies as f64));
    if cookies == 0 {
        stage.broken.push("no node sent a SYN cookie: nothing was tested".to_owned());
    }
    Ok(())
}

fn cookies(farm: &Farm) -> anyhow::Result<u64> {
    let nodes = farm.ids().filter_map(|node| farm.topology().node(node));
    nodes.map(|node| counter(node, "netstat", "TcpExt", "SyncookiesSent")).sum()
}

fn send_flood(target: SocketAddr, interrupt: &Interrupt) -> anyhow::Result<u64> {
    let raw = Protocol::from(libc::IPPROTO_RAW);
    let socket =
        Socket::new(Domain::for_address(target), Type::RAW, Some(raw)).context("cannot open a raw socket")?;
    let address = SocketAddr::new(target.ip(), 0).into();
    let mut random = fastrand::Rng::new();
    let mut sent = 0;
    let end = clock::now() + FLOOD;
    while clock::now() < end {
        interrupt.check()?;
        for _ in 0..FLOOD_BATCH {
            let from = random_source(target.ip(), &mut random);
            let packet = packet(from, target, (random.u16(1_024..), random.u32(..)));
            // A full queue loses some: it is a flood.
            sent += u64::from(socket.send_to(&packet, &address).is_ok());
        }
        std::thread::sleep(FLOOD_PAUSE);
    }
    Ok(sent)
}

fn random_source(target: IpAddr, random: &mut fastrand::Rng) -> IpAddr {
    if target.is_ipv4() {
        // 198.18.0.0/15, for tests of load (RFC 2544).
        Ipv4Addr::from_bits(0xc612_0000 | random.u32(..0x0002_0000)).into()
    } else {
        Ipv6Addr::from_bits(0x2001_0db8_0005_0000_0000_0000_0000_0000 | u128::from(random.u64(..))).into()
    }
}

/// An IP packet with a SYN (RFC 791, section 3.1; RFC 8200, section 3). The kernel fills in IPv4's checksum (raw(7)).
fn packet(from: IpAddr, target: SocketAddr, name: (u16, u32)) -> Vec<u8> {
    let tcp = syn(from, target, name);
    let mut packet = match (from, target.ip()) {
        (IpAddr::V4(from), IpAddr::V4(target)) => {
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
            header.extend(from.octets());
            header.extend(target.octets());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(target)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
            header.extend(from.octets());
            header.extend(target.octets());
            header
        }
        _ => unreachable!("random_source() takes the family of the target"),
    };
    packet.extend(tcp);
    packet
}
