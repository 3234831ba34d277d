//! Damaged frames: no panic, no pass for what is not ours, and both sides agree.

use safekit_ebpf::Verdict;
use safekit_ebpf::verdict::Standing;
use safekit_tests::filter::{Host, Kernel, VIP, action, in_namespace, mixed, uniform};

use crate::rows::rows;

const SEED: u64 = 0x5afe_0001;
const ON_THE_HOST: usize = 1_000_000;
const IN_THE_KERNEL: usize = 20_000;

/// One to eight changes: bytes, bits, lengths, and the addresses that lead to the interesting paths.
fn mutate(random: &mut fastrand::Rng, frame: &mut Vec<u8>) {
    for _ in 0..random.usize(1..=8) {
        match random.u8(0..6) {
            0 if !frame.is_empty() => {
                let at = random.usize(0..frame.len());
                frame[at] = random.u8(..);
            }
            1 if !frame.is_empty() => {
                let at = random.usize(0..frame.len());
                frame[at] ^= 1 << random.u8(0..8);
            }
            2 => frame.truncate(random.usize(0..=frame.len())),
            3 => frame.extend(std::iter::repeat_with(|| random.u8(..)).take(8)),
            // Version and header length, or the ethertype.
            4 if frame.len() > 14 => frame[14] = random.u8(..),
            5 if frame.len() > 34 => frame[30..34].copy_from_slice(&VIP.octets()),
            _ => {}
        }
    }
}

/// Written independently of the parser: the bytes of the virtual IP stand somewhere behind the Ethernet header.
fn names_the_vip(frame: &[u8]) -> bool {
    frame.get(14..).is_some_and(|rest| rest.windows(4).any(|window| window == VIP.octets()))
}

#[test]
fn a_million_damaged_frames_never_panic_and_never_pass_unless_ours() {
    let frames: Vec<Vec<u8>> = rows().into_iter().map(|row| row.frame).collect();
    let mut random = fastrand::Rng::with_seed(SEED);
    let (mut ours, mut others) = (Host::new(), Host::new());
    ours.write_table(&uniform(Standing::Mine));
    others.write_table(&uniform(Standing::Foreign));
    let mut accepted = 0;
    for round in 0..ON_THE_HOST {
        let mut frame = random.choice(&frames).expect("there are rows").clone();
        mutate(&mut random, &mut frame);
        let (decision, _) = ours.run(&frame);
        if matches!(decision.verdict, Verdict::Accept | Verdict::Answer) {
            accepted += 1;
            assert!(names_the_vip(&frame), "round {round} of seed {SEED:#x}: {decision:?} {frame:02x?}");
        }
        let (decision, left) = others.run(&frame);
        let passed = matches!(decision.verdict, Verdict::Accept | Verdict::Answer);
        assert!(!passed, "round {round} of seed {SEED:#x}: {decision:?} {frame:02x?}");
        assert_eq!(left, frame, "what is not ours is not touched");
    }
    assert!(accepted > ON_THE_HOST / 100, "the mutations leave too little to accept: {accepted}");
}

#[test]
fn the_loaded_filter_agrees_on_damaged_frames() {
    in_namespace(|| {
        let frames: Vec<Vec<u8>> = rows().into_iter().map(|row| row.frame).collect();
        let mut random = fastrand::Rng::with_seed(SEED);
        let (mut host, mut kernel) = (Host::new(), Kernel::load()?);
        host.write_table(&mixed());
        kernel.write_table(&mixed())?;
        kernel.set_lease(true)?;
        for round in 0..IN_THE_KERNEL {
            let mut frame = random.choice(&frames).expect("there are rows").clone();
            mutate(&mut random, &mut frame);
            // The kernel takes no shorter ones, and longer ones than a page need another kind of program.
            frame.resize(frame.len().clamp(14, 1500), 0);
            let (decision, expected) = host.run(&frame);
            let (returned, left) = kernel.datapath.test_run(&frame)?;
            assert_eq!(returned, action(decision.verdict), "round {round}: {decision:?} {frame:02x?}");
            assert_eq!(left, expected, "round {round}: {decision:?} {frame:02x?}");
        }
        Ok(())
    })
    .expect("the filter runs");
}
