//! Lines of the control socket, of whatever bytes the fuzzer thinks of. What must hold: `tests/src/control.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    safekit_tests::control::check(bytes);
});
