//! The only place that reads a clock.

use rustix::time::{ClockId, clock_gettime};

use crate::types::Instant;

/// Now, on the boot clock that engines count in.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
