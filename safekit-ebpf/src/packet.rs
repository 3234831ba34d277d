//! What a frame says, as far as the filter needs it.
//!
//! Parsing reads through [`Frame`], whose reads are bounded one by one: over a slice on the host, over `data` and
//! `data_end` in the kernel, where the verifier follows every offset. Offsets are therefore kept small on purpose.
//!
//! ```text
//! Ethernet, 0 to 2 VLAN tags --+-- ARP
//!                              +-- IPv4, options
//!                              +-- IPv6
//!                              +-- anything else
//! ```
//!
//! What an IP packet carries is read in `transport.rs`, and only of packets to a virtual IP.

use crate::abi::Address;

/// Headers as they lie in a frame: any alignment, any bytes, numbers in network order.
///
/// # Safety
/// Every bit pattern is a value of the type, and the type has no padding.
pub unsafe trait Plain: Copy {}

/// A frame that can be read at any place, or not at all.
pub trait Frame {
    /// The header at `offset`; none when it does not lie within the frame.
    fn read<T: Plain>(&self, offset: usize) -> Option<T>;

    /// The same number (of at most 16 bits), of which a verifier forgets the way that it came by. What follows is then
    /// looked at once, and not once for each way.
    fn forget_way(&self, number: usize) -> usize {
        number
    }
}

/// A frame that can be changed in place; its length stays.
pub trait FrameMut: Frame {
    /// Puts `value` at `offset`; none, and nothing written, when it does not lie within the frame.
    fn write<T: Plain>(&mut self, offset: usize, value: T) -> Option<()>;
}

/// The largest offset that parsing may reach; with it the verifier can bound every read.
pub const OFFSET_MAX: usize = 0x3fff;
const VLAN_TAGS_MAX: usize = 2;

#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Ethernet {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub ethertype: u16,
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct VlanTag {
    control: u16,
    ethertype: u16,
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct ArpHeader {
    pub hardware: u16,
    pub protocol: u16,
    pub lengths: [u8; 2],
    pub operation: u16,
    pub sender_mac: [u8; 6],
    pub sender: u32,
    pub target_mac: [u8; 6],
    pub target: u32,
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Ipv4Header {
    pub version_and_length: u8,
    pub service: u8,
    pub total_length: u16,
    pub id: u16,
    pub fragment: u16,
    pub hops: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub source: u32,
    pub destination: u32,
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Ipv6Header {
    pub version: [u8; 4],
    pub payload_length: u16,
    pub next: u8,
    pub hops: u8,
    pub source: [u64; 2],
    pub destination: [u64; 2],
}

/// Neighbour solicitation or advertisement, RFC 4861 4.3 and 4.4, without options.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct NeighbourHeader {
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    pub flags: u32,
    pub target: [u64; 2],
}

/// Source or target link-layer address, RFC 4861 4.6.1.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct LinkOption {
    pub kind: u8,
    pub words: u8,
    pub mac: [u8; 6],
}

// SAFETY: packed structs of integers and arrays of integers have neither padding nor invalid bit patterns.
unsafe impl Plain for Ethernet {}
// SAFETY: as above.
unsafe impl Plain for VlanTag {}
// SAFETY: as above.
unsafe impl Plain for ArpHeader {}
// SAFETY: as above.
unsafe impl Plain for Ipv4Header {}
// SAFETY: as above.
unsafe impl Plain for Ipv6Header {}
// SAFETY: as above.
unsafe impl Plain for NeighbourHeader {}
// SAFETY: as above.
unsafe impl Plain for LinkOption {}
// SAFETY: an array of bytes has neither padding nor invalid bit patterns.
unsafe impl<const N: usize> Plain for [u8; N] {}

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

pub const PROTOCOL_ICMP: u8 = 1;
pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;
pub const PROTOCOL_ICMPV6: u8 = 58;

pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Network layer: whom a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    Ip(Ip),
    Arp(Arp),
    /// Neither IP nor IPv4 over Ethernet's ARP: not for us to judge.
    Other,
    /// Says that it is IP or ARP and is not: no stack would take it.
    Malformed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    pub version: Version,
    pub source: Address,
    pub destination: Address,
    /// Where the IP header begins.
    pub offset: usize,
    /// IPv4: what the header says; IPv6: the first next-header, extensions included.
    pub protocol: u8,
    /// Where `protocol` begins.
    pub payload: usize,
    /// IPv4: a fragment by the header; IPv6: not known before the extensions are walked.
    pub fragment: bool,
    /// Bytes that the header promises from `payload` on.
    pub payload_length: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Where the ARP header begins.
    pub offset: usize,
    /// Who-has; anything else claims or answers.
    pub request: bool,
    pub sender: u32,
    pub target: u32,
}

/// Neighbour discovery: IPv6's ARP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Where the IPv6 header begins; the message follows it at once.
    pub offset: usize,
    /// Who-has; anything else claims.
    pub solicitation: bool,
    pub sender: Address,
    pub target: Address,
}

/// What rules are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    #[inline(always)]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => PROTOCOL_TCP,
            Self::Udp => PROTOCOL_UDP,
        }
    }
}

/// Reads a frame as far as the addresses.
#[inline(always)]
pub fn parse(frame: &impl Frame) -> Packet {
    let Some(ethernet) = frame.read::<Ethernet>(0) else { return Packet::Malformed };
    let mut ethertype = u16::from_be(ethernet.ethertype);
    let mut offset = size_of::<Ethernet>();
    for _ in 0..VLAN_TAGS_MAX {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_SERVICE_VLAN {
            break;
        }
        let Some(tag) = frame.read::<VlanTag>(offset) else { return Packet::Malformed };
        ethertype = u16::from_be(tag.ethertype);
        offset += size_of::<VlanTag>();
    }
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(frame, offset),
        ETHERTYPE_IPV6 => parse_ipv6(frame, offset),
        ETHERTYPE_ARP => parse_arp(frame, offset),
        _ => Packet::Other,
    }
}

#[inline(always)]
fn parse_ipv4(frame: &impl Frame, offset: usize) -> Packet {
    let Some(header) = frame.read::<Ipv4Header>(offset) else { return Packet::Malformed };
    let length = usize::from(header.version_and_length & 0xf) * 4;
    let total = u16::from_be(header.total_length);
    if header.version_and_length >> 4 != 4 || length < size_of::<Ipv4Header>() || usize::from(total) < length
    {
        return Packet::Malformed;
    }
    // More fragments, or not the first one (RFC 791 3.1); "don't fragment" is no fragment.
    let fragment = u16::from_be(header.fragment) & 0x3fff != 0;
    Packet::Ip(Ip {
        version: Version::V4,
        source: Address::v4(u32::from_be(header.source)),
        destination: Address::v4(u32::from_be(header.destination)),
        offset,
        protocol: header.protocol,
        payload: offset + length,
        fragment,
        payload_length: total.wrapping_sub(length as u16),
    })
}

#[inline(always)]
fn parse_ipv6(frame: &impl Frame, offset: usize) -> Packet {
    let Some(header) = frame.read::<Ipv6Header>(offset) else { return Packet::Malformed };
    if header.version[0] >> 4 != 6 {
        return Packet::Malformed;
    }
    let (source, destination) = (header.source, header.destination);
    let destination = Address(u64::from_be(destination[0]), u64::from_be(destination[1]));
    if destination.is_mapped_v4() {
        // It would read as the IPv4 address. Such addresses are not for the wire (RFC 6890, table 20).
        return Packet::Malformed;
    }
    Packet::Ip(Ip {
        version: Version::V6,
        source: Address(u64::from_be(source[0]), u64::from_be(source[1])),
        destination,
        offset,
        protocol: header.next,
        payload: offset + size_of::<Ipv6Header>(),
        fragment: false,
        payload_length: u16::from_be(header.payload_length),
    })
}

#[inline(always)]
fn parse_arp(frame: &impl Frame, offset: usize) -> Packet {
    let Some(header) = frame.read::<ArpHeader>(offset) else { return Packet::Malformed };
    // Ethernet (1) asking for IPv4, RFC 826; other kinds of ARP name no IPv4 address.
    if u16::from_be(header.hardware) != 1
        || u16::from_be(header.protocol) != ETHERTYPE_IPV4
        || header.lengths != [6, 4]
    {
        return Packet::Other;
    }
    Packet::Arp(Arp {
        offset,
        request: u16::from_be(header.operation) == 1,
        sender: u32::from_be(header.sender),
        target: u32::from_be(header.target),
    })
}

/// Reads an IPv6 packet as neighbour discovery; none where it is none. What has passed a router is none: RFC 4861 7.1
/// asks for 255 hops left.
#[inline(always)]
pub fn parse_neighbour(frame: &impl Frame, ip: &Ip) -> Option<Neighbour> {
    if ip.version != Version::V6 || ip.protocol != PROTOCOL_ICMPV6 {
        return None;
    }
    let hops = frame.read::<Ipv6Header>(ip.offset)?.hops;
    let message = frame.read::<NeighbourHeader>(ip.payload)?;
    let is_neighbour = matches!(message.kind, NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT);
    if hops != 255
        || !is_neighbour
        || message.code != 0
        || usize::from(ip.payload_length) < size_of::<NeighbourHeader>()
    {
        return None;
    }
    let target = Address(u64::from_be(message.target[0]), u64::from_be(message.target[1]));
    if target.is_mapped_v4() {
        // It would read as the IPv4 address, about which nobody asks this way.
        return None;
    }
    Some(Neighbour {
        offset: ip.offset,
        solicitation: message.kind == NEIGHBOUR_SOLICITATION,
        sender: ip.source,
        target,
    })
}

/// Whether a link-layer address fits behind a neighbour message that begins at `message`.
#[inline(always)]
pub fn has_option(frame: &impl Frame, message: usize, length: u16) -> bool {
    usize::from(length) >= size_of::<NeighbourHeader>() + size_of::<LinkOption>()
        && frame.read::<LinkOption>(message + size_of::<NeighbourHeader>()).is_some()
}

/// A frame in memory that we own: tests, fuzzing, and what a capture holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes<B>(pub B);

impl<B: AsRef<[u8]>> Frame for Bytes<B> {
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let end = offset.checked_add(size_of::<T>())?;
        let bytes = self.0.as_ref().get(offset..end)?;
        // SAFETY: `bytes` has the size of T, the read tolerates any alignment, and T is Plain.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> FrameMut for Bytes<B> {
    fn write<T: Plain>(&mut self, offset: usize, value: T) -> Option<()> {
        let end = offset.checked_add(size_of::<T>())?;
        let bytes = self.0.as_mut().get_mut(offset..end)?;
        // SAFETY: `bytes` has the size of T, is ours alone, and the write tolerates any alignment.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        Some(())
    }
}
