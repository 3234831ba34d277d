//! `safekit demo`: a whole farm on one machine, and what happens to its clients when nodes die and return.

pub mod client;
pub mod ledger;
pub mod leftovers;
pub mod namespace;
pub mod prefix;
pub mod process;
pub mod topology;
pub mod web;
