//! Heartbeats to many at once: which group a network uses, and which peers still need a datagram of their own.
//!
//! Nobody says that multicast reaches him; so a node goes by two signs, and doubts at once when one of them fails:
//!
//! ```text
//!   unicast too ──hears the peer by multicast, and the peer answers──▶ multicast alone
//!        ▲                                                                  │
//!        │ after DOUBT_SPAN                                                 │ no answer for 3 intervals,
//!        └────────────────────────── unicast too, in doubt ◀────────────────┘ or not heard by multicast
//! ```
//!
//! Multicast may work one way only: then the peer misses the heartbeats of three intervals, its answers end, and the
//! next heartbeat goes to it by unicast again. That is 3 h of silence (75 ms of D = 200 ms and of L_y, which both wait
//! longer), so nobody is given up and nobody yields. The lease (100 ms) runs from the last answered heartbeat: it is
//! the part with the least room, and if it does end before the answer, the node accepts nothing for that moment, which
//! is safe. Because of it a doubt lasts: what failed once is not tried again with each answer that unicast brings.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use ring::digest::{Context, SHA256};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::types::Instant;

/// Nodes from which on heartbeats are multicast. With fewer, unicast is cheap, and depends on nothing.
pub const MULTICAST_FROM: usize = 16;

/// A peer that was heard by multicast this long ago is on the same path still.
const HEARD_SPAN: Duration = Duration::from_secs(1);
/// Unicast goes on this long after multicast alone went unanswered.
const DOUBT_SPAN: Duration = Duration::from_secs(600);

/// What is known of multicast between this node and one peer, on one network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    heard: Option<Instant>,
    alone: bool,
    doubted_until: Instant,
}

impl Path {
    /// An authentic datagram of the peer came by multicast.
    pub fn hear(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// Whether the next heartbeat must go to the peer by unicast too. `answers`: it acknowledged lately.
    pub fn needs_unicast(&mut self, answers: bool, now: Instant) -> bool {
        let heard = self.heard.is_some_and(|heard| now.since(heard) <= HEARD_SPAN);
        let works = heard && answers;
        if self.alone && !works {
            self.doubted_until = now + DOUBT_SPAN;
        }
        self.alone = works && self.doubted_until <= now;
        !self.alone
    }
}

/// The group of a network: of the organization-local scope of IPv4 (239.192.0.0/14, RFC 2365, section 6.2), or
/// transient and site-local in IPv6 (ff15::/16, RFC 4291, section 2.7). Other clusters, and other networks of this
/// one, have other groups but for chance; then the seal tells clusters apart.
pub fn group_of(cluster: &str, network: &str, own: IpAddr) -> IpAddr {
    let mut hasher = Context::new(&SHA256);
    for text in [cluster, network] {
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    let digest = hasher.finish();
    let [a, b, c, d, ..] = *digest.as_ref() else { unreachable!("a SHA-256 digest has 32 bytes") };
    match own {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(239, 192 | a & 3, b, c)),
        IpAddr::V6(_) => {
            let [high, low] = [[a, b], [c, d]].map(u16::from_be_bytes);
            IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, high, low))
        }
    }
}

/// A network's group, joined.
#[derive(Debug)]
pub struct Group {
    pub address: SocketAddr,
    /// Bound to the group, so that what it receives came by multicast.
    pub socket: UdpSocket,
}

impl Group {
    /// Joins `group` on the interface of `sender`'s address, and makes `sender` send to it from there: one hop, and
    /// nothing to itself.
    pub fn join(group: IpAddr, sender: &UdpSocket) -> io::Result<Self> {
        let own = sender.local_addr()?;
        let sender = SockRef::from(sender);
        let domain = Domain::for_address(own);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        let address = match (group, own.ip()) {
            (IpAddr::V4(group), IpAddr::V4(own_ip)) => {
                socket.join_multicast_v4(&group, &own_ip)?;
                sender.set_multicast_if_v4(&own_ip)?;
                sender.set_multicast_ttl_v4(1)?;
                sender.set_multicast_loop_v4(false)?;
                SocketAddr::new(group.into(), own.port())
            }
            (IpAddr::V6(group), IpAddr::V6(own_ip)) => {
                let interface = interface_of(own_ip)?;
                socket.set_only_v6(true)?;
                socket.join_multicast_v6(&group, interface)?;
                sender.set_multicast_if_v6(interface)?;
                sender.set_multicast_hops_v6(1)?;
                sender.set_multicast_loop_v6(false)?;
                SocketAddr::V6(SocketAddrV6::new(group, own.port(), 0, interface))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a group of the other IP version"));
            }
        };
        socket.bind(&address.into())?;
        Ok(Self { address, socket: socket.into() })
    }
}

fn interface_of(own: Ipv6Addr) -> io::Result<u32> {
    // "/proc/net" shows the namespace of the process, which need not be that of this thread and its sockets.
    interface_in(&std::fs::read_to_string("/proc/thread-self/net/if_inet6")?, own)
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "no interface has the address"))
}

/// Lines of `address interface prefix scope flags name`, the numbers in hexadecimal without separators.
fn interface_in(table: &str, own: Ipv6Addr) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        let interface = u32::from_str_radix(words.next()?, 16).ok()?;
        (address == own.to_bits()).then_some(interface)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    fn at(ms: u64) -> Instant {
        Instant::default() + Duration::from_millis(ms)
    }

    #[test]
    fn groups_are_in_their_scopes_and_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for cluster in 0..100 {
            for network in ["lan", "backup"] {
                let IpAddr::V4(group) = group_of(&format!("c{cluster}"), network, V4) else { panic!("IPv4") };
                assert_eq!(group.to_bits() & 0xfffc_0000, 0xefc0_0000, "{group} is outside 239.192.0.0/14");
                seen.insert(IpAddr::V4(group));
                let IpAddr::V6(group) = group_of(&format!("c{cluster}"), network, V6) else { panic!("IPv6") };
                assert_eq!(group.segments()[..6], [0xff15, 0, 0, 0, 0, 0]);
                seen.insert(IpAddr::V6(group));
            }
        }
        assert_eq!(seen.len(), 400);
        assert_ne!(group_of("ab", "c", V4), group_of("a", "bc", V4));
    }

    #[test]
    fn multicast_alone_needs_both_signs() {
        let mut path = Path::default();
        assert!(path.needs_unicast(true, at(10)), "never heard by multicast");
        path.hear(at(20));
        assert!(path.needs_unicast(false, at(20)), "does not answer");
        assert!(!path.needs_unicast(true, at(45)));
        assert!(!path.needs_unicast(true, at(1020)));
        assert!(path.needs_unicast(true, at(1021)), "not heard for more than a second");
    }

    #[test]
    fn what_failed_once_stays_in_doubt() {
        let mut path = Path::default();
        path.hear(at(0));
        assert!(!path.needs_unicast(true, at(0)));
        assert!(path.needs_unicast(false, at(75)), "answers ended: unicast at once");
        path.hear(at(100));
        assert!(path.needs_unicast(true, at(100)), "the answer may be to unicast");
        path.hear(at(600_074));
        assert!(path.needs_unicast(true, at(600_074)));
        assert!(!path.needs_unicast(true, at(600_075)), "tried again");
    }

    #[test]
    fn the_interface_is_found_by_its_address() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fd000063000000000000000000000001 0a 40 00 80     eth0\nnonsense\n";
        let own = Ipv6Addr::new(0xfd00, 0x63, 0, 0, 0, 0, 0, 1);
        assert_eq!(interface_in(table, own), Some(10));
        assert_eq!(interface_in(table, Ipv6Addr::UNSPECIFIED), None);
    }
}
