//! Asks every peer for an echo, once small and once as large as the interface lets out, and waits a second in all.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::super::clock;
use super::super::packet_socket::checksum;
use crate::engine::doctor::facts::Peer;

/// An echo request has to fit an IP packet.
pub(super) const MTU_MAX: u32 = 60_000;
const WAIT: Duration = Duration::from_secs(1);
const ICMP_BYTES: usize = 8;
/// Never fragment, and ask the path anew (linux/in.h, linux/in6.h).
const PMTUDISC_PROBE: libc::c_int = 3;

pub(super) fn ask(own: IpAddr, peers: &[(String, IpAddr)], mtu: u32) -> io::Result<Vec<Peer>> {
    let socket = open(own)?;
    let id = std::process::id() as u16;
    let header = if own.is_ipv4() { 20 } else { 40 };
    let large = (mtu as usize).saturating_sub(header + ICMP_BYTES);
    let mut answers: Vec<Peer> = Vec::new();
    for (place, (node, address)) in peers.iter().enumerate() {
        answers.push(Peer { node: node.clone(), address: *address, small: false, large: false });
        let target = SockAddr::from(SocketAddr::new(*address, 0));
        for (sequence, length) in [(2 * place, 16), (2 * place + 1, large)] {
            // One that cannot be sent is one that is not answered.
            let _unsent = socket.send_to(&request(own, id, sequence as u16, length), &target);
        }
    }
    let deadline = clock::now() + WAIT;
    let mut buffer = vec![MaybeUninit::uninit(); MTU_MAX as usize + 64];
    while clock::now() < deadline && answers.iter().any(|peer| !(peer.small && peer.large)) {
        let left = deadline.since(clock::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        // SAFETY: the kernel has written this many bytes.
        let packet: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        let Some(from) = from.as_socket() else { continue };
        let Some(sequence) = answered(own, &packet, id) else { continue };
        if let Some(peer) =
            answers.get_mut(usize::from(sequence / 2)).filter(|peer| peer.address == from.ip())
        {
            if sequence % 2 == 0 {
                peer.small = true;
            } else {
                peer.large = true;
            }
        }
    }
    Ok(answers)
}

fn open(own: IpAddr) -> io::Result<Socket> {
    let (domain, protocol, level, option) = match own {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.bind(&SocketAddr::new(own, 0).into())?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let value = PMTUDISC_PROBE;
    // SAFETY: the kernel reads one integer, which lives until the call returns.
    let set = unsafe {
        libc::setsockopt(descriptor, level, option, (&raw const value).cast(), size_of_val(&value) as u32)
    };
    if set == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// RFC 792 and RFC 4443; the kernel fills in the sum of the latter.
fn request(own: IpAddr, id: u16, sequence: u16, length: usize) -> Vec<u8> {
    let mut message = vec![0x53; ICMP_BYTES + length];
    message[0] = if own.is_ipv4() { 8 } else { 128 };
    message[1] = 0;
    message[2..4].fill(0);
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    if own.is_ipv4() {
        let sum = checksum(&[&message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// The sequence number, when this is an answer to one of ours. A raw socket of IPv4 hands out the IP header as well.
fn answered(own: IpAddr, packet: &[u8], id: u16) -> Option<u16> {
    let (message, kind) = match own {
        IpAddr::V4(_) => (packet.get(usize::from(packet.first()? & 0xf) * 4..)?, 0),
        IpAddr::V6(_) => (packet, 129),
    };
    let head = message.get(..ICMP_BYTES)?;
    (head[0] == kind && head[4..6] == id.to_be_bytes()).then(|| u16::from_be_bytes([head[6], head[7]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_everything_else() {
        let v4: IpAddr = [10, 0, 0, 1].into();
        let mut packet = vec![0x46; 24];
        packet.extend(request(v4, 77, 5, 16));
        assert_eq!(answered(v4, &packet, 77), None, "our own question");
        packet[24] = 0;
        assert_eq!(answered(v4, &packet, 77), Some(5), "behind options of IPv4");
        assert_eq!(answered(v4, &packet, 78), None, "of another process");
        for length in 0..32 {
            assert_eq!(answered(v4, &packet[..length], 77), None);
        }
        let v6: IpAddr = [0_u16; 8].into();
        let mut message = request(v6, 77, 6, 0);
        assert_eq!(answered(v6, &message, 77), None);
        message[0] = 129;
        assert_eq!(answered(v6, &message, 77), Some(6));
    }

    #[test]
    fn the_loopback_answers_small_and_large() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: raw sockets need root");
            return;
        }
        let own: IpAddr = [127, 0, 0, 1].into();
        let peers = ask(own, &[("me".to_owned(), own)], 9000).expect("a raw socket");
        assert!(peers[0].small && peers[0].large, "{peers:?}");
    }
}
