//! The packets, and what becomes of each.

use std::net::{Ipv4Addr, Ipv6Addr};

use safekit_ebpf::Reason;
use safekit_ebpf::verdict::Standing::{self, Foreign, Gained, Lost, Mine};
use safekit_tests::filter::VIP;
use safekit_tests::packets::{ACK, FIN, Packet, RST, SYN};

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 101);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 8);

/// Name, frame, standing of all buckets, whether the lease is live, and why what happens happens.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) standing: Standing,
    pub(crate) lease_live: bool,
    pub(crate) reason: Reason,
}

fn to_vip() -> Packet {
    Packet::ipv4(CLIENT, VIP)
}

/// Every packet under every standing and lease that changes what happens to it.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name, packet: &Packet, standing, lease_live, reason| {
        rows.push(Row { name, frame: packet.build(), standing, lease_live, reason });
    };
    for (name, packet) in sessions() {
        let opens = name.contains("SYN to");
        let belongs = name.contains("segment");
        row(name, &packet, Mine, true, Reason::Mine);
        row(name, &packet, Foreign, true, Reason::Foreign);
        row(name, &packet, Lost, true, Reason::Foreign);
        row(name, &packet, Gained, true, if belongs { Reason::Unproven } else { Reason::Mine });
        row(name, &packet, Mine, false, Reason::LeaseOver);
        row(name, &packet, Foreign, false, Reason::Foreign);
        assert!(!(opens && belongs), "{name} is one of both");
    }
    for (name, packet, reason) in regardless() {
        for standing in [Mine, Foreign, Lost, Gained] {
            row(name, &packet, standing, true, reason);
        }
        row(name, &packet, Mine, false, reason);
    }
    let asks = Packet::arp(true, CLIENT, VIP);
    row("ARP request for the virtual IP", &asks, Mine, true, Reason::ArpAnswered);
    row("ARP request for the virtual IP", &asks, Gained, true, Reason::ArpAnswered);
    row("ARP request for the virtual IP", &asks, Foreign, true, Reason::ArpForeign);
    row("ARP request for the virtual IP", &asks, Lost, true, Reason::ArpForeign);
    row("ARP request for the virtual IP", &asks, Mine, false, Reason::ArpForeign);
    rows
}

/// Packets whose bucket decides.
fn sessions() -> Vec<(&'static str, Packet)> {
    let options = [0x07, 0x07, 0x04, 0, 0, 0, 0];
    vec![
        ("SYN to port 80", to_vip().tcp(40312, 80, SYN)),
        ("segment to port 80", to_vip().tcp(40312, 80, ACK)),
        ("FIN segment", to_vip().tcp(40312, 80, FIN | ACK)),
        ("RST segment", to_vip().tcp(40312, 80, RST)),
        ("SYN+ACK segment opens nothing", to_vip().tcp(40312, 80, SYN | ACK)),
        ("segment without flags", to_vip().tcp(40312, 80, 0)),
        ("SYN to port 443, by client", to_vip().tcp(40312, 443, SYN)),
        ("segment to port 443, by client", to_vip().tcp(40312, 443, ACK)),
        ("datagram to port 53, by network", to_vip().udp(40312, 53)),
        ("echo request", to_vip().icmp(8, 77)),
        ("SYN to port 80 with options", Packet::ipv4_with_options(CLIENT, VIP, &options).tcp(40312, 80, SYN)),
        ("segment with options", Packet::ipv4_with_options(CLIENT, VIP, &[1; 40]).tcp(40312, 80, ACK)),
        ("SYN to port 80 in a VLAN", to_vip().tcp(40312, 80, SYN).vlan(7)),
        ("segment in two VLANs", to_vip().tcp(40312, 80, ACK).vlan(7).vlan(8)),
    ]
}

/// Packets that no bucket decides.
fn regardless() -> Vec<(&'static str, Packet, Reason)> {
    vec![
        ("SYN to another address", Packet::ipv4(CLIENT, OTHER).tcp(40312, 80, SYN), Reason::NotFarm),
        ("packet from the virtual IP", Packet::ipv4(VIP, CLIENT).tcp(80, 40312, ACK), Reason::NotFarm),
        ("IPv6 to another address", Packet::ipv6(CLIENT6, OTHER6).tcp(40312, 80, SYN), Reason::NotFarm),
        (
            "IPv6 with extension headers",
            Packet::ipv6(CLIENT6, OTHER6).extension(0, 1).extension(60, 2).udp(1, 2),
            Reason::NotFarm,
        ),
        ("another ethertype", Packet::other([0x88, 0xcc]), Reason::NotFarm),
        ("ARP for another address", Packet::arp(true, CLIENT, OTHER), Reason::NotFarm),
        ("ARP announcement of a peer", Packet::arp(true, VIP, VIP), Reason::ArpOther),
        ("ARP answer about the virtual IP", Packet::arp(false, CLIENT, VIP), Reason::ArpOther),
        ("somebody claims the virtual IP", Packet::arp(true, VIP, OTHER), Reason::ArpOther),
        ("SYN to a port without a rule", to_vip().tcp(40312, 22, SYN), Reason::NoRule),
        ("datagram to a TCP port", to_vip().udp(40312, 80), Reason::NoRule),
        ("SYN to a UDP port", to_vip().tcp(40312, 53, SYN), Reason::NoRule),
        ("first fragment", to_vip().tcp(40312, 80, SYN).fragment(true, 0), Reason::Fragment),
        ("later fragment", to_vip().tcp(40312, 80, SYN).fragment(false, 185), Reason::Fragment),
        ("echo answer", to_vip().icmp(0, 77), Reason::Icmp),
        ("destination unreachable", to_vip().icmp(3, 0), Reason::Icmp),
        ("GRE", to_vip().transport(47, vec![0; 16]), Reason::Protocol),
        ("TCP header cut short", to_vip().transport(6, vec![0; 19]), Reason::Malformed),
        ("TCP header with a data offset of 4", to_vip().transport(6, short_offset()), Reason::Malformed),
        ("UDP header cut short", to_vip().transport(17, vec![0; 7]), Reason::Malformed),
        ("ICMP header cut short", to_vip().transport(1, vec![8, 0, 0]), Reason::Malformed),
        ("nothing above IP", to_vip().transport(6, Vec::new()), Reason::Malformed),
    ]
}

fn short_offset() -> Vec<u8> {
    let mut header = vec![0; 20];
    header[12] = 0x40;
    header
}
