//! Real processes in network namespaces on a bridge: kills, pauses, joins, leaves.

mod commands;
mod delivery;
mod demo;
mod doctor;
mod load;
mod members;
mod reload;
mod wires;
