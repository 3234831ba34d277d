//! What the kernel runs, and what crosses the kernel boundary.
//!
//! `no_std` and free of any kernel: the same functions decide in the XDP program, in unit tests, under mutation
//! and in the table of packets that compares both.
//!
//! ```text
//! frame -> packet::parse -> (virtual IP? rule?) -> flow::bucket -> verdict::judge -> Decision
//! ```
#![no_std]
// A new verdict or reason must be decided everywhere.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod abi;
pub mod decide;
pub mod flow;
pub mod packet;
pub mod verdict;

pub use decide::{Decision, World, decide};
pub use verdict::{Reason, Verdict};
