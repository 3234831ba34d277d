//! The table of named packets: what each is, what decides about it, and which bucket. The host function and the loaded
//! program both have to agree with every row.

pub mod directed;
mod errors;
mod notes;
mod probes;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use safekit::config::{Balance, Ports};
use safekit_ebpf::verdict::{BucketState, Reason};

use crate::fixture::{
    Action, BALANCE_WIDE, Circumstances, OWN_MAC, PORT_CLIENT, PORT_CONNECTION, PORT_IN_RANGE, PORT_NETWORK,
    PORT_UDP, PORT_WIDE, PORTS_RANGE, VIP, VIP_ANY, VIP_ELSEWHERE, VIP6,
};
use crate::packets::{ACK, BROADCAST, Builder, FIN, PSH, RST, SYN, ethernet};

pub struct Row {
    pub name: &'static str,
    pub frame: Vec<u8>,
    pub expect: Expect,
    /// The client whose bucket decides, as the rule sees it.
    pub client: Option<(Balance, IpAddr, u16)>,
}

/// What decides. There are no local sockets in this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The same in every bucket.
    Always(Action, Reason),
    /// A TCP packet that opens a connection.
    Opening,
    /// Any other TCP packet, without a socket here.
    Established,
    /// Stands alone: passes at the owner.
    Single,
    /// An error about a TCP connection, without a socket here.
    ErrorOfTcp,
    /// An error about what stands alone.
    ErrorOfSingle,
    /// By the flows that the filter has noted, of which it knows none yet; UDP was seen go to another node a moment ago.
    NotedOpening,
    NotedOther,
    NotedUdp,
    /// Stands alone: is answered by the owner.
    Answered,
    /// The same for IPv6.
    Advertised,
}

impl Expect {
    pub fn under(self, circumstances: Circumstances) -> (Action, Reason) {
        use Action::{Drop, Pass, Transmit};
        use BucketState::{Foreign, Gained, Lost, Mine};
        match (self, circumstances.state, circumstances.lease) {
            (Self::Always(action, reason), _, _) => (action, reason),

            (Self::Opening, Foreign, _) => (Drop, Reason::Foreign),
            (Self::Opening, Mine | Gained, false) => (Drop, Reason::Lease),
            (Self::Opening, Mine, true) => (Pass, Reason::Mine),
            (Self::Opening, Gained, true) => (Pass, Reason::GainedNew),
            (Self::Opening, Lost, _) => (Drop, Reason::LostNew),

            (Self::Established, Foreign, _) => (Drop, Reason::Foreign),
            (Self::Established, Mine, true) => (Pass, Reason::Mine),
            (Self::Established, Mine, false) => (Drop, Reason::NoSocket),
            (Self::Established, Gained | Lost, _) => (Drop, Reason::NoSocket),

            (Self::Single | Self::ErrorOfSingle, Foreign | Lost, _) => (Drop, Reason::Foreign),
            (Self::Single | Self::ErrorOfSingle, Mine | Gained, false) => (Drop, Reason::Lease),
            (Self::Single, Mine | Gained, true) => (Pass, Reason::Mine),
            (Self::ErrorOfSingle, Mine | Gained, true) => (Pass, Reason::IcmpError),

            (Self::ErrorOfTcp, Foreign, _) => (Drop, Reason::Foreign),
            (Self::ErrorOfTcp, Mine, true) => (Pass, Reason::IcmpError),
            (Self::ErrorOfTcp, Mine, false) => (Drop, Reason::NoSocket),
            (Self::ErrorOfTcp, Gained | Lost, _) => (Drop, Reason::NoSocket),

            (Self::NotedOpening | Self::NotedOther | Self::NotedUdp, Foreign, _) => (Drop, Reason::Foreign),
            (Self::NotedOpening | Self::NotedUdp, Mine | Gained, false) => (Drop, Reason::Lease),
            (Self::NotedOpening | Self::NotedOther | Self::NotedUdp, Mine, true) => (Pass, Reason::Mine),
            (Self::NotedOther, Mine, false) => (Drop, Reason::NoFlow),
            (Self::NotedOpening, Gained, true) => (Pass, Reason::GainedNew),
            (Self::NotedOpening, Lost, _) => (Drop, Reason::LostNew),
            (Self::NotedUdp, Lost, false) => (Drop, Reason::Lease),
            (Self::NotedOther, Gained | Lost, _) | (Self::NotedUdp, Gained | Lost, true) => {
                (Drop, Reason::NoFlow)
            }

            (Self::Answered | Self::Advertised, Foreign | Lost, _) => (Drop, Reason::Foreign),
            (Self::Answered | Self::Advertised, Mine | Gained, false) => (Drop, Reason::Lease),
            (Self::Answered, Mine | Gained, true) => (Transmit, Reason::ArpAnswered),
            (Self::Advertised, Mine | Gained, true) => (Transmit, Reason::NdpAnswered),
        }
    }
}

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 7);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x7);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const PORT: u16 = 40_000;
/// To the virtual IP's virtual MAC, as a flooding switch delivers it.
const VIRTUAL_MAC: [u8; 6] = [0x02, 0x53, 10, 99, 0, 100];
const PASS_UNTOUCHED: Expect = Expect::Always(Action::Pass, Reason::NotVip);
const MALFORMED: Expect = Expect::Always(Action::Drop, Reason::Malformed);
const FRAGMENT: Expect = Expect::Always(Action::Drop, Reason::Fragment);

pub fn v4() -> Builder {
    ethernet(VIRTUAL_MAC).ipv4(CLIENT, VIP)
}

pub fn v6() -> Builder {
    ethernet(VIRTUAL_MAC).ipv6(CLIENT6, VIP6)
}

pub fn all() -> Vec<Row> {
    let parts = [
        tcp4(),
        ports_and_networks(),
        options_and_tags(),
        udp_and_echo(),
        icmp(),
        errors::v4(),
        errors::v6(),
        notes::fragments(),
        notes::flows(),
        ipv6(),
        arp(),
        ndp(),
        outside(),
        malformed(),
        addressing(),
        probes::all(),
    ];
    parts.into_iter().flatten().collect()
}

fn row(name: &'static str, frame: Vec<u8>, expect: Expect) -> Row {
    Row { name, frame, expect, client: None }
}

impl Row {
    fn of(self, balance: Balance, client: impl Into<IpAddr>, port: u16) -> Self {
        Self { client: Some((balance, client.into(), port)), ..self }
    }

    fn of_connection(self) -> Self {
        self.of(Balance::Connection, CLIENT, PORT)
    }

    fn of_connection6(self) -> Self {
        self.of(Balance::Connection, CLIENT6, PORT)
    }
}

fn tcp4() -> Vec<Row> {
    let tcp = |port, flags| v4().tcp(PORT, port, flags).build();
    vec![
        row("tcp syn", tcp(PORT_CONNECTION, SYN), Expect::Opening).of_connection(),
        row("tcp syn with data (fast open)", v4().tcp(PORT, 80, SYN).payload(32).build(), Expect::Opening)
            .of_connection(),
        row("tcp syn with ecn bits", tcp(PORT_CONNECTION, SYN | 0xc0), Expect::Opening).of_connection(),
        row("tcp syn and fin", tcp(PORT_CONNECTION, SYN | FIN), Expect::Opening).of_connection(),
        row("tcp syn ack", tcp(PORT_CONNECTION, SYN | ACK), Expect::Established).of_connection(),
        row("tcp ack", tcp(PORT_CONNECTION, ACK), Expect::Established).of_connection(),
        row("tcp data", v4().tcp(PORT, 80, ACK | PSH).payload(100).build(), Expect::Established)
            .of_connection(),
        row("tcp fin", tcp(PORT_CONNECTION, FIN | ACK), Expect::Established).of_connection(),
        row("tcp rst", tcp(PORT_CONNECTION, RST), Expect::Established).of_connection(),
        row("tcp without flags", tcp(PORT_CONNECTION, 0), Expect::Established).of_connection(),
        row("tcp all flags", tcp(PORT_CONNECTION, 0xff), Expect::Established).of_connection(),
        row("tcp padded to 60 bytes", v4().tcp(PORT, 80, SYN).padded(), Expect::Opening).of_connection(),
        row("tcp of the largest port", v4().tcp(65_535, 80, SYN).build(), Expect::Opening).of(
            Balance::Connection,
            CLIENT,
            65_535,
        ),
        row("tcp by client", tcp(PORT_CLIENT, SYN), Expect::Opening).of(Balance::Client, CLIENT, 0),
        row("tcp by client, another port of it", v4().tcp(1, PORT_CLIENT, SYN).build(), Expect::Opening).of(
            Balance::Client,
            CLIENT,
            0,
        ),
        row("tcp by network", tcp(PORT_NETWORK, SYN), Expect::Opening).of(
            Balance::NETWORK,
            Ipv4Addr::new(10, 99, 0, 0),
            0,
        ),
        row(
            "tcp by network, another client of it",
            ethernet(VIRTUAL_MAC).ipv4(Ipv4Addr::new(10, 99, 0, 250), VIP).tcp(9, PORT_NETWORK, ACK).build(),
            Expect::Established,
        )
        .of(Balance::NETWORK, Ipv4Addr::new(10, 99, 0, 0), 0),
        row("tcp to a port without a rule", tcp(81, SYN), Expect::Always(Action::Drop, Reason::NoRule)),
        row("tcp to port 0", tcp(0, SYN), Expect::Always(Action::Drop, Reason::NoRule)),
        row(
            "tcp to a port that only udp has",
            tcp(PORT_UDP, SYN),
            Expect::Always(Action::Drop, Reason::NoRule),
        ),
    ]
}

fn ports_and_networks() -> Vec<Row> {
    let tcp = |port| v4().tcp(PORT, port, SYN).build();
    let any = |port, flags| ethernet(VIRTUAL_MAC).ipv4(CLIENT, VIP_ANY).tcp(PORT, port, flags).build();
    let from = |client| ethernet(VIRTUAL_MAC).ipv4(client, VIP).tcp(PORT, PORT_WIDE, SYN).build();
    let from6 = |client| ethernet(VIRTUAL_MAC).ipv6(client, VIP6).tcp(PORT, PORT_WIDE, SYN).build();
    let by_client = |row: Row| row.of(Balance::Client, CLIENT, 0);
    let by_wide = |row: Row| row.of(BALANCE_WIDE, CLIENT, 0);
    let by_wide6 = |row: Row| row.of(BALANCE_WIDE, CLIENT6, 0);
    let Ports { first, last } = PORTS_RANGE;
    let no_rule = Expect::Always(Action::Drop, Reason::NoRule);
    vec![
        row("tcp to the first port of a range", tcp(first), Expect::Opening).of_connection(),
        row("tcp to the last port of a range", tcp(last), Expect::Opening).of_connection(),
        row("tcp just below a range", tcp(first - 1), no_rule),
        row("tcp just above a range", v4().tcp(PORT, last + 1, SYN).build(), no_rule),
        by_client(row("tcp to the narrower rule in a range", tcp(PORT_IN_RANGE), Expect::Opening)),
        row("tcp just below the narrower rule", tcp(PORT_IN_RANGE - 1), Expect::Opening).of_connection(),
        row("tcp just above the narrower rule", tcp(PORT_IN_RANGE + 1), Expect::Opening).of_connection(),
        row("ipv6 tcp to a range", v6().tcp(PORT, first, ACK).build(), Expect::Established).of_connection6(),
        by_client(row("udp to a range", v4().udp(PORT, first, 5).build(), Expect::Single)),
        by_client(row(
            "udp to the port that tcp has a narrower rule for",
            v4().udp(PORT, PORT_IN_RANGE, 5).build(),
            Expect::Single,
        )),
        row("any port: the first", any(1, SYN), Expect::Opening).of_connection(),
        row("any port: the last", any(65_535, SYN), Expect::Opening).of_connection(),
        row("any port: one that another virtual ip has", any(PORT_CONNECTION, ACK), Expect::Established)
            .of_connection(),
        row("any port: none", any(0, SYN), no_rule),
        row(
            "any port of tcp, by udp",
            ethernet(VIRTUAL_MAC).ipv4(CLIENT, VIP_ANY).udp(PORT, 80, 5).build(),
            no_rule,
        ),
        by_wide(row("tcp by a network of 9 bits", from(CLIENT), Expect::Opening)),
        by_wide(row(
            "the last client of that network",
            from(Ipv4Addr::new(10, 127, 255, 255)),
            Expect::Opening,
        )),
        row("a client of the next network", from(Ipv4Addr::new(10, 128, 0, 0)), Expect::Opening).of(
            BALANCE_WIDE,
            Ipv4Addr::new(10, 255, 1, 1),
            0,
        ),
        by_wide6(row("ipv6 tcp by a network of 33 bits", from6(CLIENT6), Expect::Opening)),
        by_wide6(row(
            "the last ipv6 client of that network",
            from6(Ipv6Addr::new(0x2001, 0xdb8, 0x7fff, !0, !0, !0, !0, !0)),
            Expect::Opening,
        )),
        row(
            "an ipv6 client of the next network",
            from6(Ipv6Addr::new(0x2001, 0xdb8, 0x8000, 0, 0, 0, 0, 1)),
            Expect::Opening,
        )
        .of(BALANCE_WIDE, Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9), 0),
    ]
}

fn options_and_tags() -> Vec<Row> {
    let with = |options: &[u8]| {
        ethernet(VIRTUAL_MAC).ipv4_with_options(CLIENT, VIP, options).tcp(PORT, PORT_CONNECTION, SYN).build()
    };
    let tagged = |builder: Builder| builder.ipv4(CLIENT, VIP).tcp(PORT, PORT_CONNECTION, SYN).build();
    vec![
        row("ipv4 with one word of options", with(&[1, 1, 1, 0]), Expect::Opening).of_connection(),
        row("ipv4 with router alert", with(&[148, 4, 0, 0]), Expect::Opening).of_connection(),
        row("ipv4 with all options", with(&[1; 40]), Expect::Opening).of_connection(),
        row("one vlan tag", tagged(ethernet(VIRTUAL_MAC).vlan(7)), Expect::Opening).of_connection(),
        row("a service tag", tagged(ethernet(VIRTUAL_MAC).service_vlan(7)), Expect::Opening).of_connection(),
        row("two vlan tags", tagged(ethernet(VIRTUAL_MAC).service_vlan(7).vlan(8)), Expect::Opening)
            .of_connection(),
        row(
            "three vlan tags",
            tagged(ethernet(VIRTUAL_MAC).vlan(7).vlan(8).vlan(9)),
            Expect::Always(Action::Pass, Reason::NotIp),
        ),
    ]
}

fn udp_and_echo() -> Vec<Row> {
    let echo = v4().icmp(8, 0, 0x4242).build();
    vec![
        row("udp", v4().udp(PORT, PORT_UDP, 20).build(), Expect::Single).of_connection(),
        row("udp without data", v4().udp(PORT, PORT_UDP, 0).build(), Expect::Single).of_connection(),
        row(
            "udp to a port without a rule",
            v4().udp(PORT, 54, 20).build(),
            Expect::Always(Action::Drop, Reason::NoRule),
        ),
        row(
            "udp to a port that only tcp has",
            v4().udp(PORT, PORT_CONNECTION, 20).build(),
            Expect::Always(Action::Drop, Reason::NoRule),
        ),
        row("echo request", echo, Expect::Single).of(Balance::Connection, CLIENT, 0x4242),
        row("echo request, another id", v4().icmp(8, 0, 1).build(), Expect::Single).of(
            Balance::Connection,
            CLIENT,
            1,
        ),
        row(
            "echo request, tagged",
            ethernet(VIRTUAL_MAC).vlan(7).ipv4(CLIENT, VIP).icmp(8, 0, 3).build(),
            Expect::Single,
        )
        .of(Balance::Connection, CLIENT, 3),
        row("ipv6 echo request", v6().icmpv6(128, 0, 0x4242).build(), Expect::Single).of(
            Balance::Connection,
            CLIENT6,
            0x4242,
        ),
    ]
}

fn icmp() -> Vec<Row> {
    let stray = Expect::Always(Action::Drop, Reason::IcmpStray);
    let other = Expect::Always(Action::Drop, Reason::IcmpOther);
    let protocol = Expect::Always(Action::Drop, Reason::Protocol);
    vec![
        row("icmp unreachable that quotes nonsense", v4().icmp(3, 4, 0).build(), stray),
        row("icmpv6 too big that quotes nonsense", v6().icmpv6(2, 0, 0).build(), stray),
        row("icmp source quench", v4().icmp(4, 0, 0).build(), other),
        row("icmp echo reply", v4().icmp(0, 0, 5).build(), other),
        row("icmp redirect", v4().icmp(5, 1, 5).build(), other),
        row("icmp timestamp request", v4().icmp(13, 0, 5).build(), other),
        row("icmpv6 echo reply", v6().icmpv6(129, 0, 0).build(), other),
        row("icmpv6 neighbour solicitation to the virtual ip", v6().icmpv6(135, 0, 0).build(), other),
        row("icmpv6 inside ipv4", v4().other_protocol(58).build(), protocol),
        row("icmp inside ipv6", v6().other_protocol(1).build(), protocol),
        row("gre", v4().other_protocol(47).build(), protocol),
        row("sctp", v4().other_protocol(132).build(), protocol),
        row("ipv6 without next header", v6().other_protocol(59).build(), protocol),
    ]
}

fn ipv6() -> Vec<Row> {
    let tcp = |builder: Builder| builder.tcp(PORT, PORT_CONNECTION, SYN).build();
    vec![
        row("ipv6 tcp syn", tcp(v6()), Expect::Opening).of_connection6(),
        row("ipv6 tcp ack", v6().tcp(PORT, PORT_CONNECTION, ACK).build(), Expect::Established)
            .of_connection6(),
        row("ipv6 tcp by client", v6().tcp(PORT, PORT_CLIENT, SYN).build(), Expect::Opening).of(
            Balance::Client,
            CLIENT6,
            0,
        ),
        row("ipv6 tcp by network", v6().tcp(PORT, PORT_NETWORK, SYN).build(), Expect::Opening).of(
            Balance::NETWORK,
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
            0,
        ),
        row("ipv6 udp", v6().udp(PORT, PORT_UDP, 9).build(), Expect::Single).of_connection6(),
        row(
            "ipv6 tcp without a rule",
            v6().tcp(PORT, 81, SYN).build(),
            Expect::Always(Action::Drop, Reason::NoRule),
        ),
        row("ipv6 hop by hop", tcp(v6().hop_by_hop(0)), Expect::Opening).of_connection6(),
        row("ipv6 long destination options", tcp(v6().destination_options(31)), Expect::Opening)
            .of_connection6(),
        row("ipv6 routing", tcp(v6().routing()), Expect::Opening).of_connection6(),
        row("ipv6 authentication", tcp(v6().authentication()), Expect::Opening).of_connection6(),
        row(
            "ipv6 four extensions",
            tcp(v6().hop_by_hop(0).destination_options(0).routing().authentication()),
            Expect::Opening,
        )
        .of_connection6(),
        row(
            "ipv6 five extensions",
            tcp(v6().hop_by_hop(0).destination_options(0).routing().authentication().destination_options(0)),
            MALFORMED,
        ),
        row("ipv6 atomic fragment", tcp(v6().ipv6_fragment(0, false)), Expect::Opening).of_connection6(),
        row("ipv6 first fragment", tcp(v6().ipv6_fragment(0, true)), Expect::Opening).of_connection6(),
        row(
            "ipv6 last fragment of an unknown first",
            v6().ipv6_fragment_of(9, 100, false).payload(40).build(),
            FRAGMENT,
        ),
        row("ipv6 tagged", tcp(ethernet(VIRTUAL_MAC).vlan(3).ipv6(CLIENT6, VIP6)), Expect::Opening)
            .of_connection6(),
    ]
}

fn arp() -> Vec<Row> {
    let arp = |operation, sender, target| ethernet(BROADCAST).arp(operation, sender, target).padded();
    let claim = Expect::Always(Action::Drop, Reason::ArpClaim);
    vec![
        row("arp who has the virtual ip", arp(1, CLIENT, VIP), Expect::Answered).of(
            Balance::Client,
            CLIENT,
            0,
        ),
        row("arp who has, another requester", arp(1, SERVER, VIP), Expect::Answered).of(
            Balance::Client,
            SERVER,
            0,
        ),
        row("arp probe (RFC 5227)", arp(1, Ipv4Addr::UNSPECIFIED, VIP), Expect::Answered).of(
            Balance::Client,
            Ipv4Addr::UNSPECIFIED,
            0,
        ),
        row("arp who has, unpadded", ethernet(BROADCAST).arp(1, CLIENT, VIP).build(), Expect::Answered).of(
            Balance::Client,
            CLIENT,
            0,
        ),
        row("arp who has, tagged", ethernet(BROADCAST).vlan(3).arp(1, CLIENT, VIP).build(), Expect::Answered)
            .of(Balance::Client, CLIENT, 0),
        row("arp gratuitous for the virtual ip", arp(1, VIP, VIP), claim),
        row("arp reply that claims the virtual ip", arp(2, VIP, CLIENT), claim),
        row("arp reply to the virtual ip", arp(2, CLIENT, VIP), claim),
        row("arp request from the virtual ip", arp(1, VIP, CLIENT), claim),
        row("arp between others", arp(1, CLIENT, SERVER), PASS_UNTOUCHED),
        row(
            "arp for a virtual ip of another interface",
            arp(1, CLIENT, VIP_ELSEWHERE),
            Expect::Always(Action::Drop, Reason::WrongInterface),
        ),
        row(
            "arp of other hardware",
            ethernet(BROADCAST).arp(1, CLIENT, VIP).with(15, 6),
            Expect::Always(Action::Pass, Reason::NotIp),
        ),
        row(
            "arp for another protocol",
            ethernet(BROADCAST).arp(1, CLIENT, VIP).with(16, 9),
            Expect::Always(Action::Pass, Reason::NotIp),
        ),
    ]
}

fn ndp() -> Vec<Row> {
    /// The solicited-node group of [`VIP6`], RFC 4291 2.7.1, and its MAC.
    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x100);
    const GROUP_MAC: [u8; 6] = [0x33, 0x33, 0xff, 0, 1, 0];
    let from = |sender| ethernet(GROUP_MAC).ipv6(sender, GROUP);
    let claim = Expect::Always(Action::Drop, Reason::NdpClaim);
    let probe = Expect::Always(Action::Drop, Reason::NdpProbe);
    let of_client = |row: Row| row.of(Balance::Client, CLIENT6, 0);
    vec![
        of_client(row(
            "ndp who has the virtual ip",
            from(CLIENT6).neighbour(135, VIP6, true).build(),
            Expect::Advertised,
        )),
        of_client(row(
            "ndp who has, to it alone",
            v6().neighbour(135, VIP6, true).build(),
            Expect::Advertised,
        )),
        of_client(row(
            "ndp who has, without a mac",
            v6().neighbour(135, VIP6, false).build(),
            Expect::Advertised,
        )),
        of_client(row(
            "ndp who has, with more options",
            from(CLIENT6).neighbour(135, VIP6, true).payload(8).build(),
            Expect::Advertised,
        )),
        of_client(row(
            "ndp who has, tagged",
            ethernet(GROUP_MAC).vlan(5).ipv6(CLIENT6, GROUP).neighbour(135, VIP6, true).build(),
            Expect::Advertised,
        )),
        row(
            "ndp probe for the virtual ip",
            from(Ipv6Addr::UNSPECIFIED).neighbour(135, VIP6, false).build(),
            probe,
        ),
        row("ndp solicitation from the virtual ip", from(VIP6).neighbour(135, VIP6, true).build(), claim),
        row("ndp advertisement of the virtual ip", v6().neighbour(136, VIP6, true).build(), claim),
        row(
            "ndp unasked advertisement to all",
            ethernet(GROUP_MAC).ipv6(VIP6, GROUP).neighbour(136, VIP6, true).build(),
            claim,
        ),
        row("ndp between others", from(CLIENT6).neighbour(135, CLIENT6, true).build(), PASS_UNTOUCHED),
        row(
            "ndp who has the ipv4 virtual ip, mapped",
            from(CLIENT6).neighbour(135, VIP.to_ipv6_mapped(), true).build(),
            PASS_UNTOUCHED,
        ),
        row(
            "ndp who has, through a router",
            from(CLIENT6).neighbour(135, VIP6, true).with(21, 254),
            PASS_UNTOUCHED,
        ),
        row("ndp who has, with a code", from(CLIENT6).neighbour(135, VIP6, true).with(55, 1), PASS_UNTOUCHED),
    ]
}

fn outside() -> Vec<Row> {
    let not_ip = Expect::Always(Action::Pass, Reason::NotIp);
    let to = |address| ethernet(OWN_MAC).ipv4(CLIENT, address).tcp(PORT, PORT_CONNECTION, SYN).build();
    vec![
        row("tcp to the node itself", to(SERVER), PASS_UNTOUCHED),
        row("tcp to a neighbour of the virtual ip", to(Ipv4Addr::new(10, 99, 0, 101)), PASS_UNTOUCHED),
        row(
            "tcp to the virtual ip of a farm that this node is not in",
            to(Ipv4Addr::new(10, 97, 0, 100)),
            PASS_UNTOUCHED,
        ),
        row("ipv4 broadcast", to(Ipv4Addr::BROADCAST), PASS_UNTOUCHED),
        row("ipv4 to 0.0.0.0", to(Ipv4Addr::UNSPECIFIED), PASS_UNTOUCHED),
        row(
            "from the virtual ip",
            ethernet(OWN_MAC).ipv4(VIP, SERVER).tcp(80, PORT, SYN | ACK).build(),
            PASS_UNTOUCHED,
        ),
        row(
            "a fragment for another address",
            ethernet(OWN_MAC).ipv4(CLIENT, SERVER).fragment(9, true).payload(64).build(),
            PASS_UNTOUCHED,
        ),
        row(
            "ipv6 to ::",
            ethernet(OWN_MAC).ipv6(CLIENT6, Ipv6Addr::UNSPECIFIED).tcp(PORT, 80, SYN).build(),
            PASS_UNTOUCHED,
        ),
        row(
            "ipv6 to the node itself",
            ethernet(OWN_MAC).ipv6(CLIENT6, CLIENT6).tcp(PORT, 80, SYN).build(),
            PASS_UNTOUCHED,
        ),
        row(
            "the virtual ip as a mapped ipv6 address",
            ethernet(OWN_MAC).ipv6(CLIENT6, VIP.to_ipv6_mapped()).tcp(PORT, 80, SYN).build(),
            MALFORMED,
        ),
        row(
            "a spanning tree frame",
            ethernet([0x01, 0x80, 0xc2, 0, 0, 0]).other_ethertype(0x0027).build(),
            not_ip,
        ),
        row("lldp", ethernet([0x01, 0x80, 0xc2, 0, 0, 0x0e]).other_ethertype(0x88cc).build(), not_ip),
        row(
            "a virtual ip of another interface",
            to(VIP_ELSEWHERE),
            Expect::Always(Action::Drop, Reason::WrongInterface),
        ),
    ]
}

fn malformed() -> Vec<Row> {
    let syn = || v4().tcp(PORT, PORT_CONNECTION, SYN);
    vec![
        row("ipv4 header that says version 6", syn().with(14, 0x65), MALFORMED),
        row("ipv4 header of four words", syn().with(14, 0x44), MALFORMED),
        row("ipv4 total length below its header", syn().with(17, 19), MALFORMED),
        row("ipv4 total length without room for tcp", syn().with(17, 39), MALFORMED),
        row("ipv4 options beyond the frame", syn().with(14, 0x4f), MALFORMED),
        row("tcp header of four words", syn().with(46, 0x40), MALFORMED),
        row("udp cut off by the total length", v4().udp(PORT, PORT_UDP, 9).with(17, 27), MALFORMED),
        row("echo cut off by the total length", v4().icmp(8, 0, 1).with(17, 27), MALFORMED),
        row("ipv6 header that says version 4", v6().tcp(PORT, 80, SYN).with(14, 0x40), MALFORMED),
        row("ipv6 payload without room for tcp", v6().tcp(PORT, 80, SYN).with(19, 19), MALFORMED),
        row(
            "ipv6 extension beyond the payload",
            v6().destination_options(0).tcp(PORT, 80, SYN).with(55, 200),
            MALFORMED,
        ),
        row("ipv4 reserved flag is no fragment", syn().with(20, 0x80), Expect::Opening).of_connection(),
    ]
}

/// The Ethernet destination never decides: a switch may flood a stale one.
fn addressing() -> Vec<Row> {
    let to = |mac| ethernet(mac).ipv4(CLIENT, VIP).tcp(PORT, PORT_CONNECTION, ACK).build();
    vec![
        row("tcp to the node's own mac", to(OWN_MAC), Expect::Established).of_connection(),
        row("tcp to another node's mac", to([2, 0, 0, 0, 0, 2]), Expect::Established).of_connection(),
        row("tcp to the broadcast mac", to(BROADCAST), Expect::Established).of_connection(),
    ]
}
