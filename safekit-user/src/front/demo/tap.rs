//! Listens on the client's wire for what a farm must never do: two nodes that both answer a SYN, and a connection
//! whose bytes come from two nodes.
//!
//! A client hides both: it takes the first SYN-ACK and resets the second. On the wire they can be seen, and each
//! node's frames carry the address of its own network card.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::{Door, Namespace};
use crate::driver::clock;
use crate::types::Instant;

/// Answers remembered: two halves, the older one is forgotten when the newer is full. Minutes at a test's rate.
const ANSWERS_MAX: usize = 200_000;
/// Moments kept; more of them say nothing new.
const MOMENTS_MAX: usize = 100_000;
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// How soon a quiet tap looks at its stop flag.
const PATIENCE: Duration = Duration::from_millis(100);

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const SYN_ACK: u8 = 0x12;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Namespace(#[from] super::namespace::Error),
    #[error("cannot listen on the client's wire")]
    Socket(#[source] io::Error),
}

/// A TCP segment of the server, on the client's wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: [u8; 6],
    pub client: SocketAddr,
    pub flags: u8,
    /// In a SYN-ACK it names the attempt: one SYN of one connection.
    pub acknowledged: u32,
    pub payload_bytes: usize,
}

/// Stops when dropped.
pub struct Tap {
    memory: Arc<Mutex<Memory>>,
    missed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Listens for answers of `server` in `namespace`.
    pub fn start(namespace: &Namespace, server: SocketAddr) -> Result<Self, Error> {
        let door = namespace.door()?;
        let (memory, missed, stop) = (Arc::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let (seen, counted, stopped) = (Arc::clone(&memory), Arc::clone(&missed), Arc::clone(&stop));
        let (opened, opening) = std::sync::mpsc::channel();
        let thread =
            std::thread::Builder::new().name("tap".into()).spawn(move || match open(door, server.ip()) {
                Ok(socket) => {
                    let _heard = opened.send(Ok(()));
                    listen(&socket, server, &seen, &counted, &stopped);
                }
                Err(error) => {
                    let _heard = opened.send(Err(error));
                }
            });
        let thread = thread.map_err(Error::Socket)?;
        opening.recv().expect("the thread reports before it ends")?;
        Ok(Self { memory, missed, stop, thread: Some(thread) })
    }

    /// SYNs that two nodes answered, the first of them in `[from, until)`.
    pub fn doubles(&self, from: Instant, until: Instant) -> usize {
        between(&lock(&self.memory).doubles, from, until)
    }

    /// Segments with bytes for a connection that another node had accepted, in `[from, until)`.
    pub fn strangers(&self, from: Instant, until: Instant) -> usize {
        between(&lock(&self.memory).strangers, from, until)
    }

    /// Frames that passed while this machine was too busy to read them: what they said is not known.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// The network card of the node that accepted the newest connection from this address and port.
    pub fn accepted_by(&self, client: SocketAddr) -> Option<[u8; 6]> {
        lock(&self.memory).first(client).map(|accepted| accepted.from)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

fn between(moments: &[Instant], from: Instant, until: Instant) -> usize {
    moments.iter().filter(|at| from <= **at && **at < until).count()
}

/// A memory is whole between its calls, so a reader's panic spoils nothing.
fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(door: Door, family: IpAddr) -> Result<Socket, Error> {
    door.enter()?;
    let kind = if family.is_ipv4() { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
    let open = || {
        let kind = Protocol::from(i32::from((kind as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(kind))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    open().map_err(Error::Socket)
}

fn listen(
    mut socket: &Socket,
    server: SocketAddr,
    memory: &Mutex<Memory>,
    missed: &AtomicU64,
    stopped: &AtomicBool,
) {
    let mut frame = [0_u8; 2048];
    let mut counted = clock::now();
    while !stopped.load(Ordering::Relaxed) {
        if clock::now().since(counted) > PATIENCE {
            counted = clock::now();
            missed.fetch_add(dropped_since(socket), Ordering::Relaxed);
        }
        // A timeout is a quiet wire, and an interface that goes down ends with the demo.
        let Ok(length) = socket.read(&mut frame) else { continue };
        if let Some(segment) = parse(&frame[..length], server) {
            lock(memory).take(segment, clock::now());
        }
    }
}

/// Frames that found the socket's buffer full since the last call (packet(7), PACKET_STATISTICS).
fn dropped_since(socket: &Socket) -> u64 {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: `statistics` is writable for `length` bytes, and the kernel writes no more than `length` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result == 0 { u64::from(statistics.tp_drops) } else { 0 }
}

#[derive(Clone, Copy)]
struct Accepted {
    from: [u8; 6],
    acknowledged: u32,
    at: Instant,
    /// A second node has answered too, perhaps more than once.
    doubled: bool,
}

/// Who answered what first.
#[derive(Default)]
struct Memory {
    newer: HashMap<SocketAddr, Accepted>,
    older: HashMap<SocketAddr, Accepted>,
    doubles: Vec<Instant>,
    strangers: Vec<Instant>,
}

impl Memory {
    fn take(&mut self, segment: Segment, now: Instant) {
        let first = self.first(segment.client);
        if segment.flags == SYN_ACK {
            match first {
                Some(first) if first.acknowledged == segment.acknowledged => {
                    if first.from != segment.from && !first.doubled {
                        note(&mut self.doubles, first.at);
                        self.insert(segment.client, Accepted { doubled: true, ..first });
                    }
                }
                _ => self.remember(segment, now),
            }
        } else if segment.flags & (SYN | RST) == 0
            && segment.payload_bytes > 0
            && first.is_some_and(|first| first.from != segment.from)
        {
            note(&mut self.strangers, now);
        }
    }

    fn first(&mut self, client: SocketAddr) -> Option<Accepted> {
        if let Some(first) = self.newer.get(&client) {
            return Some(*first);
        }
        // Connections that live on are not forgotten.
        let first = self.older.remove(&client)?;
        self.insert(client, first);
        Some(first)
    }

    fn remember(&mut self, answer: Segment, at: Instant) {
        let Segment { from, client, acknowledged, .. } = answer;
        self.older.remove(&client);
        self.insert(client, Accepted { from, acknowledged, at, doubled: false });
    }

    fn insert(&mut self, client: SocketAddr, accepted: Accepted) {
        if self.newer.len() >= ANSWERS_MAX {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(client, accepted);
    }
}

fn note(moments: &mut Vec<Instant>, now: Instant) {
    if moments.len() < MOMENTS_MAX {
        moments.push(now);
    }
}

/// Ethernet, IPv4 (RFC 791, section 3.1) or IPv6 without extension headers (RFC 8200, section 3), TCP (RFC 9293,
/// section 3.1).
fn parse(frame: &[u8], server: SocketAddr) -> Option<Segment> {
    const TCP: u8 = 6;
    let from = frame.get(6..12)?.try_into().ok()?;
    let ip = frame.get(14..)?;
    let (protocol, source, client, header_bytes, total_bytes) = match ip.first()? >> 4 {
        4 => {
            let total = usize::from(u16::from_be_bytes(array(ip, 2)?));
            let address = |at| array(ip, at).map(|octets: [u8; 4]| IpAddr::from(Ipv4Addr::from(octets)));
            (*ip.get(9)?, address(12)?, address(16)?, usize::from(ip[0] & 0x0f) * 4, total)
        }
        6 => {
            let total = 40 + usize::from(u16::from_be_bytes(array(ip, 4)?));
            let address = |at| array(ip, at).map(|octets: [u8; 16]| IpAddr::from(Ipv6Addr::from(octets)));
            (*ip.get(6)?, address(8)?, address(24)?, 40, total)
        }
        _ => return None,
    };
    let tcp = ip.get(header_bytes..).filter(|_| protocol == TCP && source == server.ip())?;
    if u16::from_be_bytes(array(tcp, 0)?) != server.port() {
        return None;
    }
    let tcp_header_bytes = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        from,
        client: SocketAddr::new(client, u16::from_be_bytes(array(tcp, 2)?)),
        flags: tcp.get(13)? & 0x17,
        acknowledged: u32::from_be_bytes(array(tcp, 8)?),
        payload_bytes: total_bytes.saturating_sub(header_bytes + tcp_header_bytes),
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: u8 = 0x10;

    fn tcp(flags: u8) -> [u8; 20] {
        [0, 80, 0x9c, 0x40, 0, 0, 0, 1, 0, 0, 1, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]
    }

    fn frame(flags: u8, source: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0];
        frame.extend([0x45, 0, 0, 43, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(source);
        frame.extend([10, 99, 0, 200]);
        frame.extend(tcp(flags));
        frame.extend(b"abc");
        frame
    }

    fn segment(from: u8, flags: u8, acknowledged: u32) -> Segment {
        let client = SocketAddr::from(([10, 99, 0, 200], 40_000));
        Segment { from: [from; 6], client, flags, acknowledged, payload_bytes: 3 }
    }

    #[test]
    fn segments_of_the_server_are_told_from_all_others() {
        let server = SocketAddr::from(([10, 99, 0, 100], 80));
        assert_eq!(parse(&frame(SYN_ACK, [10, 99, 0, 100]), server), Some(segment(2, SYN_ACK, 256)));
        assert_eq!(parse(&frame(ACK, [10, 99, 0, 100]), server), Some(segment(2, ACK, 256)));
        assert_eq!(parse(&frame(SYN_ACK, [10, 99, 0, 1]), server), None);
        assert_eq!(parse(&frame(SYN_ACK, [10, 99, 0, 100]), SocketAddr::new(server.ip(), 81)), None);
        let whole = frame(SYN_ACK, [10, 99, 0, 100]);
        for length in 0..whole.len() {
            let _no_panic = parse(&whole[..length], server);
        }
    }

    #[test]
    fn segments_over_ipv6_are_read_alike() {
        let server: SocketAddr = "[fd00:63::100]:80".parse().unwrap();
        let client: SocketAddr = "[fd00:63::200]:40000".parse().unwrap();
        let mut frame = vec![1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x86, 0xdd];
        frame.extend([0x60, 0, 0, 0, 0, 22, 6, 64]);
        for address in [server, client] {
            let IpAddr::V6(address) = address.ip() else { unreachable!("written as IPv6 above") };
            frame.extend(address.octets());
        }
        frame.extend(tcp(SYN_ACK));
        frame.extend(b"ab");
        let expected = Segment { client, payload_bytes: 2, ..segment(2, SYN_ACK, 256) };
        assert_eq!(parse(&frame, server), Some(expected));
    }

    #[test]
    fn a_repeated_answer_is_no_double_and_a_second_node_is() {
        let mut memory = Memory::default();
        let now = Instant(1);
        memory.take(segment(2, SYN_ACK, 256), now);
        memory.take(segment(2, SYN_ACK, 256), now);
        assert_eq!(memory.doubles, []);
        // Told once, and as of the first answer, however often the second node repeats itself.
        memory.take(segment(3, SYN_ACK, 256), Instant(2));
        memory.take(segment(3, SYN_ACK, 256), Instant(3));
        assert_eq!(memory.doubles, [now]);
        // The port is used again, and another node has it now.
        memory.take(segment(3, SYN_ACK, 257), now);
        assert_eq!(memory.doubles, [now]);
    }

    #[test]
    fn bytes_of_a_second_node_are_a_strangers_and_its_reset_is_not() {
        let mut memory = Memory::default();
        let now = Instant(1);
        memory.take(segment(2, SYN_ACK, 256), now);
        memory.take(segment(2, ACK, 300), now);
        memory.take(segment(3, RST, 300), now);
        memory.take(Segment { payload_bytes: 0, ..segment(3, ACK, 300) }, now);
        assert_eq!(memory.strangers, []);
        memory.take(segment(3, ACK, 300), now);
        assert_eq!(memory.strangers, [now]);
        memory.take(segment(3, SYN_ACK, 900), now);
        memory.take(segment(3, ACK, 950), now);
        assert_eq!(memory.strangers, [now]);
    }

    #[test]
    fn old_answers_are_forgotten_and_living_connections_are_not() {
        let mut memory = Memory::default();
        let (now, living) = (Instant(1), segment(2, SYN_ACK, 256));
        memory.take(living, now);
        for number in 0..3 * ANSWERS_MAX as u32 {
            let octets = (0x0a00_0000 + number / 50_000).to_be_bytes();
            let client = SocketAddr::from((octets, (number % 50_000) as u16));
            memory.take(Segment { client, ..segment(2, SYN_ACK, number) }, now);
            if number % 100_000 == 0 {
                memory.take(segment(2, ACK, 300), now);
            }
        }
        assert!(memory.newer.len() + memory.older.len() <= 2 * ANSWERS_MAX);
        assert!(memory.first(living.client).is_some());
        assert!(memory.first(SocketAddr::from(([10, 0, 0, 0], 7))).is_none());
    }
}
