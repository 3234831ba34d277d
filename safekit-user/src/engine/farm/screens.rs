//! What screens may read. Nothing here decides anything.

use std::sync::Arc;

use super::{Engine, PeerStatus, Table, View};
use crate::types::snapshot::MemberState;
use crate::types::{Bucket, GroupId, Instant, NodeId, Notes, ViewId};

/// Heartbeats in a row without an answer; well before anybody yields or is given up.
const UNANSWERED: u32 = 3;

impl Engine {
    pub fn member_state(&self) -> MemberState {
        self.member.state
    }

    pub fn view(&self) -> View {
        self.view
    }

    /// All other nodes, in the order of the configuration.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.nodes.without(self.setup.me).iter().map(|node| self.peer(node)).collect()
    }

    /// First four bytes of the boot that counts as that node; none while no boot of it has proved itself.
    pub fn life(&self, node: NodeId) -> Option<u32> {
        self.peers.get(usize::from(node.0))?.life.as_ref().map(|life| life.tag)
    }

    /// What a member's data plane said last.
    pub fn notes(&self, node: NodeId) -> Option<&Notes> {
        let peer = self.peers.get(usize::from(node.0)).filter(|peer| peer.member.is_some())?;
        peer.life.as_ref().map(|life| &life.notes)
    }

    /// Some node of the configuration, running or not, has not acknowledged my last heartbeats.
    pub fn is_unanswered(&self) -> bool {
        !self.nodes.without(self.setup.me).iter().all(|node| self.answers(node))
    }

    /// It acknowledged one of my last heartbeats. False from the third interval on, so that what is sent then in
    /// another way can be answered before the lease ends.
    pub fn answers(&self, node: NodeId) -> bool {
        let life = self.peers.get(usize::from(node.0)).and_then(|peer| peer.life.as_ref());
        let patience = self.setup.timing.interval * UNANSWERED;
        life.is_some_and(|life| self.now.since(life.acked_sent()) < patience)
    }

    fn peer(&self, node: NodeId) -> PeerStatus {
        let peer = &self.peers[usize::from(node.0)];
        let life = peer.life.as_ref();
        PeerStatus {
            node,
            state: life.map(|life| life.best.state),
            member: peer.member.is_some(),
            heard: life.map(|life| life.fresh),
            departed: peer.departed,
            same_config: peer.lives().find_map(|life| life.same_config),
            live: life.is_some_and(|life| self.now.since(life.fresh) <= self.setup.timing.timeout),
            view: life.map(|life| life.best.view),
        }
    }

    /// As last handed out in [`super::Output::WriteTable`].
    pub fn table(&self, group: GroupId) -> Arc<Table> {
        Arc::clone(self.group(group).table())
    }

    /// Buckets per node under the present view.
    pub fn shares(&self, group: GroupId) -> Vec<u32> {
        self.group(group).owners().shares(self.setup.nodes.len())
    }

    /// Live owner first, then who would own the bucket next.
    pub fn preference(&self, group: GroupId, bucket: Bucket) -> Vec<NodeId> {
        self.group(group).in_force().preference(bucket, self.view.members)
    }

    pub fn owner(&self, group: GroupId, bucket: Bucket) -> Option<NodeId> {
        self.group(group).owners().owner(bucket)
    }

    /// The view that made the present owner the owner, and when that view began.
    pub fn owner_since(&self, group: GroupId, bucket: Bucket) -> (ViewId, Instant) {
        self.group(group).owners().since(bucket)
    }

    /// Until when the kernel may accept. In the past: nothing.
    pub fn lease_until(&self) -> Instant {
        self.lease
    }

    pub(super) fn group(&self, group: GroupId) -> &super::Ownership {
        let known = self.groups.iter().find(|known| known.id() == group);
        known.expect("the caller names a group of the setup that it made")
    }
}
