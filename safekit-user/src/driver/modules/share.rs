//! How much of its share of traffic a node takes, by the health of its application. Pure.

use std::time::Duration;

use crate::config::upkeep::Traffic;
use crate::types::Instant;
use crate::types::module::{Gate, ResourceState};

/// A slow start begins here, and rises in steps as large.
const STEP: u8 = 10;

/// In percent: nothing while the gate is closed, then what the slow start and the worst of the checks leave.
pub(super) fn share(
    gate: Gate,
    opened: Instant,
    traffic: &Traffic,
    checks: impl Iterator<Item = (u8, ResourceState)>,
    now: Instant,
) -> u8 {
    match gate {
        Gate::Closed => 0,
        Gate::Open => {
            let down = checks.filter(|(_, state)| *state == ResourceState::Down).map(|(left, _)| left).min();
            ramp(opened, traffic.slow_start, now).min(down.unwrap_or(100))
        }
    }
}

fn ramp(opened: Instant, slow_start: Duration, now: Instant) -> u8 {
    if slow_start.is_zero() || now >= opened + slow_start {
        return 100;
    }
    let steps = u128::from(100 / STEP);
    let step = now.since(opened).as_nanos() * steps / slow_start.as_nanos();
    u8::try_from(step + 1).map_or(100, |step| step.saturating_mul(STEP).min(100))
}

/// When the slow start takes its next step.
pub(super) fn next_step(opened: Instant, slow_start: Duration, now: Instant) -> Option<Instant> {
    if slow_start.is_zero() || now >= opened + slow_start {
        return None;
    }
    let step = slow_start / u32::from(100 / STEP);
    let taken = now.since(opened).as_nanos() / step.as_nanos().max(1);
    Some(opened + step * u32::try_from(taken + 1).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Upkeep;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    #[test]
    fn a_slow_start_rises_from_a_tenth_to_all() {
        let traffic = Traffic { slow_start: Duration::from_secs(10), ..Upkeep::default().traffic };
        let share_at = |millis| share(Gate::Open, at(0), &traffic, std::iter::empty(), at(millis));
        assert_eq!([share_at(0), share_at(999), share_at(1_000), share_at(5_500)], [10, 10, 20, 60]);
        assert_eq!([share_at(9_999), share_at(10_000), share_at(1_000_000)], [100, 100, 100]);
        assert_eq!(next_step(at(0), traffic.slow_start, at(1_500)), Some(at(2_000)));
        assert_eq!(next_step(at(0), traffic.slow_start, at(10_000)), None);
    }

    #[test]
    fn the_worst_check_decides_and_a_closed_gate_leaves_nothing() {
        let traffic = Upkeep::default().traffic;
        let checks = [(50, ResourceState::Down), (20, ResourceState::Down), (0, ResourceState::Up)];
        let share_of = |gate| share(gate, at(0), &traffic, checks.into_iter(), at(1));
        assert_eq!(share_of(Gate::Open), 20);
        assert_eq!(share_of(Gate::Closed), 0);
        assert_eq!(share(Gate::Open, at(0), &traffic, std::iter::once((0, ResourceState::Init)), at(1)), 100);
    }
}
