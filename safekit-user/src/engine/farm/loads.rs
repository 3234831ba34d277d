//! How many live connections each node has, and how far a drain has come. For people; nothing is decided here.

use super::Engine;
use crate::types::snapshot::DrainInfo;
use crate::types::{GroupId, NodeId};
use crate::wire::heartbeat::{LOADS_MAX, Load};

impl Engine {
    pub(super) fn count_live(&mut self, group: GroupId, connections: u32) {
        if let Some(group) = self.groups.iter_mut().find(|known| known.id() == group) {
            group.load.live = connections;
        }
    }

    /// This node's own drain begins with all connections that it has, and ends with the drain.
    pub(super) fn note_drain(&mut self) {
        let drained = self.drained().contains(self.setup.me);
        let live = self.groups.iter().map(|group| u64::from(group.load.live)).sum();
        self.drain_of = drained.then(|| self.drain_of.unwrap_or(live));
    }

    /// Nothing is left when a count that began after the release has found nothing. Until there has been such a count,
    /// everything is.
    pub(super) fn own_drain(&mut self) -> Option<DrainInfo> {
        let of = self.drain_of?;
        let held: u64 = self.groups.iter().map(|group| u64::from(group.load.held)).sum();
        let left = if self.groups.iter().all(super::Ownership::is_drained) {
            0
        } else if self.groups.iter().any(super::Ownership::is_uncounted) {
            of.max(held).max(1)
        } else {
            held.max(1)
        };
        self.drain_of = Some(of.max(left));
        self.drain_of.map(|of| DrainInfo { left, of })
    }

    /// For heartbeats.
    pub(super) fn loads(&self) -> Vec<Load> {
        let loads = self.groups.iter().map(|group| Load { held: group.held_now(), ..group.load });
        loads.filter(|load| load.live > 0 || load.held > 0).take(LOADS_MAX).collect()
    }

    /// By group, as the node said last; groups without connections are left out. None when it was never heard.
    pub fn loads_of(&self, node: NodeId) -> Option<Vec<Load>> {
        if node == self.setup.me {
            return Some(self.loads());
        }
        let life = self.peers.get(usize::from(node.0))?.life.as_ref()?;
        life.direct.is_some().then(|| life.loads.clone())
    }

    /// Live connections over all groups.
    pub fn connections(&self, node: NodeId) -> Option<u64> {
        self.loads_of(node).map(|loads| loads.iter().map(|load| u64::from(load.live)).sum())
    }

    /// Of a drained node: how far it has come.
    pub fn drain_progress(&self, node: NodeId) -> Option<DrainInfo> {
        if node == self.setup.me {
            return self.drain;
        }
        self.peers.get(usize::from(node.0))?.life.as_ref()?.drain
    }
}
