//! Answers that the filter writes into the question's own frame: "the virtual IP is at its virtual MAC".
//!
//! The Ethernet source is always the card's own address, because a switch must never learn where the virtual one lives;
//! neighbours learn it from the payload.

use crate::packet::{
    self, ArpHeader, Ethernet, FrameMut, Ipv6Header, LinkOption, NEIGHBOUR_ADVERTISEMENT, NeighbourHeader,
    PROTOCOL_ICMPV6,
};

/// Whose answer it is, and where in the frame the question stands: the ARP header, or the IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub offset: usize,
    pub own_mac: [u8; 6],
    pub virtual_mac: [u8; 6],
}

impl Answer {
    /// RFC 826, "packet reception": the request turned round.
    #[inline(always)]
    pub fn arp(&self, frame: &mut impl FrameMut) -> Option<()> {
        let request = frame.read::<ArpHeader>(self.offset)?;
        let reply = ArpHeader {
            hardware: 1u16.to_be(),
            protocol: packet::ETHERTYPE_IPV4.to_be(),
            lengths: [6, 4],
            operation: 2u16.to_be(),
            sender_mac: self.virtual_mac,
            sender: request.target,
            target_mac: request.sender_mac,
            target: request.sender,
        };
        frame.write(self.offset, reply)?;
        turn_round(frame, request.sender_mac, self.own_mac)
    }
}

/// RFC 4861 4.4: an answer to a question, and it replaces what the asker had.
const SOLICITED: u32 = 1 << 30;
const OVERRIDE: u32 = 1 << 29;
const TARGET_LINK_ADDRESS: u8 = 2;

impl Answer {
    /// RFC 4861 7.2.4. A question to our address alone may come without a link-layer address, and then the answer needs
    /// none either; what follows behind the answer's length is padding.
    #[inline(always)]
    pub fn neighbour(&self, frame: &mut impl FrameMut) -> Option<()> {
        let question = frame.read::<Ipv6Header>(self.offset)?;
        let message = self.offset + size_of::<Ipv6Header>();
        let target = frame.read::<NeighbourHeader>(message)?.target;
        let has_option = packet::has_option(frame, message, u16::from_be(question.payload_length));
        let length = size_of::<NeighbourHeader>() + if has_option { size_of::<LinkOption>() } else { 0 };
        let flags = if has_option { SOLICITED | OVERRIDE } else { SOLICITED };
        let sender = question.source;
        let header = Ipv6Header {
            version: [0x60, 0, 0, 0],
            payload_length: (length as u16).to_be(),
            next: PROTOCOL_ICMPV6,
            hops: 255,
            source: target,
            destination: sender,
        };
        let mut total = in_host_order(sender) + 2 * in_host_order(target) + length as u64;
        total += sum(u64::from(flags)) + if has_option { self.sum_of_option() } else { 0 };
        let answer = NeighbourHeader {
            kind: NEIGHBOUR_ADVERTISEMENT,
            code: 0,
            checksum: checksum(total).to_be(),
            flags: flags.to_be(),
            target,
        };
        frame.write(self.offset, header)?;
        frame.write(message, answer)?;
        if has_option {
            let option = LinkOption { kind: TARGET_LINK_ADDRESS, words: 1, mac: self.virtual_mac };
            frame.write(message + size_of::<NeighbourHeader>(), option)?;
        }
        let sender_mac = frame.read::<Ethernet>(0)?.source;
        turn_round(frame, sender_mac, self.own_mac)
    }

    #[inline(always)]
    fn sum_of_option(&self) -> u64 {
        let [a, b, c, d, e, f] = self.virtual_mac.map(u64::from);
        let kind_and_words = u64::from(TARGET_LINK_ADDRESS) << 8 | 1;
        sum(kind_and_words << 48 | a << 40 | b << 32 | c << 24 | d << 16 | e << 8 | f)
    }
}

/// RFC 4443 2.3: over addresses (the target is summed twice, being the source too), length, protocol and message.
#[inline(always)]
fn checksum(addresses_length_and_message: u64) -> u16 {
    let kinds = u64::from(PROTOCOL_ICMPV6) + (u64::from(NEIGHBOUR_ADVERTISEMENT) << 8);
    let total = addresses_length_and_message + kinds;
    let folded = (total & 0xffff) + (total >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[inline(always)]
fn in_host_order(address: [u64; 2]) -> u64 {
    sum(u64::from_be(address[0])) + sum(u64::from_be(address[1]))
}

/// The sum of four 16-bit words.
#[inline(always)]
const fn sum(words: u64) -> u64 {
    (words >> 48) + (words >> 32 & 0xffff) + (words >> 16 & 0xffff) + (words & 0xffff)
}

#[inline(always)]
fn turn_round(frame: &mut impl FrameMut, to: [u8; 6], from: [u8; 6]) -> Option<()> {
    let ethernet = frame.read::<Ethernet>(0)?;
    frame.write(0, Ethernet { destination: to, source: from, ethertype: ethernet.ethertype })
}
