//! Failover rules, of whatever text the fuzzer thinks of. What must hold: `tests/src/rules.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    safekit_tests::rules::check(bytes);
});
