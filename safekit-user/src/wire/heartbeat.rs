//! The heartbeat: what each node says to all others, forty times a second.
//!
//! ```text
//! clear, authenticated   magic "SK" · version u8 · key id u8 · cluster id [u8; 8] · sender u8 · boot [u8; 16] · seq u64
//! sealed                 body version u8 · Body, as postcard
//! tag                    [u8; 16]
//! ```

use serde::{Deserialize, Serialize};

use crate::types::ids::NODES_MAX;
use crate::types::notes::{AUDIT_CELLS_MAX, INTERFACES_MAX, UNSEEN_MAX};
use crate::types::snapshot::MemberState;
use crate::types::{BootId, BucketBits, GroupId, NodeId, NodeSet, Notes, Seq};

/// A heartbeat that has been authenticated (or is about to be sealed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub sender: NodeId,
    pub boot: BootId,
    pub seq: Seq,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Beat(Beat),
    /// Sent by the parent of a daemon that has died, in that daemon's name; `seq` is [`OBITUARY_SEQ`].
    Obituary,
}

/// The parent's nonce: no daemon counts that far, so key and nonce never meet twice.
pub const OBITUARY_SEQ: Seq = Seq(u64::MAX);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    pub state: MemberState,
    /// The sender hears somebody: a peer, or at least frames on the virtual IP's network.
    pub rx_ok: bool,
    /// Hash of everything that decides ownership; nodes that differ are in no common view.
    pub config: u64,
    pub view: NodeSet,
    /// One for each life of a peer that the sender has heard of in its present boot. A node can have several:
    /// the one that counts, and boots that have not proved yet that they are more than a recording.
    pub peers: Vec<PeerReport>,
    /// Acknowledgements handed on between two peers of which one does not hear the other.
    pub acks: Vec<RelayedAck>,
    /// Only while the sender holds live connections in buckets that it does not own.
    pub held: Vec<Held>,
    pub notes: Notes,
}

/// What the sender knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    pub node: NodeId,
    /// First four bytes of the boot that is reported on: an acknowledgement of another life is none.
    pub boot_tag: u32,
    /// Newest heartbeat that the sender received itself: the relayed evidence (R1). Zero: none.
    pub direct_seq: Seq,
    /// Newest heartbeat that it knows of, relayed ones included: the acknowledgement (R4, R5).
    pub best_seq: Seq,
    /// The next five are what `direct_seq` said, so that evidence never travels more than one hop.
    pub state: MemberState,
    pub rx_ok: bool,
    pub same_config: bool,
    /// It reported live connections in buckets of others; in which, only it can tell.
    pub holds: bool,
    pub view: NodeSet,
}

/// "`from` knows of heartbeat `seq` of `to`", told by a third node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayedAck {
    pub from: NodeId,
    pub from_tag: u32,
    pub to: NodeId,
    pub to_tag: u32,
    pub seq: Seq,
}

/// Live connections that the sender keeps in buckets of others, coarsely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub group: GroupId,
    /// One bit for each run of [`HELD_RUN`] buckets.
    pub runs: BucketBits,
}

/// Buckets to one bit of [`Held`]: 65,536 buckets fit 512 bytes.
pub const HELD_RUN: usize = 16;

/// The body's own version: the clear header says how it is sealed, this says what is inside.
pub const BODY_VERSION: u8 = 2;

/// Two lives for each of [`NODES_MAX`] nodes.
pub const REPORTS_MAX: usize = 2 * NODES_MAX;
pub const ACKS_MAX: usize = NODES_MAX;
pub const HELD_MAX: usize = 64;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("an empty heartbeat")]
    Empty,
    #[error("heartbeat body version {0}; this is version {BODY_VERSION}")]
    Version(u8),
    #[error("cannot decode the heartbeat")]
    Decode(#[source] postcard::Error),
    #[error("{0} bytes behind the heartbeat")]
    Trailing(usize),
    #[error("{count} {what}; at most {max}")]
    TooMany { what: &'static str, count: usize, max: usize },
    #[error("node {0}; at most {NODES_MAX} nodes")]
    Node(u8),
    #[error("held connections over {0} runs of buckets")]
    Runs(usize),
    #[error("a page of the audit whose lists differ in length")]
    AuditPage,
}

pub fn encode(body: &Body) -> Vec<u8> {
    let start = vec![BODY_VERSION];
    postcard::to_extend(body, start)
        .expect("a Vec takes every byte, and the body has no maps of unknown length")
}

/// Refuses everything that [`encode`] cannot have made, and lists longer than an engine sends.
pub fn decode(bytes: &[u8]) -> Result<Body, Error> {
    let (version, rest) = bytes.split_first().ok_or(Error::Empty)?;
    if *version != BODY_VERSION {
        return Err(Error::Version(*version));
    }
    let (body, trailing) = postcard::take_from_bytes::<Body>(rest).map_err(Error::Decode)?;
    if !trailing.is_empty() {
        return Err(Error::Trailing(trailing.len()));
    }
    match &body {
        Body::Obituary => {}
        Body::Beat(beat) => check_bounds(beat)?,
    }
    Ok(body)
}

fn check_bounds(beat: &Beat) -> Result<(), Error> {
    at_most("peers", beat.peers.len(), REPORTS_MAX)?;
    at_most("acknowledgements", beat.acks.len(), ACKS_MAX)?;
    at_most("held groups", beat.held.len(), HELD_MAX)?;
    let nodes = beat.peers.iter().map(|report| report.node);
    let relayed = beat.acks.iter().flat_map(|ack| [ack.from, ack.to]);
    if let Some(node) = nodes.chain(relayed).find(|node| usize::from(node.0) >= NODES_MAX) {
        return Err(Error::Node(node.0));
    }
    check_notes(&beat.notes)?;
    match beat.held.iter().map(|held| held.runs.capacity()).find(|runs| !(64..=4096).contains(runs)) {
        Some(runs) => Err(Error::Runs(runs)),
        None => Ok(()),
    }
}

fn check_notes(notes: &Notes) -> Result<(), Error> {
    at_most("interfaces", notes.macs.len(), INTERFACES_MAX)?;
    at_most("missed probes", notes.unseen.len(), UNSEEN_MAX)?;
    let Some(page) = &notes.audit else { return Ok(()) };
    at_most("audited cells", page.seen.len(), AUDIT_CELLS_MAX)?;
    if page.seen.len() == page.passed.len() { Ok(()) } else { Err(Error::AuditPage) }
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), Error> {
    if count > max { Err(Error::TooMany { what, count, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::notes::{AuditPage, Unseen};

    fn sample() -> Body {
        let mut runs = BucketBits::none(4096);
        runs.insert(crate::types::Bucket(77));
        let report = |node| PeerReport {
            node: NodeId(node),
            boot_tag: 0xdead_beef,
            direct_seq: Seq(1000),
            best_seq: Seq(1001),
            state: MemberState::Active,
            rx_ok: true,
            same_config: true,
            holds: true,
            view: NodeSet(0b1011),
        };
        Body::Beat(Beat {
            state: MemberState::Leaving,
            rx_ok: false,
            config: u64::MAX,
            view: NodeSet(u128::MAX),
            peers: vec![report(0), report(127)],
            acks: vec![RelayedAck { from: NodeId(1), from_tag: 2, to: NodeId(3), to_tag: 4, seq: Seq(5) }],
            held: vec![Held { group: GroupId(1), runs }],
            notes: Notes {
                macs: vec![[2, 0, 0, 0, 0, 1]],
                unseen: vec![Unseen { vip: 3, nodes: NodeSet(0b100) }],
                audit: Some(Box::new(AuditPage {
                    epoch: 7,
                    group: GroupId(1),
                    first: 64,
                    seen: vec![1, 200],
                    passed: vec![0, 200],
                })),
            },
        })
    }

    #[test]
    fn what_is_encoded_comes_back() {
        for body in [sample(), Body::Obituary] {
            assert_eq!(decode(&encode(&body)), Ok(body));
        }
    }

    /// The bytes are a contract between nodes: this fails when a field moves without a new version.
    #[test]
    fn the_bytes_are_pinned() {
        let beat = Beat {
            state: MemberState::Active,
            rx_ok: true,
            config: 300,
            view: NodeSet(0b11),
            peers: vec![],
            acks: vec![],
            held: vec![],
            notes: Notes::default(),
        };
        assert_eq!(encode(&Body::Beat(beat)), [2, 0, 2, 1, 0xac, 2, 3, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(&Body::Obituary), [2, 1]);
    }

    #[test]
    fn what_no_engine_sends_is_refused() {
        let with = |change: fn(&mut Beat)| {
            let Body::Beat(mut beat) = sample() else { unreachable!("the sample is a beat") };
            change(&mut beat);
            decode(&encode(&Body::Beat(beat)))
        };
        assert_eq!(decode(&[]), Err(Error::Empty));
        assert_eq!(decode(&[9, 1]), Err(Error::Version(9)));
        assert_eq!(decode(&[BODY_VERSION, 1, 0]), Err(Error::Trailing(1)));
        assert_eq!(with(|beat| beat.peers[0].node = NodeId(128)), Err(Error::Node(128)));
        assert_eq!(with(|beat| beat.acks[0].to = NodeId(255)), Err(Error::Node(255)));
        assert_eq!(with(|beat| beat.held[0].runs = BucketBits::none(8192)), Err(Error::Runs(8192)));
        let half_a_page = with(|beat| beat.notes.audit.as_mut().unwrap().seen.clear());
        assert_eq!(half_a_page, Err(Error::AuditPage));
        let macs = with(|beat| beat.notes.macs = vec![[0; 6]; INTERFACES_MAX + 1]);
        assert!(matches!(macs, Err(Error::TooMany { what: "interfaces", .. })));
        assert!(matches!(
            with(|beat| beat.peers = vec![beat.peers[0]; REPORTS_MAX + 1]),
            Err(Error::TooMany { what: "peers", .. })
        ));
        assert!(matches!(
            with(|beat| beat.held = vec![beat.held[0].clone(); HELD_MAX + 1]),
            Err(Error::TooMany { what: "held groups", .. })
        ));
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = encode(&sample());
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "{length} of {} bytes were taken", whole.len());
        }
    }

    /// Authenticated peers only reach the decoder, but a peer can run another build: no bytes may panic it.
    #[test]
    fn mutated_bytes_never_panic() {
        let whole = encode(&sample());
        let mut state = 0x5eed_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let mut taken = 0_u32;
        for _ in 0..200_000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random() % 4 {
                let at = random() % bytes.len();
                bytes[at] = random() as u8;
            }
            bytes.truncate(bytes.len() - random() % 3);
            if let Ok(body) = decode(&bytes) {
                taken += 1;
                assert_eq!(decode(&encode(&body)), Ok(body), "what was taken can be sent on");
            }
        }
        assert!(taken > 1000, "the mutations reach behind the decoder: {taken} taken");
    }
}
