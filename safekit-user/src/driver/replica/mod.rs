//! The replicated directories of a mirror.

pub mod apply;
pub mod capture;
mod directory;
mod identity;
mod object;
pub mod recorder;
pub mod store;
pub mod watch;
