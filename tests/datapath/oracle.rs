//! Parsing, against an independent parser: what etherparse reads, we read the same.

use std::net::IpAddr;

use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use safekit_ebpf::packet::{self, Bytes, Packet};
use safekit_ebpf::transport::{self, Transport};
use safekit_tests::fixture::ip_address;
use safekit_tests::mutation::Mutator;
use safekit_tests::rows;

const MUTATIONS: usize = 300_000;

#[test]
fn every_row_and_many_mutations_read_as_etherparse_reads_them() {
    let mut compared = 0;
    for row in rows::all() {
        compared += usize::from(compare(&row.frame));
    }
    assert!(compared >= 50, "only {compared} rows could be compared");

    let mut mutator = Mutator::seeded(42);
    let compared = (0..MUTATIONS).filter(|_| compare(&mutator.frame())).count();
    assert!(compared >= MUTATIONS / 10, "only {compared} mutations could be compared");
}

/// What both parsers must agree on.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
    /// TCP: opens a connection. UDP: none.
    opening: Option<bool>,
}

/// False where there is nothing to compare: no TCP or UDP, or kinds of packet that one of the two does not read.
fn compare(frame: &[u8]) -> bool {
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return false };
    let tags = sliced.link_exts.iter().filter(|tag| matches!(tag, LinkExtSlice::Vlan(_))).count();
    // Old tag types that we leave to the stack, and MACsec, which nobody can look into.
    if tags > 2
        || tags != sliced.link_exts.len()
        || frame[12..14] == [0x91, 0x00]
        || frame.get(16..18) == Some(&[0x91, 0x00])
    {
        return false;
    }
    let Some(theirs) = their_flow(&sliced) else { return false };
    match our_flow(frame) {
        Ok(ours) => assert_eq!(ours, theirs, "{frame:02x?}"),
        Err(why) => {
            assert!(refused_on_purpose(&sliced), "we refuse ({why}) what etherparse reads: {frame:02x?}");
        }
    }
    true
}

fn their_flow(sliced: &SlicedPacket<'_>) -> Option<Flow> {
    let (source, destination) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let (ports, opening) = match sliced.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => {
            ((tcp.source_port(), tcp.destination_port()), Some(tcp.syn() && !tcp.ack()))
        }
        TransportSlice::Udp(udp) => ((udp.source_port(), udp.destination_port()), None),
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => return None,
    };
    Some(Flow { source, destination, ports, opening })
}

fn our_flow(frame: &[u8]) -> Result<Flow, String> {
    let frame = Bytes(frame);
    let parsed = packet::parse(&frame);
    let Packet::Ip(ip) = parsed else { return Err(format!("{parsed:?}")) };
    let transport = transport::parse_transport(&frame, &ip).transport;
    let (ports, opening) = match transport {
        Transport::Tcp(tcp) => ((tcp.source, tcp.destination), Some(tcp.opening)),
        Transport::Udp { source, destination } => ((source, destination), None),
        Transport::EchoRequest { id: _ }
        | Transport::IcmpError(_)
        | Transport::IcmpOther
        | Transport::Rest
        | Transport::Other
        | Transport::Malformed => return Err(format!("{transport:?}")),
    };
    Ok(Flow {
        source: plain(&ip, ip_address(ip.source)),
        destination: plain(&ip, ip_address(ip.destination)),
        ports,
        opening,
    })
}

/// An IPv6 source may be a mapped IPv4 address on paper.
fn plain(ip: &packet::Ip, address: IpAddr) -> IpAddr {
    match (ip.version, address) {
        (packet::Version::V6, IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
        (packet::Version::V4 | packet::Version::V6, address) => address,
    }
}

/// Where we are stricter: mapped IPv4 destinations, more than four extension headers, IPv4 behind an authentication
/// header, IPv6 whose length is left open (jumbograms), and fragments that etherparse takes for whole.
fn refused_on_purpose(sliced: &SlicedPacket<'_>) -> bool {
    match sliced.net.as_ref() {
        Some(NetSlice::Ipv4(ip)) => ip.header().protocol().0 == 51 || ip.is_payload_fragmented(),
        Some(NetSlice::Ipv6(ip)) => {
            ip.header().destination_addr().to_ipv4_mapped().is_some()
                || ip.header().payload_length() == 0
                || ip.extensions().clone().into_iter().count() > 4
                || ip.is_payload_fragmented()
        }
        Some(NetSlice::Arp(_)) | None => false,
    }
}
