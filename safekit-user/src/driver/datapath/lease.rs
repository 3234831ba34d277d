//! The lease, stated in the clock that the filter reads.
//!
//! `bpf_ktime_get_boot_ns` costs 28 ns where the rest of the filter costs 15, and far more on machines without a fast
//! clock source; `bpf_jiffies64` is one load (measured: `cargo xtask bench filter`).
//! Ticks are coarse and may stall, always on the late side, so a lease "until t" becomes a first forbidden tick
//!
//! ```text
//! J(t) = j0 + floor((t - m0) / tick) - STALLED_TICKS
//! ```
//!
//! where j0 was read just before the boot clock showed m0. **Bound:** at any time t or later, the filter reads at least
//! J(t), so it accepts nothing past the lease. Proof: in the whole ticks from m0 to t the counter gains
//! floor((t - m0) / tick), less what it lags; and it lags by at most STALLED_TICKS, because a CPU whose tick finds the
//! counter standing for that many of its own ticks advances it itself (`MAX_STALLED_JIFFIES`, kernel/time/tick-sched.c,
//! since Linux 5.18; older kernels get the exact clock), and an idle CPU catches up when an interrupt wakes it. If j0
//! itself lagged, J is only lower.
//! **Cost:** the lease ends up to STALLED_TICKS + 1 ticks early: 24 ms at 250 Hz, 6 ms at 1,000 Hz. Where that is more
//! than a quarter of the lease, the filter is loaded with the exact clock instead.
//! **Outside of the bound:** a virtual machine that was stopped as a whole, for the first STALLED_TICKS ticks in which
//! its packets run before the CPU that keeps the time does; and a suspended machine, whose ticks stand still. Both last
//! no longer than the lease has left in ticks, and both are among the windows of a clock that hid a pause.

use std::sync::OnceLock;
use std::time::Duration;

use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp};
use safekit_ebpf::abi::Lease;

use crate::types::Instant;

/// `MAX_STALLED_JIFFIES` of the kernel.
const STALLED_TICKS: u64 = 5;
const TICK_RATES: [u64; 4] = [100, 250, 300, 1000];
/// Ticks against which a tick's length is measured, and how often, before the exact clock is taken.
const MEASURE_FOR: Duration = Duration::from_millis(60);
const MEASURE_TRIES: u32 = 5;
/// 8 % around each rate: 250 and 300 stay apart.
const RATE_TOLERANCE_PERCENT: u64 = 8;
/// A wait for the next tick: 100 Hz have 10 ms between two, a stalled tick some more.
const EDGE_WAIT: Duration = Duration::from_millis(100);
/// A reading older than this is taken anew: suspending and the boot clock's slewing must not add up.
const CALIBRATION_AGE: Duration = Duration::from_secs(1);

/// Which clock the filter reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseClock {
    /// Ticks of this length.
    Ticks { tick: Duration },
    /// The boot clock.
    Precise,
}

impl LeaseClock {
    pub(super) fn choose(clock_program: &Xdp, lease: Duration) -> Self {
        if !ticks_are_repaired(&rustix::system::uname().release().to_string_lossy()) {
            return Self::Precise;
        }
        match tick_length(clock_program) {
            Some(tick) if 4 * tick * (STALLED_TICKS as u32 + 1) <= lease => Self::Ticks { tick },
            Some(_) | None => Self::Precise,
        }
    }
}

/// By the kernel's release, as `6.18.4-generic`; one that cannot be read is taken for an old one.
fn ticks_are_repaired(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 18),
        (_, _) => false,
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    jiffies: u64,
    boot_ns: u64,
}

impl Reading {
    pub(super) fn take(clock_program: &Xdp) -> Result<Self, ProgramError> {
        let frame = [0u8; 64];
        let mut answer = [0u8; 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.data_out = Some(&mut answer);
        clock_program.test_run(options)?;
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| answer[at + byte]));
        Ok(Self { jiffies: word(0), boot_ns: word(8) })
    }

    pub(super) fn boot_ns(self) -> u64 {
        self.boot_ns
    }

    /// Whether a lease until `until` had better be stated from a newer reading.
    pub(super) fn is_stale_for(self, until: Instant) -> bool {
        until.0 > self.boot_ns.saturating_add(CALIBRATION_AGE.as_nanos() as u64)
    }

    /// The lease as the map has it, in both clocks.
    pub(super) fn lease(self, until: Instant, tick: Duration) -> Lease {
        let ticks = until.0.saturating_sub(self.boot_ns) / (tick.as_nanos() as u64).max(1);
        let jiffies = self.jiffies.saturating_add(ticks).saturating_sub(STALLED_TICKS);
        Lease { jiffies, boot_ns: until.0 }
    }
}

/// Measured once in a process: the kernel does not tell its tick rate (sysconf has a fixed 100).
fn tick_length(clock_program: &Xdp) -> Option<Duration> {
    static TICK: OnceLock<Option<Duration>> = OnceLock::new();
    *TICK.get_or_init(|| (0..MEASURE_TRIES).find_map(|_| measure_tick(clock_program)))
}

fn measure_tick(clock_program: &Xdp) -> Option<Duration> {
    let first = next_edge(clock_program)?;
    std::thread::sleep(MEASURE_FOR);
    let second = next_edge(clock_program)?;
    nearest_rate(first, second).map(|rate| Duration::from_nanos(1_000_000_000 / rate))
}

/// The reading at which a tick has just begun.
fn next_edge(clock_program: &Xdp) -> Option<Reading> {
    let start = Reading::take(clock_program).ok()?;
    loop {
        let reading = Reading::take(clock_program).ok()?;
        if reading.jiffies != start.jiffies {
            return Some(reading);
        }
        if reading.boot_ns > start.boot_ns + EDGE_WAIT.as_nanos() as u64 {
            return None;
        }
    }
}

fn nearest_rate(first: Reading, second: Reading) -> Option<u64> {
    let ticks = second.jiffies.checked_sub(first.jiffies)?;
    let span = second.boot_ns.checked_sub(first.boot_ns).filter(|span| *span > 0)?;
    let rate = ticks * 1_000_000_000 / span;
    TICK_RATES.into_iter().find(|known| known.abs_diff(rate) * 100 <= known * RATE_TOLERANCE_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const TICK: Duration = Duration::from_millis(4);

    /// The worst counter that the kernel may show at `now`: behind by the stalled ticks.
    fn worst_jiffies(true_start_ns: u64, now_ns: u64) -> u64 {
        1_000 + (now_ns - true_start_ns) / (4 * MS) - STALLED_TICKS
    }

    #[test]
    fn a_filter_that_reads_the_worst_ticks_never_accepts_past_the_lease() {
        // Ticks began at 0; a reading anywhere within a tick, a lease anywhere after it.
        for reading_at in (0..8 * MS).step_by(370_001) {
            let reading = Reading { jiffies: 1_000 + reading_at / (4 * MS), boot_ns: reading_at };
            for length in (0..120 * MS).step_by(1_310_003) {
                let until = reading_at + length;
                let lease = reading.lease(Instant(until), TICK);
                let at_end = worst_jiffies(0, until);
                assert!(
                    at_end >= lease.jiffies,
                    "reading {reading_at}, lease {length}: {at_end} < {}",
                    lease.jiffies
                );
            }
        }
    }

    #[test]
    fn a_filter_that_reads_good_ticks_loses_no_more_than_the_stall_and_one_tick() {
        for length in (30 * MS..120 * MS).step_by(1_310_003) {
            let lease = Reading { jiffies: 1_000, boot_ns: 0 }.lease(Instant(length), TICK);
            let still = length - 6 * 4 * MS;
            assert!(1_000 + still / (4 * MS) < lease.jiffies, "length {length}");
        }
    }

    #[test]
    fn a_lease_that_lies_behind_is_closed() {
        let reading = Reading { jiffies: 1_000, boot_ns: 50 * MS };
        assert!(reading.lease(Instant(49 * MS), TICK).jiffies <= 1_000);
        assert!(reading.lease(Instant(0), TICK).jiffies <= 1_000);
        assert_eq!(reading.lease(Instant(0), TICK).boot_ns, 0);
    }

    #[test]
    fn old_kernels_get_the_exact_clock() {
        for (release, repaired) in [
            ("6.18.44-fc", true),
            ("5.18.0", true),
            ("5.17.9", false),
            ("4.18.0-553.el8", false),
            ("odd", false),
        ] {
            assert_eq!(ticks_are_repaired(release), repaired, "{release}");
        }
    }

    #[test]
    fn tick_rates_are_recognised_and_others_are_not() {
        let measured = |ticks: u64, span_ms: u64| {
            let first = Reading { jiffies: 7, boot_ns: 9 };
            nearest_rate(first, Reading { jiffies: 7 + ticks, boot_ns: 9 + span_ms * MS })
        };
        assert_eq!(measured(16, 64), Some(250));
        assert_eq!(measured(16, 66), Some(250));
        assert_eq!(measured(65, 65), Some(1000));
        assert_eq!(measured(7, 70), Some(100));
        assert_eq!(measured(20, 66), Some(300));
        assert_eq!(measured(20, 100), None);
        assert_eq!(measured(0, 100), None);
    }
}
