//! The verdict: a pure function of a frame and of what the maps and the socket table say.
//!
//! | bucket                 | TCP SYN without ACK | anything else of TCP                          | UDP, echo, ARP |
//! |------------------------|---------------------|-----------------------------------------------|----------------|
//! | foreign                | drop                | drop                                          | drop           |
//! | mine                   | pass                | pass: the stack's own RST is right            | pass           |
//! | gained (transitional)  | pass                | pass iff a local connection or a valid cookie | pass           |
//! | lost (transitional)    | drop                | the same test                                 | drop           |
//!
//! An error of ICMP is judged as a packet of the flow that it quotes, and no SYN. Of a datagram in fragments the first is
//! judged; the others follow it while it is remembered, and only what passes or is sent on is. Rules with `evidence: flows` are judged
//! in `flows.rs`.
//!
//! Past the lease, mine and gained count as lost: a controller that stalls keeps its connections and takes no new one.

use crate::abi::{
    Address, Balance, EvidenceBy, FlowKey, FlowRecord, FragmentKey, FragmentNote, Limits, Rule, SCOPE_NONE,
    Table, Vip, scope_of_rule, scope_of_vip,
};
use crate::answer::Answer;
use crate::flow::{self, Bucket, HashKey};
use crate::flows;
use crate::forward::Trail;
use crate::packet::{self, Arp, Frame, FrameMut, Ip, Neighbour, Packet, Protocol, Version};
use crate::probe::{self, Probe};
use crate::transport::{self, Piece, Quoted, Transport};

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not about a virtual IP: to the stack, untouched.
    NotFarm,
    /// Ours: to the stack, under the network card's own address.
    Ours,
    /// Another node's, or nobody's.
    Drop,
    /// Answered in place, and sent back where it came from.
    Answer,
    /// The same for IPv6.
    Advertise,
}

/// Verdict, why, and whose counter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub reason: Reason,
    pub scope: u32,
    /// What to write into the frame, where something is. Here and not in the verdicts, so that it is defined whatever the
    /// verdict: the compiler copies and shifts such words before it knows whether they are needed, and the verifier
    /// minds what is not defined.
    pub answer: Answer,
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
    /// Passed: of a flow that was noted here, in a bucket on the move.
    KeptFlow = "kept_flow",
    /// Dropped: of a connection that lives elsewhere, in a bucket on the move.
    NoSocket = "no_socket",
    /// Dropped: of a flow that is not known to be this node's, in a bucket on the move.
    NoFlow = "no_flow",
    /// Dropped: ours, but the lease has ended.
    Lease = "lease",
    /// Dropped: to a virtual IP, to a port that no rule names.
    NoRule = "no_rule",
    /// Dropped: to a virtual IP, of a protocol that no rule can name.
    Protocol = "protocol",
    /// Dropped: a fragment whose first one has not passed here, or not lately.
    Fragment = "fragment",
    /// Passed: a fragment whose first one has passed.
    FragmentFollows = "fragment_follows",
    /// Passed: an error about a packet of a flow of ours.
    IcmpError = "icmp_error",
    /// Dropped: an error that quotes no packet of a rule of the virtual IP.
    IcmpStray = "icmp_stray",
    /// Dropped: ICMP that asks for no echo and is no error.
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
    /// Dropped: a probe of this cluster; it has done its work.
    Probe = "probe",
    /// Dropped: a probe of another cluster.
    ProbeForeign = "probe_foreign",
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
    fn vip(&self, address: Address) -> Option<&Vip>;
    /// The narrowest rule of the virtual IP that covers the port.
    fn rule(&self, vip: &Vip, protocol: Protocol, port: u16) -> Option<&Rule>;
    /// Foreign where there is no such group.
    fn bucket(&self, group: u16, bucket: Bucket) -> BucketState;
    fn lease_holds(&self) -> bool;
    /// What the socket table says of a TCP flow to the destination of `ip`.
    fn evidence(&self, ip: &Ip, flow: &Flow) -> Evidence;
    /// Directed delivery: the frame names this node's card, so a question in it comes to this node alone.
    fn asks_me_alone(&self, _vip: &Vip) -> bool {
        false
    }
    /// The boot clock, in nanoseconds.
    fn now(&self) -> u64;
    fn limits(&self) -> Limits;
    /// [`FragmentNote::NONE`] where there is none.
    fn first_fragment(&self, key: &FragmentKey) -> FragmentNote;
    fn remember_fragments(&self, key: &FragmentKey, note: &FragmentNote);
    /// The frame at hand is a first fragment that does not pass. It may still be sent on: see [`Roads`](crate::forward::Roads).
    fn forget_fragments(&self, key: &FragmentKey);
    /// The frame at hand goes where its first fragment went.
    fn follow_trail(&self, trail: Trail);
    /// [`FlowRecord::NONE`] where there is none; the same for newcomers.
    fn flow(&self, key: &FlowKey) -> FlowRecord;
    fn set_flow(&self, key: &FlowKey, record: &FlowRecord);
    fn newcomer(&self, key: &FlowKey) -> FlowRecord;
    fn set_newcomer(&self, key: &FlowKey, record: &FlowRecord);
    /// When a bucket was last another node's; always, where that is not known.
    fn away(&self, row: u8, bucket: Bucket) -> u64;
    /// In [`flows::sight_time`]; the end of time, where that is not known.
    fn sight(&self, slot: u32) -> u32;
    fn set_sight(&self, slot: u32, time: u32);

    /// Notes that a probe has arrived; false when it is another cluster's.
    fn hear(&self, _probe: &Probe) -> bool {
        false
    }

    /// Counts a packet that is decided on its own: it opens a connection, or belongs to none.
    fn audit(&self, _group: u16, _bucket: Bucket, _passed: bool) {}
}

/// A flow between a client and a port of a virtual IP, and what a packet of it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub protocol: Protocol,
    pub client: Address,
    pub client_port: u16,
    pub port: u16,
    /// The virtual IP, by its place.
    pub vip: u16,
    /// TCP: SYN without ACK.
    pub opening: bool,
    /// TCP: FIN or RST.
    pub closing: bool,
    /// The packet is an error about one of this flow.
    pub quoted: bool,
    /// Where the TCP header of a packet of this flow begins; 0 where there is none.
    pub header: usize,
}

#[inline(always)]
pub fn decide(frame: &impl Frame, world: &impl World) -> Decision {
    match packet::parse(frame) {
        Packet::Ip(ip) => {
            if let Some(neighbour) = packet::parse_neighbour(frame, &ip)
                && let Some(vip) = world.vip(neighbour.target)
            {
                return decide_neighbour(&neighbour, vip, world);
            }
            match world.vip(ip.destination) {
                Some(vip) => decide_ip(frame, &ip, vip, world),
                None => outside(Verdict::NotFarm, Reason::NotVip),
            }
        }
        Packet::Arp(arp) => decide_arp(&arp, world),
        Packet::Other => probe::decide(frame, world),
        Packet::Malformed => outside(Verdict::Drop, Reason::Malformed),
    }
}

/// Carries out what a verdict says about the bytes.
#[inline(always)]
pub fn apply(frame: &mut impl FrameMut, decision: &Decision) -> Option<()> {
    match &decision.verdict {
        Verdict::NotFarm | Verdict::Drop => Some(()),
        Verdict::Ours => frame.write(0, decision.answer.own_mac),
        Verdict::Answer => decision.answer.arp(frame),
        Verdict::Advertise => decision.answer.neighbour(frame),
    }
}

#[inline(always)]
pub(crate) fn outside(verdict: Verdict, reason: Reason) -> Decision {
    let answer = Answer { offset: 0, own_mac: [0; 6], virtual_mac: [0; 6] };
    Decision { verdict, reason, scope: SCOPE_NONE, answer }
}

#[inline(always)]
fn about(vip: &Vip, offset: usize, (verdict, reason): (Verdict, Reason)) -> Decision {
    let answer = Answer { offset, own_mac: vip.own_mac, virtual_mac: vip.virtual_mac };
    Decision { verdict, reason, scope: scope_of_vip(vip.index), answer }
}

#[inline(always)]
fn decide_ip(frame: &impl Frame, ip: &Ip, vip: &Vip, world: &impl World) -> Decision {
    let of_vip = scope_of_vip(vip.index);
    let carried = transport::parse_transport(frame, ip);
    let judgement = if vip.interface != world.interface() {
        Judgement { passes: false, reason: Reason::WrongInterface, scope: of_vip }
    } else {
        match subject(frame, ip, vip, &carried.transport) {
            Subject::Flow(flow) => judge_flow(ip, vip, &flow, world),
            Subject::Echo { client, id, quoted } => {
                let bucket = flow::bucket(world.hash_key(), &Balance::CONNECTION, client, id);
                let (passes, reason) = single_verdict(world.bucket(vip.group, bucket), world);
                Judgement { passes, reason, scope: of_vip }.of_error(quoted)
            }
            Subject::Rest => {
                let (passes, reason) = follow(&fragment_key(ip, vip, carried.id), world);
                Judgement { passes, reason, scope: of_vip }
            }
            Subject::Refused(reason) => Judgement { passes: false, reason, scope: of_vip },
        }
    };
    if carried.piece == Piece::First {
        set_example(&fragment_key(ip, vip, carried.id), judgement.passes, world);
    }
    let verdict = if judgement.passes { Verdict::Ours } else { Verdict::Drop };
    Decision { scope: judgement.scope, ..about(vip, 0, (verdict, judgement.reason)) }
}

struct Judgement {
    passes: bool,
    reason: Reason,
    scope: u32,
}

impl Judgement {
    /// Errors that pass are counted as what they are.
    #[inline(always)]
    fn of_error(self, quoted: bool) -> Self {
        let reason = if quoted && self.passes { Reason::IcmpError } else { self.reason };
        Self { reason, ..self }
    }
}

/// What a packet is judged by.
enum Subject {
    Flow(Flow),
    Echo {
        client: Address,
        id: u16,
        quoted: bool,
    },
    /// The first fragment of its datagram.
    Rest,
    Refused(Reason),
}

#[inline(always)]
fn subject(frame: &impl Frame, ip: &Ip, vip: &Vip, transport: &Transport) -> Subject {
    let nothing_said = Flow {
        protocol: Protocol::Udp,
        client: ip.source,
        client_port: 0,
        port: 0,
        vip: vip.index,
        opening: false,
        closing: false,
        quoted: false,
        header: 0,
    };
    match *transport {
        Transport::Tcp(tcp) => Subject::Flow(Flow {
            protocol: Protocol::Tcp,
            client_port: tcp.source,
            port: tcp.destination,
            opening: tcp.opening,
            closing: tcp.closing,
            header: tcp.offset,
            ..nothing_said
        }),
        Transport::Udp { source, destination } => {
            Subject::Flow(Flow { client_port: source, port: destination, ..nothing_said })
        }
        Transport::EchoRequest { id } => Subject::Echo { client: ip.source, id, quoted: false },
        Transport::IcmpError(quote) => match transport::parse_quoted(frame, ip.version, quote, vip.address) {
            Some(Quoted::Flow { protocol, port, client, client_port }) => {
                Subject::Flow(Flow { protocol, client, client_port, port, quoted: true, ..nothing_said })
            }
            Some(Quoted::EchoReply { client, id }) => Subject::Echo { client, id, quoted: true },
            None => Subject::Refused(Reason::IcmpStray),
        },
        Transport::IcmpOther => Subject::Refused(Reason::IcmpOther),
        Transport::Rest => Subject::Rest,
        Transport::Other => Subject::Refused(Reason::Protocol),
        Transport::Malformed => Subject::Refused(Reason::Malformed),
    }
}

#[inline(always)]
fn judge_flow(ip: &Ip, vip: &Vip, flow: &Flow, world: &impl World) -> Judgement {
    let Some(rule) = world.rule(vip, flow.protocol, flow.port) else {
        let reason = if flow.quoted { Reason::IcmpStray } else { Reason::NoRule };
        return Judgement { passes: false, reason, scope: scope_of_vip(vip.index) };
    };
    let bucket = flow::bucket(world.hash_key(), &rule.balance, flow.client, flow.client_port);
    let state = world.bucket(rule.group, bucket);
    let (passes, reason) = match (rule.evidence, flow.protocol) {
        (EvidenceBy::Sockets, Protocol::Tcp) => tcp_verdict(state, ip, flow, world),
        (EvidenceBy::Sockets, Protocol::Udp) => single_verdict(state, world),
        (EvidenceBy::Flows | EvidenceBy::FlowsUnwatched, Protocol::Tcp | Protocol::Udp) => {
            flows::verdict(state, bucket, rule, flow, world)
        }
    };
    if !flow.quoted && (flow.opening || flow.protocol == Protocol::Udp) {
        world.audit(rule.group, bucket, passes);
    }
    Judgement { passes, reason, scope: scope_of_rule(rule.index) }.of_error(flow.quoted)
}

#[inline(always)]
fn fragment_key(ip: &Ip, vip: &Vip, id: u32) -> FragmentKey {
    let protocol = match ip.version {
        Version::V4 => ip.protocol,
        Version::V6 => 0,
    };
    FragmentKey { source: ip.source, id, vip: vip.index, protocol, pad: 0 }
}

#[inline(never)]
fn follow(key: &FragmentKey, world: &impl World) -> (bool, Reason) {
    let note = world.first_fragment(key);
    if note == FragmentNote::NONE || world.now() >= note.until_ns {
        return (false, Reason::Fragment);
    }
    let trail = Trail(note.trail);
    if trail == Trail::NONE {
        return (true, Reason::FragmentFollows);
    }
    world.follow_trail(trail);
    (false, Reason::Fragment)
}

/// For the other fragments of a datagram whose first one is at hand.
#[inline(always)]
pub fn note_of(trail: Trail, world: &impl World) -> FragmentNote {
    FragmentNote { until_ns: world.now() + world.limits().fragment_ns, trail: trail.0 }
}

/// A first fragment that does not pass ends what an earlier datagram of the same name had left.
#[inline(never)]
fn set_example(key: &FragmentKey, passes: bool, world: &impl World) {
    if passes {
        world.remember_fragments(key, &note_of(Trail::NONE, world));
    } else {
        world.forget_fragments(key);
    }
}

/// TCP: connections can be told apart, so a bucket can move under them.
#[inline(always)]
fn tcp_verdict(state: BucketState, ip: &Ip, flow: &Flow, world: &impl World) -> (bool, Reason) {
    match state {
        // First: most frames of a farm are another node's, and cost neither clock nor lookup.
        BucketState::Foreign => (false, Reason::Foreign),
        BucketState::Mine | BucketState::Gained if !world.lease_holds() => {
            if flow.opening {
                (false, Reason::Lease)
            } else {
                by_evidence(ip, flow, world)
            }
        }
        BucketState::Mine => (true, Reason::Mine),
        BucketState::Gained if flow.opening => (true, Reason::GainedNew),
        BucketState::Lost if flow.opening => (false, Reason::LostNew),
        BucketState::Gained | BucketState::Lost => by_evidence(ip, flow, world),
    }
}

#[inline(always)]
fn by_evidence(ip: &Ip, flow: &Flow, world: &impl World) -> (bool, Reason) {
    match world.evidence(ip, flow) {
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
        return about(vip, 0, (Verdict::Drop, Reason::ArpClaim));
    }
    let Some(vip) = world.vip(Address::v4(arp.target)) else {
        return outside(Verdict::NotFarm, Reason::NotVip);
    };
    about(vip, arp.offset, answer_arp(arp, vip, world))
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
    let asked_alone = world.asks_me_alone(vip) && world.lease_holds();
    if !answers && !asked_alone {
        return (Verdict::Drop, reason);
    }
    (Verdict::Answer, Reason::ArpAnswered)
}

/// Neighbour discovery about a virtual IP never reaches the stack either.
#[inline(always)]
fn decide_neighbour(neighbour: &Neighbour, vip: &Vip, world: &impl World) -> Decision {
    about(vip, neighbour.offset, answer_neighbour(neighbour, vip, world))
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
    let asked_alone = world.asks_me_alone(vip) && world.lease_holds();
    if !answers && !asked_alone {
        return (Verdict::Drop, reason);
    }
    (Verdict::Advertise, Reason::NdpAnswered)
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
