//! One echo request, and its reply.
//!
//! ```text
//!  type 8/128 | code 0 | checksum (2) | identifier (2) | sequence (2) | nonce (8)
//! ```
//!
//! By a datagram socket, which any process may have within `net.ipv4.ping_group_range`; by a raw one where that is
//! refused. The kernel gives datagram sockets an identifier of its own, so replies are known by sequence and nonce.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::sight::Seen;

const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;
const LENGTH: usize = 16;
/// A reply behind the longest IPv4 header.
const REPLY_BYTES_MAX: usize = 60 + LENGTH;

/// Each request of this process has its own number.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

pub(super) async fn look(address: IpAddr) -> Seen {
    match echo(address).await {
        Ok(()) => Seen::up(format!("{address} answers")),
        Err(error) => Seen::down(format!("{address} does not answer: {error}")),
    }
}

/// Waits as long as the caller does.
async fn echo(address: IpAddr) -> io::Result<()> {
    let (socket, is_raw) = open(address)?;
    // From now on the kernel hands over nothing of anybody else.
    socket.connect(&SocketAddr::new(address, 0).into())?;
    // SAFETY: the descriptor is owned by the socket, which neither closes nor exchanges it before it is dropped.
    let socket = unsafe { AsyncFd::register(socket) }?;
    let request = request(address, REQUESTS.fetch_add(1, Ordering::Relaxed));
    socket.get_ref().send(&request)?;
    loop {
        let mut ready = socket.readable().await?;
        let mut bytes = [MaybeUninit::uninit(); REPLY_BYTES_MAX];
        match ready.try_io(|socket| socket.get_ref().recv(&mut bytes)) {
            Ok(length) => {
                let length = length?;
                // SAFETY: recv(2) has written so many bytes.
                let reply: Vec<u8> =
                    bytes[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
                if answers(behind_header(&reply, address, is_raw), &request) {
                    return Ok(());
                }
            }
            Err(_would_block) => {}
        }
    }
}

fn open(address: IpAddr) -> io::Result<(Socket, bool)> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let (socket, is_raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => (socket, false),
        Err(_) => (Socket::new(domain, Type::RAW, Some(protocol))?, true),
    };
    socket.set_nonblocking(true)?;
    Ok((socket, is_raw))
}

fn request(address: IpAddr, number: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0] = if address.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
    bytes[4..6].copy_from_slice(&(process::id() as u16).to_be_bytes());
    bytes[6..8].copy_from_slice(&(number as u16).to_be_bytes());
    let nonce = number ^ (u64::from(process::id()) << 32);
    bytes[8..].copy_from_slice(&nonce.to_be_bytes());
    // The kernel fills in that of ICMPv6, with the addresses (RFC 3542, 3.1).
    let checksum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Raw IPv4 sockets get the IP header too (raw(7)).
fn behind_header(bytes: &[u8], address: IpAddr, is_raw: bool) -> &[u8] {
    if !is_raw || address.is_ipv6() {
        return bytes;
    }
    let length = bytes.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    bytes.get(length..).unwrap_or_default()
}

fn answers(reply: &[u8], request: &[u8; LENGTH]) -> bool {
    let expected = if request[0] == REQUEST_V4 { REPLY_V4 } else { REPLY_V6 };
    reply.first() == Some(&expected) && reply.get(6..LENGTH) == Some(&request[6..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_reply_answers_a_request() {
        let address = IpAddr::from([127, 0, 0, 1]);
        let (request, other) = (request(address, 7), request(address, 8));
        assert_eq!(checksum(&request), 0, "a whole message sums up to nothing");
        assert!(!answers(&request, &request), "that is the request itself, as loopback shows it");
        let mut reply = request;
        reply[0] = REPLY_V4;
        reply[4] ^= 0xff;
        assert!(answers(&reply, &request), "the identifier is the kernel's");
        assert!(!answers(&reply, &other));
        let mut datagram = vec![0x46; 24];
        datagram.extend(reply);
        assert!(answers(behind_header(&datagram, address, true), &request));
        for length in 0..LENGTH {
            assert!(!answers(&reply[..length], &request), "{length} bytes");
        }
        assert!(behind_header(&[0x4f], address, true).is_empty());
    }
}
