//! What the tiers share.

pub mod lab;
