//! The only place that reads a clock.

use rustix::time::{ClockId, clock_gettime};

use crate::types::{Instant, WallTime};

/// Now, on the boot clock that engines count in.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The date and time of this machine, for people and files: nothing is decided by it.
pub fn wall() -> WallTime {
    let time = clock_gettime(ClockId::Realtime);
    WallTime::of_unix_ms(time.tv_sec * 1000 + time.tv_nsec / 1_000_000).unwrap_or_default()
}

/// Seconds since 1970, for people alone: nothing is decided by it.
pub fn unix_seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0)
}

/// The time of day in UTC for people, as RFC 3339 with milliseconds. Nothing is decided by it.
pub fn utc() -> String {
    wall().to_string()
}
