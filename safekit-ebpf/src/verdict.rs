//! The verdict: a pure function of a frame and of what the maps and the socket table say.
//!
//! | bucket                 | TCP SYN without ACK | anything else of TCP                          | UDP, echo, ARP |
//! |------------------------|---------------------|-----------------------------------------------|----------------|
//! | foreign                | drop                | drop                                          | drop           |
//! | mine                   | pass                | pass: the stack's own RST is right            | pass           |
//! | gained (transitional)  | pass                | pass iff a local connection or a valid cookie | pass           |
//! | lost (transitional)    | drop                | the same test                                 | drop           |
//!
//! Past the lease, mine and gained count as lost: a controller that stalls keeps its connections and takes no new one.

use crate::abi::{Address, Balance, Rule, SCOPE_NONE, Table, Vip, scope_of_rule, scope_of_vip};
use crate::answer::{Advertisement, ArpAnswer};
use crate::flow::{self, Bucket, HashKey};
use crate::packet::{self, Arp, Frame, FrameMut, Ip, Neighbour, Packet, Protocol, Tcp, Transport};

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not about a virtual IP: to the stack, untouched.
    NotFarm,
    /// Ours: to the stack, under the network card's own address.
    Ours { own_mac: [u8; 6] },
    /// Another node's, or nobody's.
    Drop,
    /// Answered in place, and sent back where it came from.
    Answer(ArpAnswer),
    /// The same for IPv6.
    Advertise(Advertisement),
}

/// Verdict, why, and whose counter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub reason: Reason,
    pub scope: u32,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+) => {
        /// Why a frame had its verdict: one counter each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As operators see it; part of the versioned output.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Passed: for another address than a virtual IP.
    NotVip = "not_vip",
    /// Passed: neither IP nor ARP.
    NotIp = "not_ip",
    /// Dropped: cut off or self-contradicting.
    Malformed = "malformed",
    /// Passed: a stable bucket of ours.
    Mine = "mine",
    /// Dropped: a bucket of another node.
    Foreign = "foreign",
    /// Passed: opens a connection in a bucket that we have just gained.
    GainedNew = "gained_new",
    /// Dropped: would open a connection in a bucket that we have just lost.
    LostNew = "lost_new",
    /// Passed: of a connection that lives here, in a bucket on the move.
    Kept = "kept",
    /// Passed: completes a handshake that our SYN cookie began, in a bucket on the move.
    KeptByCookie = "kept_by_cookie",
    /// Dropped: of a connection that lives elsewhere, in a bucket on the move.
    NoSocket = "no_socket",
    /// Dropped: ours, but the lease has ended.
    Lease = "lease",
    /// Dropped: to a virtual IP, to a port that no rule names.
    NoRule = "no_rule",
    /// Dropped: to a virtual IP, of a protocol that no rule can name.
    Protocol = "protocol",
    /// Dropped: a fragment, which names no port.
    Fragment = "fragment",
    /// Passed: an error about a packet of the virtual IP; the stack ignores it where it has no such connection.
    IcmpError = "icmp_error",
    /// Dropped: ICMP that asks for no echo.
    IcmpOther = "icmp_other",
    /// Dropped: about a virtual IP of another interface.
    WrongInterface = "wrong_interface",
    /// Answered: who has the virtual IP.
    ArpAnswered = "arp_answered",
    /// Dropped: somebody else claims the virtual IP, or answers for it.
    ArpClaim = "arp_claim",
    /// Answered: who has the IPv6 virtual IP.
    NdpAnswered = "ndp_answered",
    /// Dropped: somebody else advertises the virtual IP.
    NdpClaim = "ndp_claim",
    /// Dropped: asks whether the virtual IP is free to take; the question has no room for an answer.
    NdpProbe = "ndp_probe",
    /// Sent on: to the owner of its bucket (directed delivery).
    ToOwner = "to_owner",
    /// Sent on: to a node that may hold its connection.
    ToHolder = "to_holder",
    /// Dropped: the switch sends what is for another node's card.
    NotAddressed = "not_addressed",
}

const _: () = assert!(Reason::ALL.len() <= crate::abi::REASON_SLOTS, "a counter row holds every reason");

/// Two bits a bucket: bit 0 = mine, bit 1 = transitional.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BucketState {
    Foreign = 0b00,
    Mine = 0b01,
    Lost = 0b10,
    Gained = 0b11,
}

impl BucketState {
    pub const fn of(mine: bool, transitional: bool) -> Self {
        match (mine, transitional) {
            (false, false) => Self::Foreign,
            (true, false) => Self::Mine,
            (false, true) => Self::Lost,
            (true, true) => Self::Gained,
        }
    }

    /// Out of a word of a table: [`Table`] holds 32 buckets in each, the lowest first.
    #[inline(always)]
    pub const fn in_word(word: u64, bucket: Bucket) -> Self {
        match word >> ((bucket & 31) * 2) & 0b11 {
            0b00 => Self::Foreign,
            0b01 => Self::Mine,
            0b10 => Self::Lost,
            _both => Self::Gained,
        }
    }

    pub const fn in_table(table: &Table, bucket: Bucket) -> Self {
        Self::in_word(table[bucket as usize / 32], bucket)
    }
}

/// What the local socket table says of a TCP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    None,
    /// A connection, embryonic and time-wait ones included; a listener is none.
    Connection,
    /// A listener, and the packet acknowledges a SYN cookie of this kernel.
    Cookie,
}

/// Everything outside of the frame that a verdict depends on.
pub trait World {
    fn hash_key(&self) -> HashKey;
    /// The index of the interface that the frame came in by.
    fn interface(&self) -> u32;
    fn vip(&self, address: Address) -> Option<Vip>;
    /// The narrowest rule of the virtual IP that covers the port.
    fn rule(&self, vip: &Vip, protocol: Protocol, port: u16) -> Option<Rule>;
    /// Foreign where there is no such group.
    fn bucket(&self, group: u16, bucket: Bucket) -> BucketState;
    fn lease_holds(&self) -> bool;
    fn evidence(&self, ip: &Ip, tcp: &Tcp) -> Evidence;
    /// Directed delivery: the frame names this node's card, so a question in it comes to this node alone.
    fn asks_me_alone(&self, _vip: &Vip) -> bool {
        false
    }
}

#[inline(always)]
pub fn decide(frame: &impl Frame, world: &impl World) -> Decision {
    match packet::parse(frame) {
        Packet::Ip(ip) => {
            if let Some(neighbour) = packet::parse_neighbour(frame, &ip)
                && let Some(vip) = world.vip(neighbour.target)
            {
                return decide_neighbour(&neighbour, &vip, world);
            }
            match world.vip(ip.destination) {
                Some(vip) => decide_ip(frame, &ip, &vip, world),
                None => outside(Verdict::NotFarm, Reason::NotVip),
            }
        }
        Packet::Arp(arp) => decide_arp(&arp, world),
        Packet::Other => outside(Verdict::NotFarm, Reason::NotIp),
        Packet::Malformed => outside(Verdict::Drop, Reason::Malformed),
    }
}

/// Carries out what a verdict says about the bytes.
#[inline(always)]
pub fn apply(frame: &mut impl FrameMut, verdict: &Verdict) -> Option<()> {
    match verdict {
        Verdict::NotFarm | Verdict::Drop => Some(()),
        Verdict::Ours { own_mac } => frame.write(0, *own_mac),
        Verdict::Answer(answer) => answer.write(frame),
        Verdict::Advertise(advertisement) => advertisement.write(frame),
    }
}

#[inline(always)]
fn outside(verdict: Verdict, reason: Reason) -> Decision {
    Decision { verdict, reason, scope: SCOPE_NONE }
}

#[inline(always)]
fn decide_ip(frame: &impl Frame, ip: &Ip, vip: &Vip, world: &impl World) -> Decision {
    let of_vip = |(verdict, reason)| Decision { verdict, reason, scope: scope_of_vip(vip.index) };
    if vip.interface != world.interface() {
        return of_vip((Verdict::Drop, Reason::WrongInterface));
    }
    let ours = Verdict::Ours { own_mac: vip.own_mac };
    match packet::parse_transport(frame, ip) {
        Transport::Tcp(tcp) => {
            let Some(rule) = world.rule(vip, Protocol::Tcp, tcp.destination) else {
                return of_vip((Verdict::Drop, Reason::NoRule));
            };
            let state = state_of(world, &rule, ip.source, tcp.source);
            let (passes, reason) = tcp_verdict(state, ip, &tcp, world);
            Decision {
                verdict: if passes { ours } else { Verdict::Drop },
                reason,
                scope: scope_of_rule(rule.index),
            }
        }
        Transport::Udp { source, destination } => {
            let Some(rule) = world.rule(vip, Protocol::Udp, destination) else {
                return of_vip((Verdict::Drop, Reason::NoRule));
            };
            let (passes, reason) = single_verdict(state_of(world, &rule, ip.source, source), world);
            Decision {
                verdict: if passes { ours } else { Verdict::Drop },
                reason,
                scope: scope_of_rule(rule.index),
            }
        }
        Transport::EchoRequest { id } => {
            let bucket = flow::bucket(world.hash_key(), &Balance::CONNECTION, ip.source, id);
            let (passes, reason) = single_verdict(world.bucket(vip.group, bucket), world);
            of_vip((if passes { ours } else { Verdict::Drop }, reason))
        }
        Transport::IcmpError => of_vip((ours, Reason::IcmpError)),
        Transport::IcmpOther => of_vip((Verdict::Drop, Reason::IcmpOther)),
        Transport::Fragment => of_vip((Verdict::Drop, Reason::Fragment)),
        Transport::Other => of_vip((Verdict::Drop, Reason::Protocol)),
        Transport::Malformed => of_vip((Verdict::Drop, Reason::Malformed)),
    }
}

#[inline(always)]
fn state_of(world: &impl World, rule: &Rule, client: Address, port: u16) -> BucketState {
    world.bucket(rule.group, flow::bucket(world.hash_key(), &rule.balance, client, port))
}

/// TCP: connections can be told apart, so a bucket can move under them.
#[inline(always)]
fn tcp_verdict(state: BucketState, ip: &Ip, tcp: &Tcp, world: &impl World) -> (bool, Reason) {
    match state {
        // First: most frames of a farm are another node's, and cost neither clock nor lookup.
        BucketState::Foreign => (false, Reason::Foreign),
        BucketState::Mine | BucketState::Gained if !world.lease_holds() => {
            if tcp.opening {
                (false, Reason::Lease)
            } else {
                by_evidence(ip, tcp, world)
            }
        }
        BucketState::Mine => (true, Reason::Mine),
        BucketState::Gained if tcp.opening => (true, Reason::GainedNew),
        BucketState::Lost if tcp.opening => (false, Reason::LostNew),
        BucketState::Gained | BucketState::Lost => by_evidence(ip, tcp, world),
    }
}

#[inline(always)]
fn by_evidence(ip: &Ip, tcp: &Tcp, world: &impl World) -> (bool, Reason) {
    match world.evidence(ip, tcp) {
        Evidence::Connection => (true, Reason::Kept),
        Evidence::Cookie => (true, Reason::KeptByCookie),
        Evidence::None => (false, Reason::NoSocket),
    }
}

/// Datagrams, echo and ARP requests stand alone: the owner answers, at once and only it.
#[inline(always)]
fn single_verdict(state: BucketState, world: &impl World) -> (bool, Reason) {
    match state {
        BucketState::Foreign | BucketState::Lost => (false, Reason::Foreign),
        BucketState::Mine | BucketState::Gained if !world.lease_holds() => (false, Reason::Lease),
        BucketState::Mine | BucketState::Gained => (true, Reason::Mine),
    }
}

/// ARP about a virtual IP never reaches the stack: it knows the address, but must not tell its own MAC for it.
#[inline(always)]
fn decide_arp(arp: &Arp, world: &impl World) -> Decision {
    if let Some(vip) = world.vip(Address::v4(arp.sender)) {
        return Decision { verdict: Verdict::Drop, reason: Reason::ArpClaim, scope: scope_of_vip(vip.index) };
    }
    let Some(vip) = world.vip(Address::v4(arp.target)) else {
        return outside(Verdict::NotFarm, Reason::NotVip);
    };
    let (verdict, reason) = answer_arp(arp, &vip, world);
    Decision { verdict, reason, scope: scope_of_vip(vip.index) }
}

#[inline(always)]
fn answer_arp(arp: &Arp, vip: &Vip, world: &impl World) -> (Verdict, Reason) {
    if vip.interface != world.interface() {
        return (Verdict::Drop, Reason::WrongInterface);
    }
    if !arp.request {
        return (Verdict::Drop, Reason::ArpClaim);
    }
    let requester = Address::v4(arp.sender);
    let bucket = flow::bucket(world.hash_key(), &Balance::CLIENT, requester, 0);
    let (answers, reason) = single_verdict(world.bucket(vip.group, bucket), world);
    // A neighbour makes sure of what it knows by asking the node that it sends to.
    if !answers && !(world.asks_me_alone(vip) && world.lease_holds()) {
        return (Verdict::Drop, reason);
    }
    let answer = ArpAnswer { request: *arp, own_mac: vip.own_mac, virtual_mac: vip.virtual_mac };
    (Verdict::Answer(answer), Reason::ArpAnswered)
}

/// Neighbour discovery about a virtual IP never reaches the stack either.
#[inline(always)]
fn decide_neighbour(neighbour: &Neighbour, vip: &Vip, world: &impl World) -> Decision {
    let (verdict, reason) = answer_neighbour(neighbour, vip, world);
    Decision { verdict, reason, scope: scope_of_vip(vip.index) }
}

#[inline(always)]
fn answer_neighbour(neighbour: &Neighbour, vip: &Vip, world: &impl World) -> (Verdict, Reason) {
    if vip.interface != world.interface() {
        return (Verdict::Drop, Reason::WrongInterface);
    }
    if !neighbour.solicitation || neighbour.sender == vip.address {
        return (Verdict::Drop, Reason::NdpClaim);
    }
    if neighbour.sender == Address::UNSPECIFIED {
        return (Verdict::Drop, Reason::NdpProbe);
    }
    let bucket = flow::bucket(world.hash_key(), &Balance::CLIENT, neighbour.sender, 0);
    let (answers, reason) = single_verdict(world.bucket(vip.group, bucket), world);
    if !answers && !(world.asks_me_alone(vip) && world.lease_holds()) {
        return (Verdict::Drop, reason);
    }
    let answer = Advertisement { request: *neighbour, own_mac: vip.own_mac, virtual_mac: vip.virtual_mac };
    (Verdict::Advertise(answer), Reason::NdpAnswered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::TABLE_WORDS;

    #[test]
    fn two_bits_a_bucket_the_lowest_bucket_first() {
        let mut table: Table = [0; TABLE_WORDS];
        table[0] = 0b11_10_01_00;
        table[TABLE_WORDS - 1] = 1 << 63;
        let states = [0, 1, 2, 3, 4, 65_535].map(|bucket| BucketState::in_table(&table, bucket));
        use BucketState::{Foreign, Gained, Lost, Mine};
        assert_eq!(states, [Foreign, Mine, Lost, Gained, Foreign, Lost]);
        for (mine, transitional) in [(false, false), (true, false), (false, true), (true, true)] {
            let state = BucketState::of(mine, transitional);
            assert_eq!(state as u8, u8::from(mine) | u8::from(transitional) << 1);
            assert_eq!(BucketState::in_word((state as u64) << 62, 31), state);
        }
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place, "a counter's place is its reason's");
            let same = Reason::ALL.iter().filter(|other| other.as_str() == reason.as_str()).count();
            assert_eq!(same, 1, "{}", reason.as_str());
        }
    }
}
