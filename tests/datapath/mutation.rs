//! Bad packets: cut off anywhere, or changed at random. Nothing panics, nothing passes that is not ours, and the loaded
//! filter agrees with the host function.

use anyhow::Result;
use safekit_ebpf::verdict::{BucketState, Reason};
use safekit_tests::fixture::{
    Action, CIRCUMSTANCES, Circumstances, Host, Loaded, Outcome, VIP, VIP_ANY, VIP_ELSEWHERE, VIP6,
};
use safekit_tests::mutation::Mutator;
use safekit_tests::rows;

/// The kernel runs nothing shorter by hand, and hands nothing shorter to a filter.
const ETHERNET: usize = 14;
const MUTATIONS: usize = 1_000_000;
const KERNEL_SAMPLE: usize = 4_000;

#[test]
fn every_truncation_of_every_row_is_judged_alike_and_passes_only_what_is_ours() -> Result<()> {
    let (mut loaded, mut host) = (Loaded::new()?, Host::new());
    for circumstances in [CIRCUMSTANCES[0], CIRCUMSTANCES[1]] {
        loaded.set(circumstances)?;
        host.set(circumstances);
        for row in rows::all() {
            for length in 0..row.frame.len() {
                let frame = &row.frame[..length];
                let outcome = host.run(frame);
                let what = || format!("{} cut to {length}, {circumstances:?}", row.name);
                assert!(is_right(frame, circumstances, &outcome), "{}: {outcome:?}", what());
                if length >= ETHERNET {
                    assert_eq!(loaded.run(frame)?, outcome, "{}", what());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_million_mutated_packets_pass_only_where_they_are_ours() {
    let mut mutator = Mutator::seeded(0x5afe);
    let mut host = Host::new();
    let mut passed_as_ours = 0;
    for turn in 0..MUTATIONS {
        if turn % (MUTATIONS / CIRCUMSTANCES.len()) == 0 {
            host.set(CIRCUMSTANCES[turn * CIRCUMSTANCES.len() / MUTATIONS]);
        }
        let circumstances = CIRCUMSTANCES[turn * CIRCUMSTANCES.len() / MUTATIONS];
        let frame = mutator.frame();
        let outcome = host.run(&frame);
        assert!(
            is_right(&frame, circumstances, &outcome),
            "mutation {turn}, {circumstances:?}: {outcome:?} of {frame:02x?}"
        );
        passed_as_ours += usize::from(outcome.reason == Reason::Mine);
    }
    assert!(
        passed_as_ours > MUTATIONS / 100,
        "mutations that are all refused test nothing: {passed_as_ours} passed"
    );
}

#[test]
fn the_loaded_filter_agrees_on_mutated_packets() -> Result<()> {
    let mut mutator = Mutator::seeded(0xbadf00d);
    let (mut loaded, mut host) = (Loaded::new()?, Host::new());
    for circumstances in CIRCUMSTANCES {
        loaded.set(circumstances)?;
        host.set(circumstances);
        for turn in 0..KERNEL_SAMPLE {
            let frame = mutator.frame();
            if frame.len() >= ETHERNET {
                assert_eq!(
                    loaded.run(&frame)?,
                    host.run(&frame),
                    "mutation {turn}, {circumstances:?}: {frame:02x?}"
                );
            }
        }
    }
    Ok(())
}

/// What must hold for any bytes: a frame about a virtual IP passes or is answered only in buckets of ours under a lease
/// (errors that quote a packet aside), and a frame about none is never held back unless it cannot be read.
fn is_right(frame: &[u8], circumstances: Circumstances, outcome: &Outcome) -> bool {
    let may_accept =
        circumstances.lease && matches!(circumstances.state, BucketState::Mine | BucketState::Gained);
    match (about_a_virtual_ip(frame), outcome.action) {
        (Some(true), Action::Pass) => may_accept || outcome.reason == Reason::IcmpError,
        (Some(true), Action::Transmit) => {
            may_accept && matches!(outcome.reason, Reason::ArpAnswered | Reason::NdpAnswered)
        }
        (Some(true), Action::Drop) => outcome.bytes == frame,
        (Some(false), Action::Pass) => outcome.bytes == frame,
        (Some(false), Action::Drop) => outcome.reason == Reason::Malformed,
        (Some(false), Action::Transmit) => false,
        (None, action) => action == Action::Drop && outcome.reason == Reason::Malformed,
    }
}

/// Neighbour discovery about the virtual IP, to whomever.
fn asks_or_tells(body: &[u8]) -> bool {
    let length = u16::from_be_bytes([body[4], body[5]]);
    let message = body.get(40..64).filter(|_| length >= 24 && body[6] == 58 && body[7] == 255);
    message.is_some_and(|message| matches!(message[..2], [135 | 136, 0]) && message[8..24] == VIP6.octets())
}

/// Read a second time, as plainly as can be; none where the frame ends before it says.
fn about_a_virtual_ip(frame: &[u8]) -> Option<bool> {
    let mut at = 12;
    let mut kind = frame.get(at..at + 2)?;
    for _ in 0..2 {
        if kind == [0x81, 0x00] || kind == [0x88, 0xa8] {
            at += 4;
            kind = frame.get(at..at + 2)?;
        }
    }
    let body = frame.get(at + 2..)?;
    let ours4 = |address: &[u8]| [VIP, VIP_ELSEWHERE, VIP_ANY].iter().any(|vip| address == vip.octets());
    match kind {
        [0x08, 0x00] => body.get(..20).map(|header| ours4(&header[16..20])),
        [0x86, 0xdd] => body.get(..40).map(|header| header[24..40] == VIP6.octets() || asks_or_tells(body)),
        [0x08, 0x06] => body.get(..28).map(|arp| {
            let ethernet_ipv4 = arp[..6] == [0, 1, 8, 0, 6, 4];
            ethernet_ipv4 && (ours4(&arp[14..18]) || ours4(&arp[24..28]))
        }),
        _ => Some(false),
    }
}
