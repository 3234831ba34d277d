//! Errors of ICMP and ICMPv6.

use std::net::{Ipv4Addr, Ipv6Addr};

use safekit::config::Balance;

use super::*;

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 254);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0xfe);
const STRAY: Expect = Expect::Always(Action::Drop, Reason::IcmpStray);

/// A router's word about a packet of ours: judged as the flow that it quotes, whoever sends it.
pub(super) fn v4() -> Vec<Row> {
    let router = || ethernet(VIRTUAL_MAC).ipv4(ROUTER, VIP);
    let ours = || ethernet(OWN_MAC).ipv4(VIP, CLIENT);
    let tcp = ours().tcp(PORT_CONNECTION, PORT, ACK).quoted();
    let udp = ours().udp(PORT_UDP, PORT, 40).quoted();
    let about = |kind, code, quoted: &[u8]| router().icmp_error(kind, code, quoted).build();
    let stray = |name, quoted: &[u8]| row(name, about(3, 4, quoted), STRAY);
    let of_tcp = |name, frame| row(name, frame, Expect::ErrorOfTcp).of_connection();
    let optioned = ethernet(OWN_MAC).ipv4_with_options(VIP, CLIENT, &[1; 8]).tcp(PORT_CONNECTION, PORT, ACK);
    vec![
        of_tcp("icmp fragmentation needed", about(3, 4, &tcp)),
        of_tcp("icmp port unreachable", about(3, 3, &tcp)),
        of_tcp("icmp time exceeded", about(11, 0, &tcp)),
        of_tcp("icmp parameter problem", about(12, 0, &tcp)),
        of_tcp("icmp error with no more than eight bytes of tcp", about(3, 4, &tcp[..28])),
        of_tcp("icmp error that quotes options", about(3, 4, &optioned.quoted())),
        of_tcp(
            "icmp error that quotes a first fragment",
            about(11, 1, &ours().fragment(0, true).tcp(PORT_CONNECTION, PORT, ACK).quoted()),
        ),
        of_tcp(
            "icmp error, tagged, with options",
            ethernet(VIRTUAL_MAC)
                .vlan(3)
                .ipv4_with_options(ROUTER, VIP, &[1; 4])
                .icmp_error(3, 4, &tcp)
                .build(),
        ),
        row("icmp error about udp", about(3, 4, &udp), Expect::ErrorOfSingle).of_connection(),
        row(
            "icmp error about an echo reply",
            about(3, 4, &ours().icmp(0, 0, 77).quoted()),
            Expect::ErrorOfSingle,
        )
        .of(Balance::Connection, CLIENT, 77),
        row(
            "icmp error about a rule by client",
            about(3, 4, &ours().tcp(PORT_CLIENT, PORT, ACK).quoted()),
            Expect::ErrorOfTcp,
        )
        .of(Balance::Client, CLIENT, 0),
        stray(
            "icmp error about another's packet",
            &ethernet(OWN_MAC).ipv4(SERVER, CLIENT).tcp(80, PORT, ACK).quoted(),
        ),
        stray("icmp error about a packet to us", &super::v4().tcp(PORT, PORT_CONNECTION, ACK).quoted()),
        stray("icmp error about a port without a rule", &ours().tcp(81, PORT, ACK).quoted()),
        stray("icmp error about an echo request of ours", &ours().icmp(8, 0, 77).quoted()),
        stray("icmp error about gre", &ours().other_protocol(47).quoted()),
        stray("icmp error about a later fragment", &ours().fragment(9, true).payload(40).quoted()),
        stray("icmp error that quotes seven bytes of tcp", &tcp[..27]),
        stray(
            "icmp error that quotes ipv6",
            &ethernet(OWN_MAC).ipv6(VIP6, CLIENT6).tcp(80, PORT, ACK).quoted(),
        ),
        stray("icmp error that quotes nothing", &[]),
    ]
}

pub(super) fn v6() -> Vec<Row> {
    let router = || ethernet(VIRTUAL_MAC).ipv6(ROUTER6, VIP6);
    let ours = || ethernet(OWN_MAC).ipv6(VIP6, CLIENT6);
    let tcp = ours().tcp(PORT_CONNECTION, PORT, ACK).quoted();
    let about = |kind, code, quoted: &[u8]| router().icmpv6_error(kind, code, quoted).build();
    let stray = |name, quoted: &[u8]| row(name, about(2, 0, quoted), STRAY);
    let of_tcp = |name, frame| row(name, frame, Expect::ErrorOfTcp).of_connection6();
    vec![
        of_tcp("icmpv6 unreachable", about(1, 4, &tcp)),
        of_tcp("icmpv6 packet too big", about(2, 0, &tcp)),
        of_tcp("icmpv6 time exceeded", about(3, 0, &tcp)),
        of_tcp("icmpv6 parameter problem", about(4, 0, &tcp)),
        of_tcp("icmpv6 error with no more than eight bytes of tcp", about(2, 0, &tcp[..48])),
        of_tcp(
            "icmpv6 error that quotes a first fragment",
            about(2, 0, &ours().ipv6_fragment(0, true).tcp(PORT_CONNECTION, PORT, ACK).quoted()),
        ),
        of_tcp(
            "icmpv6 error behind an extension header",
            router().destination_options(0).icmpv6_error(2, 0, &tcp).build(),
        ),
        row(
            "icmpv6 error about udp",
            about(2, 0, &ours().udp(PORT_UDP, PORT, 40).quoted()),
            Expect::ErrorOfSingle,
        )
        .of_connection6(),
        row(
            "icmpv6 error about an echo reply",
            about(2, 0, &ours().icmpv6(129, 0, 78).quoted()),
            Expect::ErrorOfSingle,
        )
        .of(Balance::Connection, CLIENT6, 78),
        stray(
            "icmpv6 error about another's packet",
            &ethernet(OWN_MAC).ipv6(CLIENT6, VIP6).tcp(80, PORT, ACK).quoted(),
        ),
        stray("icmpv6 error about a port without a rule", &ours().tcp(81, PORT, ACK).quoted()),
        stray("icmpv6 error that quotes seven bytes of tcp", &tcp[..47]),
        stray("icmpv6 error that quotes half a header", &tcp[..20]),
    ]
}
