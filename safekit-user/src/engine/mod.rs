//! L2: pure, sans-IO state machines. Inputs and time come in as values, effects leave as values, in order.

// A new state or verdict must be decided everywhere.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod apply;
pub mod audit;
pub mod bundle;
pub mod check;
pub mod copies;
pub mod doctor;
pub mod farm;
pub mod groups;
pub mod health;
pub mod mirror;
pub mod module;
pub mod probe;
pub mod reach;
pub mod rules;
