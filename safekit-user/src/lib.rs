//! safekit: high availability for ordinary Linux servers.
//!
//! Layers, arrows only point down: `front` and `driver` over `engine` over `config` and `wire` over `types`.

pub mod config;
pub mod driver;
pub mod engine;
pub mod types;
pub mod wire;
