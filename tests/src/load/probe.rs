//! Fresh attempts every two milliseconds, each a single SYN from a port of its own: what is not answered was not
//! served at that moment, and no retransmission blurs it.
//!
//! The SYNs come from an address that no client uses. The kernel knows nothing of them and resets what is answered,
//! so a probe costs the farm three packets and no connection.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use safekit::driver::clock;
use safekit::front::demo::namespace::Namespace;
use safekit::types::Instant;
use socket2::{Domain, Protocol, Socket, Type};

pub const INTERVAL: Duration = Duration::from_millis(2);
/// A SYN that was not answered by then was lost. Longer than any scheduling on a busy machine.
const PATIENCE: Duration = Duration::from_millis(900);
/// Lost probes further apart than this belong to two gaps.
const GAP_JOIN: Duration = Duration::from_millis(150);
const LOST_MAX: usize = 500_000;

/// Stops when dropped.
pub struct Probe {
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
pub struct Log {
    pub sent: u64,
    pub lost: Vec<Instant>,
    /// The longest time in which nothing was sent, because this thread did not run.
    pub blind_max: Duration,
}

impl Probe {
    pub fn start(namespace: &Namespace, source: IpAddr, target: SocketAddr) -> anyhow::Result<Self> {
        let door = namespace.door()?;
        let (log, stop) = (Arc::new(Mutex::new(Log::default())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&log), Arc::clone(&stop));
        let (opened, opening) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("probe".into()).spawn(move || {
            match door.enter().map_err(anyhow::Error::from).and_then(|()| open(source)) {
                Ok(socket) => {
                    let _heard = opened.send(Ok(()));
                    Prober { socket, source, target, under_way: VecDeque::new(), by_name: HashMap::new() }
                        .run(&seen, &stopped);
                }
                Err(error) => {
                    let _heard = opened.send(Err(error));
                }
            }
        })?;
        opening.recv().context("the probe's thread ended early")??;
        Ok(Self { log, stop, thread: Some(thread) })
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

impl Log {
    /// The longest gap among SYNs sent in `[from, until)`: from the first that was lost to the last.
    pub fn worst_gap(&self, from: Instant, until: Instant) -> Duration {
        let lost = self.lost.iter().filter(|at| from <= **at && **at < until);
        let (mut worst, mut gap) = (Duration::ZERO, None::<(Instant, Instant)>);
        for at in lost {
            gap = match gap {
                Some((first, last)) if at.since(last) <= GAP_JOIN => Some((first, *at)),
                _ => Some((*at, *at)),
            };
            worst = worst.max(gap.map_or(Duration::ZERO, |(first, last)| last.since(first)));
        }
        worst
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(source: IpAddr) -> anyhow::Result<Socket> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address((source, 0).into()), Type::RAW, Some(Protocol::TCP))?;
        // Only what is sent to the probe's own address is copied to it.
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(1 << 20)?;
        Ok(socket)
    };
    open().with_context(|| format!("cannot open a raw socket on {source}"))
}

/// Port and number of a SYN.
type Name = (u16, u32);

struct Prober {
    socket: Socket,
    source: IpAddr,
    target: SocketAddr,
    under_way: VecDeque<(Name, Instant)>,
    /// Absent: answered.
    by_name: HashMap<Name, Instant>,
}

impl Prober {
    fn run(&mut self, log: &Mutex<Log>, stopped: &AtomicBool) {
        let mut random = fastrand::Rng::new();
        let mut next = clock::now();
        let mut last = next;
        while !stopped.load(Ordering::Relaxed) {
            let now = clock::now();
            if now >= next {
                self.send((random.u16(1_024..), random.u32(..)), now);
                let mut log = lock(log);
                log.sent += 1;
                log.blind_max = log.blind_max.max(now.since(last));
                last = now;
                // Late: go on from here, and do not make up for it by a burst.
                next = now + INTERVAL;
            }
            self.receive();
            self.decide(now, log);
            std::thread::sleep(Duration::from_micros(400));
        }
    }

    fn send(&mut self, name: Name, now: Instant) {
        let segment = syn(self.source, self.target, name);
        // A raw socket's address has no port (raw(7)).
        let target = SocketAddr::new(self.target.ip(), 0);
        // Not sent is lost too: the client's machine does not fail, so a failure is worth to be seen.
        let _unsent = self.socket.send_to(&segment, &target.into());
        self.under_way.push_back((name, now));
        self.by_name.insert(name, now);
    }

    fn receive(&mut self) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 256];
        while let Ok((length, _)) = self.socket.recv_from(&mut buffer) {
            // SAFETY: the kernel has written `length` bytes.
            let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
            // IPv4 comes with its header, IPv6 without (raw(7), ipv6(7)).
            let header = if self.source.is_ipv4() {
                bytes.first().map_or(0, |first| usize::from(first & 15) * 4)
            } else {
                0
            };
            if let Some(name) = bytes.get(header..).and_then(|tcp| answered(tcp, self.target.port())) {
                self.by_name.remove(&name);
            }
        }
    }

    fn decide(&mut self, now: Instant, log: &Mutex<Log>) {
        while let Some((name, sent)) =
            self.under_way.front().copied().filter(|(_, sent)| now.since(*sent) > PATIENCE)
        {
            self.under_way.pop_front();
            if self.by_name.get(&name) == Some(&sent) {
                self.by_name.remove(&name);
                let mut log = lock(log);
                if log.lost.len() < LOST_MAX {
                    log.lost.push(sent);
                }
            }
        }
    }
}

/// Which SYN a SYN-ACK answers.
fn answered(tcp: &[u8], port: u16) -> Option<Name> {
    let word = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let acknowledged = u32::from_be_bytes(tcp.get(8..12)?.try_into().ok()?);
    let is_answer = word(0)? == port && tcp.get(13)? & 0x17 == 0x12;
    is_answer.then_some((word(2)?, acknowledged.wrapping_sub(1)))
}

/// A SYN without options (RFC 9293, section 3.1).
pub(super) fn syn(source: IpAddr, target: SocketAddr, (port, number): Name) -> [u8; 20] {
    let mut tcp = [0; 20];
    tcp[0..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&target.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&number.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = 0x02;
    tcp[14..16].copy_from_slice(&0xffff_u16.to_be_bytes());
    let sum = checksum(source, target.ip(), &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    tcp
}

/// Over the pseudo-header and the segment (RFC 9293, section 3.1; RFC 8200, section 8.1).
fn checksum(source: IpAddr, target: IpAddr, tcp: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut bytes = octets(source);
    bytes.extend(octets(target));
    bytes.extend([0, 6]);
    bytes.extend((tcp.len() as u16).to_be_bytes());
    bytes.extend(tcp);
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn the_worst_gap_is_the_longest_run_of_lost_probes() {
        let lost = [10, 20, 30, 500, 502, 900, 1_000, 1_100].map(at).to_vec();
        let log = Log { lost, ..Log::default() };
        assert_eq!(log.worst_gap(at(0), at(2_000)), Duration::from_millis(200));
        assert_eq!(log.worst_gap(at(0), at(600)), Duration::from_millis(20));
        assert_eq!(log.worst_gap(at(31), at(500)), Duration::ZERO);
    }

    #[test]
    fn a_syn_has_a_checksum_that_an_independent_parser_accepts() {
        let source = IpAddr::from([10, 99, 0, 250]);
        let target = SocketAddr::from(([10, 99, 0, 100], 80));
        let segment = syn(source, target, (40_000, 77));
        let tcp = etherparse::TcpHeaderSlice::from_slice(&segment).unwrap();
        let expected = tcp.calc_checksum_ipv4_raw([10, 99, 0, 250], [10, 99, 0, 100], &[]).unwrap();
        assert_eq!((tcp.checksum(), tcp.syn(), tcp.source_port()), (expected, true, 40_000));
    }

    #[test]
    fn only_a_syn_ack_of_the_server_answers() {
        let mut tcp = [0_u8; 20];
        tcp[1] = 80;
        tcp[2..4].copy_from_slice(&40_000_u16.to_be_bytes());
        tcp[8..12].copy_from_slice(&78_u32.to_be_bytes());
        tcp[13] = 0x12;
        assert_eq!(answered(&tcp, 80), Some((40_000, 77)));
        assert_eq!(answered(&tcp, 81), None);
        tcp[13] = 0x14;
        assert_eq!(answered(&tcp, 80), None);
        assert_eq!(answered(&tcp[..13], 80), None);
    }
}
