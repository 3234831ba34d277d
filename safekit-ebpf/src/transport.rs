//! What an IP packet to a virtual IP carries: ports, an echo's identifier, the packet that an error quotes, the fragment
//! that it is.
//!
//! ```text
//! IPv4 ------------------------+-- first or only fragment --+-- TCP | UDP | ICMP --+-- echo
//! IPv6, extension headers <= 4 +-- later fragment           +-- anything else      +-- error, quoting IPv4 | IPv6
//! ```

use crate::abi::Address;
use crate::packet::{
    Frame, Ip, Ipv4Header, Ipv6Header, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Plain,
    Protocol, Version,
};

/// Hop-by-hop, routing, fragment, destination: RFC 8200 4.1 has no use for more.
const EXTENSIONS_MAX: usize = 4;
/// What our own packets carry, in front of ports: a fragment header at most. (Each more costs the verifier, whose way
/// through a quoted packet begins once for each way through the one that quotes it.)
const QUOTED_EXTENSIONS_MAX: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    pub transport: Transport,
    pub piece: Piece,
    /// The datagram's, where it is in pieces. A plain field, because a number that only some variants have can be left
    /// undefined by the compiler where the verifier wants it known.
    pub id: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp(Tcp),
    Udp {
        source: u16,
        destination: u16,
    },
    EchoRequest {
        id: u16,
    },
    /// Unreachable, too big, time exceeded, parameter problem.
    IcmpError(Quote),
    IcmpOther,
    /// A fragment that is not the first: ports are elsewhere.
    Rest,
    /// A protocol that no rule can name.
    Other,
    /// Cut off, impossible lengths, or more extension headers than anybody needs.
    Malformed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub source: u16,
    pub destination: u16,
    /// Opens a connection: SYN without ACK.
    pub opening: bool,
    /// FIN or RST.
    pub closing: bool,
    /// Where the TCP header begins.
    pub offset: usize,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    Whole,
    First,
    Later,
}

/// Where an error quotes a packet: in so many bytes, as far as the error itself goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    pub offset: usize,
    pub left: u16,
}

/// A packet that went out from a virtual IP, as an error quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoted {
    Flow { protocol: Protocol, port: u16, client: Address, client_port: u16 },
    EchoReply { client: Address, id: u16 },
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct TcpHeader {
    source: u16,
    destination: u16,
    numbers: [u32; 2],
    length: u8,
    flags: u8,
    rest: [u16; 3],
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct UdpHeader {
    source: u16,
    destination: u16,
    rest: [u16; 2],
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct IcmpHeader {
    kind: u8,
    code: u8,
    checksum: u16,
    id: u16,
    sequence: u16,
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct ExtensionHeader {
    next: u8,
    length: u8,
    fragment: u16,
    id: u32,
}

// SAFETY: packed structs of integers and arrays of integers have neither padding nor invalid bit patterns.
unsafe impl Plain for TcpHeader {}
// SAFETY: as above.
unsafe impl Plain for UdpHeader {}
// SAFETY: as above.
unsafe impl Plain for IcmpHeader {}
// SAFETY: as above.
unsafe impl Plain for ExtensionHeader {}

const EXTENSION_HOP_BY_HOP: u8 = 0;
const EXTENSION_ROUTING: u8 = 43;
const EXTENSION_FRAGMENT: u8 = 44;
const EXTENSION_AUTHENTICATION: u8 = 51;
const EXTENSION_DESTINATION: u8 = 60;

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// Of IPv4's fragment field: where the fragment lies, and whether more follow.
const FRAGMENT_OFFSET: u16 = 0x1fff;
const MORE_FRAGMENTS: u16 = 0x2000;
/// The same of IPv6's; two reserved bits lie between.
const FRAGMENT_OFFSET_6: u16 = 0xfff8;
const MORE_FRAGMENTS_6: u16 = 0x0001;

/// What stands behind the IP header and its extensions.
#[derive(Clone, Copy)]
struct Upper {
    protocol: u8,
    offset: usize,
    left: u16,
    piece: Piece,
    id: u32,
}

/// Reads on where [`crate::packet::parse`] ended.
#[inline(always)]
pub fn parse_transport(frame: &impl Frame, ip: &Ip) -> Carried {
    let Some(upper) = upper(frame, ip) else {
        return Carried { transport: Transport::Malformed, piece: Piece::Whole, id: 0 };
    };
    let transport = match upper.piece {
        Piece::Later => Transport::Rest,
        Piece::Whole | Piece::First => transport(frame, ip.version, &upper),
    };
    Carried { transport, piece: upper.piece, id: upper.id }
}

#[inline(always)]
fn upper(frame: &impl Frame, ip: &Ip) -> Option<Upper> {
    let upper = Upper {
        protocol: ip.protocol,
        offset: ip.payload,
        left: ip.payload_length,
        piece: Piece::Whole,
        id: 0,
    };
    match ip.version {
        Version::V4 if ip.fragment => {
            let header = frame.read::<Ipv4Header>(ip.offset)?;
            let id = u32::from(u16::from_be(header.id));
            Some(Upper { piece: piece_of_ipv4(&header), id, ..upper })
        }
        Version::V4 => Some(upper),
        Version::V6 => {
            let upper = behind_extensions::<EXTENSIONS_MAX>(frame, upper)?;
            let (offset, left) = (frame.forget_way(upper.offset), frame.forget_way(upper.left.into()));
            Some(Upper { offset, left: left as u16, ..upper })
        }
    }
}

#[inline(always)]
fn piece_of_ipv4(header: &Ipv4Header) -> Piece {
    let fragment = u16::from_be(header.fragment);
    match (fragment & FRAGMENT_OFFSET, fragment & MORE_FRAGMENTS) {
        (0, 0) => Piece::Whole,
        (0, _more) => Piece::First,
        (_offset, _) => Piece::Later,
    }
}

/// None where the chain is cut off, too long, or a fragment of a fragment.
#[inline(always)]
fn behind_extensions<const MAX: usize>(frame: &impl Frame, mut upper: Upper) -> Option<Upper> {
    for _ in 0..MAX {
        if !is_extension(upper.protocol) {
            return Some(upper);
        }
        let header = frame.read::<ExtensionHeader>(upper.offset)?;
        let length = extension_length(upper.protocol, header.length);
        if upper.left < length {
            return None;
        }
        if upper.protocol == EXTENSION_FRAGMENT {
            if upper.piece != Piece::Whole {
                return None;
            }
            upper.piece = piece_of_ipv6(&header);
            upper.id = u32::from_be(header.id);
        }
        upper.protocol = header.next;
        upper.left -= length;
        upper.offset += usize::from(length);
        // What follows is the middle of something, even where it looks like a header.
        if upper.piece == Piece::Later {
            return Some(upper);
        }
    }
    (!is_extension(upper.protocol)).then_some(upper)
}

/// An "atomic" fragment (RFC 6946) is whole.
#[inline(always)]
fn piece_of_ipv6(header: &ExtensionHeader) -> Piece {
    let fragment = u16::from_be(header.fragment);
    match (fragment & FRAGMENT_OFFSET_6, fragment & MORE_FRAGMENTS_6) {
        (0, 0) => Piece::Whole,
        (0, _more) => Piece::First,
        (_offset, _) => Piece::Later,
    }
}

#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        EXTENSION_HOP_BY_HOP
            | EXTENSION_ROUTING
            | EXTENSION_FRAGMENT
            | EXTENSION_AUTHENTICATION
            | EXTENSION_DESTINATION
    )
}

/// RFC 8200 4.2 and 4.5; RFC 4302 2.2 counts words of four bytes. At least eight, so that its header can be read.
#[inline(always)]
fn extension_length(protocol: u8, length: u8) -> u16 {
    match protocol {
        EXTENSION_FRAGMENT => 8,
        EXTENSION_AUTHENTICATION => (u16::from(length) + 2) * 4,
        _ => (u16::from(length) + 1) * 8,
    }
}

/// A first fragment that is too short for its ports is malformed (RFC 1858 3, RFC 8200 4.5).
#[inline(always)]
fn transport(frame: &impl Frame, version: Version, upper: &Upper) -> Transport {
    match (upper.protocol, version) {
        (PROTOCOL_TCP, _) => parse_tcp(frame, upper),
        (PROTOCOL_UDP, _) => parse_udp(frame, upper),
        (PROTOCOL_ICMP, Version::V4) | (PROTOCOL_ICMPV6, Version::V6) => parse_icmp(frame, version, upper),
        (_, _) => Transport::Other,
    }
}

#[inline(always)]
fn parse_tcp(frame: &impl Frame, upper: &Upper) -> Transport {
    let Some(header) = frame.read::<TcpHeader>(upper.offset) else { return Transport::Malformed };
    if usize::from(upper.left) < size_of::<TcpHeader>() || header.length >> 4 < 5 {
        return Transport::Malformed;
    }
    Transport::Tcp(Tcp {
        source: u16::from_be(header.source),
        destination: u16::from_be(header.destination),
        opening: header.flags & (TCP_SYN | TCP_ACK) == TCP_SYN,
        closing: header.flags & (TCP_FIN | TCP_RST) != 0,
        offset: upper.offset,
    })
}

#[inline(always)]
fn parse_udp(frame: &impl Frame, upper: &Upper) -> Transport {
    let Some(header) = frame.read::<UdpHeader>(upper.offset) else { return Transport::Malformed };
    if usize::from(upper.left) < size_of::<UdpHeader>() {
        return Transport::Malformed;
    }
    Transport::Udp { source: u16::from_be(header.source), destination: u16::from_be(header.destination) }
}

/// Kinds by RFC 792 and RFC 4443: errors quote a packet, requests want an answer. Source quench is none any more (RFC
/// 6633).
#[inline(always)]
fn parse_icmp(frame: &impl Frame, version: Version, upper: &Upper) -> Transport {
    let Some(header) = frame.read::<IcmpHeader>(upper.offset) else { return Transport::Malformed };
    if usize::from(upper.left) < size_of::<IcmpHeader>() {
        return Transport::Malformed;
    }
    match (version, header.kind) {
        (Version::V4, 8) | (Version::V6, 128) => Transport::EchoRequest { id: u16::from_be(header.id) },
        (Version::V4, 3 | 11 | 12) | (Version::V6, 1..=4) => Transport::IcmpError(Quote {
            offset: upper.offset + size_of::<IcmpHeader>(),
            left: upper.left - size_of::<IcmpHeader>() as u16,
        }),
        (Version::V4 | Version::V6, _) => Transport::IcmpOther,
    }
}

/// The packet of `source` (the virtual IP) that an error quotes; none where it is another's, or says too little. The
/// quoted length counts for nothing: what is quoted may be cut off anywhere behind its eighth byte (RFC 792).
#[inline(always)]
pub fn parse_quoted(frame: &impl Frame, version: Version, quote: Quote, source: Address) -> Option<Quoted> {
    let (from, client, upper) = match version {
        Version::V4 => quoted_ipv4(frame, quote)?,
        Version::V6 => quoted_ipv6(frame, quote)?,
    };
    if from != source || upper.left < QUOTED_MIN || upper.piece == Piece::Later {
        return None;
    }
    match (upper.protocol, version) {
        (PROTOCOL_TCP, _) => quoted_flow(frame, &upper, Protocol::Tcp, client),
        (PROTOCOL_UDP, _) => quoted_flow(frame, &upper, Protocol::Udp, client),
        (PROTOCOL_ICMP, Version::V4) | (PROTOCOL_ICMPV6, Version::V6) => {
            let header = frame.read::<IcmpHeader>(upper.offset)?;
            matches!((version, header.kind), (Version::V4, 0) | (Version::V6, 129))
                .then_some(Quoted::EchoReply { client, id: u16::from_be(header.id) })
        }
        (_, _) => None,
    }
}

/// What every router quotes at least, and where ports and identifiers lie.
const QUOTED_MIN: u16 = 8;

#[inline(always)]
fn quoted_ipv4(frame: &impl Frame, quote: Quote) -> Option<(Address, Address, Upper)> {
    let header = frame.read::<Ipv4Header>(quote.offset)?;
    let length = u16::from(header.version_and_length & 0xf) * 4;
    if header.version_and_length >> 4 != 4 || length < 20 || quote.left < length {
        return None;
    }
    let upper = Upper {
        protocol: header.protocol,
        offset: quote.offset + usize::from(length),
        left: quote.left - length,
        piece: piece_of_ipv4(&header),
        id: 0,
    };
    let (source, destination) = (u32::from_be(header.source), u32::from_be(header.destination));
    Some((Address::v4(source), Address::v4(destination), upper))
}

#[inline(always)]
fn quoted_ipv6(frame: &impl Frame, quote: Quote) -> Option<(Address, Address, Upper)> {
    const LENGTH: u16 = size_of::<Ipv6Header>() as u16;
    let header = frame.read::<Ipv6Header>(quote.offset)?;
    if header.version[0] >> 4 != 6 || quote.left < LENGTH {
        return None;
    }
    let upper = Upper {
        protocol: header.next,
        offset: quote.offset + usize::from(LENGTH),
        left: quote.left - LENGTH,
        piece: Piece::Whole,
        id: 0,
    };
    let (source, destination) = (header.source, header.destination);
    Some((
        Address(u64::from_be(source[0]), u64::from_be(source[1])),
        Address(u64::from_be(destination[0]), u64::from_be(destination[1])),
        behind_extensions::<QUOTED_EXTENSIONS_MAX>(frame, upper)?,
    ))
}

#[inline(always)]
fn quoted_flow(frame: &impl Frame, upper: &Upper, protocol: Protocol, client: Address) -> Option<Quoted> {
    // UDP's header is as short as what is quoted at least, and TCP's ports lie where UDP's do.
    let header = frame.read::<UdpHeader>(upper.offset)?;
    let (port, client_port) = (u16::from_be(header.source), u16::from_be(header.destination));
    Some(Quoted::Flow { protocol, port, client, client_port })
}
