//! Sends this node's probes, and reads whose have arrived.

use std::io;
use std::time::Duration;

use safekit_ebpf::abi::PROBE_VIPS;
use safekit_ebpf::probe::Probe;

use super::datapath::{self, Datapath, Plan};
use super::packet_socket::PacketSocket;
use crate::config::Config;
use crate::engine::probe::{Hearing, interval, targets};
use crate::types::notes::Unseen;
use crate::types::{Instant, NodeId, NodeSet};

pub struct Prober {
    socket: PacketSocket,
    me: NodeId,
    mark: u64,
    hearing: Hearing,
    /// One for each target of `hearing`, in its order.
    wires: Vec<Wire>,
    round: u32,
    interval: Duration,
    next: Instant,
}

#[derive(Clone, Copy)]
struct Wire {
    index: u32,
    own_mac: [u8; 6],
    virtual_mac: [u8; 6],
}

impl Prober {
    pub fn open(config: &Config, me: NodeId, plan: &Plan) -> io::Result<Self> {
        let all: Vec<_> = config.farms().flat_map(|farm| &farm.virtual_ips).collect();
        let targets = targets(config, me, PROBE_VIPS);
        let mut wires = Vec::new();
        for target in &targets {
            let vip = all[usize::from(target.vip)];
            let planned = plan.virtual_ips.iter().find(|planned| planned.address == vip.address);
            let planned = planned.expect("a plan has every virtual IP of this node's farms");
            let (index, own_mac) = datapath::index_and_mac(&vip.interface)?;
            wires.push(Wire { index, own_mac, virtual_mac: planned.mac.0 });
        }
        Ok(Self {
            socket: PacketSocket::sender()?,
            me,
            mark: plan.mark,
            hearing: Hearing::new(me, targets, config.cluster.nodes.len(), interval(config)),
            wires,
            round: 0,
            interval: interval(config),
            next: Instant::default(),
        })
    }

    /// Once an interval: sends a round, reads what has arrived, and says what is missed. Otherwise none.
    pub fn turn(
        &mut self,
        datapath: &Datapath,
        members: NodeSet,
        now: Instant,
    ) -> Result<Option<Vec<Unseen>>, datapath::Error> {
        if now < self.next {
            return Ok(None);
        }
        self.next = now + self.interval;
        self.send();
        self.hearing.note_members(members, now);
        for target in 0..self.wires.len() {
            let rounds = datapath.probes(self.hearing.targets()[target].vip)?;
            self.hearing.note_rounds(target, &rounds, now);
        }
        Ok(Some(self.hearing.unseen(now)))
    }

    fn send(&mut self) {
        // Zero is a sender that was never heard.
        self.round = self.round.checked_add(1).unwrap_or(1);
        for (wire, target) in self.wires.iter().zip(self.hearing.targets()) {
            let probe = Probe { sender: self.me.0, vip: target.vip, round: self.round, cluster: self.mark };
            // A probe that cannot be sent is one that does not arrive: the peers say so.
            let _unsent = self.socket.send(wire.index, &probe.frame(wire.virtual_mac, wire.own_mac));
        }
    }
}
