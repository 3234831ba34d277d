//! What the other node of a mirror and the disk may say, of whatever bytes the fuzzer thinks of. What must hold:
//! `tests/src/twin.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    safekit_tests::twin::check(bytes);
});
