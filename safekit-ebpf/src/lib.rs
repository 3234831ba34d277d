//! What the kernel runs, and what crosses the kernel boundary.
//!
//! `no_std` and free of any kernel: the same functions decide in the XDP program, in unit tests, under mutation
//! and in the table that compares both.
//!
//! ```text
//! frame -> packet::parse -> vip? -> transport::parse_transport -> rule? -> flow::bucket -> table -> verdict -> count
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod answer;
pub mod flow;
pub mod flows;
pub mod forward;
pub mod guard;
pub mod packet;
pub mod probe;
pub mod transport;
pub mod verdict;
