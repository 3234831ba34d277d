//! The only place that reads a clock.

use rustix::time::{ClockId, clock_gettime};

use crate::types::Instant;

/// Now, on the boot clock that engines count in.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which the kernel's tick counter follows: neither counts suspended time.
pub(super) fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One tick of the kernel (1/HZ) in nanoseconds: the coarse clock's resolution is exactly that.
pub(super) fn tick_ns() -> u64 {
    let resolution = rustix::time::clock_getres(ClockId::MonotonicCoarse);
    (resolution.tv_sec as u64 * 1_000_000_000 + resolution.tv_nsec as u64).max(1)
}
