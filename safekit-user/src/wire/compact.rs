//! The body of a heartbeat in few bytes: 128 nodes say forty times a second what they know of 127 others.
//!
//! ```text
//! number   seven bits a byte, the lowest first, the last byte below 128
//! nodes    count u8 · that many ids, one byte each;  or 255 · 16 bytes, one bit for each node
//! list     count as number · the elements
//! beat     0 · state, rx_ok, partial u8 · config 8 B · view nodes · generations · offers · wishes · peers · acks · held
//!          · loads · drain · macs · unseen · audit
//! peer     node u8 · flags u8 · boot tag 4 B · direct_seq · best_seq - direct_seq
//!          · view: those that differ from the sender's · generations, only where they differ from the sender's
//! ```

use crate::types::notes::{AuditPage, Unseen};
use crate::types::share::{HealthSet, WeightSet};
use crate::types::snapshot::{DrainInfo, MemberState};
use crate::types::{
    Adjustments, Bucket, BucketBits, Change, Follows, Generation, GenerationId, GroupId, NodeId, NodeSet,
    Notes, Seq,
};

use super::heartbeat::{BOUNDS, Beat, Body, Error, Held, Load, PeerReport, RelayedAck};

const BEAT: u8 = 0;
const OBITUARY: u8 = 1;

const RX_OK: u8 = 1 << 2;
const PARTIAL: u8 = 1 << 3;
const SAME_CONFIG: u8 = 1 << 3;
const HOLDS: u8 = 1 << 4;
const OTHER_VIEW: u8 = 1 << 5;
const OTHER_GENERATIONS: u8 = 1 << 6;
const DAMPED: u8 = 1 << 7;

pub(super) fn write(body: &Body, bytes: &mut Vec<u8>) {
    match body {
        Body::Obituary => bytes.push(OBITUARY),
        Body::Beat(beat) => {
            bytes.push(BEAT);
            Writer(bytes).beat(beat);
        }
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<Body, Error> {
    let mut reader = Reader(bytes);
    let body = match reader.byte("the kind")? {
        BEAT => Body::Beat(Box::new(reader.beat()?)),
        OBITUARY => Body::Obituary,
        _ => return Err(Error::Value("the kind")),
    };
    if reader.0.is_empty() { Ok(body) } else { Err(Error::Trailing(reader.0.len())) }
}

fn state_bits(state: MemberState) -> u8 {
    match state {
        MemberState::Joining => 0,
        MemberState::Announce => 1,
        MemberState::Active => 2,
        MemberState::Leaving => 3,
    }
}

fn state_of(bits: u8) -> MemberState {
    match bits & 3 {
        0 => MemberState::Joining,
        1 => MemberState::Announce,
        2 => MemberState::Active,
        _ => MemberState::Leaving,
    }
}

fn bit(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

/// What a report takes in a heartbeat with that view and these generations.
pub(super) fn report_bytes(report: &PeerReport, view: NodeSet, follows: &Follows) -> usize {
    let number = |number: u64| (64 - (number | 1).leading_zeros() as usize).div_ceil(7);
    let mut bytes = 6 + number(report.direct_seq.0);
    bytes += number(report.best_seq.0.wrapping_sub(report.direct_seq.0));
    if report.direct_seq == Seq(0) {
        return bytes;
    }
    let differs = NodeSet(report.view.0 ^ view.0).len();
    if differs > 0 {
        bytes += 1 + differs.min(16);
    }
    if report.follows != *follows {
        let ids = report.follows.iter();
        bytes += 1 + ids
            .map(|id| number(id.counter().into()) + if id.counter() > 0 { 4 } else { 0 })
            .sum::<usize>();
    }
    bytes
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn list<T>(&mut self, elements: &[T], write: impl Fn(&mut Self, &T)) {
        self.number(elements.len() as u64);
        elements.iter().for_each(|element| write(self, element));
    }

    fn nodes(&mut self, nodes: NodeSet) {
        if nodes.len() < 16 {
            self.byte(nodes.len() as u8);
            nodes.iter().for_each(|node| self.byte(node.0));
        } else {
            self.byte(u8::MAX);
            self.0.extend_from_slice(&nodes.0.to_le_bytes());
        }
    }

    fn beat(&mut self, beat: &Beat) {
        self.byte(state_bits(beat.state) | bit(beat.rx_ok, RX_OK) | bit(beat.partial, PARTIAL));
        self.0.extend_from_slice(&beat.config.to_le_bytes());
        self.nodes(beat.view);
        self.follows(&beat.follows);
        self.list(&beat.offers, Self::generation);
        self.list(&beat.wishes, Self::change);
        self.list(&beat.peers, |writer, report| writer.report(report, beat));
        self.list(&beat.acks, Self::ack);
        self.list(&beat.held, Self::held);
        self.list(&beat.loads, |writer, load| {
            writer.number(load.group.0.into());
            writer.number(load.live.into());
            writer.number(load.held.into());
        });
        self.list(beat.drain.as_slice(), |writer, drain| {
            writer.number(drain.left);
            writer.number(drain.of);
        });
        self.notes(&beat.notes);
    }

    fn follows(&mut self, follows: &Follows) {
        self.number(follows.iter().count() as u64);
        for id in follows.iter() {
            self.number(id.counter().into());
            if id.counter() > 0 {
                self.byte(id.proposer().0);
                self.0.extend_from_slice(&id.hash24().to_le_bytes()[..3]);
            }
        }
    }

    fn generation(&mut self, generation: &Generation) {
        self.number(generation.counter.into());
        self.byte(generation.proposer.0);
        self.nodes(generation.adjustments.drained);
        self.list(&generation.adjustments.weights, |writer, set| {
            writer.number(set.group.0.into());
            writer.byte(set.node.0);
            writer.number(set.weight.into());
        });
        self.list(&generation.adjustments.health, |writer, set| {
            writer.number(set.group.0.into());
            writer.byte(set.node.0);
            writer.byte(set.percent);
        });
    }

    fn change(&mut self, change: &Change) {
        match *change {
            Change::Drain { node } => self.0.extend_from_slice(&[0, node.0]),
            Change::Undrain { node } => self.0.extend_from_slice(&[1, node.0]),
            Change::Weight { group, node, weight } => {
                self.0.extend_from_slice(&[2 + u8::from(weight.is_some()), node.0]);
                self.number(group.0.into());
                if let Some(weight) = weight {
                    self.number(weight.into());
                }
            }
            Change::Health { group, node, percent } => {
                self.0.extend_from_slice(&[4, node.0]);
                self.number(group.0.into());
                self.byte(percent);
            }
        }
    }

    /// Of a life that has not proved itself no view is handed on.
    fn report(&mut self, report: &PeerReport, beat: &Beat) {
        let proved = report.direct_seq != Seq(0);
        let other_view = proved && report.view != beat.view;
        let other_generations = proved && report.follows != beat.follows;
        self.byte(report.node.0);
        self.byte(
            state_bits(report.state)
                | bit(report.rx_ok, RX_OK)
                | bit(report.same_config, SAME_CONFIG)
                | bit(report.holds, HOLDS)
                | bit(other_view, OTHER_VIEW)
                | bit(other_generations, OTHER_GENERATIONS)
                | bit(report.damped, DAMPED),
        );
        self.0.extend_from_slice(&report.boot_tag.to_be_bytes());
        self.number(report.direct_seq.0);
        self.number(report.best_seq.0.wrapping_sub(report.direct_seq.0));
        if other_view {
            self.nodes(NodeSet(report.view.0 ^ beat.view.0));
        }
        if other_generations {
            self.follows(&report.follows);
        }
    }

    fn ack(&mut self, ack: &RelayedAck) {
        for (node, tag) in [(ack.from, ack.from_tag), (ack.to, ack.to_tag)] {
            self.byte(node.0);
            self.0.extend_from_slice(&tag.to_be_bytes());
        }
        self.number(ack.seq.0);
    }

    /// A drain begins with all runs and ends with few.
    fn held(&mut self, held: &Held) {
        self.number(held.group.0.into());
        self.number(held.runs.words().len() as u64);
        let runs = held.runs.len();
        if runs == held.runs.capacity() {
            self.byte(Runs::All as u8);
        } else if runs * 2 < held.runs.words().len() * 8 {
            self.byte(Runs::Few as u8);
            self.number(runs as u64);
            let mut last = 0;
            for run in held.runs.iter() {
                self.number(u64::from(run.0 - last));
                last = run.0;
            }
        } else {
            self.byte(Runs::Bits as u8);
            held.runs.words().iter().for_each(|word| self.0.extend_from_slice(&word.to_le_bytes()));
        }
    }

    fn notes(&mut self, notes: &Notes) {
        self.list(&notes.macs, |writer, mac| writer.0.extend_from_slice(mac));
        self.list(&notes.unseen, |writer, unseen| {
            writer.number(unseen.vip.into());
            writer.nodes(unseen.nodes);
        });
        self.list(notes.audit.as_slice(), |writer, page| {
            writer.number(page.epoch.into());
            writer.number(page.group.0.into());
            writer.number(page.first.into());
            writer.list(&page.seen, |writer, count| writer.number((*count).into()));
            writer.list(&page.passed, |writer, count| writer.number((*count).into()));
        });
    }
}

/// How held runs are written.
enum Runs {
    All = 0,
    Few = 1,
    Bits = 2,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Error::Short(what))?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, Error> {
        self.bytes::<1>(what).map(|[byte]| byte)
    }

    fn number(&mut self, what: &'static str) -> Result<u64, Error> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(Error::Value(what));
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Error::Value(what))
    }

    fn small<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, Error> {
        T::try_from(self.number(what)?).map_err(|_| Error::Value(what))
    }

    /// `what` is one of [`BOUNDS`].
    fn count(&mut self, what: &'static str) -> Result<usize, Error> {
        let count = self.small(what)?;
        let bound = BOUNDS.iter().find(|(name, _)| *name == what);
        let (_, max) = *bound.expect("every list that is read has a bound");
        if count > max { Err(Error::TooMany { what, count, max }) } else { Ok(count) }
    }

    fn list<T>(
        &mut self,
        what: &'static str,
        read: impl Fn(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        (0..self.count(what)?).map(|_| read(self)).collect()
    }

    fn option<T>(
        &mut self,
        what: &'static str,
        read: impl Fn(&mut Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match self.byte(what)? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Error::Value(what)),
        }
    }

    fn node(&mut self) -> Result<NodeId, Error> {
        self.byte("a node").map(NodeId)
    }

    fn group(&mut self) -> Result<GroupId, Error> {
        self.small("a group").map(GroupId)
    }

    fn tag(&mut self) -> Result<u32, Error> {
        self.bytes("a boot tag").map(u32::from_be_bytes)
    }

    fn nodes(&mut self) -> Result<NodeSet, Error> {
        let count = self.byte("a set of nodes")?;
        if count == u8::MAX {
            return self.bytes("a set of nodes").map(|bytes| NodeSet(u128::from_le_bytes(bytes)));
        }
        let mut nodes = NodeSet::EMPTY;
        for _ in 0..count {
            let node = self.node()?;
            if usize::from(node.0) >= crate::types::ids::NODES_MAX {
                return Err(Error::Node(node.0));
            }
            nodes = nodes.with(node);
        }
        Ok(nodes)
    }

    fn beat(&mut self) -> Result<Beat, Error> {
        let flags = self.byte("the state")?;
        if flags >= PARTIAL << 1 {
            return Err(Error::Value("the state"));
        }
        let config = self.bytes("the configuration").map(u64::from_le_bytes)?;
        let view = self.nodes()?;
        let follows = self.follows()?;
        Ok(Beat {
            state: state_of(flags),
            rx_ok: flags & RX_OK != 0,
            config,
            view,
            follows,
            offers: self.list("generations", Self::generation)?,
            wishes: self.list("wishes", Self::change)?,
            peers: self.list("peers", |reader| reader.report(view, follows))?,
            partial: flags & PARTIAL != 0,
            acks: self.list("acknowledgements", Self::ack)?,
            held: self.list("held groups", Self::held)?,
            loads: self.list("loads", Self::load)?,
            drain: self.option("the drain", |reader| {
                Ok(DrainInfo { left: reader.number("the drain")?, of: reader.number("the drain")? })
            })?,
            notes: self.notes()?,
        })
    }

    fn follows(&mut self) -> Result<Follows, Error> {
        let ids = self.list("generations", |reader| {
            let counter = reader.small("a generation")?;
            if counter == 0 {
                return Ok(GenerationId::CONFIGURED);
            }
            let proposer = reader.node()?;
            let [a, b, c] = reader.bytes("a generation")?;
            Ok(GenerationId::of(counter, proposer, u32::from_le_bytes([a, b, c, 0])))
        })?;
        if ids.is_empty() { Err(Error::Value("the generations")) } else { Ok(Follows::of(ids)) }
    }

    fn generation(&mut self) -> Result<Generation, Error> {
        Ok(Generation {
            counter: self.small("a generation")?,
            proposer: self.node()?,
            adjustments: Adjustments {
                drained: self.nodes()?,
                weights: self.list("weights", |reader| {
                    Ok(WeightSet {
                        group: reader.group()?,
                        node: reader.node()?,
                        weight: reader.small("a weight")?,
                    })
                })?,
                health: self.list("healths", |reader| {
                    Ok(HealthSet {
                        group: reader.group()?,
                        node: reader.node()?,
                        percent: reader.byte("a health")?,
                    })
                })?,
            },
        })
    }

    fn change(&mut self) -> Result<Change, Error> {
        let kind = self.byte("a wish")?;
        let node = self.node()?;
        match kind {
            0 => Ok(Change::Drain { node }),
            1 => Ok(Change::Undrain { node }),
            2 => Ok(Change::Weight { group: self.group()?, node, weight: None }),
            3 => {
                let group = self.group()?;
                Ok(Change::Weight { group, node, weight: Some(self.small("a weight")?) })
            }
            4 => Ok(Change::Health { group: self.group()?, node, percent: self.byte("a health")? }),
            _ => Err(Error::Value("a wish")),
        }
    }

    fn report(&mut self, view: NodeSet, follows: Follows) -> Result<PeerReport, Error> {
        let node = self.node()?;
        let flags = self.byte("a report")?;
        let boot_tag = self.tag()?;
        let direct_seq = self.number("a sequence number")?;
        let ahead = self.number("a sequence number")?;
        let proved = direct_seq > 0;
        let differs = if flags & OTHER_VIEW != 0 { self.nodes()? } else { NodeSet::EMPTY };
        let other = if flags & OTHER_GENERATIONS != 0 { Some(self.follows()?) } else { None };
        if !proved && flags & (OTHER_VIEW | OTHER_GENERATIONS) != 0 {
            return Err(Error::Value("a report"));
        }
        Ok(PeerReport {
            node,
            boot_tag,
            direct_seq: Seq(direct_seq),
            best_seq: Seq(direct_seq.wrapping_add(ahead)),
            damped: flags & DAMPED != 0,
            state: state_of(flags),
            rx_ok: flags & RX_OK != 0,
            same_config: flags & SAME_CONFIG != 0,
            holds: flags & HOLDS != 0,
            view: if proved { NodeSet(view.0 ^ differs.0) } else { NodeSet::EMPTY },
            follows: if proved { other.unwrap_or(follows) } else { Follows::default() },
        })
    }

    fn ack(&mut self) -> Result<RelayedAck, Error> {
        Ok(RelayedAck {
            from: self.node()?,
            from_tag: self.tag()?,
            to: self.node()?,
            to_tag: self.tag()?,
            seq: Seq(self.number("a sequence number")?),
        })
    }

    fn held(&mut self) -> Result<Held, Error> {
        let group = self.group()?;
        let words: usize = self.small("held runs")?;
        if !(1..=64).contains(&words) {
            return Err(Error::Runs(words.saturating_mul(64)));
        }
        let mut runs = BucketBits::none(words * 64);
        match self.byte("held runs")? {
            0 => runs.words_mut().fill(u64::MAX),
            1 => {
                let mut run = 0_usize;
                for _ in 0..self.small::<u16>("held runs")? {
                    run = run.saturating_add(self.small("held runs")?);
                    if run >= words * 64 {
                        return Err(Error::Value("held runs"));
                    }
                    runs.insert(Bucket(run as u16));
                }
            }
            2 => {
                for word in runs.words_mut() {
                    *word = u64::from_le_bytes(self.bytes("held runs")?);
                }
            }
            _ => return Err(Error::Value("held runs")),
        }
        Ok(Held { group, runs })
    }

    fn load(&mut self) -> Result<Load, Error> {
        let (group, live) = (self.group()?, self.small("a load")?);
        Ok(Load { group, live, held: self.small("a load")? })
    }

    fn notes(&mut self) -> Result<Notes, Error> {
        Ok(Notes {
            macs: self.list("interfaces", |reader| reader.bytes("an interface"))?,
            unseen: self.list("missed probes", |reader| {
                Ok(Unseen { vip: reader.small("a virtual IP")?, nodes: reader.nodes()? })
            })?,
            audit: self.option("the audit", |reader| {
                let counts =
                    |reader: &mut Self| reader.list("audited cells", |reader| reader.small("a count"));
                Ok(Box::new(AuditPage {
                    epoch: reader.small("the audit")?,
                    group: reader.group()?,
                    first: reader.small("the audit")?,
                    seen: counts(reader)?,
                    passed: counts(reader)?,
                }))
            })?,
        })
    }
}
