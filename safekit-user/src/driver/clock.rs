//! The only place that reads a clock.

use rustix::time::{ClockId, clock_gettime};

use crate::types::Instant;

/// Now, on the boot clock that engines count in.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Seconds since 1970, for people alone: nothing is decided by it.
pub fn unix_seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0)
}
