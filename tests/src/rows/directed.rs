//! Directed delivery: what becomes of a frame that came to one node alone. Each row once for each family, with a tag and
//! without.

use safekit_ebpf::forward::{HOPS_MAX, NOBODY, Road};
use safekit_ebpf::verdict::{BucketState, Reason};

use super::{CLIENT, CLIENT6, PORT};
use crate::fixture::{
    Circumstances, MARK, OWN_MAC, PORT_CONNECTION, PORT_TCP_FLOWS, PORT_UDP, PORT_UDP_FLOWS, VIP, VIP6,
};
use crate::packets::{ACK, BROADCAST, Builder, SYN, ethernet};

pub const OWNER: u8 = 1;
pub const HOLDER: u8 = 2;
/// A node that no heartbeat has told the card of.
const SILENT: u8 = 3;
pub const OWNER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
pub const HOLDER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x03];
pub const ROAD: Road = Road { owner: OWNER, holder: HOLDER };
/// The node that the frames of these rows come from, where one sent them on.
const SENDER: u8 = 5;
/// This node's own number.
const ME: u8 = 0;

pub struct Row {
    pub name: String,
    pub frame: Vec<u8>,
    pub circumstances: Circumstances,
    pub road: Road,
    pub fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Passes(Reason),
    Drops(Reason),
    /// In place, to whoever asked.
    Answered(Reason),
    Sent {
        reason: Reason,
        to: [u8; 6],
        hop: u8,
    },
}

pub fn all() -> Vec<Row> {
    let families = [("ipv4", false), ("ipv6", true)];
    let kinds = families.into_iter().flat_map(|(name, v6)| {
        [Kind { name, v6, tagged: false }, Kind { name, v6, tagged: true }].into_iter()
    });
    kinds
        .flat_map(|kind| [own(kind), others(kind), moving(kind), marks(kind), roads(kind), rest(kind)])
        .flatten()
        .collect()
}

/// How the frames of a row are built.
#[derive(Clone, Copy)]
pub struct Kind {
    name: &'static str,
    v6: bool,
    tagged: bool,
}

impl Kind {
    pub const V4: Self = Self { name: "ipv4", v6: false, tagged: false };
    pub const V6: Self = Self { name: "ipv6", v6: true, tagged: false };

    pub fn to(self, mac: [u8; 6]) -> Builder {
        let link = if self.tagged { ethernet(mac).vlan(3) } else { ethernet(mac) };
        if self.v6 { link.ipv6(CLIENT6, VIP6) } else { link.ipv4(CLIENT, VIP) }
    }

    /// `offset` in units of eight bytes.
    pub fn fragment(self, id: u16, offset: u16, more: bool) -> Builder {
        let whole = self.to(OWN_MAC);
        if self.v6 {
            whole.ipv6_fragment_of(id.into(), offset, more)
        } else {
            whole.fragment_id(id).fragment(offset, more)
        }
    }

    fn tcp(self, flags: u8) -> Vec<u8> {
        self.to(OWN_MAC).tcp(PORT, PORT_CONNECTION, flags).build()
    }

    fn udp(self) -> Vec<u8> {
        self.to(OWN_MAC).udp(PORT, PORT_UDP, 30).build()
    }

    fn echo(self) -> Vec<u8> {
        let ip = self.to(OWN_MAC);
        if self.v6 { ip.icmpv6(128, 0, 5).build() } else { ip.icmp(8, 0, 5).build() }
    }

    /// A packet of ours did not fit on its way to the client.
    fn error(self) -> Vec<u8> {
        let ip = self.to(OWN_MAC);
        if self.v6 {
            let ours = ethernet(OWN_MAC).ipv6(VIP6, CLIENT6).tcp(PORT_CONNECTION, PORT, ACK).quoted();
            ip.icmpv6_error(2, 0, &ours).build()
        } else {
            let ours = ethernet(OWN_MAC).ipv4(VIP, CLIENT).tcp(PORT_CONNECTION, PORT, ACK).quoted();
            ip.icmp_error(3, 4, &ours).build()
        }
    }

    /// Who has the virtual IP?
    fn question(self, mac: [u8; 6]) -> Vec<u8> {
        let link = if self.tagged { ethernet(mac).vlan(3) } else { ethernet(mac) };
        if self.v6 {
            link.ipv6(CLIENT6, VIP6).neighbour(135, VIP6, true).build()
        } else {
            link.arp(1, CLIENT, VIP).build()
        }
    }

    /// Another node's bucket, under a lease, on a road where all is known, until told otherwise.
    fn row(self, name: &str, frame: Vec<u8>) -> Row {
        let tag = if self.tagged { ", tagged" } else { "" };
        Row {
            name: format!("{}{tag}: {name}", self.name),
            frame,
            circumstances: Circumstances { state: BucketState::Foreign, lease: true },
            road: ROAD,
            fate: Fate::Drops(Reason::Foreign),
        }
    }
}

impl Row {
    fn when(mut self, state: BucketState) -> Self {
        self.circumstances.state = state;
        self
    }

    fn past_the_lease(mut self) -> Self {
        self.circumstances.lease = false;
        self
    }

    fn by(self, owner: u8, holder: u8) -> Self {
        Self { road: Road { owner, holder }, ..self }
    }

    fn hop(self, hop: u8) -> Self {
        Self { frame: marked(self.frame, hop), ..self }
    }

    fn from(mut self, mac: [u8; 6]) -> Self {
        self.frame[6..12].copy_from_slice(&mac);
        self
    }

    fn passes(self, reason: Reason) -> Self {
        Self { fate: Fate::Passes(reason), ..self }
    }

    fn drops(self, reason: Reason) -> Self {
        Self { fate: Fate::Drops(reason), ..self }
    }

    fn answered(self, reason: Reason) -> Self {
        Self { fate: Fate::Answered(reason), ..self }
    }

    fn goes_to_owner(self, hop: u8) -> Self {
        Self { fate: Fate::Sent { reason: Reason::ToOwner, to: OWNER_MAC, hop }, ..self }
    }

    fn goes_to_holder(self, hop: u8) -> Self {
        Self { fate: Fate::Sent { reason: Reason::ToHolder, to: HOLDER_MAC, hop }, ..self }
    }
}

/// As another node sends it on.
pub fn marked(mut frame: Vec<u8>, hop: u8) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mark(hop, SENDER));
    frame
}

/// The source of frames that a node of this cluster sends on.
pub fn mark(hop: u8, node: u8) -> [u8; 6] {
    [MARK[0], MARK[1], MARK[2], MARK[3], hop, node]
}

fn own(kind: Kind) -> Vec<Row> {
    use BucketState::{Gained, Mine};
    let row = |name, frame| kind.row(name, frame);
    vec![
        row("own: a connection begins", kind.tcp(SYN)).when(Mine).passes(Reason::Mine),
        row("own: a connection goes on", kind.tcp(ACK)).when(Mine).passes(Reason::Mine),
        row("own: a datagram", kind.udp()).when(Mine).passes(Reason::Mine),
        row("own: an echo request", kind.echo()).when(Mine).passes(Reason::Mine),
        row("own: an error", kind.error()).when(Mine).passes(Reason::IcmpError),
        row("own: sent on by a peer", kind.tcp(SYN)).when(Mine).hop(1).passes(Reason::Mine),
        row("own: at the last hop", kind.tcp(SYN)).when(Mine).hop(HOPS_MAX).passes(Reason::Mine),
        row("gained: a connection begins", kind.tcp(SYN)).when(Gained).passes(Reason::GainedNew),
        row("gained: a datagram", kind.udp()).when(Gained).hop(1).passes(Reason::Mine),
        row("own, past the lease: a connection begins", kind.tcp(SYN))
            .when(Mine)
            .past_the_lease()
            .drops(Reason::Lease),
        row("own, past the lease: no socket, and nobody else may have one", kind.tcp(ACK))
            .when(Mine)
            .past_the_lease()
            .drops(Reason::NoSocket),
    ]
}

fn others(kind: Kind) -> Vec<Row> {
    let row = |name, frame| kind.row(name, frame);
    let flows = |port| kind.to(OWN_MAC).tcp(PORT, port, ACK).build();
    vec![
        row("another's: a connection begins", kind.tcp(SYN)).goes_to_owner(1),
        row("another's: a connection goes on", kind.tcp(ACK)).goes_to_owner(1),
        row("another's: a datagram", kind.udp()).goes_to_owner(1),
        row("another's: an echo request", kind.echo()).goes_to_owner(1),
        row("another's: an error", kind.error()).goes_to_owner(1),
        row("another's: a packet of a rule by flows", flows(PORT_TCP_FLOWS)).goes_to_owner(1),
        row("another's, past the lease", kind.tcp(SYN)).past_the_lease().goes_to_owner(1),
        row("another's: the owner is said to be somebody else", kind.tcp(SYN)).hop(1).goes_to_owner(2),
        row("another's: and once more", kind.tcp(SYN)).hop(2).drops(Reason::Foreign),
    ]
}

/// A bucket on the move: each node that may hold the connection sees the frame once.
fn moving(kind: Kind) -> Vec<Row> {
    use BucketState::{Gained, Lost};
    let row = |name, frame| kind.row(name, frame);
    let noted = |flags| kind.to(OWN_MAC).tcp(PORT, PORT_TCP_FLOWS, flags).build();
    let noted_udp = || kind.to(OWN_MAC).udp(PORT, PORT_UDP_FLOWS, 30).build();
    vec![
        row("lost: a connection begins", kind.tcp(SYN)).when(Lost).goes_to_owner(1),
        row("lost: no socket here, the owner is asked first", kind.tcp(ACK)).when(Lost).goes_to_owner(1),
        row("lost: a datagram", kind.udp()).when(Lost).goes_to_owner(1),
        row("gained: no socket here, straight from the client", kind.tcp(ACK)).when(Gained).goes_to_holder(2),
        row("gained: no socket here, from the receiver", kind.tcp(ACK)).when(Gained).hop(1).goes_to_holder(2),
        row("gained: an error about a connection elsewhere", kind.error())
            .when(Gained)
            .hop(1)
            .goes_to_holder(2),
        row("lost: no socket here either, the next holder", kind.tcp(ACK))
            .when(Lost)
            .hop(2)
            .goes_to_holder(3),
        row("lost: the last hop that there is", kind.tcp(ACK))
            .when(Lost)
            .hop(HOPS_MAX - 1)
            .goes_to_holder(HOPS_MAX),
        row("lost: beyond the last hop", kind.tcp(ACK)).when(Lost).hop(HOPS_MAX).drops(Reason::NoSocket),
        row("lost: the round is over", kind.tcp(ACK))
            .when(Lost)
            .hop(2)
            .by(OWNER, NOBODY)
            .drops(Reason::NoSocket),
        row("gained, past the lease: its holder may have it", kind.tcp(ACK))
            .when(Gained)
            .past_the_lease()
            .goes_to_holder(2),
        row("by flows, lost: not noted here, the owner first", noted(ACK)).when(Lost).goes_to_owner(1),
        row("by flows, gained: not noted here", noted(ACK)).when(Gained).hop(1).goes_to_holder(2),
        row("by flows, lost: not noted here either", noted(ACK)).when(Lost).hop(2).goes_to_holder(3),
        row("by flows, gained: a connection begins", noted(SYN))
            .when(Gained)
            .hop(1)
            .passes(Reason::GainedNew),
        row("by flows, gained: an unknown datagram", noted_udp()).when(Gained).hop(1).goes_to_holder(2),
        row("by flows, gained: nobody has noted it", noted_udp())
            .when(Gained)
            .hop(1)
            .by(ME, NOBODY)
            .drops(Reason::NoFlow),
    ]
}

/// The hop mark is worth what its bytes say, whoever wrote them: at worst a frame has fewer hops left.
fn marks(kind: Kind) -> Vec<Row> {
    use BucketState::{Lost, Mine};
    let row = |name, frame| kind.row(name, frame);
    let near = |at: usize| {
        let mut mac = mark(2, SENDER);
        mac[at] ^= 1;
        mac
    };
    vec![
        row("a stranger with our mark: passes what is ours", kind.tcp(SYN))
            .when(Mine)
            .from(mark(2, 99))
            .passes(Reason::Mine),
        row("a stranger with our mark: sends nothing further", kind.tcp(SYN))
            .from(mark(2, 99))
            .drops(Reason::Foreign),
        row("a stranger with our mark and no hop", kind.tcp(SYN)).from(mark(0, 99)).goes_to_owner(1),
        row("a stranger with our mark and a hop out of bounds", kind.tcp(ACK))
            .when(Lost)
            .from(mark(0xff, 99))
            .drops(Reason::NoSocket),
        row("a frame with this node's own mark", kind.tcp(SYN)).from(mark(2, ME)).drops(Reason::Foreign),
        row("the mark of another cluster", kind.tcp(SYN)).from(near(2)).goes_to_owner(1),
        row("the mark of another cluster, by its last byte", kind.tcp(SYN)).from(near(3)).goes_to_owner(1),
        row("a source that begins as a mark does not", kind.tcp(SYN)).from(near(1)).goes_to_owner(1),
    ]
}

/// Where no road leads anywhere, the verdict stands.
fn roads(kind: Kind) -> Vec<Row> {
    use BucketState::{Foreign, Gained, Lost};
    let row = |name, frame| kind.row(name, frame);
    vec![
        row("nobody owns it", kind.tcp(SYN)).by(NOBODY, NOBODY).drops(Reason::Foreign),
        row("nobody owns it any more", kind.tcp(SYN)).when(Lost).by(NOBODY, HOLDER).drops(Reason::LostNew),
        row("the owner's card is not known", kind.tcp(SYN)).by(SILENT, HOLDER).drops(Reason::Foreign),
        row("the holder's card is not known", kind.tcp(ACK))
            .when(Gained)
            .by(ME, SILENT)
            .drops(Reason::NoSocket),
        row("the road leads back here", kind.tcp(SYN)).when(Foreign).by(ME, HOLDER).drops(Reason::Foreign),
        row("the round leads back here", kind.tcp(ACK)).when(Gained).by(ME, ME).drops(Reason::NoSocket),
    ]
}

fn rest(kind: Kind) -> Vec<Row> {
    use BucketState::Mine;
    let row = |name, frame| kind.row(name, frame);
    let elsewhere = |mac| kind.to(mac).tcp(PORT, PORT_CONNECTION, SYN).build();
    let later = || kind.fragment(0x7001, 185, true).payload(64).build();
    let answered = if kind.v6 { Reason::NdpAnswered } else { Reason::ArpAnswered };
    let mut rows = vec![
        row("own, for another node's card", elsewhere(OWNER_MAC)).when(Mine).drops(Reason::NotAddressed),
        row("own, for a card that nobody has", elsewhere([2, 9, 9, 9, 9, 9]))
            .when(Mine)
            .drops(Reason::NotAddressed),
        row("own, to the broadcast mac", elsewhere(BROADCAST)).when(Mine).drops(Reason::NotAddressed),
        row("another's, for another node's card", elsewhere(OWNER_MAC)).drops(Reason::Foreign),
        row("to a port without a rule", kind.to(OWN_MAC).tcp(PORT, 81, SYN).build()).drops(Reason::NoRule),
        row("of a protocol that no rule names", kind.to(OWN_MAC).other_protocol(47).build())
            .drops(Reason::Protocol),
        row("cut off", kind.tcp(SYN)[..50].to_vec()).drops(Reason::Malformed),
        row("later fragment of an unknown first", later()).drops(Reason::Fragment),
        row("later fragment of an unknown first, sent on by a peer", later()).hop(1).drops(Reason::Fragment),
        row("who has, another's, to all", kind.question(BROADCAST)).drops(Reason::Foreign),
        row("who has, own, to all", kind.question(BROADCAST)).when(Mine).answered(answered),
        row("who has, another's, to this node alone", kind.question(OWN_MAC)).answered(answered),
    ];
    rows.push(
        row("who has, past the lease, to this node alone: the owner knows", kind.question(OWN_MAC))
            .past_the_lease()
            .goes_to_owner(1),
    );
    rows
}
