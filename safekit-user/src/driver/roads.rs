//! Directed delivery: keeps the filter's roads to other nodes as the engine sees owners and holders.

use super::datapath::{Datapath, Error, NOBODY, Road};
use crate::engine::farm::Engine;
use crate::types::{GroupId, NodeId, NodeSet};
use crate::wire::heartbeat::HELD_RUN;

/// What the filter has been told.
pub struct Roads {
    me: NodeId,
    nodes: u8,
    groups: Vec<Group>,
    macs: Vec<Vec<[u8; 6]>>,
    members: NodeSet,
    /// The last change of the view took somebody away.
    departed: bool,
}

struct Group {
    id: GroupId,
    owners: Vec<u8>,
    holders: Vec<NodeSet>,
}

impl Roads {
    pub fn new(me: NodeId, nodes: usize, datapath: &Datapath) -> Self {
        let group = |id: &GroupId| Group { id: *id, owners: Vec::new(), holders: Vec::new() };
        Self {
            me,
            nodes: nodes as u8,
            groups: datapath.directed_groups().iter().map(group).collect(),
            macs: vec![Vec::new(); nodes],
            members: NodeSet::EMPTY,
            departed: false,
        }
    }

    /// Brings the filter up to date. Does nothing where nothing is delivered this way, and writes only what changed.
    pub fn follow(&mut self, engine: &Engine, datapath: &mut Datapath) -> Result<(), Error> {
        if self.groups.is_empty() {
            return Ok(());
        }
        for node in (0..self.nodes).map(NodeId).filter(|node| *node != self.me) {
            // A node that is gone may be on its way back, and its card has not changed.
            let Some(notes) = engine.notes(node) else { continue };
            let known = &mut self.macs[usize::from(node.0)];
            if *known != notes.macs {
                datapath.set_peer_macs(node, &notes.macs)?;
                known.clone_from(&notes.macs);
            }
        }
        for group in &mut self.groups {
            let owners = engine.owners(group.id);
            let holders = engine.holders(group.id);
            if owners != group.owners || holders != group.holders {
                group.owners = owners.to_vec();
                group.holders = holders;
                datapath.write_roads(group.id, &group.roads(self.me, self.nodes))?;
            }
        }
        Ok(())
    }

    pub fn note_members(&mut self, members: NodeSet) {
        self.departed = members.union(self.members) != members;
        self.members = members;
    }

    /// Whether neighbours have to learn another MAC: the one that they know may be a dead node's. After a join each
    /// keeps to its own, which spreads them over the nodes.
    pub fn announces(&self) -> bool {
        self.departed || self.members == NodeSet::of(self.me)
    }
}

impl Group {
    fn roads(&self, me: NodeId, nodes: u8) -> Vec<Road> {
        let road = |(bucket, owner): (usize, &u8)| Road {
            owner: *owner,
            holder: next_holder(self.holders[bucket / HELD_RUN], me.0, *owner, nodes),
        };
        self.owners.iter().enumerate().map(road).collect()
    }
}

/// The next node round the ring that may hold connections. The round begins and ends with the owner, so that a frame
/// passes each holder once, whoever asks.
fn next_holder(holders: NodeSet, me: u8, owner: u8, nodes: u8) -> u8 {
    if holders == NodeSet::EMPTY {
        return NOBODY;
    }
    let round = (1..nodes).map(|step| ((u16::from(me) + u16::from(step)) % u16::from(nodes)) as u8);
    let mut before_owner = round.take_while(|node| *node != owner);
    before_owner.find(|node| holders.contains(NodeId(*node))).unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_of_holders_begins_behind_the_owner_and_ends_before_it() {
        let holders: NodeSet = [0, 2, 4].map(NodeId).into_iter().collect();
        let next = |me| next_holder(holders, me, 3, 5);
        assert_eq!([3, 4, 0, 2].map(next), [4, 0, 2, NOBODY], "from the owner 3: 4, 0, 2, and no further");
        assert_eq!(next(1), 2, "a node without connections is no detour");
        assert_eq!(next_holder(NodeSet::EMPTY, 3, 3, 5), NOBODY);
        assert_eq!(next_holder(NodeSet::of(NodeId(3)), 1, 3, 5), NOBODY, "the owner is no holder");
        assert_eq!(next_holder(holders, 1, NOBODY, 5), 2, "nobody owns it yet");
    }
}
