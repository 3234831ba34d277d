//! Echo requests to the virtual IP, and how many answers each gets (RFC 792; RFC 4443, section 4).

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use safekit::driver::clock;
use socket2::{Domain, Protocol, Socket, Type};

/// Addresses that ask: enough that each node has some of them.
pub(super) const CLIENTS: u8 = 24;
const REQUESTS_EACH: u16 = 5;
const PATIENCE: Duration = Duration::from_millis(1_500);
const IDENTIFIER: u16 = 0x5afe;

/// Answers to each request.
pub(super) fn ask(clients: &[IpAddr], target: IpAddr) -> anyhow::Result<Vec<u32>> {
    let mut counts = Vec::new();
    let sockets = clients.iter().map(|client| open(*client)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut answers: HashMap<(usize, u16), u32> = HashMap::new();
    for sequence in 0..REQUESTS_EACH {
        for socket in &sockets {
            let request = request(target, sequence);
            socket
                .send_to(&request, &SocketAddr::new(target, 0).into())
                .context("cannot send an echo request")?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let end = clock::now() + PATIENCE;
    while clock::now() < end {
        for (client, socket) in sockets.iter().enumerate() {
            while let Some(sequence) = answer(socket, target) {
                *answers.entry((client, sequence)).or_default() += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for client in 0..clients.len() {
        counts.extend(
            (0..REQUESTS_EACH).map(|sequence| answers.get(&(client, sequence)).copied().unwrap_or(0)),
        );
    }
    Ok(counts)
}

fn open(client: IpAddr) -> anyhow::Result<Socket> {
    let protocol = if client.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let domain = Domain::for_address((client, 0).into());
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("cannot open a raw socket")?;
    // Only what is sent to this address is copied to it.
    socket.bind(&SocketAddr::new(client, 0).into()).with_context(|| format!("cannot bind to {client}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn request(target: IpAddr, sequence: u16) -> Vec<u8> {
    // The kernel fills in the checksum of ICMPv6 (RFC 3542, section 3.1), and leaves ICMP's to us.
    let mut bytes = vec![if target.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    bytes.extend(IDENTIFIER.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(*b"safekit?");
    if target.is_ipv4() {
        let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        bytes[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
    bytes
}

/// The next answer of `target` that is waiting: its sequence number.
fn answer(socket: &Socket, target: IpAddr) -> Option<u16> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        // SAFETY: the kernel has written `length` bytes.
        let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        if from.as_socket().is_none_or(|from| from.ip() != target) {
            continue;
        }
        if let Some(sequence) = sequence(&bytes, target) {
            return Some(sequence);
        }
    }
    None
}

fn sequence(bytes: &[u8], target: IpAddr) -> Option<u16> {
    // IPv4 comes with its header, IPv6 without.
    let header = if target.is_ipv4() { usize::from(bytes.first()? & 15) * 4 } else { 0 };
    let icmp = bytes.get(header..)?;
    let word = |at: usize| Some(u16::from_be_bytes(icmp.get(at..at + 2)?.try_into().ok()?));
    let is_answer = icmp.first() == Some(if target.is_ipv4() { &0 } else { &129 });
    (is_answer && word(4)? == IDENTIFIER).then(|| word(6)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_checksum_and_answers_a_number() {
        let target = IpAddr::from([10, 99, 0, 100]);
        let request = request(target, 3);
        let sum: u32 = request.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        let mut packet = vec![0x45];
        packet.resize(20, 0);
        packet.extend(&request);
        assert_eq!(sequence(&packet, target), None, "a request is no answer");
        packet[20] = 0;
        assert_eq!(sequence(&packet, target), Some(3));
        assert_eq!(sequence(&packet[..26], target), None);
    }
}
