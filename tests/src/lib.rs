//! The tests' lab: packets, namespaces, real processes.

pub mod fixture;
pub mod mutation;
pub mod netns;
pub mod packets;
pub mod rows;
pub mod wire;
