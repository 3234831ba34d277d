//! The heartbeat: what each node says to all others, forty times a second.
//!
//! ```text
//! clear, authenticated   magic "SK" · version u8 · key id u8 · cluster id [u8; 8] · sender u8 · boot [u8; 16] · seq u64
//! sealed                 body version u8 · body, see `compact`
//! tag                    [u8; 16]
//! ```

use super::compact;
use crate::types::ids::NODES_MAX;
use crate::types::notes::{AUDIT_CELLS_MAX, INTERFACES_MAX, UNSEEN_MAX};
use crate::types::share::{FOLLOWED_MAX, HEALTH_FULL, HEALTHS_SET_MAX, WEIGHT_MAX, WEIGHTS_SET_MAX};
use crate::types::snapshot::{DrainInfo, MemberState};
use crate::types::{BootId, BucketBits, Change, Follows, Generation, GroupId, NodeId, NodeSet, Notes, Seq};

/// A heartbeat that has been authenticated (or is about to be sealed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub sender: NodeId,
    pub boot: BootId,
    pub seq: Seq,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Beat(Box<Beat>),
    /// Sent by the parent of a daemon that has died, in that daemon's name; `seq` is [`OBITUARY_SEQ`].
    Obituary,
}

/// The parent's nonce: no daemon counts that far, so key and nonce never meet twice.
pub const OBITUARY_SEQ: Seq = Seq(u64::MAX);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    pub state: MemberState,
    /// The sender hears somebody: a peer, or at least frames on the virtual IP's network.
    pub rx_ok: bool,
    /// Hash of everything that decides ownership; nodes that differ are in no common view.
    pub config: u64,
    pub view: NodeSet,
    /// Generations of weights by which the sender owns (R10).
    pub follows: Follows,
    /// What is in those of them that some peer does not know yet.
    pub offers: Vec<Generation>,
    /// Changes that were asked of the sender and are in no generation yet.
    pub wishes: Vec<Change>,
    /// One for each life of a peer that the sender has heard of in its present boot. A node can have several:
    /// the one that counts, and boots that have not proved yet that they are more than a recording. In a large farm
    /// they take turns: what a heartbeat leaves out is as it was said before.
    pub peers: Vec<PeerReport>,
    /// Some lives are left out of `peers` this time.
    pub partial: bool,
    /// Acknowledgements handed on between two peers of which one does not hear the other.
    pub acks: Vec<RelayedAck>,
    /// Only while the sender holds live connections in buckets that it does not own.
    pub held: Vec<Held>,
    /// Live connections by group; groups without any are left out.
    pub loads: Vec<Load>,
    /// While the sender is drained.
    pub drain: Option<DrainInfo>,
    pub notes: Notes,
}

/// Live connections of the sender in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub group: GroupId,
    pub live: u32,
    /// Of these, the ones in buckets of other nodes.
    pub held: u32,
}

/// What the sender knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerReport {
    pub node: NodeId,
    /// First four bytes of the boot that is reported on: an acknowledgement of another life is none.
    pub boot_tag: u32,
    /// Newest heartbeat that the sender received itself: the relayed evidence (R1). Zero: none.
    pub direct_seq: Seq,
    /// Newest heartbeat that it knows of, relayed ones included: the acknowledgement (R4, R5).
    pub best_seq: Seq,
    /// It was excluded again and again: it should not take part for now (R13).
    pub damped: bool,
    /// The next six are what `direct_seq` said, so that evidence never travels more than one hop.
    pub state: MemberState,
    pub rx_ok: bool,
    pub same_config: bool,
    /// It reported live connections in buckets of others; in which, only it can tell.
    pub holds: bool,
    pub view: NodeSet,
    pub follows: Follows,
}

/// "`from` knows of heartbeat `seq` of `to`", told by a third node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayedAck {
    pub from: NodeId,
    pub from_tag: u32,
    pub to: NodeId,
    pub to_tag: u32,
    pub seq: Seq,
}

/// Live connections that the sender keeps in buckets of others, coarsely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub group: GroupId,
    /// One bit for each run of [`HELD_RUN`] buckets.
    pub runs: BucketBits,
}

/// Buckets to one bit of [`Held`]: 65,536 buckets fit 512 bytes.
pub const HELD_RUN: usize = 16;

/// The body's own version: the clear header says how it is sealed, this says what is inside.
pub const BODY_VERSION: u8 = 4;

/// Two lives for each of [`NODES_MAX`] nodes.
pub const REPORTS_MAX: usize = 2 * NODES_MAX;
pub const ACKS_MAX: usize = NODES_MAX;
pub const HELD_MAX: usize = 64;
pub const LOADS_MAX: usize = 64;
pub const WISHES_MAX: usize = 64;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("an empty heartbeat")]
    Empty,
    #[error("heartbeat body version {0}; this is version {BODY_VERSION}")]
    Version(u8),
    #[error("the heartbeat ends within {0}")]
    Short(&'static str),
    #[error("{0} in the heartbeat is no value of this version")]
    Value(&'static str),
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
    let mut bytes = vec![BODY_VERSION];
    compact::write(body, &mut bytes);
    bytes
}

/// Refuses everything that [`encode`] cannot have made, and lists longer than an engine sends.
pub fn decode(bytes: &[u8]) -> Result<Body, Error> {
    let (version, rest) = bytes.split_first().ok_or(Error::Empty)?;
    if *version != BODY_VERSION {
        return Err(Error::Version(*version));
    }
    let body = compact::read(rest)?;
    match &body {
        Body::Obituary => {}
        Body::Beat(beat) => check_bounds(beat)?,
    }
    Ok(body)
}

/// Lists are bounded where they are read; here is what a value may be.
fn check_bounds(beat: &Beat) -> Result<(), Error> {
    let nodes = beat.peers.iter().map(|report| report.node);
    let relayed = beat.acks.iter().flat_map(|ack| [ack.from, ack.to]);
    let offered = beat.offers.iter().flat_map(|offer| {
        let weighed = offer.adjustments.weights.iter().map(|set| set.node);
        let unwell = offer.adjustments.health.iter().map(|set| set.node);
        weighed.chain(unwell).chain([offer.proposer])
    });
    let wished = beat.wishes.iter().map(|wish| match wish {
        Change::Drain { node }
        | Change::Undrain { node }
        | Change::Weight { node, .. }
        | Change::Health { node, .. } => *node,
    });
    let named = nodes.chain(relayed).chain(offered).chain(wished);
    if let Some(node) = named.into_iter().find(|node| usize::from(node.0) >= NODES_MAX) {
        return Err(Error::Node(node.0));
    }
    beat.offers.iter().try_for_each(check_offer)?;
    let wished = beat.wishes.iter().map(|wish| match wish {
        Change::Weight { weight, .. } => weight.unwrap_or(0),
        Change::Drain { .. } | Change::Undrain { .. } | Change::Health { .. } => 0,
    });
    let too_well = |wish: &Change| matches!(wish, Change::Health { percent, .. } if *percent > HEALTH_FULL);
    if beat.wishes.iter().any(too_well) {
        return Err(Error::Value("a health"));
    }
    if wished.max().is_some_and(|weight| weight > WEIGHT_MAX) {
        return Err(Error::Value("a weight"));
    }
    check_notes(&beat.notes)?;
    match beat.held.iter().map(|held| held.runs.capacity()).find(|runs| !(64..=4096).contains(runs)) {
        Some(runs) => Err(Error::Runs(runs)),
        None => Ok(()),
    }
}

fn check_offer(offer: &Generation) -> Result<(), Error> {
    let weights = &offer.adjustments.weights;
    let rises = weights.windows(2).all(|two| (two[0].group, two[0].node) < (two[1].group, two[1].node));
    let empty = offer.counter > 0 || *offer == Generation::configured();
    let fit = weights.iter().all(|set| set.weight <= WEIGHT_MAX);
    let health = &offer.adjustments.health;
    let unwell = health.windows(2).all(|two| (two[0].group, two[0].node) < (two[1].group, two[1].node))
        && health.iter().all(|set| set.percent < HEALTH_FULL);
    if rises && empty && fit && unwell { Ok(()) } else { Err(Error::Value("a generation")) }
}

fn check_notes(notes: &Notes) -> Result<(), Error> {
    let Some(page) = &notes.audit else { return Ok(()) };
    if page.seen.len() == page.passed.len() { Ok(()) } else { Err(Error::AuditPage) }
}

impl Beat {
    /// What this report would take in it.
    pub fn report_bytes(&self, report: &PeerReport) -> usize {
        compact::report_bytes(report, self.view, &self.follows)
    }
}

/// What lists in a heartbeat hold at most.
pub(super) const BOUNDS: [(&str, usize); 12] = [
    ("peers", REPORTS_MAX),
    ("acknowledgements", ACKS_MAX),
    ("held groups", HELD_MAX),
    ("loads", LOADS_MAX),
    ("wishes", WISHES_MAX),
    ("generations", FOLLOWED_MAX),
    ("weights", WEIGHTS_SET_MAX),
    ("healths", HEALTHS_SET_MAX),
    ("interfaces", INTERFACES_MAX),
    ("missed probes", UNSEEN_MAX),
    ("audited cells", AUDIT_CELLS_MAX),
    ("nodes", NODES_MAX),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::notes::{AuditPage, Unseen};
    use crate::types::{Adjustments, GenerationId};

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
            follows: Follows::of([GenerationId::of(4, NodeId(2), 99)]),
            damped: true,
        };
        let unproved =
            PeerReport { direct_seq: Seq(0), view: NodeSet::EMPTY, follows: Follows::default(), ..report(5) };
        let changes = [
            Change::Drain { node: NodeId(3) },
            Change::Weight { group: GroupId(300), node: NodeId(1), weight: Some(1000) },
            Change::Health { group: GroupId(301), node: NodeId(2), percent: 40 },
        ];
        let adjustments = Adjustments::default().with(&changes).expect("three fit");
        let offer = Generation { counter: 7, proposer: NodeId(1), adjustments };
        Body::Beat(Box::new(Beat {
            state: MemberState::Leaving,
            rx_ok: false,
            config: u64::MAX,
            view: NodeSet(u128::MAX),
            follows: Follows::of([GenerationId::CONFIGURED, offer.id()]),
            offers: vec![offer],
            wishes: vec![
                changes[0],
                changes[1],
                changes[2],
                Change::Undrain { node: NodeId(4) },
                Change::Weight { group: GroupId(0), node: NodeId(1), weight: None },
            ],
            peers: vec![report(0), report(127), unproved],
            partial: true,
            acks: vec![RelayedAck { from: NodeId(1), from_tag: 2, to: NodeId(3), to_tag: 4, seq: Seq(5) }],
            held: vec![
                Held { group: GroupId(1), runs },
                Held { group: GroupId(2), runs: BucketBits::from_fn(64, |_| true) },
                Held { group: GroupId(3), runs: BucketBits::from_fn(4096, |run| run.0 % 3 == 0) },
            ],
            loads: vec![Load { group: GroupId(1), live: 3118, held: 4 }],
            drain: Some(DrainInfo { left: 2, of: 3118 }),
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
        }))
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
            follows: Follows::default(),
            offers: vec![],
            wishes: vec![],
            peers: vec![],
            partial: false,
            acks: vec![],
            held: vec![],
            loads: vec![],
            drain: None,
            notes: Notes::default(),
        };
        let bytes = encode(&Body::Beat(Box::new(beat)));
        assert_eq!(bytes[..11], [4, 0, 6, 0x2c, 1, 0, 0, 0, 0, 0, 0], "version, kind, state, configuration");
        assert_eq!(
            bytes[11..],
            [2, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "view, generation, empty lists"
        );
        assert_eq!(encode(&Body::Obituary), [4, 1]);
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
        assert_eq!(decode(&[BODY_VERSION, 2]), Err(Error::Value("the kind")));
        assert_eq!(with(|beat| beat.offers[0].proposer = NodeId(128)), Err(Error::Node(128)));
        let backwards = with(|beat| {
            let set = beat.offers[0].adjustments.weights[0];
            beat.offers[0].adjustments.weights.push(set);
        });
        assert_eq!(backwards, Err(Error::Value("a generation")));
        let heavy = with(|beat| beat.offers[0].adjustments.weights[0].weight = 1001);
        assert_eq!(heavy, Err(Error::Value("a generation")));
        let wish = Change::Weight { group: GroupId(0), node: NodeId(0), weight: Some(5000) };
        let Body::Beat(mut beat) = sample() else { unreachable!("the sample is a beat") };
        beat.wishes[0] = wish;
        assert_eq!(decode(&encode(&Body::Beat(beat))), Err(Error::Value("a weight")));
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
    fn the_size_of_a_report_is_known_beforehand() {
        let Body::Beat(mut beat) = sample() else { unreachable!("the sample is a beat") };
        let reports = std::mem::take(&mut beat.peers);
        let empty = encode(&Body::Beat(beat.clone())).len();
        for report in reports {
            for (view, follows) in [(beat.view, report.follows), (report.view, beat.follows)] {
                let report = match report.direct_seq {
                    Seq(0) => report,
                    _ => PeerReport { view, follows, best_seq: Seq(1500), ..report },
                };
                let mut beat = beat.clone();
                beat.peers = vec![report];
                let bytes = beat.report_bytes(&report);
                assert_eq!(encode(&Body::Beat(beat)).len(), empty + bytes, "{report:?}");
            }
        }
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
