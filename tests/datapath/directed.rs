//! Directed delivery through both filters: each row of its table, and datagrams in fragments step by step.

use std::time::Duration;

use anyhow::Result;
use safekit::config::Balance;
use safekit::driver::datapath::Plan;
use safekit::types::NodeId;
use safekit_ebpf::abi::{BUCKETS, Limits};
use safekit_ebpf::forward::{HOP_SLOTS, Road};
use safekit_ebpf::verdict::{BucketState, Reason};
use safekit_tests::fixture::{
    Action, Circumstances, GROUPS, HASH_KEY, Host, Loaded, OWN_MAC, PORT_CONNECTION, PORT_UDP, directed_plan,
};
use safekit_tests::packets::{ACK, Builder, SYN};
use safekit_tests::rows::CLIENT;
use safekit_tests::rows::directed::{
    self, Fate, HOLDER, HOLDER_MAC, Kind, OWNER, OWNER_MAC, ROAD, Row, mark, marked,
};

const MINE: Circumstances = Circumstances { state: BucketState::Mine, lease: true };
const FOREIGN: Circumstances = Circumstances { state: BucketState::Foreign, lease: true };
const GAINED: Circumstances = Circumstances { state: BucketState::Gained, lease: true };

/// One node, in the kernel and on the host, with two peers that it knows the cards of.
struct Both {
    loaded: Loaded,
    host: Host,
}

impl Both {
    fn new() -> Result<Self> {
        Self::with_plan(&directed_plan())
    }

    fn with_plan(plan: &Plan) -> Result<Self> {
        let (mut loaded, mut host) = (Loaded::with_plan(plan)?, Host::with_plan(plan));
        for (node, mac) in [(OWNER, OWNER_MAC), (HOLDER, HOLDER_MAC)] {
            // One for each interface of the configuration.
            loaded.datapath.set_peer_macs(NodeId(node), &[mac; 2])?;
            host.roads.macs.insert(node, mac);
        }
        let mut node = Self { loaded, host };
        node.set(FOREIGN)?;
        node.set_roads(&[ROAD; BUCKETS])?;
        Ok(node)
    }

    fn set(&mut self, circumstances: Circumstances) -> Result<()> {
        self.host.set(circumstances);
        self.loaded.set(circumstances)
    }

    fn set_roads(&mut self, roads: &[Road]) -> Result<()> {
        self.host.roads.by_bucket = roads.to_vec();
        for group in GROUPS {
            self.loaded.datapath.write_roads(group, roads)?;
        }
        Ok(())
    }

    #[track_caller]
    fn check(&mut self, frame: &[u8], expected: Fate) {
        self.check_named("the frame", frame, expected);
    }

    #[track_caller]
    fn check_named(&mut self, name: &str, frame: &[u8], expected: Fate) {
        let on_host = self.host.run(frame);
        let (action, reason) = outcome_of(expected);
        assert_eq!((on_host.action, on_host.reason), (action, reason), "{name} on the host");
        if let Some(bytes) = bytes_of(frame, expected) {
            assert_eq!(on_host.bytes, bytes, "{name} on the host");
        }
        let in_kernel = self.loaded.run(frame).expect("the filter runs");
        assert_eq!(in_kernel, on_host, "{name} in the kernel against the host");
        self.host.now += 1;
    }
}

fn outcome_of(fate: Fate) -> (Action, Reason) {
    match fate {
        Fate::Passes(reason) => (Action::Pass, reason),
        Fate::Drops(reason) => (Action::Drop, reason),
        Fate::Answered(reason) | Fate::Sent { reason, .. } => (Action::Transmit, reason),
    }
}

/// What leaves the filter; what answers look like, the table of all deliveries has.
fn bytes_of(frame: &[u8], fate: Fate) -> Option<Vec<u8>> {
    match fate {
        Fate::Passes(_) => Some([&OWN_MAC[..], &frame[6..]].concat()),
        Fate::Drops(_) => Some(frame.to_vec()),
        Fate::Answered(_) => None,
        Fate::Sent { reason: _, to, hop } => Some([&to[..], &mark(hop, 0), &frame[12..]].concat()),
    }
}

#[test]
fn every_row_has_its_fate_in_both_filters() -> Result<()> {
    let rows = directed::all();
    let mut node = Both::new()?;
    let mut sent = [0; HOP_SLOTS];
    for Row { name, frame, circumstances, road, fate } in &rows {
        // What an earlier row noted counts no more once the buckets were another node's.
        for circumstances in [FOREIGN, *circumstances] {
            node.set(circumstances)?;
        }
        node.set_roads(&vec![*road; BUCKETS])?;
        node.check_named(name, frame, *fate);
        if let Fate::Sent { hop, .. } = fate {
            sent[usize::from(*hop)] += 1;
        }
    }
    assert_eq!(node.loaded.datapath.forwarded()?, sent, "each frame is counted by its hop");
    assert_eq!(*node.host.roads.forwarded.borrow(), sent);
    let hops = sent.iter().filter(|frames| **frames > 0).count();
    assert!(rows.len() >= 200 && hops >= 4, "{} rows, {hops} hops", rows.len());
    Ok(())
}

#[test]
fn the_road_of_the_clients_own_bucket_counts() -> Result<()> {
    let mut node = Both::new()?;
    let bucket = |port| {
        let bucket = safekit::driver::datapath::bucket(HASH_KEY, Balance::Connection, CLIENT.into(), port);
        usize::from(bucket.0)
    };
    let frame = |port| Kind::V4.to(OWN_MAC).tcp(port, PORT_CONNECTION, SYN).build();
    let mut roads = vec![Road { owner: HOLDER, holder: HOLDER }; BUCKETS];
    roads[bucket(1)] = ROAD;
    node.set_roads(&roads)?;
    node.check(&frame(1), to_owner(OWNER_MAC));
    node.check(&frame(2), to_owner(HOLDER_MAC));
    roads.swap(bucket(1), bucket(2));
    node.set_roads(&roads)?;
    node.check(&frame(1), to_owner(HOLDER_MAC));
    node.check(&frame(2), to_owner(OWNER_MAC));
    Ok(())
}

const fn to_owner(to: [u8; 6]) -> Fate {
    Fate::Sent { reason: Reason::ToOwner, to, hop: 1 }
}

const UNKNOWN: Fate = Fate::Drops(Reason::Fragment);

fn first(kind: Kind, id: u16) -> Vec<u8> {
    datagram(kind.fragment(id, 0, true))
}

fn datagram(ip: Builder) -> Vec<u8> {
    ip.udp(7, PORT_UDP, 1_000).build()
}

/// Of UDP by its protocol number, where the header has one.
fn later(kind: Kind, id: u16, more: bool) -> Vec<u8> {
    datagram(kind.fragment(id, 126, more))
}

#[test]
fn the_fragments_of_a_datagram_follow_their_first_to_its_owner() -> Result<()> {
    let mut node = Both::new()?;
    for kind in [Kind::V4, Kind::V6] {
        node.set(FOREIGN)?;
        node.set_roads(&[ROAD; BUCKETS])?;
        node.check(&later(kind, 1, true), UNKNOWN);
        node.check(&first(kind, 1), to_owner(OWNER_MAC));
        node.check(&later(kind, 1, true), to_owner(OWNER_MAC));
        node.check(&later(kind, 2, true), UNKNOWN);

        // Also where the bucket has gone meanwhile: what has begun at one node is of no use to another.
        node.set_roads(&[Road { owner: HOLDER, holder: HOLDER }; BUCKETS])?;
        node.check(&later(kind, 1, true), to_owner(OWNER_MAC));
        node.set(MINE)?;
        node.check(&later(kind, 1, false), to_owner(OWNER_MAC));

        // The next datagram of that name goes its own way, and so does the one after.
        node.check(&first(kind, 1), Fate::Passes(Reason::Mine));
        node.check(&later(kind, 1, false), Fate::Passes(Reason::FragmentFollows));
        node.set(FOREIGN)?;
        node.check(&first(kind, 1), to_owner(HOLDER_MAC));
        node.check(&later(kind, 1, false), to_owner(HOLDER_MAC));
        let refused = kind.fragment(1, 0, true).udp(7, 54, 1_000).build();
        node.check(&refused, Fate::Drops(Reason::NoRule));
        node.check(&later(kind, 1, false), UNKNOWN);
    }
    Ok(())
}

#[test]
fn fragments_pass_the_same_holders_as_their_first() -> Result<()> {
    let to_holder = Fate::Sent { reason: Reason::ToHolder, to: HOLDER_MAC, hop: 2 };
    let mut node = Both::new()?;
    node.set(GAINED)?;
    for kind in [Kind::V4, Kind::V6] {
        let first = kind.fragment(3, 0, true).tcp(7, PORT_CONNECTION, ACK).payload(1_000).build();
        let later = kind.fragment(3, 126, false).tcp(7, PORT_CONNECTION, ACK).payload(1_000).build();
        node.check(&marked(first, 1), to_holder);
        node.check(&marked(later.clone(), 1), to_holder);
        node.check(&later, to_holder);
    }
    Ok(())
}

/// Whoever forges fragments can make two nodes send them to each other, once.
#[test]
fn a_fragment_that_has_come_as_far_as_its_first_goes_no_further() -> Result<()> {
    let mut node = Both::new()?;
    for kind in [Kind::V4, Kind::V6] {
        node.check(&first(kind, 4), to_owner(OWNER_MAC));
        for hop in 1..=8 {
            let expected = if hop == 8 { to_owner(OWNER_MAC) } else { UNKNOWN };
            // The eighth hop is written as none: three bits are read.
            node.check(&marked(later(kind, 4, false), hop), expected);
        }
    }
    Ok(())
}

#[test]
fn fragments_of_what_went_nowhere_go_nowhere() -> Result<()> {
    let mut node = Both::new()?;
    for kind in [Kind::V4, Kind::V6] {
        node.set_roads(&[Road::NONE; BUCKETS])?;
        node.check(&first(kind, 5), Fate::Drops(Reason::Foreign));
        node.check(&later(kind, 5, true), UNKNOWN);

        // A switch that has not learnt yet shows what another node is to send on.
        node.set_roads(&[ROAD; BUCKETS])?;
        let overheard = |mut frame: Vec<u8>| {
            frame[..6].copy_from_slice(&HOLDER_MAC);
            frame
        };
        node.check(&overheard(first(kind, 5)), Fate::Drops(Reason::Foreign));
        node.check(&later(kind, 5, true), UNKNOWN);
        node.check(&first(kind, 5), to_owner(OWNER_MAC));
        node.check(&overheard(later(kind, 5, true)), UNKNOWN);
    }
    Ok(())
}

#[test]
fn where_a_first_fragment_went_is_forgotten_in_time() -> Result<()> {
    let limits = Limits { fragment_ns: 30_000_000, ..Limits::DEFAULT };
    let mut node = Both::with_plan(&Plan { limits, ..directed_plan() })?;
    node.check(&first(Kind::V4, 6), to_owner(OWNER_MAC));
    node.host.now += limits.fragment_ns;
    std::thread::sleep(Duration::from_nanos(limits.fragment_ns));
    node.check(&later(Kind::V4, 6, true), UNKNOWN);
    Ok(())
}
