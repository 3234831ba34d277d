//! The lab, and what the test tiers share.

pub mod sim;
