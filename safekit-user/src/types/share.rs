//! How a rule group's buckets are shared out, and what operators change of that at run time.

use serde::{Deserialize, Serialize};

use super::{GroupId, NodeId, NodeSet};

/// Who may own buckets of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Share {
    /// By node, in the order of the cluster: a node's part of the traffic follows its weight; 0 = none.
    Weighted(Vec<u32>),
    /// The first of these that is there takes all.
    Cascade(Vec<NodeId>),
}

impl Share {
    /// Whether the node may ever own anything.
    pub fn includes(&self, node: NodeId) -> bool {
        match self {
            Self::Weighted(weights) => weights.get(usize::from(node.0)).is_some_and(|weight| *weight > 0),
            Self::Cascade(order) => order.contains(&node),
        }
    }
}

/// What operators asked for since the configuration was written. All nodes of one generation have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Adjustments {
    /// They take no new session in any group, and keep their connections.
    pub drained: NodeSet,
    /// In the order of group and node, each pair once; [`WEIGHTS_SET_MAX`] at most.
    pub weights: Vec<WeightSet>,
}

/// Weights that a generation can hold against the configuration.
pub const WEIGHTS_SET_MAX: usize = 256;
/// The largest weight, in the configuration and at run time.
pub const WEIGHT_MAX: u32 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WeightSet {
    pub group: GroupId,
    pub node: NodeId,
    pub weight: u32,
}

/// One state of the adjustments. A later one has the higher counter; where two nodes that were parted counted to the
/// same, the proposer tells them apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// 0: as configured.
    pub counter: u32,
    pub proposer: NodeId,
    pub adjustments: Adjustments,
}

impl Generation {
    pub fn configured() -> Self {
        Self { counter: 0, proposer: NodeId(0), adjustments: Adjustments::default() }
    }
}

/// One thing that an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    Drain {
        node: NodeId,
    },
    Undrain {
        node: NodeId,
    },
    /// None: as configured.
    Weight {
        group: GroupId,
        node: NodeId,
        weight: Option<u32>,
    },
}
