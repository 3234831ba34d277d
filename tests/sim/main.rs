//! The simulation in the normal test run.

use std::sync::atomic::{AtomicU64, Ordering};

use safekit::engine::farm::Rules;
use safekit_tests::sim::swarm::{Outcome, Swarm};

const SEEDS: u64 = 10_000;
const THREADS: u64 = 2;

/// `SAFEKIT_SIM_SEED=n` replays one seed with a trace.
#[test]
fn no_seed_breaks_an_invariant() {
    if let Ok(seed) = std::env::var("SAFEKIT_SIM_SEED") {
        let seed = seed.parse().expect("SAFEKIT_SIM_SEED is a number");
        let outcome = Swarm::new(Rules::ALL, true).play(seed);
        assert_eq!(outcome.violation, None);
        return;
    }
    let seeds = std::env::var("SAFEKIT_SIM_SEEDS").map_or(SEEDS, |count| count.parse().expect("a number of seeds"));
    let steps = AtomicU64::new(0);
    let mut broken: Vec<Outcome> = std::thread::scope(|scope| {
        let play = |part: u64| {
            let swarm = Swarm::new(Rules::ALL, false);
            let mut broken = Vec::new();
            for seed in (part..seeds).step_by(THREADS as usize) {
                let outcome = swarm.play(seed);
                steps.fetch_add(outcome.steps, Ordering::Relaxed);
                if outcome.violation.is_some() {
                    broken.push(outcome);
                }
            }
            broken
        };
        let threads: Vec<_> = (0..THREADS).map(|part| scope.spawn(move || play(part))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a run panicked")).collect()
    });
    println!("{seeds} seeds, {} steps", steps.into_inner());
    broken.sort_by_key(|outcome| outcome.seed);
    for outcome in broken.iter().take(20) {
        println!("SAFEKIT_SIM_SEED={} {}", outcome.seed, outcome.violation.as_deref().unwrap_or_default());
    }
    assert!(broken.is_empty(), "{} of {seeds} seeds; replay the first with SAFEKIT_SIM_SEED={}", broken.len(), broken[0].seed);
}
