//! Parser and verdict, on the host, under whatever bytes the fuzzer thinks of. What must hold: `tests/src/fuzz.rs`.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use safekit_tests::fuzz::Worlds;

thread_local! {
    static WORLDS: RefCell<Worlds> = RefCell::new(Worlds::new());
}

fuzz_target!(|bytes: &[u8]| {
    WORLDS.with_borrow_mut(|worlds| worlds.check(bytes));
});
