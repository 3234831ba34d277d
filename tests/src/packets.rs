//! Frames from named layers, and the table of frames that the host function and the loaded filter both decide.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A frame under construction: each layer is appended to the one below; lengths and types are filled in by [`Self::build`].
#[derive(Clone, Debug, Default)]
pub struct Packet {
    vlans: Vec<[u8; 2]>,
    ethertype: [u8; 2],
    network: Vec<u8>,
    transport: Vec<u8>,
}

pub const TARGET_MAC: [u8; 6] = [0x02, 0x5f, 10, 99, 0, 100];
pub const SOURCE_MAC: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 7];

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
pub const FIN: u8 = 0x01;

impl Packet {
    pub fn ipv4(source: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self::ipv4_with_options(source, target, &[])
    }

    /// `options` are padded to a multiple of four bytes.
    pub fn ipv4_with_options(source: Ipv4Addr, target: Ipv4Addr, options: &[u8]) -> Self {
        let mut header = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 0, 0, 0];
        header.extend(source.octets());
        header.extend(target.octets());
        header.extend(options);
        header.resize(header.len().next_multiple_of(4), 0);
        header[0] = 0x40 | (header.len() / 4) as u8;
        Self { ethertype: [0x08, 0x00], network: header, ..Self::default() }
    }

    pub fn ipv6(source: Ipv6Addr, target: Ipv6Addr) -> Self {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
        header.extend(source.octets());
        header.extend(target.octets());
        Self { ethertype: [0x86, 0xdd], network: header, ..Self::default() }
    }

    pub fn arp(request: bool, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, if request { 1 } else { 2 }];
        packet.extend(SOURCE_MAC);
        packet.extend(sender.octets());
        packet.extend([0; 6]);
        packet.extend(target.octets());
        Self { ethertype: [0x08, 0x06], network: packet, ..Self::default() }
    }

    pub fn other(ethertype: [u8; 2]) -> Self {
        Self { ethertype, network: vec![0; 46], ..Self::default() }
    }

    /// An 802.1Q tag; the first call is the outermost.
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id.to_be_bytes());
        self
    }

    /// More fragments to come, and an offset in units of eight bytes.
    pub fn fragment(mut self, more: bool, offset: u16) -> Self {
        let field = u16::from(more) << 13 | offset;
        self.network[6..8].copy_from_slice(&field.to_be_bytes());
        self
    }

    /// An IPv6 extension header of `units` times eight bytes.
    pub fn extension(mut self, kind: u8, units: u8) -> Self {
        let mut header = vec![0; usize::from(units) * 8];
        header[1] = units - 1;
        self.chain(kind);
        self.network.extend(header);
        self
    }

    pub fn tcp(self, source: u16, target: u16, flags: u8) -> Self {
        self.tcp_numbered([source, target], flags, 1, 2)
    }

    /// From and to these ports, with sequence and acknowledgement number.
    pub fn tcp_numbered(self, ports: [u16; 2], flags: u8, sequence: u32, acknowledgement: u32) -> Self {
        let mut header = Vec::new();
        header.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        header.extend(sequence.to_be_bytes());
        header.extend(acknowledgement.to_be_bytes());
        header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        self.transport(6, header)
    }

    /// With the checksums of IPv4 and TCP filled in, for a stack that looks at them.
    pub fn build_for_a_stack(&self) -> Vec<u8> {
        let mut frame = self.build();
        let (ip, tcp) = frame[14..].split_at_mut(20);
        ip[10..12].fill(0);
        let sum = checksum(ip, 0);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        // The pseudo header: both addresses, the protocol, the length.
        let pseudo =
            ip[12..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>()
                + 6
                + tcp.len() as u32;
        tcp[16..18].fill(0);
        let sum = checksum(tcp, pseudo);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    pub fn udp(self, source: u16, target: u16) -> Self {
        let mut header = Vec::new();
        header.extend(source.to_be_bytes());
        header.extend(target.to_be_bytes());
        header.extend([0, 12, 0, 0, 1, 2, 3, 4]);
        self.transport(17, header)
    }

    /// ICMP, or ICMPv6 where the packet is IPv6.
    pub fn icmp(self, kind: u8, id: u16) -> Self {
        let mut header = vec![kind, 0, 0, 0];
        header.extend(id.to_be_bytes());
        header.extend([0, 1]);
        let protocol = if self.ethertype == [0x86, 0xdd] { 58 } else { 1 };
        self.transport(protocol, header)
    }

    pub fn transport(mut self, protocol: u8, bytes: Vec<u8>) -> Self {
        if self.ethertype == [0x86, 0xdd] {
            self.chain(protocol);
        } else {
            self.network[9] = protocol;
        }
        self.transport = bytes;
        self
    }

    /// Names `kind` in the last header of an IPv6 chain.
    fn chain(&mut self, kind: u8) {
        let mut at = 6;
        let mut next = 40;
        while next < self.network.len() {
            at = next;
            next += (usize::from(self.network[at + 1]) + 1) * 8;
        }
        self.network[at] = kind;
    }

    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(TARGET_MAC);
        frame.extend(SOURCE_MAC);
        for vlan in &self.vlans {
            frame.extend([0x81, 0x00]);
            frame.extend(vlan);
        }
        frame.extend(self.ethertype);
        let mut network = self.network.clone();
        let length = (network.len() + self.transport.len()) as u16;
        match self.ethertype {
            [0x08, 0x00] => network[2..4].copy_from_slice(&length.to_be_bytes()),
            [0x86, 0xdd] => network[4..6].copy_from_slice(&(length - 40).to_be_bytes()),
            _ => {}
        }
        frame.extend(network);
        frame.extend(&self.transport);
        frame
    }
}

/// RFC 1071, over an even number of bytes.
fn checksum(bytes: &[u8], initial: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = initial + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
