//! `bench farm`: our farm and what a user would pick instead, on the same machines of the lab, in one run.
//!
//! ```text
//!   dropping   foreign packets a second on one core         filter (native, generic) · xt_cluster
//!   cases      requests a second, latency, CPU a request    direct · direct flooded · ours · xt_cluster · HAProxy · nginx
//!   failover   time without service after a kill            ours (default, fast) · keepalived with HAProxy (three timings)
//! ```
//!
//! `bench modules`, which has no rivals: many modules on one node. `bench replication`: see [`replication`].
//!
//! Rounds of all contestants are interleaved, so that a busy machine slows them alike; medians are reported, with the
//! lowest and the highest round beside them.

pub mod application;
pub mod cases;
pub mod cpu;
pub mod dropping;
pub mod exchange;
pub mod failover;
pub mod load;
pub mod modules;
pub mod page;
pub mod replication;
pub mod report;
pub mod rivals;
pub mod site;

use serde::Serialize;

/// Of one figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// None without a round.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted[sorted.len() / 2];
        let lower = sorted[(sorted.len() - 1) / 2];
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }

    /// `figure` of each round.
    pub fn over<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Option<Self> {
        Self::of(&rounds.iter().map(figure).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        let spread = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]), spread(2.5, 1.0, 4.0));
    }
}
