//! Real processes in network namespaces on a bridge: kills, pauses, joins, leaves.

mod bench;
mod commands;
mod demo;
mod members;
mod reload;
mod wires;
