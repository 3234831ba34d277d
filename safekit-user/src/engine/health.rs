//! The first word of `safekit status`: one verdict over everything that this node knows.

use crate::types::NodeSet;
use crate::types::snapshot::{MemberState, Verdict};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub state: MemberState,
    /// The kernel may accept at this moment.
    pub lease_live: bool,
    /// Every node of the cluster.
    pub all: NodeSet,
    /// This node's view.
    pub members: NodeSet,
    /// Members that announce another view than this node's.
    pub disagreeing: NodeSet,
    /// Nodes that are heard but run with another configuration.
    pub other_config: NodeSet,
    /// Datagrams that nobody with the cluster's key has sealed arrived lately on the heartbeat port.
    pub strangers: bool,
}

/// The worst that holds.
pub fn judge(facts: &Facts) -> Verdict {
    match facts.state {
        MemberState::Leaving => return Verdict::Down,
        MemberState::Joining | MemberState::Announce => return Verdict::Converging,
        MemberState::Active if !facts.lease_live => return Verdict::Down,
        MemberState::Active => {}
    }
    let missing = facts.all.minus(facts.members);
    // A node that is alive and not understood may own the same buckets: that is a split, not a dead node.
    if !facts.other_config.is_empty() || (facts.strangers && !missing.is_empty()) {
        return Verdict::Split;
    }
    if !facts.disagreeing.is_empty() {
        return Verdict::Converging;
    }
    if missing.is_empty() { Verdict::Converged } else { Verdict::Degraded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    const ALL: NodeSet = NodeSet(0b111);

    fn healthy() -> Facts {
        Facts {
            state: MemberState::Active,
            lease_live: true,
            all: ALL,
            members: ALL,
            disagreeing: NodeSet::EMPTY,
            other_config: NodeSet::EMPTY,
            strangers: false,
        }
    }

    #[test]
    fn the_worst_fact_names_the_verdict() {
        let two = ALL.without(NodeId(2));
        let cases = [
            ("all is well", healthy(), Verdict::Converged),
            ("a node is missing", Facts { members: two, ..healthy() }, Verdict::Degraded),
            ("views differ", Facts { disagreeing: NodeSet::of(NodeId(1)), ..healthy() }, Verdict::Converging),
            ("no lease", Facts { lease_live: false, ..healthy() }, Verdict::Down),
            ("joining", Facts { state: MemberState::Joining, ..healthy() }, Verdict::Converging),
            ("leaving", Facts { state: MemberState::Leaving, ..healthy() }, Verdict::Down),
            (
                "another configuration",
                Facts { other_config: NodeSet::of(NodeId(2)), ..healthy() },
                Verdict::Split,
            ),
            (
                "strangers, and a node is missing",
                Facts { strangers: true, members: two, ..healthy() },
                Verdict::Split,
            ),
            ("strangers, but everybody is here", Facts { strangers: true, ..healthy() }, Verdict::Converged),
        ];
        for (name, facts, expected) in cases {
            assert_eq!(judge(&facts), expected, "{name}");
        }
    }
}
