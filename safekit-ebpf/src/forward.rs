//! Directed delivery: a client's frame comes to one node's own MAC, and that node sends it on to the bucket's owner, by
//! rewriting the addresses of the Ethernet header.
//!
//! ```text
//! client ──▶ receiver ──1──▶ owner ──2──▶ holder ──3──▶ next holder …
//!            not mine        no socket    no socket
//! ```
//!
//! A bucket on the move has an owner that takes what is new, and holders: the nodes whose heartbeats say that they have
//! live connections there. Each node passes a frame that it has no socket (or note of the flow) for to the next holder round the ring of
//! nodes, beginning behind the owner; whose connection it is will keep it.
//!
//! The source of a frame sent on is its hop mark, `02:48`, two bytes of the cluster, the hop, the node. It rises with
//! each hop, so nothing circles; it belongs to the node, so a switch learns nothing wrong from it.
//!
//! A fragment that is not the first of its datagram names no port, hence no bucket. Each node that sent the first one on
//! has noted where it went and with which hop, and sends the others after it.
//!
//! ```text
//! ROADS        entry         -> [Road; 65,536]   two entries for each group with directed delivery
//! ROADS_ACTIVE group         -> entry + 1        0 = the group has none
//! PEER_MACS    vip, node     -> MAC (see `guard::key`), 0 = not known
//! FORWARDED    0             -> [u64; 16]        per CPU, by hop
//! ```

use crate::flow::Bucket;
use crate::guard;
use crate::packet::{Ethernet, Frame, FrameMut};
use crate::verdict::{BucketState, Reason};

pub const MAP_ROADS: &str = "ROADS";
pub const MAP_ROADS_ACTIVE: &str = "ROADS_ACTIVE";
pub const MAP_PEER_MACS: &str = "PEER_MACS";
pub const MAP_FORWARDED: &str = "FORWARDED";
/// Which virtual IPs are delivered this way: one bit each, by place.
pub const GLOBAL_DIRECTED: &str = "DIRECTED";
/// This node's hop mark; the hop is filled in. Two bytes of padding.
pub const GLOBAL_MARK: &str = "MARK";

pub const NODES: usize = 128;
/// Of a road: it leads nowhere.
pub const NOBODY: u8 = u8::MAX;
/// A frame ends here at the latest.
pub const HOPS_MAX: u8 = 7;
/// A power of two with room to spare: the verifier knows less of a hop than the compiler.
pub const HOP_SLOTS: usize = 16;
/// The first two bytes of a hop mark.
pub const MARK_PREFIX: [u8; 2] = [0x02, 0x48];

/// Where the frames of one bucket go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Road {
    pub owner: u8,
    /// The next node that may hold a connection.
    pub holder: u8,
}

impl Road {
    pub const NONE: Self = Self { owner: NOBODY, holder: NOBODY };
}

/// The last bucket that was looked at: the one that the verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub group: u16,
    pub bucket: Bucket,
    pub state: BucketState,
}

/// The virtual IP that the frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    pub index: u16,
    pub own_mac: [u8; 6],
}

/// What the kernel knows of the way to other nodes.
pub trait Roads {
    /// None when it is delivered in another way.
    fn directed(&self) -> Option<About>;
    fn asked(&self) -> Option<Asked>;
    fn road(&self, asked: &Asked) -> Road;
    fn peer_mac(&self, vip: u16, node: u8) -> Option<[u8; 6]>;
    fn mark(&self) -> [u8; 6];
    /// Where the first fragment went; [`Trail::NONE`] where the frame follows none.
    fn followed(&self) -> Trail;
    /// Where the frame goes: noted for the other fragments, if it is the first of several.
    fn leave_trail(&self, trail: Trail);
}

/// The way of a frame that was sent on: to a holder (highest bit) · zero · hop u8 · MAC. One word, because it lies in a
/// map, and because the verifier minds parts of a value that are not defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trail(pub u64);

impl Trail {
    pub const NONE: Self = Self(0);
    const TO_HOLDER: u64 = 1 << 63;

    #[inline(always)]
    fn to_owner(mac: [u8; 6], hop: u8) -> Self {
        Self(guard::key(mac) | u64::from(hop) << 48)
    }

    #[inline(always)]
    fn to_holder(mac: [u8; 6], hop: u8) -> Self {
        Self(Self::to_owner(mac, hop).0 | Self::TO_HOLDER)
    }

    #[inline(always)]
    fn hop(self) -> u8 {
        (self.0 >> 48) as u8
    }

    #[inline(always)]
    fn reason(self) -> Reason {
        if self.0 & Self::TO_HOLDER == 0 { Reason::ToOwner } else { Reason::ToHolder }
    }

    #[inline(always)]
    fn forward(self, mark: [u8; 6]) -> Forward {
        let [_, hop, a, b, c, d, e, f] = self.0.to_be_bytes();
        let from = [mark[0], mark[1], mark[2], mark[3], hop, mark[5]];
        Forward { to: [a, b, c, d, e, f], from, hop }
    }
}

/// What becomes of a frame instead of its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detour {
    Drop(Reason),
    Forward(Reason, Forward),
}

/// New addresses for a frame that is another node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    pub to: [u8; 6],
    pub from: [u8; 6],
    pub hop: u8,
}

impl Forward {
    #[inline(always)]
    pub fn write(&self, frame: &mut impl FrameMut) -> Option<()> {
        let ethernet = frame.read::<Ethernet>(0)?;
        frame.write(0, Ethernet { destination: self.to, source: self.from, ethertype: ethernet.ethertype })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Owner,
    Holder,
}

/// For a frame that flooding would have brought to every node. None: the verdict stands.
#[inline(always)]
pub fn detour(frame: &impl Frame, roads: &impl Roads, reason: Reason, passes: bool) -> Option<Detour> {
    let vip = roads.directed()?;
    let ethernet = frame.read::<Ethernet>(0)?;
    if ethernet.destination != vip.own_mac {
        // A switch that has not learnt yet sends it everywhere; whom it names takes it.
        return passes.then_some(Detour::Drop(Reason::NotAddressed));
    }
    let mark = roads.mark();
    let hop = hop_of(ethernet.source, mark);
    let followed = roads.followed();
    // The first fragment came with a smaller hop than it left with. One that did not is of another datagram, or forged:
    // without this, two nodes whose notes name each other would send it to and fro.
    let trail = match followed {
        Trail::NONE => by_bucket(roads, vip.index, reason, hop, mark[5])?,
        trail if hop < trail.hop() => trail,
        Trail(_) => return None,
    };
    roads.leave_trail(trail);
    Some(Detour::Forward(trail.reason(), trail.forward(mark)))
}

#[inline(always)]
fn by_bucket(roads: &impl Roads, vip: u16, reason: Reason, hop: u8, me: u8) -> Option<Trail> {
    let asked = roads.asked()?;
    let next = next(reason, asked.state, hop)?;
    let road = roads.road(&asked);
    let node = match next {
        Next::Owner => road.owner,
        Next::Holder => road.holder,
    };
    if node == me {
        return None;
    }
    let mac = roads.peer_mac(vip, node)?;
    Some(match next {
        Next::Owner => Trail::to_owner(mac, hop + 1),
        Next::Holder => Trail::to_holder(mac, if hop == 0 { 2 } else { hop + 1 }),
    })
}

/// 0: not from a node of this cluster.
#[inline(always)]
fn hop_of(source: [u8; 6], mark: [u8; 6]) -> u8 {
    let marked = source[0] == mark[0] && source[1] == mark[1] && source[2] == mark[2] && source[3] == mark[3];
    if marked { source[4] & HOPS_MAX } else { 0 }
}

/// The owner is tried twice, because the receiver may know an older view than the node that it takes for the owner.
#[inline(always)]
fn next(reason: Reason, state: BucketState, hop: u8) -> Option<Next> {
    let not_mine = matches!(state, BucketState::Lost | BucketState::Foreign);
    let moving = matches!(state, BucketState::Lost | BucketState::Gained);
    match reason {
        Reason::Foreign | Reason::LostNew if hop < 2 => Some(Next::Owner),
        Reason::NoSocket | Reason::NoFlow if not_mine && hop == 0 => Some(Next::Owner),
        Reason::NoSocket | Reason::NoFlow if moving && hop < HOPS_MAX => Some(Next::Holder),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_rise_and_end() {
        use BucketState::{Foreign, Gained, Lost, Mine};
        let owner = |reason, state, hop| next(reason, state, hop) == Some(Next::Owner);
        let holder = |reason, state, hop| next(reason, state, hop) == Some(Next::Holder);
        assert!(owner(Reason::Foreign, Foreign, 0) && owner(Reason::Foreign, Foreign, 1));
        assert!(owner(Reason::LostNew, Lost, 0) && owner(Reason::NoSocket, Lost, 0));
        assert!(holder(Reason::NoSocket, Gained, 0) && holder(Reason::NoSocket, Gained, 1));
        assert!(owner(Reason::NoFlow, Lost, 0) && holder(Reason::NoFlow, Gained, 1));
        assert!(holder(Reason::NoSocket, Lost, 1) && holder(Reason::NoSocket, Lost, HOPS_MAX - 1));
        for (reason, state, hop) in [
            (Reason::Foreign, Foreign, 2),
            (Reason::LostNew, Lost, 2),
            (Reason::NoSocket, Lost, HOPS_MAX),
            (Reason::NoSocket, Mine, 0),
            (Reason::NoFlow, Mine, 0),
            (Reason::NoFlow, Lost, HOPS_MAX),
            (Reason::Lease, Mine, 0),
            (Reason::Mine, Mine, 0),
            (Reason::NoRule, Foreign, 0),
        ] {
            assert!(next(reason, state, hop).is_none(), "{reason:?} {state:?} {hop}");
        }
    }

    #[test]
    fn only_marks_of_this_cluster_count() {
        let mark = [0x02, 0x48, 7, 8, 0, 3];
        assert_eq!(hop_of([0x02, 0x48, 7, 8, 2, 1], mark), 2);
        assert_eq!(hop_of([0x02, 0x48, 7, 9, 2, 1], mark), 0);
        assert_eq!(hop_of([0x02, 0, 0, 0, 2, 1], mark), 0);
        assert!(hop_of([0x02, 0x48, 7, 8, 0xff, 1], mark) <= HOPS_MAX, "a forged mark stays in its bounds");
    }
}
