//! Which rule groups a configuration has. Nodes must agree on this, so it is derived in one place.

use super::farm::Group;
use crate::config::Config;
use crate::types::{GroupId, NodeId};

/// One group for each farm module, in the order of the file; all of its rules share one table. Each node of the module
/// weighs 1, every other node 0.
pub fn groups(config: &Config) -> Vec<Group> {
    let nodes = config.cluster.nodes.len();
    config
        .farms()
        .enumerate()
        .map(|(index, farm)| Group {
            id: GroupId(index as u16),
            weights: (0..nodes).map(|node| u32::from(farm.nodes.contains(&NodeId(node as u8)))).collect(),
        })
        .collect()
}
