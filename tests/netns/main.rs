//! Real processes in network namespaces on a bridge: kills, pauses, joins, leaves.

mod audit;
mod bench;
mod checks;
mod commands;
mod delivery;
mod demo;
mod doctor;
mod load;
mod members;
mod multicast;
mod probe;
mod reload;
mod wires;
