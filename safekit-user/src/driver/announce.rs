//! Gratuitous ARP and unsolicited neighbour advertisements: tell the neighbours which MAC answers for a virtual IP.
//!
//! The payload names that MAC; the Ethernet source is the node's own. Neighbours learn from the payload and switches from
//! the header, so no switch ever learns a virtual MAC and all keep flooding it.
//!
//! ```text
//! ARP  broadcast          own MAC   request   MAC told, virtual IP -> 0, virtual IP
//! NA   33:33:00:00:00:01  own MAC   IPv6 virtual IP -> ff02::1, 255 hops   override   virtual IP, MAC told
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet_socket::{PacketSocket, checksum};

/// What to say of one virtual IP, where and as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub address: IpAddr,
    /// What neighbours are to learn.
    pub mac: [u8; 6],
    pub interface_index: u32,
    pub interface_mac: [u8; 6],
}

/// Says it to everybody on a link.
pub struct Announcer(PacketSocket);

impl Announcer {
    pub fn open() -> io::Result<Self> {
        PacketSocket::sender().map(Self)
    }

    pub fn announce(&self, announcement: &Announcement) -> io::Result<()> {
        let index = announcement.interface_index;
        match announcement.address {
            IpAddr::V4(address) => self.0.send(index, &gratuitous_arp(announcement, address)),
            IpAddr::V6(address) => self.0.send(index, &unsolicited_advertisement(announcement, address)),
        }
    }
}

/// RFC 5227 section 3: sender and target protocol address are both the announced one.
fn gratuitous_arp(announcement: &Announcement, address: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[0..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&announcement.interface_mac);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    // Ethernet, IPv4, address lengths 6 and 4, request.
    frame[14..22].copy_from_slice(&[0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&announcement.mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

/// The message and its option (RFC 4861 4.4 and 4.6.1).
const ADVERTISEMENT_BYTES: usize = 24 + 8;

/// RFC 4861 7.2.6: to all nodes, not solicited, and it replaces what they had.
fn unsolicited_advertisement(
    announcement: &Announcement,
    address: Ipv6Addr,
) -> [u8; 54 + ADVERTISEMENT_BYTES] {
    let mut frame = [0; 54 + ADVERTISEMENT_BYTES];
    frame[0..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&announcement.interface_mac);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    // Version 6; length; ICMPv6; hops as RFC 4861 7.1.2 asks.
    frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, ADVERTISEMENT_BYTES as u8, 58, 255]);
    frame[22..38].copy_from_slice(&address.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());
    // Neighbour advertisement; checksum left zero for the sum; override.
    frame[54..62].copy_from_slice(&[136, 0, 0, 0, 0x20, 0, 0, 0]);
    frame[62..78].copy_from_slice(&address.octets());
    // Target link-layer address, one word of eight bytes.
    frame[78..80].copy_from_slice(&[2, 1]);
    frame[80..86].copy_from_slice(&announcement.mac);
    let checksum = checksum_of(&frame);
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
    frame
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// RFC 4443 2.3: over both addresses, the pseudo-header's length and protocol, and the message.
fn checksum_of(frame: &[u8]) -> u16 {
    checksum(&[&frame[22..54], &[0, 0, 0, ADVERTISEMENT_BYTES as u8, 0, 0, 0, 58], &frame[54..]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(address: IpAddr) -> Announcement {
        Announcement {
            address,
            mac: [2, 1, 1, 1, 1, 1],
            interface_index: 7,
            interface_mac: [2, 9, 9, 9, 9, 9],
        }
    }

    #[test]
    fn the_header_never_carries_the_virtual_mac() {
        let address = Ipv4Addr::new(10, 99, 0, 100);
        let frame = gratuitous_arp(&announcement(address.into()), address);
        assert_eq!(frame[6..12], [2, 9, 9, 9, 9, 9], "the source is the node's own MAC");
        assert_eq!(frame[22..28], [2, 1, 1, 1, 1, 1], "the payload names the virtual MAC");
        assert_eq!(frame[28..32], frame[38..42], "gratuitous: sender and target address are the same");
    }

    #[test]
    fn an_advertisement_is_whole_and_its_checksum_right() {
        let address: Ipv6Addr = "2001:db8::100".parse().expect("an address");
        let frame = unsolicited_advertisement(&announcement(address.into()), address);
        assert_eq!(frame[6..12], [2, 9, 9, 9, 9, 9], "the source is the node's own MAC");
        assert_eq!(frame[80..86], [2, 1, 1, 1, 1, 1], "the option names the virtual MAC");
        // With its checksum in place, the sum of everything is all ones.
        assert_eq!(checksum_of(&frame), 0);
        assert_eq!(frame[56..58], by_hand(&frame), "another way to the same sum");
    }

    /// One word at a time, with the carry put back at once.
    fn by_hand(frame: &[u8]) -> [u8; 2] {
        let mut bytes = frame[22..54].to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 32, 0, 0, 0, 58]);
        bytes.extend_from_slice(&frame[54..]);
        bytes[40 + 2..40 + 4].copy_from_slice(&[0, 0]);
        let mut sum = 0_u16;
        for two in bytes.chunks_exact(2) {
            let (next, carry) = sum.overflowing_add(u16::from_be_bytes([two[0], two[1]]));
            sum = next + u16::from(carry);
        }
        (!sum).to_be_bytes()
    }
}
