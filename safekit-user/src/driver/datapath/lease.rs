//! The end of the lease on the clock that the filter reads.
//!
//! The filter may read the kernel's tick counter, which costs nearly nothing, or the precise boot clock, which costs
//! as much as the rest of the filter. The counter may lag: by the grain of a tick, and, when the processor that keeps
//! it is stalled, by as many as five ticks more until another processor's tick repairs it (Linux since 5.18). So the
//! bound that is handed over is early by [`STALL_TICKS`]: at 250 ticks a second, 24 ms of a lease of 100 ms. Where
//! the margin does not fit the lease, the precise clock is used.

use std::time::Duration;

use super::super::clock;
use crate::types::Instant;

/// Five stalled ticks, and the one under way.
const STALL_TICKS: u64 = 6;
/// The tick counter and the monotonic clock advance together; a new pair of readings only corrects a stalled one.
const CALIBRATION_AGE_MAX: Duration = Duration::from_secs(1);

/// Both clocks, read at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clocks {
    pub jiffies: u64,
    pub monotonic_ns: u64,
}

/// Which clock a cluster's lease is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseClock {
    Jiffies { tick_ns: u64 },
    BootNs,
}

impl LeaseClock {
    /// The cheap clock, if its margin leaves at least half of the lease.
    pub(super) fn for_lease(lease: Duration) -> Self {
        let tick_ns = clock::tick_ns();
        let margin = Duration::from_nanos(tick_ns * (STALL_TICKS + 1));
        if margin * 2 <= lease { Self::Jiffies { tick_ns } } else { Self::BootNs }
    }
}

/// The latest tick count that a lease until `remaining` after `monotonic_ns` allows: the filter accepts below it.
pub(super) fn jiffies_bound(clocks: Clocks, tick_ns: u64, monotonic_ns: u64, remaining: Duration) -> u64 {
    if remaining.is_zero() {
        return 0;
    }
    let end_ns = monotonic_ns.saturating_add(remaining.as_nanos() as u64);
    let ticks = end_ns.saturating_sub(clocks.monotonic_ns) / tick_ns;
    (clocks.jiffies + ticks).saturating_sub(STALL_TICKS)
}

pub(super) fn stale(clocks: Clocks) -> bool {
    clock::monotonic_ns().saturating_sub(clocks.monotonic_ns) > CALIBRATION_AGE_MAX.as_nanos() as u64
}

/// What the map is to hold for a lease `until`.
pub(super) fn map_value(clock_kind: LeaseClock, clocks: Clocks, until: Instant) -> u64 {
    match clock_kind {
        LeaseClock::BootNs => until.0,
        LeaseClock::Jiffies { tick_ns } => {
            let remaining = until.since(clock::now());
            jiffies_bound(clocks, tick_ns, clock::monotonic_ns(), remaining)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_NS: u64 = 4_000_000;

    /// However the counter stands to its ticks, and however far it may lag, it has passed the bound at the lease's end.
    #[test]
    fn the_counter_has_passed_the_bound_when_the_lease_ends() {
        for phase_ns in (0..TICK_NS).step_by(99_991) {
            for lag in 0..=STALL_TICKS {
                for remaining_ms in [1, 5, 40, 100, 500] {
                    // Tick n happens at n * TICK_NS; both clocks are read `phase_ns` after tick 1000.
                    let read_ns = 1000 * TICK_NS + phase_ns;
                    let clocks = Clocks { jiffies: 1000, monotonic_ns: read_ns };
                    let now_ns = read_ns + 7_000_000;
                    let remaining = Duration::from_millis(remaining_ms);
                    let bound = jiffies_bound(clocks, TICK_NS, now_ns, remaining);
                    let end_ns = now_ns + remaining.as_nanos() as u64;
                    let counter_at_end = end_ns / TICK_NS - lag;
                    assert!(
                        counter_at_end >= bound,
                        "phase {phase_ns} lag {lag} remaining {remaining_ms} ms"
                    );
                }
            }
        }
    }

    #[test]
    fn a_lease_that_is_over_allows_nothing() {
        let clocks = Clocks { jiffies: 1000, monotonic_ns: 1000 * TICK_NS };
        assert_eq!(jiffies_bound(clocks, TICK_NS, 1000 * TICK_NS, Duration::ZERO), 0);
    }

    #[test]
    fn most_of_a_default_lease_is_left() {
        let clocks = Clocks { jiffies: 1000, monotonic_ns: 1000 * TICK_NS };
        let bound = jiffies_bound(clocks, TICK_NS, 1000 * TICK_NS, Duration::from_millis(100));
        assert_eq!(bound, 1000 + 25 - STALL_TICKS, "76 of 100 ms");
    }
}
