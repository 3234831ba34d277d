//! What the filter notes by itself: fragments that follow their first, and flows of rules with `evidence: flows`. Both
//! runners, step by step: they have to agree on every packet.

use std::time::Duration;

use anyhow::Result;
use safekit_ebpf::abi::{self, Limits};
use safekit_ebpf::verdict::{BucketState, Reason};
use safekit_tests::fixture::{
    Circumstances, Host, Loaded, PORT_CONNECTION, PORT_TCP_FLOWS, PORT_UDP_FLOWS, plan,
};
use safekit_tests::packets::{ACK, Builder, FIN, SYN};
use safekit_tests::rows::{v4, v6};

const MINE: Circumstances = Circumstances { state: BucketState::Mine, lease: true };
const FOREIGN: Circumstances = Circumstances { state: BucketState::Foreign, lease: true };
const GAINED: Circumstances = Circumstances { state: BucketState::Gained, lease: true };
const LOST: Circumstances = Circumstances { state: BucketState::Lost, lease: true };
const EXPIRED: Circumstances = Circumstances { state: BucketState::Mine, lease: false };

/// One node, in the kernel and on the host.
struct Both {
    loaded: Loaded,
    host: Host,
}

impl Both {
    fn new() -> Result<Self> {
        Ok(Self { loaded: Loaded::new()?, host: Host::new() })
    }

    fn with_limits(limits: Limits) -> Result<Self> {
        let mut host = Host::new();
        host.limits = limits;
        Ok(Self { loaded: Loaded::with_plan(&safekit::driver::datapath::Plan { limits, ..plan() })?, host })
    }

    fn set(&mut self, circumstances: Circumstances) -> Result<()> {
        self.host.set(circumstances);
        self.loaded.set(circumstances)
    }

    fn wait(&mut self, time: Duration) {
        self.host.now += time.as_nanos() as u64;
        std::thread::sleep(time);
    }

    #[track_caller]
    fn check(&mut self, frame: Builder, expected: Reason) {
        let frame = frame.build();
        let on_host = self.host.run(&frame);
        assert_eq!(on_host.reason, expected, "on the host");
        let in_kernel = self.loaded.run(&frame).expect("the filter runs");
        assert_eq!(in_kernel, on_host, "in the kernel against the host");
        self.host.now += 1;
    }
}

fn udp(port: u16) -> Builder {
    v4().udp(port, PORT_UDP_FLOWS, 8)
}

fn tcp(port: u16, flags: u8) -> Builder {
    v4().tcp(port, PORT_TCP_FLOWS, flags)
}

#[test]
fn fragments_follow_their_first() -> Result<()> {
    let mut node = Both::new()?;
    node.set(MINE)?;
    let later = |id| v4().fragment_id(id).fragment(185, true).other_protocol(17);
    node.check(later(1), Reason::Fragment);
    node.check(v4().fragment_id(1).fragment(0, true).udp(7, 53, 64), Reason::Mine);
    node.check(later(1), Reason::FragmentFollows);
    node.check(later(2), Reason::Fragment);
    node.check(v4().fragment_id(1).fragment(185, true).other_protocol(6), Reason::Fragment);

    let later6 = |id| v6().ipv6_fragment_of(id, 185, false).payload(64);
    node.check(later6(0x1_0001), Reason::Fragment);
    node.check(v6().ipv6_fragment_of(0x1_0001, 0, true).udp(7, 53, 64), Reason::Mine);
    node.check(later6(0x1_0001), Reason::FragmentFollows);
    node.check(later6(1), Reason::Fragment);

    // The datagram is this node's, wherever its bucket has gone meanwhile; the next one of that name is not.
    node.set(FOREIGN)?;
    node.check(later(1), Reason::FragmentFollows);
    node.check(v4().fragment_id(1).fragment(0, true).udp(7, 53, 64), Reason::Foreign);
    node.check(later(1), Reason::Fragment);
    Ok(())
}

#[test]
fn fragments_are_forgotten_in_time() -> Result<()> {
    let mut node = Both::with_limits(Limits { fragment_ns: 30_000_000, ..Limits::DEFAULT })?;
    node.set(MINE)?;
    node.check(v4().fragment(0, true).icmp(8, 0, 5), Reason::Mine);
    node.wait(Duration::from_millis(40));
    node.check(v4().fragment(185, false).other_protocol(1), Reason::Fragment);
    Ok(())
}

#[test]
fn noted_tcp_flows_stay_while_their_bucket_moves() -> Result<()> {
    let mut node = Both::new()?;
    node.set(MINE)?;
    node.check(tcp(1, SYN), Reason::Mine);
    node.check(tcp(1, ACK), Reason::Mine);
    node.check(tcp(2, SYN), Reason::Mine);
    for circumstances in [LOST, GAINED] {
        node.set(circumstances)?;
        node.check(tcp(1, ACK), Reason::KeptFlow);
        node.check(tcp(2, ACK), Reason::KeptFlow);
        node.check(tcp(3, ACK), Reason::NoFlow);
    }
    node.check(tcp(3, SYN), Reason::GainedNew);
    node.check(tcp(3, ACK), Reason::KeptFlow);
    node.set(EXPIRED)?;
    node.check(tcp(3, ACK), Reason::KeptFlow);
    node.check(tcp(4, SYN), Reason::Lease);
    let quoted = safekit_tests::packets::ethernet([2; 6])
        .ipv4(safekit_tests::fixture::VIP, safekit_tests::rows::CLIENT)
        .tcp(PORT_TCP_FLOWS, 1, ACK)
        .quoted();
    node.set(LOST)?;
    node.check(v4().icmp_error(3, 4, &quoted), Reason::IcmpError);
    Ok(())
}

/// Somebody else may have had the flow in the meantime, so what was noted before counts no more.
#[test]
fn a_flow_whose_bucket_was_another_nodes_is_no_longer_ours() -> Result<()> {
    let mut node = Both::new()?;
    node.set(MINE)?;
    for port in [1, 1] {
        node.check(tcp(port, ACK), Reason::Mine);
        node.check(udp(port), Reason::Mine);
    }
    node.set(FOREIGN)?;
    node.set(GAINED)?;
    node.check(tcp(1, ACK), Reason::NoFlow);
    node.check(udp(1), Reason::GainedNew);
    Ok(())
}

/// Two nodes over one bucket on the move: the loser's flows are its own, new ones are the gainer's, none is both's.
#[test]
fn no_udp_flow_passes_at_two_nodes() -> Result<()> {
    let (mut loser, mut gainer) = (Both::new()?, Both::new()?);
    loser.set(MINE)?;
    gainer.set(FOREIGN)?;
    loser.check(udp(1), Reason::Mine);
    gainer.check(udp(1), Reason::Foreign);

    loser.set(LOST)?;
    gainer.set(GAINED)?;
    for _ in 0..3 {
        loser.check(udp(1), Reason::KeptFlow);
        gainer.check(udp(1), Reason::NoFlow);
        loser.check(udp(2), Reason::NoFlow);
        let new = gainer.loaded.run(&udp(2).build())?.reason;
        assert!(matches!(new, Reason::GainedNew | Reason::KeptFlow), "{new:?}");
    }
    Ok(())
}

#[test]
fn a_filter_that_has_just_begun_to_watch_takes_no_unknown_udp_flow() -> Result<()> {
    let mut loaded = Loaded::new()?;
    loaded.datapath.begin_watch()?;
    loaded.set(GAINED)?;
    assert_eq!(loaded.run(&udp(1).build())?.reason, Reason::NoFlow);
    loaded.set(MINE)?;
    assert_eq!(loaded.run(&udp(1).build())?.reason, Reason::Mine, "a stable bucket asks nobody");
    Ok(())
}

#[test]
fn flows_end_by_idle_time_and_sooner_after_fin() -> Result<()> {
    const SHORT: u64 = 30_000_000;
    let limits = Limits { udp_ns: SHORT, tcp_short_ns: SHORT, ..Limits::DEFAULT };
    let mut node = Both::with_limits(limits)?;
    node.set(MINE)?;
    for _ in 0..2 {
        node.check(udp(1), Reason::Mine);
        node.check(tcp(1, ACK), Reason::Mine);
        node.check(tcp(2, ACK), Reason::Mine);
    }
    node.check(tcp(2, FIN | ACK), Reason::Mine);
    node.wait(Duration::from_millis(40));
    node.set(LOST)?;
    node.check(tcp(1, ACK), Reason::KeptFlow);
    node.check(tcp(2, ACK), Reason::NoFlow);
    node.check(udp(1), Reason::NoFlow);
    Ok(())
}

/// The count that ends a transition finds what the filter would still let pass, and nothing else.
#[test]
fn noted_flows_are_counted_while_their_bucket_is_lost() -> Result<()> {
    use safekit_tests::fixture::{GROUP, uniform};
    let mut loaded = Loaded::new()?;
    loaded.set(MINE)?;
    for port in [1, 1, 2] {
        loaded.run(&udp(port).build())?;
        loaded.run(&tcp(port, ACK).build())?;
    }
    let notes = loaded.datapath.flow_notes();
    let count = |state| -> Result<usize> {
        let mut found = 0;
        let now = safekit::driver::clock::now();
        notes.held(GROUP, &uniform(state), now, |_| found += 1)?;
        Ok(found)
    };
    assert_eq!(count(BucketState::Mine)?, 0);
    assert_eq!(count(BucketState::Lost)?, 4, "newcomers included, and a flow that was one not twice");
    loaded.set(FOREIGN)?;
    loaded.set(LOST)?;
    assert_eq!(count(BucketState::Lost)?, 0, "another node's time has overtaken them");
    Ok(())
}

/// A flood of random sources pushes out newcomers, never a flow; where sockets decide, it leaves no trace at all.
#[test]
fn a_syn_flood_fills_no_table_of_flows() -> Result<()> {
    let mut node = Host::new();
    node.set(MINE);
    for _ in 0..2 {
        node.run(&tcp(1, ACK).build());
    }
    let mut random = fastrand::Rng::with_seed(4);
    for port in [PORT_CONNECTION, PORT_TCP_FLOWS] {
        for _ in 0..2_000 {
            let client = std::net::Ipv4Addr::from_bits(random.u32(0x0b00_0000..0x7e00_0000));
            let syn = safekit_tests::packets::ethernet([2; 6]).ipv4(client, safekit_tests::fixture::VIP);
            node.run(&syn.tcp(random.u16(1..), port, SYN).build());
        }
        assert_eq!(node.notes.flows.borrow().len(), 1, "only the flow that was there");
        assert_eq!(node.notes.fragments.borrow().len(), 0);
        assert!(node.notes.sights.borrow().is_empty());
        let newcomers = node.notes.newcomers.borrow().len();
        assert_eq!(newcomers > 100, port == PORT_TCP_FLOWS, "{newcomers} newcomers");
    }

    let mut loaded = Loaded::new()?;
    loaded.set(MINE)?;
    for _ in 0..2 {
        loaded.run(&tcp(1, ACK).build())?;
    }
    for flood in 0..2 * abi::NEWCOMERS_MAX as u32 {
        let client = std::net::Ipv4Addr::from_bits(0x0b00_0000 + flood);
        let syn = safekit_tests::packets::ethernet([2; 6]).ipv4(client, safekit_tests::fixture::VIP);
        loaded.run_uncounted(&syn.tcp(9, PORT_TCP_FLOWS, SYN).build())?;
    }
    loaded.set(LOST)?;
    assert_eq!(loaded.run(&tcp(1, ACK).build())?.reason, Reason::KeptFlow, "what was established stays");
    Ok(())
}
