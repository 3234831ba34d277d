//! Frames, read field by field: Ethernet with up to two VLAN tags, ARP, IPv4 with options, IPv6 with extension headers.

use crate::abi::Address;

/// Bytes of a frame. Every read is checked, and nothing is assumed of the length.
pub trait Frame {
    /// The `N` bytes at `offset`; none when the frame ends before.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Frame for [u8] {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }
}

/// What stands above Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Ip(Ip),
    Arp(Arp),
    /// Neither: not for us.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    pub source: Address,
    pub target: Address,
    /// Where the IP header begins.
    pub offset: usize,
    pub version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V6,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Where the ARP header begins.
    pub offset: usize,
    pub request: bool,
    pub sender: Address,
    pub target: Address,
}

/// What stands above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        ports: Ports,
        opens: bool,
        offset: usize,
    },
    Udp {
        ports: Ports,
    },
    /// An echo request with its identifier, in network byte order.
    Echo {
        id: u16,
    },
    /// Any other ICMP or ICMPv6.
    Icmp,
    Fragment,
    Unknown,
    Malformed,
}

/// Both in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub source: u16,
    pub target: u16,
}

pub const ETHERNET_BYTES: usize = 14;
const VLAN_BYTES: usize = 4;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// 802.1Q and 802.1ad.
const VLAN_TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const VLANS_MAX: usize = 2;
/// Extension headers that we follow: more than any sender has a use for.
const EXTENSIONS_MAX: usize = 6;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Reads as far as the network header; none when the frame ends before its addresses.
#[inline(always)]
pub fn network<F: Frame + ?Sized>(frame: &F) -> Option<Network> {
    let mut offset = ETHERNET_BYTES;
    let mut ethertype = frame.bytes::<2>(offset - 2)?;
    for _ in 0..VLANS_MAX {
        if VLAN_TAGS.contains(&ethertype) {
            offset += VLAN_BYTES;
            ethertype = frame.bytes::<2>(offset - 2)?;
        }
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, offset),
        ETHERTYPE_IPV6 => ipv6(frame, offset),
        ETHERTYPE_ARP => arp(frame, offset),
        _ => Some(Network::Other),
    }
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Network> {
    let header = frame.bytes::<20>(offset)?;
    let [.., s0, s1, s2, s3, t0, t1, t2, t3] = header;
    Some(Network::Ip(Ip {
        source: Address::v4([s0, s1, s2, s3]),
        target: Address::v4([t0, t1, t2, t3]),
        offset,
        version: Version::V4,
    }))
}

#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Network> {
    Some(Network::Ip(Ip {
        source: Address::v6(frame.bytes::<16>(offset + 8)?),
        target: Address::v6(frame.bytes::<16>(offset + 24)?),
        offset,
        version: Version::V6,
    }))
}

#[inline(always)]
fn arp<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Network> {
    let packet = frame.bytes::<28>(offset)?;
    // Hardware type Ethernet, protocol IPv4, address lengths 6 and 4 (RFC 826).
    if packet[..6] != [0, 1, 8, 0, 6, 4] {
        return Some(Network::Other);
    }
    Some(Network::Arp(Arp {
        offset,
        request: packet[6] == 0 && packet[7] == 1,
        sender: Address::v4([packet[14], packet[15], packet[16], packet[17]]),
        target: Address::v4([packet[24], packet[25], packet[26], packet[27]]),
    }))
}

/// Reads above the IP header.
#[inline(always)]
pub fn transport<F: Frame + ?Sized>(frame: &F, ip: &Ip) -> Transport {
    let above = match ip.version {
        Version::V4 => above_ipv4(frame, ip.offset),
        Version::V6 => above_ipv6(frame, ip.offset),
    };
    match above {
        Above::At { protocol: TCP, offset } => tcp(frame, offset).unwrap_or(Transport::Malformed),
        Above::At { protocol: UDP, offset } => udp(frame, offset).unwrap_or(Transport::Malformed),
        Above::At { protocol: ICMP, offset } if ip.version as u8 == Version::V4 as u8 => {
            icmp(frame, offset, 8)
        }
        Above::At { protocol: ICMPV6, offset } if ip.version as u8 == Version::V6 as u8 => {
            icmp(frame, offset, 128)
        }
        Above::At { .. } => Transport::Unknown,
        Above::Fragment => Transport::Fragment,
        Above::TooDeep => Transport::Unknown,
        Above::Malformed => Transport::Malformed,
    }
}

enum Above {
    At { protocol: u8, offset: usize },
    Fragment,
    TooDeep,
    Malformed,
}

#[inline(always)]
fn above_ipv4<F: Frame + ?Sized>(frame: &F, offset: usize) -> Above {
    let Some(header) = frame.bytes::<10>(offset) else { return Above::Malformed };
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let total_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_bytes < 20 || total_bytes < header_bytes {
        return Above::Malformed;
    }
    // "More fragments", or an offset.
    if header[6] & 0x3f != 0 || header[7] != 0 {
        return Above::Fragment;
    }
    Above::At { protocol: header[9], offset: offset + header_bytes }
}

#[inline(always)]
fn above_ipv6<F: Frame + ?Sized>(frame: &F, offset: usize) -> Above {
    let Some(header) = frame.bytes::<7>(offset) else { return Above::Malformed };
    if header[0] >> 4 != 6 {
        return Above::Malformed;
    }
    let mut protocol = header[6];
    let mut offset = offset + 40;
    for _ in 0..EXTENSIONS_MAX {
        match protocol {
            // Hop-by-hop, routing and destination options: length in units of eight bytes, the first not counted.
            0 | 43 | 60 => {
                let Some([next, units]) = frame.bytes::<2>(offset) else { return Above::Malformed };
                protocol = next;
                offset += (usize::from(units) + 1) * 8;
            }
            44 => return Above::Fragment,
            _ => return Above::At { protocol, offset },
        }
    }
    match protocol {
        0 | 43 | 60 => Above::TooDeep,
        44 => Above::Fragment,
        _ => Above::At { protocol, offset },
    }
}

#[inline(always)]
fn tcp<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Transport> {
    let header = frame.bytes::<20>(offset)?;
    if header[12] >> 4 < 5 {
        return None;
    }
    let (syn, ack) = (header[13] & 0x02 != 0, header[13] & 0x10 != 0);
    Some(Transport::Tcp {
        ports: ports([header[0], header[1], header[2], header[3]]),
        opens: syn && !ack,
        offset,
    })
}

#[inline(always)]
fn udp<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Transport> {
    let [a, b, c, d, ..] = frame.bytes::<8>(offset)?;
    Some(Transport::Udp { ports: ports([a, b, c, d]) })
}

#[inline(always)]
fn icmp<F: Frame + ?Sized>(frame: &F, offset: usize, echo_request: u8) -> Transport {
    match frame.bytes::<8>(offset) {
        Some([kind, 0, _, _, high, low, ..]) if kind == echo_request => {
            Transport::Echo { id: u16::from_ne_bytes([high, low]) }
        }
        Some(_) => Transport::Icmp,
        None => Transport::Malformed,
    }
}

#[inline(always)]
const fn ports(bytes: [u8; 4]) -> Ports {
    Ports {
        source: u16::from_ne_bytes([bytes[0], bytes[1]]),
        target: u16::from_ne_bytes([bytes[2], bytes[3]]),
    }
}
