//! What this node knows of another one.
//!
//! A node lives several times: each start of its daemon is a life with its own random boot id. One life counts
//! (`life`); others wait until they have proved that they live now (`candidates`), by acknowledging a heartbeat that
//! this node sent after it had first heard of them. A recording cannot do that, however it is played.
//!
//! ```text
//! heard of -> candidate --acknowledges a later heartbeat of mine--> life --another life proves itself--> retired
//! ```

use std::collections::VecDeque;

use crate::types::snapshot::DrainInfo;
use crate::types::snapshot::MemberState;
use crate::types::{BootId, Change, Departure, Follows, Instant, NodeId, NodeSet, Notes, Seq};
use crate::wire::heartbeat::{Held, Load, OBITUARY_SEQ, PeerReport, REPORTS_MAX};

use super::damping::Record;

/// A boot's short name in reports.
pub(super) fn boot_tag(boot: &BootId) -> u32 {
    let [a, b, c, d, ..] = boot.0;
    u32::from_be_bytes([a, b, c, d])
}

/// What a node said of itself in one heartbeat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) seq: Seq,
    pub(super) state: MemberState,
    pub(super) rx_ok: bool,
    /// It has live connections in buckets of others.
    pub(super) holds: bool,
    pub(super) view: NodeSet,
    pub(super) follows: Follows,
}

impl Said {
    /// An obituary is a last word that nothing can be newer than; so it is relayed like any other.
    pub(super) const DEAD: Self = Self {
        seq: OBITUARY_SEQ,
        state: MemberState::Leaving,
        rx_ok: false,
        holds: false,
        view: NodeSet::EMPTY,
        follows: Follows::CONFIGURED,
    };

    pub(super) fn is_dead(&self) -> bool {
        self.seq == OBITUARY_SEQ
    }
}

/// The newest of my heartbeats that somebody knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acked {
    pub(super) seq: Seq,
    /// When I sent it: from then on D runs at the earliest.
    pub(super) sent: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) tag: u32,
    /// The newest heartbeat that came from the node itself, and when.
    pub(super) direct: Option<(Said, Instant)>,
    /// The newest one known, relayed ones included.
    pub(super) best: Said,
    /// When `best` last rose (R1).
    pub(super) fresh: Instant,
    /// When this life was first heard of.
    pub(super) first: Instant,
    /// My first heartbeat after that.
    challenge: Seq,
    pub(super) acked: Option<Acked>,
    /// None while only relayed by nodes whose own configuration is not known.
    pub(super) same_config: Option<bool>,
    pub(super) held: Vec<Held>,
    pub(super) loads: Vec<Load>,
    pub(super) drain: Option<DrainInfo>,
    /// As it said with its last direct heartbeat.
    pub(super) wishes: Vec<Change>,
    pub(super) notes: Notes,
    /// What it reports of others; by node, then tag.
    reports: Vec<PeerReport>,
}

impl Life {
    fn new(tag: u32, said: Said, now: Instant, challenge: Seq) -> Self {
        Self {
            tag,
            direct: None,
            best: Said { seq: Seq(0), ..said },
            fresh: now,
            first: now,
            challenge,
            acked: None,
            same_config: None,
            held: Vec::new(),
            loads: Vec::new(),
            drain: None,
            wishes: Vec::new(),
            notes: Notes::default(),
            reports: Vec::new(),
        }
    }

    /// Newer than all that is known: evidence of life.
    pub(super) fn learn(&mut self, said: Said, now: Instant) {
        if said.seq > self.best.seq {
            self.best = said;
            self.fresh = now;
        }
    }

    pub(super) fn acknowledge(&mut self, acked: Acked) {
        if self.acked.is_none_or(|known| acked.seq > known.seq) {
            self.acked = Some(acked);
        }
    }

    /// It acknowledged a heartbeat that was sent after it had first been heard of.
    pub(super) fn is_proved(&self) -> bool {
        self.acked.is_some_and(|acked| acked.seq >= self.challenge)
    }

    pub(super) fn direct_seq(&self) -> Seq {
        self.direct.map_or(Seq(0), |(said, _)| said.seq)
    }

    pub(super) fn acked_seq(&self) -> Seq {
        self.acked.map_or(Seq(0), |acked| acked.seq)
    }

    /// Send time of the last heartbeat that it acknowledged; long ago when there is none.
    pub(super) fn acked_sent(&self) -> Instant {
        self.acked.map_or(Instant(0), |acked| acked.sent)
    }

    /// `partial`: the others are as they were said before.
    pub(super) fn keep_reports(&mut self, reports: &[PeerReport], partial: bool) {
        if !partial {
            self.reports.clear();
        }
        for report in reports {
            let key = (report.node, report.boot_tag);
            match self.reports.binary_search_by_key(&key, |known| (known.node, known.boot_tag)) {
                Ok(place) => self.reports[place] = *report,
                Err(_) if self.reports.len() >= 2 * REPORTS_MAX => {
                    // Only a peer that forgets lives for ever gets here; what it says next starts anew.
                    self.reports.clear();
                }
                Err(place) => self.reports.insert(place, *report),
            }
        }
    }

    /// In the order of nodes and tags.
    pub(super) fn reports(&self) -> &[PeerReport] {
        &self.reports
    }

    /// What it said of that life of `node` in its last heartbeat.
    pub(super) fn report_on(&self, node: NodeId, tag: u32) -> Option<&PeerReport> {
        let found = self.reports.binary_search_by_key(&(node, tag), |report| (report.node, report.boot_tag));
        found.ok().map(|place| &self.reports[place])
    }
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) life: Option<Life>,
    pub(super) candidates: Vec<Life>,
    /// Lives that counted once and are over; the newest last.
    retired: VecDeque<u32>,
    /// Removed from the view by silence; until then it still counts where I would take something (R3).
    pub(super) ghost_until: Option<Instant>,
    /// The life that is in the view.
    pub(super) member: Option<u32>,
    pub(super) departed: Option<Departure>,
    pub(super) record: Record,
}

/// One real newcomer and recordings of two others. When full, the one silent for longest gives way.
const CANDIDATES_MAX: usize = 3;
/// A replay of an older life than these is a candidate that never proves itself.
const RETIRED_MAX: usize = 16;

impl Peer {
    /// Where facts about that life are kept. None when it is over.
    pub(super) fn life_of(
        &mut self,
        tag: u32,
        said: Said,
        now: Instant,
        challenge: Seq,
    ) -> Option<&mut Life> {
        if self.retired.contains(&tag) {
            return None;
        }
        if self.life.as_ref().is_some_and(|life| life.tag == tag) {
            return self.life.as_mut();
        }
        let place = match self.candidates.iter().position(|life| life.tag == tag) {
            Some(place) => place,
            None => {
                if self.candidates.len() >= CANDIDATES_MAX {
                    let oldest = (0..CANDIDATES_MAX).min_by_key(|place| self.candidates[*place].fresh);
                    self.candidates.swap_remove(oldest.expect("a full list is not empty"));
                }
                self.candidates.push(Life::new(tag, said, now, challenge));
                self.candidates.len() - 1
            }
        };
        Some(&mut self.candidates[place])
    }

    pub(super) fn known(&mut self, tag: u32) -> Option<&mut Life> {
        self.life.iter_mut().chain(&mut self.candidates).find(|life| life.tag == tag)
    }

    /// Makes a candidate that has proved itself the life that counts; the one before it is over. What tells the later
    /// of two lives is what they acknowledged: a late word of an earlier life may prove that it lived, too.
    pub(super) fn promote(&mut self, proved: impl Fn(&Life) -> bool) -> bool {
        let Some(place) = self.candidates.iter().position(proved) else { return false };
        let proved = self.candidates.swap_remove(place);
        let later = self.life.as_ref().is_none_or(|life| proved.acked_seq() > life.acked_seq());
        let over = if later { self.life.replace(proved) } else { Some(proved) };
        if let Some(over) = over {
            if self.retired.len() >= RETIRED_MAX {
                self.retired.pop_front();
            }
            self.retired.push_back(over.tag);
        }
        later
    }

    /// With the rule of boot ids off: whatever was heard last is the node.
    pub(super) fn believe_the_latest(&mut self) -> bool {
        let heard = self.candidates.iter().position(|life| life.direct.is_some());
        let Some(place) = heard else { return false };
        self.life = Some(self.candidates.swap_remove(place));
        true
    }

    pub(super) fn lives(&self) -> impl Iterator<Item = &Life> {
        self.life.iter().chain(&self.candidates)
    }

    pub(super) fn is_confirmed(&self, tag: u32) -> bool {
        self.life.as_ref().is_some_and(|life| life.tag == tag)
    }
}
