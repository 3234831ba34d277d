//! One frame, decided: the function that the kernel runs and the tests run.

use crate::abi::{Address, Rule, RuleKey, VirtualIp, bucket_bits};
use crate::flow::{Balance, bucket};
use crate::packet::{self, Arp, Frame, Ip, Network, Ports, Transport};
use crate::verdict::{Reason, Role, Standing, Verdict, judge};

/// Everything that a decision asks of the world.
pub trait World {
    fn hash_key(&self) -> [u64; 2];
    fn virtual_ip(&self, address: &Address) -> Option<VirtualIp>;
    fn rule(&self, key: &RuleKey) -> Option<Rule>;
    /// The word of the group's active table that holds `bucket`.
    fn table_word(&self, group: u16, bucket: u16) -> u64;
    fn lease_live(&self) -> bool;
    /// Whether this node's kernel has the connection that a TCP segment belongs to, or has answered its SYN with a
    /// cookie. `transport` is where the TCP header begins.
    fn has_socket(&self, ip: &Ip, ports: Ports, transport: usize) -> bool;
}

/// What to do with a frame, and how to count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub reason: Reason,
    /// Counters' scope: 0 when no rule or virtual IP is concerned.
    pub scope: u16,
    /// For [`Verdict::Answer`]: where the ARP header begins, and the MAC to answer with.
    pub answer: Answer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub offset: usize,
    pub mac: [u8; 6],
}

impl Decision {
    #[inline(always)]
    const fn new(verdict: Verdict, reason: Reason, scope: u16) -> Self {
        Self { verdict, reason, scope, answer: Answer { offset: 0, mac: [0; 6] } }
    }
}

/// Decides one frame. Total: any bytes have a decision.
#[inline(always)]
pub fn decide<F: Frame + ?Sized, W: World>(frame: &F, world: &W) -> Decision {
    match packet::network(frame) {
        None => Decision::new(Verdict::Untouched, Reason::Unreadable, 0),
        Some(Network::Other) => Decision::new(Verdict::Untouched, Reason::NotFarm, 0),
        Some(Network::Arp(arp)) => decide_arp(&arp, world),
        Some(Network::Ip(ip)) => match world.virtual_ip(&ip.target) {
            None => Decision::new(Verdict::Untouched, Reason::NotFarm, 0),
            Some(vip) => decide_ip(frame, &ip, &vip, world),
        },
    }
}

#[inline(always)]
fn decide_ip<F: Frame + ?Sized, W: World>(frame: &F, ip: &Ip, vip: &VirtualIp, world: &W) -> Decision {
    let drop = |reason| Decision::new(Verdict::Drop, reason, vip.scope);
    match packet::transport(frame, ip) {
        Transport::Tcp { ports, opens, offset } => {
            let role = if opens { Role::Opens } else { Role::Belongs };
            decide_session(ip, vip, world, Session { protocol: packet::TCP, ports, role, offset })
        }
        Transport::Udp { ports } => decide_session(
            ip,
            vip,
            world,
            Session { protocol: packet::UDP, ports, role: Role::Alone, offset: 0 },
        ),
        Transport::Echo { id } => {
            let at = bucket(world.hash_key(), Balance::Connection, &ip.source, id);
            let (verdict, reason) =
                judge(standing(world, vip.group, at), Role::Alone, || world.lease_live(), || false);
            Decision::new(verdict, reason, vip.scope)
        }
        Transport::Icmp => drop(Reason::Icmp),
        Transport::Fragment => drop(Reason::Fragment),
        Transport::Unknown => drop(Reason::Protocol),
        Transport::Malformed => drop(Reason::Malformed),
    }
}

#[derive(Clone, Copy)]
struct Session {
    protocol: u8,
    ports: Ports,
    role: Role,
    offset: usize,
}

#[inline(always)]
fn decide_session<W: World>(ip: &Ip, vip: &VirtualIp, world: &W, session: Session) -> Decision {
    let Session { protocol, ports, role, offset } = session;
    let key = RuleKey { virtual_ip: vip.index, port: ports.target, protocol: u32::from(protocol) };
    let Some(rule) = world.rule(&key) else {
        return Decision::new(Verdict::Drop, Reason::NoRule, vip.scope);
    };
    let at = bucket(world.hash_key(), Balance::from_number(rule.balance), &ip.source, ports.source);
    let (verdict, reason) = judge(
        standing(world, rule.group, at),
        role,
        || world.lease_live(),
        || world.has_socket(ip, ports, offset),
    );
    Decision::new(verdict, reason, rule.scope)
}

/// A request for a virtual IP is answered by the owner of the requester's bucket; nothing else about a virtual IP may
/// reach the kernel, which would take a peer's announcement for a conflict.
#[inline(always)]
fn decide_arp<W: World>(arp: &Arp, world: &W) -> Decision {
    let Some(vip) = world.virtual_ip(&arp.target) else {
        return match world.virtual_ip(&arp.sender) {
            Some(claimed) => Decision::new(Verdict::Drop, Reason::ArpOther, claimed.scope),
            None => Decision::new(Verdict::Untouched, Reason::NotFarm, 0),
        };
    };
    if !arp.request || arp.sender == arp.target {
        return Decision::new(Verdict::Drop, Reason::ArpOther, vip.scope);
    }
    let at = bucket(world.hash_key(), Balance::Client, &arp.sender, 0);
    match judge(standing(world, vip.group, at), Role::Alone, || world.lease_live(), || false) {
        (Verdict::Accept, _) => Decision {
            verdict: Verdict::Answer,
            reason: Reason::ArpAnswered,
            scope: vip.scope,
            answer: Answer { offset: arp.offset, mac: vip.mac },
        },
        (Verdict::Untouched | Verdict::Answer | Verdict::Drop, _) => {
            Decision::new(Verdict::Drop, Reason::ArpForeign, vip.scope)
        }
    }
}

#[inline(always)]
fn standing<W: World>(world: &W, group: u16, bucket: u16) -> Standing {
    Standing::from_bits(bucket_bits(world.table_word(group, bucket), bucket))
}

/// The bytes of an ARP answer, from the request's: (Ethernet header of the answer, ARP packet of the answer).
///
/// The Ethernet source is the node's own MAC, the payload names the virtual one: neighbours learn from the payload,
/// switches from the header, so no switch learns the virtual MAC and all keep flooding it.
#[inline(always)]
pub fn arp_answer(
    ethernet: [u8; 12],
    arp: [u8; 28],
    own_mac: [u8; 6],
    virtual_mac: [u8; 6],
) -> ([u8; 12], [u8; 28]) {
    let [_, _, _, _, _, _, r0, r1, r2, r3, r4, r5] = ethernet;
    let [o0, o1, o2, o3, o4, o5] = own_mac;
    let [v0, v1, v2, v3, v4, v5] = virtual_mac;
    let header = [r0, r1, r2, r3, r4, r5, o0, o1, o2, o3, o4, o5];
    let [h0, h1, h2, h3, h4, h5, _, _, sender @ .., t0, t1, t2, t3] = arp;
    let [m0, m1, m2, m3, m4, m5, i0, i1, i2, i3, _, _, _, _, _, _] = sender;
    let packet = [
        h0, h1, h2, h3, h4, h5, 0, 2, v0, v1, v2, v3, v4, v5, t0, t1, t2, t3, m0, m1, m2, m3, m4, m5, i0, i1,
        i2, i3,
    ];
    (header, packet)
}
