//! Frames, layer by layer, as bytes. Lengths are filled in when a layer is closed by [`Builder::build`]; checksums are not
//! (the filter leaves them to the stack), except by [`Builder::for_a_stack`].

use std::net::{Ipv4Addr, Ipv6Addr};

pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc1];
pub const BROADCAST: [u8; 6] = [0xff; 6];

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const FIN: u8 = 0x01;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// A frame under construction.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    ethertype_at: usize,
    ipv4_at: Option<usize>,
    ipv6_at: Option<usize>,
    /// Where the next header's protocol number goes.
    next_at: usize,
}

/// Ethernet, to `destination` from the client.
pub fn ethernet(destination: [u8; 6]) -> Builder {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&destination);
    bytes.extend_from_slice(&CLIENT_MAC);
    bytes.extend_from_slice(&[0, 0]);
    Builder { bytes, ethertype_at: 12, ..Builder::default() }
}

impl Builder {
    fn ethertype(mut self, ethertype: u16) -> Self {
        self.bytes[self.ethertype_at..self.ethertype_at + 2].copy_from_slice(&ethertype.to_be_bytes());
        self
    }

    fn tag(self, ethertype: u16, vlan: u16) -> Self {
        let mut tagged = self.ethertype(ethertype);
        tagged.bytes.extend_from_slice(&vlan.to_be_bytes());
        tagged.ethertype_at = tagged.bytes.len();
        tagged.bytes.extend_from_slice(&[0, 0]);
        tagged
    }

    pub fn vlan(self, vlan: u16) -> Self {
        self.tag(0x8100, vlan)
    }

    pub fn service_vlan(self, vlan: u16) -> Self {
        self.tag(0x88a8, vlan)
    }

    pub fn ipv4(self, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        self.ipv4_with_options(source, destination, &[])
    }

    /// `options` is padded to whole words by the caller.
    pub fn ipv4_with_options(self, source: Ipv4Addr, destination: Ipv4Addr, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && options.len() <= 40, "options are 0 to 10 words");
        let mut ip = self.ethertype(0x0800);
        let at = ip.bytes.len();
        let words = 5 + options.len() as u8 / 4;
        ip.bytes.extend_from_slice(&[0x40 | words, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 0, 0, 0]);
        ip.bytes.extend_from_slice(&source.octets());
        ip.bytes.extend_from_slice(&destination.octets());
        ip.bytes.extend_from_slice(options);
        ip.ipv4_at = Some(at);
        ip.next_at = at + 9;
        ip
    }

    /// Makes the IPv4 packet a fragment: `offset` in units of eight bytes.
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        let at = self.ipv4_at.expect("only an IPv4 packet is fragmented here") + 6;
        let field = offset | if more { 0x2000 } else { 0 };
        self.bytes[at..at + 2].copy_from_slice(&field.to_be_bytes());
        self
    }

    /// Another datagram of the same source.
    pub fn fragment_id(mut self, id: u16) -> Self {
        let at = self.ipv4_at.expect("only an IPv4 packet is named here") + 4;
        self.bytes[at..at + 2].copy_from_slice(&id.to_be_bytes());
        self
    }

    pub fn ipv6(self, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        let mut ip = self.ethertype(0x86dd);
        let at = ip.bytes.len();
        ip.bytes.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, 0, 64]);
        ip.bytes.extend_from_slice(&source.octets());
        ip.bytes.extend_from_slice(&destination.octets());
        ip.ipv6_at = Some(at);
        ip.next_at = at + 6;
        ip
    }

    fn protocol(mut self, protocol: u8) -> Self {
        self.bytes[self.next_at] = protocol;
        self
    }

    /// An IPv6 extension header of `8 + 8 * more` bytes.
    fn extension(self, protocol: u8, more: u8) -> Self {
        let mut extended = self.protocol(protocol);
        extended.next_at = extended.bytes.len();
        extended.bytes.extend_from_slice(&[59, more, 1, 4, 0, 0, 0, 0]);
        extended.bytes.extend(std::iter::repeat_n(0, 8 * usize::from(more)));
        extended
    }

    pub fn hop_by_hop(self, more: u8) -> Self {
        self.extension(0, more)
    }

    pub fn destination_options(self, more: u8) -> Self {
        self.extension(60, more)
    }

    pub fn routing(self) -> Self {
        self.extension(43, 0)
    }

    pub fn ipv6_fragment(self, offset: u16, more: bool) -> Self {
        self.ipv6_fragment_of(0x1234, offset, more)
    }

    pub fn ipv6_fragment_of(self, id: u32, offset: u16, more: bool) -> Self {
        let mut fragment = self.protocol(44);
        fragment.next_at = fragment.bytes.len();
        let field = offset << 3 | u16::from(more);
        fragment.bytes.extend_from_slice(&[59, 0]);
        fragment.bytes.extend_from_slice(&field.to_be_bytes());
        fragment.bytes.extend_from_slice(&id.to_be_bytes());
        fragment
    }

    pub fn authentication(self) -> Self {
        let mut header = self.protocol(51);
        header.next_at = header.bytes.len();
        header.bytes.extend_from_slice(&[59, 4, 0, 0]);
        header.bytes.extend(std::iter::repeat_n(0xab, 20));
        header
    }

    pub fn tcp(self, source: u16, destination: u16, flags: u8) -> Self {
        self.tcp_numbered(source, destination, flags, 1000, 2000)
    }

    pub fn tcp_numbered(self, source: u16, destination: u16, flags: u8, seq: u32, ack: u32) -> Self {
        let mut tcp = self.protocol(6);
        tcp.bytes.extend_from_slice(&source.to_be_bytes());
        tcp.bytes.extend_from_slice(&destination.to_be_bytes());
        tcp.bytes.extend_from_slice(&seq.to_be_bytes());
        tcp.bytes.extend_from_slice(&ack.to_be_bytes());
        tcp.bytes.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp
    }

    pub fn udp(self, source: u16, destination: u16, payload: usize) -> Self {
        let mut udp = self.protocol(17);
        udp.bytes.extend_from_slice(&source.to_be_bytes());
        udp.bytes.extend_from_slice(&destination.to_be_bytes());
        udp.bytes.extend_from_slice(&(8 + payload as u16).to_be_bytes());
        udp.bytes.extend_from_slice(&[0, 0]);
        udp.payload(payload)
    }

    pub fn icmp(self, kind: u8, code: u8, id: u16) -> Self {
        self.protocol(1).icmp_body(kind, code, id)
    }

    pub fn icmpv6(self, kind: u8, code: u8, id: u16) -> Self {
        self.protocol(58).icmp_body(kind, code, id)
    }

    /// An error that quotes a packet, given from its IP header on.
    pub fn icmp_error(self, kind: u8, code: u8, quoted: &[u8]) -> Self {
        self.protocol(1).error_body(kind, code, quoted)
    }

    pub fn icmpv6_error(self, kind: u8, code: u8, quoted: &[u8]) -> Self {
        self.protocol(58).error_body(kind, code, quoted)
    }

    fn error_body(mut self, kind: u8, code: u8, quoted: &[u8]) -> Self {
        self.bytes.extend_from_slice(&[kind, code, 0, 0, 0, 0, 0x05, 0x14]);
        self.bytes.extend_from_slice(quoted);
        self
    }

    /// Neighbour discovery (solicitation 135, advertisement 136), with the sender's link-layer address if wanted.
    pub fn neighbour(self, kind: u8, target: Ipv6Addr, with_mac: bool) -> Self {
        let mut message = self.protocol(58);
        let hops = message.ipv6_at.expect("neighbour discovery is IPv6") + 7;
        message.bytes[hops] = 255;
        message.bytes.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
        message.bytes.extend_from_slice(&target.octets());
        if with_mac {
            message.bytes.extend_from_slice(&[1, 1]);
            message.bytes.extend_from_slice(&CLIENT_MAC);
        }
        message
    }

    fn icmp_body(mut self, kind: u8, code: u8, id: u16) -> Self {
        self.bytes.extend_from_slice(&[kind, code, 0, 0]);
        self.bytes.extend_from_slice(&id.to_be_bytes());
        self.bytes.extend_from_slice(&[0, 1]);
        self.payload(32)
    }

    /// Any other protocol number, with nothing known behind it.
    pub fn other_protocol(self, protocol: u8) -> Self {
        self.protocol(protocol).payload(24)
    }

    pub fn arp(self, operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        let mut arp = self.ethertype(0x0806);
        arp.bytes.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
        arp.bytes.extend_from_slice(&operation.to_be_bytes());
        arp.bytes.extend_from_slice(&CLIENT_MAC);
        arp.bytes.extend_from_slice(&sender.octets());
        arp.bytes.extend_from_slice(&[0; 6]);
        arp.bytes.extend_from_slice(&target.octets());
        arp
    }

    pub fn other_ethertype(self, ethertype: u16) -> Self {
        self.ethertype(ethertype).payload(46)
    }

    pub fn payload(mut self, length: usize) -> Self {
        self.bytes.extend((0..length).map(|byte| byte as u8));
        self
    }

    /// The packet without its frame, as an error quotes it.
    pub fn quoted(self) -> Vec<u8> {
        let ip = self.ethertype_at + 2;
        self.build().split_off(ip)
    }

    /// Fills in the lengths.
    pub fn build(mut self) -> Vec<u8> {
        let end = self.bytes.len();
        if let Some(at) = self.ipv4_at {
            self.bytes[at + 2..at + 4].copy_from_slice(&((end - at) as u16).to_be_bytes());
        }
        if let Some(at) = self.ipv6_at {
            self.bytes[at + 4..at + 6].copy_from_slice(&((end - at - 40) as u16).to_be_bytes());
        }
        self.bytes
    }

    /// The same, with the checksums of IPv4 and TCP: a real stack takes it.
    pub fn for_a_stack(self) -> Vec<u8> {
        let ip = self.ipv4_at.expect("checksums are made for IPv4 here");
        let mut bytes = self.build();
        let tcp = ip + 20;
        let header = checksum(&bytes[ip..tcp]);
        bytes[ip + 10..ip + 12].copy_from_slice(&header.to_be_bytes());
        // RFC 9293 3.1: addresses, protocol and length go before the segment.
        let mut segment = bytes[ip + 12..tcp].to_vec();
        segment.extend_from_slice(&[0, 6]);
        segment.extend_from_slice(&((bytes.len() - tcp) as u16).to_be_bytes());
        segment.extend_from_slice(&bytes[tcp..]);
        let sum = checksum(&segment);
        bytes[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The same, padded with zeroes to Ethernet's shortest frame, as the wire does.
    pub fn padded(self) -> Vec<u8> {
        let mut bytes = self.build();
        bytes.resize(bytes.len().max(60), 0);
        bytes
    }

    /// The same, with one byte changed.
    pub fn with(self, at: usize, value: u8) -> Vec<u8> {
        let mut bytes = self.build();
        bytes[at] = value;
        bytes
    }
}

/// RFC 1071. The field itself must be zero.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
