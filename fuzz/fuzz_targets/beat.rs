//! Heartbeats, sealed and spoiled, under whatever bytes the fuzzer thinks of. What must hold: `tests/src/beat.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    safekit_tests::beat::check(bytes);
});
