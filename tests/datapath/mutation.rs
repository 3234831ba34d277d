//! Bad packets: cut off anywhere, or changed at random. Nothing panics, nothing passes that is not ours, and the loaded
//! filter agrees with the host function.

use anyhow::Result;
use safekit_ebpf::verdict::Reason;
use safekit_tests::fixture::{CIRCUMSTANCES, Host, Loaded};
use safekit_tests::invariant::is_right;
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
