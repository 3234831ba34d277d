//! Which heartbeats count: those of nodes that are on the virtual IP's own network (part of R2).
//!
//! A node that is heard on other networks only is cut off from the clients: its buckets would be served by nobody. So
//! a heartbeat from another network counts while its sender was heard on the virtual IP's network a moment ago, or may
//! soon be; after that it is taken for silence, which the engine knows how to deal with. What a third node has heard
//! still counts through that node. Where the virtual IP's network is cut in two, each half then serves what reaches it.

use std::time::Duration;

use crate::types::{Instant, NodeId};

/// Longer than heartbeats are lost by chance, shorter than a person notices.
const ABSENCE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Reach {
    /// By node: last heard on the virtual IP's network, or first heard at all.
    last: Vec<Option<Instant>>,
    absent: Vec<bool>,
}

/// What to do with a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Counts,
    /// The sender is off the virtual IP's network.
    Absent {
        /// Since this heartbeat: worth a word in the log.
        news: bool,
    },
}

impl Reach {
    pub fn new(nodes: usize) -> Self {
        Self { last: vec![None; nodes], absent: vec![false; nodes] }
    }

    /// `sender` is a node of the cluster.
    pub fn admit(&mut self, sender: NodeId, on_virtual_ip_network: bool, now: Instant) -> Admission {
        let place = usize::from(sender.0);
        let last = *self.last[place].get_or_insert(now);
        if on_virtual_ip_network {
            self.last[place] = Some(now);
        }
        let absent = !on_virtual_ip_network && now.since(last) > ABSENCE_MAX;
        let news = absent && !self.absent[place];
        self.absent[place] = absent;
        if absent { Admission::Absent { news } } else { Admission::Counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    fn at(ms: u64) -> Instant {
        Instant(0) + Duration::from_secs(100) + Duration::from_millis(ms)
    }

    #[test]
    fn a_node_off_the_clients_network_counts_for_a_second_more() {
        let mut reach = Reach::new(3);
        assert_eq!(reach.admit(NODE, true, at(0)), Admission::Counts);
        assert_eq!(reach.admit(NODE, false, at(1000)), Admission::Counts, "lost by chance");
        assert_eq!(reach.admit(NODE, false, at(1001)), Admission::Absent { news: true });
        assert_eq!(reach.admit(NODE, false, at(1025)), Admission::Absent { news: false }, "said once");
        assert_eq!(reach.admit(NODE, true, at(1030)), Admission::Counts, "it is back");
        assert_eq!(reach.admit(NODE, false, at(1031)), Admission::Counts);
    }

    #[test]
    fn a_newcomer_has_a_second_to_show_up() {
        let mut reach = Reach::new(3);
        assert_eq!(reach.admit(NODE, false, at(0)), Admission::Counts);
        assert_eq!(reach.admit(NODE, false, at(1100)), Admission::Absent { news: true });
    }
}
