//! Listens on the client's wire for the one thing that a farm must never do: two nodes that both answer a SYN.
//!
//! A client hides it: it takes the first SYN-ACK and resets the second. On the wire both can be seen, and each
//! node's frames carry the address of its own network card.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::{Door, Namespace};
use crate::driver::clock;
use crate::types::Instant;

/// Answers remembered: two halves, the older one is forgotten when the newer is full. Minutes at the demo's rate.
const ANSWERS_MAX: usize = 50_000;
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// How soon a quiet tap looks at its stop flag.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Namespace(#[from] super::namespace::Error),
    #[error("cannot listen on the client's wire")]
    Socket(#[source] io::Error),
}

/// A SYN-ACK on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub from: [u8; 6],
    /// The client's port and the SYN's sequence number: one attempt of one connection.
    pub port: u16,
    pub acknowledged: u32,
}

/// Stops when dropped.
pub struct Tap {
    doubles: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Listens for answers of `server` in `namespace`.
    pub fn start(namespace: &Namespace, server: (Ipv4Addr, u16)) -> Result<Self, Error> {
        let door = namespace.door()?;
        let (doubles, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&doubles), Arc::clone(&stop));
        let (opened, opening) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("tap".into()).spawn(move || match open(door) {
            Ok(socket) => {
                let _heard = opened.send(Ok(()));
                listen(&socket, server, &seen, &stopped);
            }
            Err(error) => {
                let _heard = opened.send(Err(error));
            }
        });
        let thread = thread.map_err(Error::Socket)?;
        opening.recv().expect("the thread reports before it ends")?;
        Ok(Self { doubles, stop, thread: Some(thread) })
    }

    /// SYNs that two nodes answered in `[from, until)`.
    pub fn doubles(&self, from: Instant, until: Instant) -> usize {
        let doubles = self.doubles.lock().unwrap_or_else(PoisonError::into_inner);
        doubles.iter().filter(|at| from <= **at && **at < until).count()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

fn open(door: Door) -> Result<Socket, Error> {
    door.enter()?;
    let ip = Protocol::from(i32::from((libc::ETH_P_IP as u16).to_be()));
    let open = || {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(ip))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    open().map_err(Error::Socket)
}

fn listen(mut socket: &Socket, server: (Ipv4Addr, u16), doubles: &Mutex<Vec<Instant>>, stopped: &AtomicBool) {
    let mut frame = [0_u8; 2048];
    let mut memory = Memory::default();
    while !stopped.load(Ordering::Relaxed) {
        // A timeout is a quiet wire, and an interface that goes down ends with the demo.
        let Ok(length) = socket.read(&mut frame) else { continue };
        let Some(answer) = parse(&frame[..length], server) else { continue };
        if memory.is_double(answer) {
            doubles.lock().unwrap_or_else(PoisonError::into_inner).push(clock::now());
        }
    }
}

/// Who answered what first.
#[derive(Default)]
struct Memory {
    newer: HashMap<(u16, u32), [u8; 6]>,
    older: HashMap<(u16, u32), [u8; 6]>,
}

impl Memory {
    fn is_double(&mut self, answer: Answer) -> bool {
        let key = (answer.port, answer.acknowledged);
        if let Some(first) = self.newer.get(&key).or_else(|| self.older.get(&key)) {
            return *first != answer.from;
        }
        if self.newer.len() == ANSWERS_MAX {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, answer.from);
        false
    }
}

/// Ethernet, IPv4 (RFC 791, section 3.1), TCP (RFC 9293, section 3.1).
fn parse(frame: &[u8], server: (Ipv4Addr, u16)) -> Option<Answer> {
    const SYN_ACK: u8 = 0x12;
    const TCP: u8 = 6;
    let from = frame.get(6..12)?.try_into().ok()?;
    let ip = frame.get(14..)?;
    let header_bytes = usize::from(ip.first()? & 0x0f) * 4;
    let is_servers = *ip.get(9)? == TCP && ip.get(12..16)? == server.0.octets();
    let tcp = ip.get(header_bytes..).filter(|_| is_servers)?;
    let word = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let is_answer = word(0)? == server.1 && tcp.get(13)? & 0x3f == SYN_ACK;
    let acknowledged = u32::from_be_bytes(tcp.get(8..12)?.try_into().ok()?);
    is_answer.then_some(Answer { from, port: word(2)?, acknowledged })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 99, 0, 100), 80);

    fn frame(flags: u8, source: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0];
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(source);
        frame.extend([10, 99, 0, 200]);
        frame.extend([0, 80, 0x9c, 0x40, 0, 0, 0, 1, 0, 0, 1, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn only_the_servers_syn_ack_is_an_answer() {
        let answer = Answer { from: [2; 6], port: 40_000, acknowledged: 256 };
        assert_eq!(parse(&frame(0x12, [10, 99, 0, 100]), SERVER), Some(answer));
        assert_eq!(parse(&frame(0x10, [10, 99, 0, 100]), SERVER), None);
        assert_eq!(parse(&frame(0x12, [10, 99, 0, 1]), SERVER), None);
        let whole = frame(0x12, [10, 99, 0, 100]);
        for length in 0..whole.len() {
            let _no_panic = parse(&whole[..length], SERVER);
        }
    }

    #[test]
    fn a_repeated_answer_is_no_double_and_a_second_node_is() {
        let mut memory = Memory::default();
        let answer = Answer { from: [2; 6], port: 40_000, acknowledged: 256 };
        assert!(!memory.is_double(answer));
        assert!(!memory.is_double(answer));
        assert!(memory.is_double(Answer { from: [3; 6], ..answer }));
        assert!(!memory.is_double(Answer { from: [3; 6], acknowledged: 257, ..answer }));
    }
}
