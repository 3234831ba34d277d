//! What the fuzzer begins with (`cargo xtask fuzz`), judged on the host under everything that must hold.

use safekit_ebpf::verdict::BucketState;
use safekit_tests::fuzz::{self, Input, Worlds};

#[test]
fn everything_holds_for_the_seeds_of_the_fuzzer() {
    let mut worlds = Worlds::new();
    let frames: usize = fuzz::seeds().into_iter().map(|bytes| worlds.check(&bytes).len()).sum();
    assert!(frames > 150, "only {frames} frames were judged");
}

#[test]
fn an_input_reads_as_it_was_written_and_any_bytes_mean_something() {
    for bytes in fuzz::seeds() {
        assert_eq!(Input::read(&bytes).write(), bytes);
    }
    assert_eq!(Input::read(&[]).frames, []);
    let cut = Input::read(&[3, 0x80, 200, 7]);
    assert_eq!((cut.state, &cut.frames[..]), (BucketState::Gained, &[(false, &[7][..])][..]));
}
