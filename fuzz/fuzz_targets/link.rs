//! Frames between nodes, under whatever bytes the fuzzer thinks of. What must hold: `tests/src/link.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| safekit_tests::link::check(bytes));
