//! The replicated directories of a mirror.

pub mod capture;
