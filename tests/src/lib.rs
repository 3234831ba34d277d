//! The lab of the tests: packets, the filter on both sides of the kernel boundary, simulated farms, real ones.

pub mod filter;
pub mod lab;
pub mod packets;
pub mod sim;
pub mod wire;
