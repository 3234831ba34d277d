//! The tests' lab: packets, namespaces, real processes.

pub mod fixture;
pub mod netns;
pub mod packets;
pub mod rows;
pub mod wire;
