//! The replicated directories of a mirror.

pub mod capture;
mod directory;
mod identity;
mod object;
pub mod watch;
