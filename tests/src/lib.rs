//! The lab of the tests: packets, the filter on both sides of the kernel boundary, namespaces, real processes.

pub mod filter;
pub mod lab;
pub mod packets;
