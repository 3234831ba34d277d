//! The lab of the tests: packets, the filter on both sides of the kernel boundary, simulated farms, real ones.

pub mod beat;
pub mod bench;
pub mod control;
pub mod fixture;
pub mod fuzz;
pub mod invariant;
pub mod lab;
pub mod link;
pub mod load;
pub mod mutation;
pub mod netns;
pub mod packets;
pub mod replica;
pub mod rows;
pub mod rules;
pub mod sim;
pub mod twin;
pub mod wire;
