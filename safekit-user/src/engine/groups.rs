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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::config::{Cluster, Delivery, Farm, Module, Node};
    use crate::types::Timing;

    #[test]
    fn each_farm_is_a_group_of_its_nodes() {
        let farm = |name: &str, nodes: &[u8]| {
            Module::Farm(Farm {
                name: name.into(),
                nodes: nodes.iter().map(|node| NodeId(*node)).collect(),
                virtual_ips: vec![],
                delivery: Delivery::Flood,
                rules: vec![],
            })
        };
        let node = |name: &str| Node { name: name.into(), addresses: vec![Some(Ipv4Addr::LOCALHOST.into())] };
        let second = Duration::from_secs(1);
        let config = Config {
            cluster: Cluster {
                name: "shop".into(),
                key_file: "key".into(),
                networks: vec![],
                nodes: ["a", "b", "c"].map(node).into(),
                timing: Timing { interval: second, timeout: second, lease: second },
            },
            modules: vec![farm("www", &[0, 1, 2]), farm("mail", &[2])],
        };

        let expected = [(GroupId(0), vec![1, 1, 1]), (GroupId(1), vec![0, 0, 1])];
        let groups: Vec<_> = groups(&config).into_iter().map(|group| (group.id, group.weights)).collect();
        assert_eq!(groups, expected);
    }
}
