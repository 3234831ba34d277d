//! A point on the kernel's boot clock, and the spans that a cluster agrees on.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds of `CLOCK_BOOTTIME`: monotonic, and it counts suspended time. Only `driver/clock.rs` reads it;
/// engines get it as a value, so a simulation can hand out its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instant(pub u64);

impl Instant {
    /// Time from `earlier` to `self`, zero when `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }
}

/// The timing of one cluster; every node has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// h: a heartbeat at least this often.
    pub interval: Duration,
    /// D: silence after which a peer is out of the view.
    pub timeout: Duration,
    /// L: how long the kernel may accept after the last renewal.
    pub lease: Duration,
}

impl Timing {
    /// LANs, and virtual machines without live migration.
    pub const DEFAULT: Self = Self::of_ms(25, 200, 100);
    /// Bare metal with a core to spare.
    pub const FAST: Self = Self::of_ms(10, 80, 40);
    /// Live migration, busy hosts, clouds.
    pub const TOLERANT: Self = Self::of_ms(100, 1000, 500);

    const fn of_ms(interval: u64, timeout: u64, lease: u64) -> Self {
        Self {
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(timeout),
            lease: Duration::from_millis(lease),
        }
    }

    /// L_y: without an acknowledgement for so long, a node gives up what the silent hearer would own (R4). Three
    /// quarters of D, so that it comes well before anybody acts at D.
    pub fn yield_after(&self) -> Duration {
        self.timeout * 3 / 4
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
