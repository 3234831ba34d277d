//! The cross product: family, envelope, a connection that lives here or does not, opening or not, and every state of
//! the bucket, with real sockets for those that live here. A named row each, through both runners.

use std::net::{IpAddr, TcpListener};

use anyhow::{Context as _, Result, ensure};
use safekit_ebpf::verdict::{BucketState, Evidence, Reason};
use safekit_tests::fixture::{
    Action, CIRCUMSTANCES, Circumstances, Host, Loaded, PORT_CONNECTION, VIP, VIP6,
};
use safekit_tests::netns::in_new_namespace;
use safekit_tests::packets::{ACK, Builder, SYN, ethernet};
use safekit_tests::rows::{CLIENT, CLIENT6};

use crate::sockets::{PORT, addresses, connected};

/// Of a connection that nobody has.
const PORT_UNKNOWN: u16 = PORT + 1;

#[derive(Clone, Copy, Debug)]
enum Envelope {
    Plain,
    Tagged,
    TaggedTwice,
    /// IPv4 options, IPv6 extension headers.
    Extended,
}

const ENVELOPES: [Envelope; 4] =
    [Envelope::Plain, Envelope::Tagged, Envelope::TaggedTwice, Envelope::Extended];

struct Row {
    name: String,
    frame: Vec<u8>,
    opening: bool,
    known: bool,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for family in [4, 6] {
        for envelope in ENVELOPES {
            for (known, port) in [(true, PORT), (false, PORT_UNKNOWN)] {
                for (flags, opening) in [(SYN, true), (ACK, false)] {
                    let whose = if known { "known" } else { "unknown" };
                    let what = if opening { "SYN" } else { "ACK" };
                    rows.push(Row {
                        name: format!("{what} of {whose}, IPv{family}, {envelope:?}"),
                        frame: wrapped(family, envelope).tcp(port, PORT_CONNECTION, flags).build(),
                        opening,
                        known,
                    });
                }
            }
        }
    }
    rows
}

fn wrapped(family: u8, envelope: Envelope) -> Builder {
    let frame = ethernet([2; 6]);
    let frame = match envelope {
        Envelope::Plain | Envelope::Extended => frame,
        Envelope::Tagged => frame.vlan(9),
        Envelope::TaggedTwice => frame.service_vlan(8).vlan(9),
    };
    match (family, envelope) {
        (4, Envelope::Extended) => frame.ipv4_with_options(CLIENT, VIP, &[1; 8]),
        (4, _) => frame.ipv4(CLIENT, VIP),
        (_, Envelope::Extended) => frame.ipv6(CLIENT6, VIP6).hop_by_hop(0).destination_options(1),
        (_, _) => frame.ipv6(CLIENT6, VIP6),
    }
}

/// The table of the design, written out once more, by hand.
fn expected(row: &Row, circumstances: Circumstances) -> (Action, Reason) {
    use Action::{Drop, Pass};
    use BucketState::{Foreign, Gained, Lost, Mine};
    match (circumstances.state, circumstances.lease, row.opening, row.known) {
        (Foreign, _, _, _) => (Drop, Reason::Foreign),
        (Mine, true, _, _) => (Pass, Reason::Mine),
        (Mine | Gained, false, true, _) => (Drop, Reason::Lease),
        (Gained, true, true, _) => (Pass, Reason::GainedNew),
        (Lost, _, true, _) => (Drop, Reason::LostNew),
        (Gained | Lost, _, false, true) | (Mine, false, false, true) => (Pass, Reason::Kept),
        (Gained | Lost, _, false, false) | (Mine, false, false, false) => (Drop, Reason::NoSocket),
    }
}

#[test]
fn known_and_unknown_connections_in_every_state_of_their_bucket() -> Result<()> {
    in_new_namespace(|| {
        addresses()?;
        let mut loaded = Loaded::new()?;
        let mut host = Host::new();
        let mut alive = Vec::new();
        for (client, server) in
            [(IpAddr::from(CLIENT), IpAddr::from(VIP)), (IpAddr::from(CLIENT6), IpAddr::from(VIP6))]
        {
            let listener = TcpListener::bind((server, PORT_CONNECTION))?;
            let end = connected(client, PORT, server)?;
            let (accepted, _) = listener.accept()?;
            host.sockets.insert((client, PORT, PORT_CONNECTION), Evidence::Connection);
            alive.push((listener, end, accepted));
        }
        let rows = rows();
        let mut seen = 0;
        for circumstances in CIRCUMSTANCES {
            loaded.set(circumstances)?;
            host.set(circumstances);
            for row in &rows {
                let name = format!("{}, {circumstances:?}", row.name);
                let in_kernel = loaded.run(&row.frame).with_context(|| name.clone())?;
                assert_eq!((in_kernel.action, in_kernel.reason), expected(row, circumstances), "{name}");
                assert_eq!(in_kernel, host.run(&row.frame), "{name}");
                seen += 1;
            }
        }
        ensure!(
            seen == 160,
            "{seen} rows: two families, four envelopes, known or not, SYN or ACK, five states"
        );
        drop(alive);
        Ok(())
    })
}
