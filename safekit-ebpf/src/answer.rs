//! Answers that the filter writes into the question's own frame: "the virtual IP is at its virtual MAC".
//!
//! The Ethernet source is always the card's own address, because a switch must never learn where the virtual one lives;
//! neighbours learn it from the payload.

use crate::abi::Address;
use crate::packet::{
    self, Arp, ArpHeader, Ethernet, FrameMut, Ipv6Header, LinkOption, NEIGHBOUR_ADVERTISEMENT, Neighbour,
    NeighbourHeader, PROTOCOL_ICMPV6,
};

/// To an ARP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpAnswer {
    pub request: Arp,
    pub own_mac: [u8; 6],
    pub virtual_mac: [u8; 6],
}

impl ArpAnswer {
    /// RFC 826, "packet reception": the request turned round.
    #[inline(always)]
    pub fn write(&self, frame: &mut impl FrameMut) -> Option<()> {
        let reply = ArpHeader {
            hardware: 1u16.to_be(),
            protocol: packet::ETHERTYPE_IPV4.to_be(),
            lengths: [6, 4],
            operation: 2u16.to_be(),
            sender_mac: self.virtual_mac,
            sender: self.request.target.to_be(),
            target_mac: self.request.sender_mac,
            target: self.request.sender.to_be(),
        };
        frame.write(self.request.offset, reply)?;
        turn_round(frame, self.request.sender_mac, self.own_mac)
    }
}

/// To a neighbour solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    pub request: Neighbour,
    pub own_mac: [u8; 6],
    pub virtual_mac: [u8; 6],
}

/// RFC 4861 4.4: an answer to a question, and it replaces what the asker had.
const SOLICITED: u32 = 1 << 30;
const OVERRIDE: u32 = 1 << 29;
const TARGET_LINK_ADDRESS: u8 = 2;

impl Advertisement {
    /// RFC 4861 7.2.4. A question to our address alone may come without a link-layer address, and then the answer needs
    /// none either; what follows behind the answer's length is padding.
    #[inline(always)]
    pub fn write(&self, frame: &mut impl FrameMut) -> Option<()> {
        let Neighbour { offset, sender, target, has_option, .. } = self.request;
        let length = size_of::<NeighbourHeader>() + if has_option { size_of::<LinkOption>() } else { 0 };
        let flags = if has_option { SOLICITED | OVERRIDE } else { SOLICITED };
        let message = offset + size_of::<Ipv6Header>();
        let header = Ipv6Header {
            version: [0x60, 0, 0, 0],
            payload_length: (length as u16).to_be(),
            next: PROTOCOL_ICMPV6,
            hops: 255,
            source: network_order(target),
            destination: network_order(sender),
        };
        let answer = NeighbourHeader {
            kind: NEIGHBOUR_ADVERTISEMENT,
            code: 0,
            checksum: self.checksum(length as u64, flags).to_be(),
            flags: flags.to_be(),
            target: network_order(target),
        };
        frame.write(offset, header)?;
        frame.write(message, answer)?;
        if has_option {
            let option = LinkOption { kind: TARGET_LINK_ADDRESS, words: 1, mac: self.virtual_mac };
            frame.write(message + size_of::<NeighbourHeader>(), option)?;
        }
        turn_round(frame, self.request.sender_mac, self.own_mac)
    }

    /// RFC 4443 2.3: over addresses, length, protocol and message.
    #[inline(always)]
    fn checksum(&self, length: u64, flags: u32) -> u16 {
        let Neighbour { sender, target, has_option, .. } = self.request;
        // The target is summed twice: it is the source address too.
        let addresses = sum(sender.0) + sum(sender.1) + 2 * (sum(target.0) + sum(target.1));
        let kinds = u64::from(PROTOCOL_ICMPV6) + (u64::from(NEIGHBOUR_ADVERTISEMENT) << 8);
        let [a, b, c, d, e, f] = self.virtual_mac.map(u64::from);
        let kind_and_words = u64::from(TARGET_LINK_ADDRESS) << 8 | 1;
        let option = kind_and_words << 48 | a << 40 | b << 32 | c << 24 | d << 16 | e << 8 | f;
        let total =
            addresses + kinds + length + sum(u64::from(flags)) + if has_option { sum(option) } else { 0 };
        let folded = (total & 0xffff) + (total >> 16);
        !((folded & 0xffff) + (folded >> 16)) as u16
    }
}

/// The sum of four 16-bit words.
#[inline(always)]
const fn sum(words: u64) -> u64 {
    (words >> 48) + (words >> 32 & 0xffff) + (words >> 16 & 0xffff) + (words & 0xffff)
}

#[inline(always)]
fn network_order(address: Address) -> [u64; 2] {
    [address.0.to_be(), address.1.to_be()]
}

#[inline(always)]
fn turn_round(frame: &mut impl FrameMut, to: [u8; 6], from: [u8; 6]) -> Option<()> {
    let ethernet = frame.read::<Ethernet>(0)?;
    frame.write(0, Ethernet { destination: to, source: from, ethertype: ethernet.ethertype })
}
