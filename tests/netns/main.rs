//! Real processes in network namespaces on a bridge: kills, pauses, joins, leaves.

mod wires;
