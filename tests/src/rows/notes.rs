//! What passes only after something else has: fragments, and the flows of rules with `evidence: flows`.

use std::net::IpAddr;

use safekit::config::Balance;

use super::*;
use crate::fixture::{PORT_TCP_FLOWS, PORT_UDP_FLOWS};

/// Fragments alone; what follows what is told in `fragments.rs` of the tier.
pub(super) fn fragments() -> Vec<Row> {
    let first = || v4().fragment(0, true);
    let first6 = || v6().ipv6_fragment(0, true);
    let later =
        |id, offset, more| v4().fragment_id(id).fragment(offset, more).udp(PORT, PORT_UDP, 30).build();
    let echo = Expect::Single;
    vec![
        row("first fragment of tcp", first().tcp(PORT, PORT_CONNECTION, SYN).build(), Expect::Opening)
            .of_connection(),
        row("first fragment of udp", first().udp(PORT, PORT_UDP, 64).build(), Expect::Single).of_connection(),
        row("first fragment of echo", first().icmp(8, 0, 5).build(), echo).of(Balance::Connection, CLIENT, 5),
        row("ipv6 first fragment of udp", first6().udp(PORT, PORT_UDP, 64).build(), Expect::Single)
            .of_connection6(),
        row("ipv6 first fragment of echo", first6().icmpv6(128, 0, 5).build(), echo).of(
            Balance::Connection,
            CLIENT6,
            5,
        ),
        row(
            "first fragment to a port without a rule",
            first().udp(PORT, 54, 64).build(),
            Expect::Always(Action::Drop, Reason::NoRule),
        ),
        row("first fragment too short for its tcp header", first().payload(16).with(23, 6), MALFORMED),
        row("first fragment too short for its ports", first().payload(7).with(23, 17), MALFORMED),
        row("ipv6 first fragment too short for its ports", first6().payload(7).with(54, 17), MALFORMED),
        row(
            "ipv6 fragment of a fragment",
            v6().ipv6_fragment(0, true).ipv6_fragment(0, true).udp(1, 53, 9).build(),
            MALFORMED,
        ),
        row("later fragment of an unknown first", later(901, 185, true), FRAGMENT),
        row("last fragment of an unknown first", later(902, 185, false), FRAGMENT),
        row("a fragment that overlaps its ports", later(903, 1, true), FRAGMENT),
        row(
            "ipv6 later fragment of an unknown first",
            v6().ipv6_fragment_of(904, 9, true).payload(64).build(),
            FRAGMENT,
        ),
        row(
            "ipv6 later fragment that looks like a header",
            v6().ipv6_fragment_of(905, 9, true)
                .destination_options(0)
                .tcp(PORT, PORT_CONNECTION, SYN)
                .build(),
            FRAGMENT,
        ),
    ]
}

/// Rules with `evidence: flows`, of flows that are not noted: what is, is told in `flows.rs` of the tier.
pub(super) fn flows() -> Vec<Row> {
    let tcp = |port, flags| v4().tcp(port, PORT_TCP_FLOWS, flags).build();
    let tcp6 = |port, flags| v6().tcp(port, PORT_TCP_FLOWS, flags).build();
    let of = |row: Row, client: IpAddr, port| row.of(Balance::Connection, client, port);
    vec![
        of(row("flows: tcp syn", tcp(1, SYN), Expect::NotedOpening), CLIENT.into(), 1),
        of(row("flows: tcp ack", tcp(2, ACK), Expect::NotedOther), CLIENT.into(), 2),
        of(row("flows: tcp rst", tcp(3, RST), Expect::NotedOther), CLIENT.into(), 3),
        of(row("flows: udp", v4().udp(4, PORT_UDP_FLOWS, 9).build(), Expect::NotedUdp), CLIENT.into(), 4),
        of(row("flows: ipv6 tcp syn", tcp6(1, SYN), Expect::NotedOpening), CLIENT6.into(), 1),
        of(row("flows: ipv6 tcp ack", tcp6(2, ACK), Expect::NotedOther), CLIENT6.into(), 2),
        of(
            row("flows: ipv6 udp", v6().udp(4, PORT_UDP_FLOWS, 9).build(), Expect::NotedUdp),
            CLIENT6.into(),
            4,
        ),
    ]
}
