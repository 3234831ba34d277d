//! A point on the kernel's boot clock, and the spans that a cluster agrees on.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// A point of the world's calendar, to the millisecond, in UTC. For people and files only: it may jump, so nothing is
/// decided by it. Written as RFC 3339: `2026-11-23T08:18:37.042Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(jiff::Timestamp);

impl WallTime {
    /// None beyond the calendar's years.
    pub fn of_unix_ms(ms: i64) -> Option<Self> {
        jiff::Timestamp::from_millisecond(ms).ok().map(Self)
    }

    pub fn unix_ms(self) -> i64 {
        self.0.as_millisecond()
    }

    /// Time from `earlier` to `self`, zero when `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.unix_ms() - earlier.unix_ms()).unwrap_or(0))
    }

    /// The start of the calendar where the span leads beyond it.
    pub fn before(self, span: Duration) -> Self {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::of_unix_ms(self.unix_ms().saturating_sub(span)).unwrap_or_default()
    }

    /// In the time zone of this machine, with its distance from UTC: `2026-11-23 09:18:37.042 +01:00`.
    pub fn local(self) -> String {
        self.0.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f %:z").to_string()
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl Serialize for WallTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WallTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_times_are_written_and_read_as_rfc_3339() {
        for (ms, expected) in [
            (7, "1970-01-01T00:00:00.007Z"),
            (951_782_400_007, "2000-02-29T00:00:00.007Z"),
            (1_795_421_000_007, "2026-11-23T08:03:20.007Z"),
            (4_107_542_399_007, "2100-02-28T23:59:59.007Z"),
        ] {
            let time = WallTime::of_unix_ms(ms).expect("within the calendar");
            assert_eq!(time.to_string(), expected);
            let text = serde_json::to_string(&time).expect("plain text");
            assert_eq!(serde_json::from_str::<WallTime>(&text).expect("as written"), time);
        }
        assert_eq!(WallTime::of_unix_ms(i64::MAX), None);
        let late = WallTime::of_unix_ms(7).expect("within the calendar");
        assert_eq!(late.before(Duration::MAX).unix_ms(), 0);
    }
}
