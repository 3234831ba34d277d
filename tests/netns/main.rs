//! Real processes in network namespaces on a bridge: kills, pauses, joins, leaves.

mod audit;
mod bench;
mod checks;
mod cluster;
mod commands;
mod delivery;
mod demo;
mod doctor;
mod load;
mod members;
mod modules;
mod multicast;
mod probe;
mod reload;
mod web;
mod wires;
