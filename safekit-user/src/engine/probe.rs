//! Whose probes arrive here, and what it means where they do not. Pure.
//!
//! Each node sends a probe to the virtual MAC of each virtual IP every [`interval`]; the filter keeps the newest round of
//! each sender. A sender that stands still for three intervals and a half while it is a member is not delivered here.

use std::time::Duration;

use crate::config::{Config, Delivery};
use crate::types::notes::{UNSEEN_MAX, Unseen};
use crate::types::snapshot::{Undelivered, Warning};
use crate::types::{Instant, NodeId, NodeSet};

const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Probes of the whole cluster in a second; each reaches every node.
const RATE_MAX: u32 = 256;

/// Between two probes of one node to one virtual IP. The same on every node of a configuration.
pub fn interval(config: &Config) -> Duration {
    let vips: usize = config.farms().map(|farm| farm.virtual_ips.len()).sum();
    let probes = (vips * config.cluster.nodes.len()) as u32;
    INTERVAL_MIN.max(Duration::from_secs(1) * probes / RATE_MAX)
}

/// Three probes in a row, and half an interval: a lost frame or two are no finding.
fn missed(interval: Duration) -> Duration {
    interval * 7 / 2
}

/// A virtual IP that is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Place in the configuration.
    pub vip: u16,
    /// Nodes of its farm.
    pub nodes: NodeSet,
}

/// Those of the virtual IPs of `me` that rely on every node's card taking the frame, and have a place in the filter.
pub fn targets(config: &Config, me: NodeId, places: usize) -> Vec<Target> {
    let all = config.farms().flat_map(|farm| farm.virtual_ips.iter().map(move |_| farm));
    let mine = all.enumerate().take(places).filter(|(_, farm)| {
        farm.nodes.contains(&me) && matches!(farm.delivery, Delivery::Flood | Delivery::Multicast)
    });
    mine.map(|(place, farm)| Target { vip: place as u16, nodes: farm.nodes.iter().copied().collect() })
        .collect()
}

/// What one node has heard.
#[derive(Debug)]
pub struct Hearing {
    me: NodeId,
    interval: Duration,
    targets: Vec<Target>,
    /// By target, then by sender.
    heard: Vec<Vec<Heard>>,
    members: NodeSet,
    /// By node: since when it is a member.
    since: Vec<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    round: u32,
    at: Instant,
}

impl Hearing {
    pub fn new(me: NodeId, targets: Vec<Target>, nodes: usize, interval: Duration) -> Self {
        let heard = vec![vec![Heard::default(); nodes]; targets.len()];
        Self { me, interval, targets, heard, members: NodeSet::EMPTY, since: vec![Instant::default(); nodes] }
    }

    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Who is a member now: a newcomer gets time for its first probes.
    pub fn note_members(&mut self, members: NodeSet, now: Instant) {
        for node in members.iter().filter(|node| !self.members.contains(*node)) {
            self.since[usize::from(node.0)] = now;
        }
        self.members = members;
    }

    /// The newest round of each sender, as the filter has it for the target at this place of [`Self::targets`].
    pub fn note_rounds(&mut self, target: usize, rounds: &[u32], now: Instant) {
        for (heard, round) in self.heard[target].iter_mut().zip(rounds) {
            if heard.round != *round {
                *heard = Heard { round: *round, at: now };
            }
        }
    }

    pub fn unseen(&self, now: Instant) -> Vec<Unseen> {
        let mut unseen = Vec::new();
        for (target, heard) in self.targets.iter().zip(&self.heard) {
            let expected = self.members.without(self.me);
            let silent = |node: &NodeId| {
                let last = heard[usize::from(node.0)].at.max(self.since[usize::from(node.0)]);
                target.nodes.contains(*node) && now.since(last) > missed(self.interval)
            };
            let nodes: NodeSet = expected.iter().filter(silent).collect();
            if nodes != NodeSet::EMPTY && unseen.len() < UNSEEN_MAX {
                unseen.push(Unseen { vip: target.vip, nodes });
            }
        }
        unseen
    }
}

/// What the members miss, by name. `told` is what each member says.
pub fn undelivered(config: &Config, members: NodeSet, told: &[(NodeId, Vec<Unseen>)]) -> Vec<Undelivered> {
    let vips: Vec<_> = config.farms().flat_map(|farm| &farm.virtual_ips).collect();
    let name = |node: NodeId| config.cluster.nodes.get(usize::from(node.0)).map(|it| it.name.clone());
    let mut found = Vec::new();
    for (to, unseen) in told {
        for missing in unseen {
            // A peer may run another configuration; what it means is not known then.
            let Some(vip) = vips.get(usize::from(missing.vip)) else { continue };
            let from: Vec<String> =
                missing.nodes.iter().filter(|node| members.contains(*node)).filter_map(name).collect();
            let Some(to) = name(*to).filter(|_| !from.is_empty()) else { continue };
            found.push(Undelivered { virtual_ip: vip.address, interface: vip.interface.clone(), from, to });
        }
    }
    found
}

/// In words, with what to do.
pub fn warnings(config: &Config, undelivered: &[Undelivered]) -> Vec<Warning> {
    let multicast = |missing: &Undelivered| {
        let farm =
            config.farms().find(|farm| farm.virtual_ips.iter().any(|vip| vip.address == missing.virtual_ip));
        farm.is_some_and(|farm| farm.delivery == Delivery::Multicast)
    };
    let warning = |missing: &Undelivered| Warning {
        what: format!(
            "frames to the virtual MAC of {} from {} do not reach {}: clients there would not be served by it",
            missing.virtual_ip,
            missing.from.join(", "),
            missing.to
        ),
        remedy: if multicast(missing) { remedy_multicast(missing) } else { remedy_flood(missing) },
    };
    undelivered.iter().map(warning).collect()
}

fn remedy_flood(missing: &Undelivered) -> String {
    format!(
        "on the switch port of {to}, allow unknown unicast to be flooded (Linux bridge: bridge link set dev PORT flood \
         on; virtual machines: allow other MAC addresses and promiscuous mode), on {to} try ip link set {interface} \
         promisc on; or set delivery: multicast or directed",
        to = missing.to,
        interface = missing.interface
    )
}

fn remedy_multicast(missing: &Undelivered) -> String {
    format!(
        "on the switch, turn IGMP and MLD snooping off for this network or add the group to the port of {to} by hand; on \
         {to} try ip link set {interface} allmulticast on; or set delivery: directed",
        to = missing.to,
        interface = missing.interface
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(0);
    const PEER: NodeId = NodeId(1);
    const BOTH: NodeSet = NodeSet(0b11);

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    fn hearing() -> Hearing {
        let mut hearing = Hearing::new(ME, vec![Target { vip: 7, nodes: BOTH }], 3, INTERVAL_MIN);
        hearing.note_members(BOTH, at(1000));
        hearing
    }

    #[test]
    fn a_sender_that_stands_still_is_missed_and_then_heard_again() {
        let mut hearing = hearing();
        hearing.note_rounds(0, &[0, 1, 0], at(1500));
        assert_eq!(hearing.unseen(at(4900)), []);
        hearing.note_rounds(0, &[0, 1, 0], at(5100));
        assert_eq!(hearing.unseen(at(5100)), [Unseen { vip: 7, nodes: NodeSet::of(PEER) }]);
        hearing.note_rounds(0, &[0, 2, 0], at(5200));
        assert_eq!(hearing.unseen(at(5300)), []);
    }

    #[test]
    fn newcomers_get_time_and_the_departed_and_this_node_are_not_missed() {
        let mut hearing = hearing();
        assert_eq!(hearing.unseen(at(4400)), [], "it has just joined");
        assert_eq!(hearing.unseen(at(4600)).len(), 1, "and has had its time");
        hearing.note_members(NodeSet::of(ME), at(4700));
        assert_eq!(hearing.unseen(at(9000)), [], "it has gone");
        hearing.note_members(NodeSet(0b101), at(9100));
        assert_eq!(hearing.unseen(at(19_000)), [], "n3 is not of this farm");
        hearing.note_members(BOTH, at(20_000));
        assert_eq!(hearing.unseen(at(21_000)), [], "it has come back");
    }
}
