//! The simulation: the real engines of several nodes on one virtual clock and a seeded, faulty network.
//!
//! ```text
//! swarm, scenario   which faults, when; what must come out
//! world             the clock and the queue of happenings
//! node              a model of driver and kernel around a real engine: inbox, slow map writes, lease, connections
//! net               links: loss, delay, duplicates, replays, cuts, deaf and mute interfaces
//! checks            what must be true after each step
//! truth             who had evidence of whom, by send times: what excuses an overlap and what does not
//! farms             large farms, measured
//! mirror            two copies of a directory, their disks and records, and an arbiter
//! modules           one module under random scripts, checks and operators
//! naive             ownership computed in another way than the engine does
//! ```
//!
//! Everything follows from one seed. Invariants are checked after every step; the first violation ends the run.

pub mod checks;
pub mod farms;
pub mod faults;
pub mod mirror;
pub mod modules;
pub mod naive;
pub mod net;
pub mod node;
pub mod scenario;
pub mod swarm;
pub mod truth;
pub mod world;

use safekit::types::GroupId;

pub const BUCKETS: usize = 1024;
pub const GROUP: GroupId = GroupId(0);

/// Virtual time of the world, in nanoseconds. Each node's own clock is ahead of it by a constant.
pub type Nanos = u64;
pub const MS: Nanos = 1_000_000;

pub fn nanos(span: std::time::Duration) -> Nanos {
    span.as_nanos() as Nanos
}
