//! Heartbeats out: when, and what they say. And the questions and announcements that are due.

use std::collections::VecDeque;
use std::time::Duration;

use super::peers::{Life, Peer};
use super::{Engine, Output, Timing};
use crate::types::{Follows, Instant, NodeId, Seq};
use crate::wire::heartbeat::{Beat, Body, Heartbeat, PeerReport, RelayedAck};

/// When this node spoke, and when it will.
#[derive(Debug)]
pub(super) struct Voice {
    /// Of the next heartbeat; the first is 1, zero means none.
    pub(super) next_seq: Seq,
    /// Something that peers must know has changed: speak now.
    pub(super) urgent: bool,
    /// Send times of the last heartbeats, the newest last.
    sent: VecDeque<Instant>,
    next_beat: Instant,
    jitter: u64,
    /// Of reports that take turns: who is next.
    turn: usize,
    /// When the virtual IP is announced again.
    announces: VecDeque<Instant>,
}

/// At most one heartbeat a millisecond: a change that causes another must not make a storm.
const URGENT_GAP: Duration = Duration::from_millis(1);
/// At one a millisecond these span more than the longest D of the profiles.
const SENT_MAX: usize = 1024;
/// After a change: at once, and again for neighbours that were still behind a closed port or lost the first.
const ANNOUNCE_AFTER_MS: [u64; 4] = [0, 100, 400, 1000];
/// A relayed acknowledgement is worth its bytes when the peer is this many heartbeats behind.
const LAG: u64 = 3;
/// With these and all else that it says in quiet times a heartbeat fits one Ethernet frame. What does not fit waits its
/// turn: among 128 nodes with one view that is every ninth report, once.
const REPORT_BYTES_MAX: usize = 1100;
/// Lives that have not proved themselves, so that recordings do not displace what is known.
const NEW_PER_BEAT: usize = 32;
/// Two hundred bytes; where more links are broken than that, they take turns.
const ACKS_PER_BEAT: usize = 16;

impl Voice {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            next_seq: Seq(1),
            urgent: true,
            sent: VecDeque::new(),
            next_beat: Instant(0),
            jitter: seed,
            turn: 0,
            announces: VecDeque::new(),
        }
    }

    /// When that heartbeat was sent. None for one that was not, or too long ago to matter.
    pub(super) fn sent_at(&self, seq: Seq) -> Option<Instant> {
        let back = self.next_seq.0.checked_sub(seq.0)?;
        let place = self.sent.len().checked_sub(usize::try_from(back).ok()?)?;
        self.sent.get(place).copied()
    }

    pub(super) fn next(&self, timing: Timing) -> Instant {
        let urgent = if self.urgent { self.earliest() } else { Instant(u64::MAX) };
        let last = self.sent.back().map_or(Instant(0), |last| *last + timing.interval * 2);
        urgent.min(self.next_beat).min(last)
    }

    fn earliest(&self) -> Instant {
        self.sent.back().map_or(Instant(0), |last| *last + URGENT_GAP)
    }

    fn is_due(&self, now: Instant) -> bool {
        now >= self.next_beat || (self.urgent && now >= self.earliest())
    }

    /// The interval, ten per cent more or less, so that nodes do not fall into step.
    fn interval(&mut self, timing: Timing) -> Duration {
        self.jitter =
            self.jitter.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        timing.interval * (900 + (self.jitter >> 40) as u32 % 201) / 1000
    }

    fn spoken(&mut self, now: Instant, next: Duration) -> Seq {
        let seq = self.next_seq;
        self.next_seq = Seq(seq.0 + 1);
        if self.sent.len() >= SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(now);
        self.next_beat = now + next;
        self.urgent = false;
        seq
    }
}

impl Engine {
    pub(super) fn speak(&mut self) {
        if !self.voice.is_due(self.now) {
            return;
        }
        let beat = self.beat();
        if beat.partial {
            self.voice.turn = self.voice.turn.wrapping_add(beat.peers.len());
        }
        let next = if self.owes_farewell() { super::TICK } else { self.voice.interval(self.setup.timing) };
        let seq = self.voice.spoken(self.now, next);
        let (sender, boot) = (self.setup.me, self.setup.boot);
        self.outputs.push_back(Output::Send(Heartbeat {
            sender,
            boot,
            seq,
            body: Body::Beat(Box::new(beat)),
        }));
    }

    fn beat(&self) -> Beat {
        let mut beat = Beat {
            state: self.member.state,
            rx_ok: self.member.rx_ok,
            config: self.setup.config,
            view: self.view.members,
            follows: self.generations.follows(),
            offers: self.offers(),
            wishes: self.wishes(),
            peers: Vec::new(),
            partial: false,
            acks: self.relayed_acks(),
            held: self.groups.iter().filter_map(super::Ownership::held).collect(),
            loads: self.loads(),
            drain: self.drain,
            notes: self.notes.clone(),
        };
        self.add_reports(&mut beat);
        beat
    }

    /// What I know of the others, as much as fits. Lives that have not proved themselves come first, for a newcomer
    /// waits for its answer; the rest takes turns.
    fn add_reports(&self, beat: &mut Beat) {
        let all = self.nodes.iter().flat_map(|node| {
            let peer = &self.peers[usize::from(node.0)];
            peer.lives().map(move |life| report(node, peer, life))
        });
        let (new, known): (Vec<PeerReport>, Vec<PeerReport>) =
            all.partition(|report| report.direct_seq == Seq(0));
        let first = self.voice.turn.checked_rem(known.len()).unwrap_or(0);
        let known_in_turn = known[first..].iter().chain(&known[..first]);
        let mut room = REPORT_BYTES_MAX;
        for report in new.iter().take(NEW_PER_BEAT).chain(known_in_turn) {
            let bytes = beat.report_bytes(report);
            if bytes > room {
                break;
            }
            room -= bytes;
            beat.peers.push(*report);
        }
        beat.partial = beat.peers.len() < new.len() + known.len();
    }

    /// For each pair of peers of which one does not hear the other: what the other acknowledged. So a link that is
    /// broken in one direction costs nothing as long as somebody hears both.
    fn relayed_acks(&self) -> Vec<RelayedAck> {
        let heard = |node: NodeId| {
            let life = self.peers[usize::from(node.0)].life.as_ref()?;
            let (said, at) = life.direct.as_ref()?;
            let lately = self.now.since(*at) <= self.setup.timing.timeout && !said.is_dead();
            lately.then_some((node, life))
        };
        let heard: Vec<(NodeId, &Life)> = self.nodes.iter().filter_map(heard).collect();
        let mut acks = Vec::new();
        for (to, listener) in &heard {
            // Both lists are in the order of nodes: among 128 of them a search for each pair would be felt.
            let mut reports = listener.reports().iter().peekable();
            for (from, speaker) in &heard {
                let key = (*from, speaker.tag);
                while reports.next_if(|report| (report.node, report.boot_tag) < key).is_some() {}
                let on_speaker = reports.peek().filter(|report| (report.node, report.boot_tag) == key);
                let hears = on_speaker.map_or(0, |report| report.direct_seq.0);
                if from == to || hears.saturating_add(LAG) > speaker.direct_seq().0 {
                    continue;
                }
                if let Some(known) = speaker.report_on(*to, listener.tag) {
                    acks.push(RelayedAck {
                        from: *from,
                        from_tag: speaker.tag,
                        to: *to,
                        to_tag: listener.tag,
                        seq: known.best_seq,
                    });
                }
            }
        }
        if acks.len() > ACKS_PER_BEAT {
            let turn = self.voice.next_seq.0 as usize % acks.len();
            acks.rotate_left(turn);
            acks.truncate(ACKS_PER_BEAT);
        }
        acks
    }

    /// The neighbours are told by one node: the first of the view.
    pub(super) fn announce_from_now(&mut self) {
        let now = self.now;
        self.voice.announces = ANNOUNCE_AFTER_MS.map(|ms| now + Duration::from_millis(ms)).into();
    }

    pub(super) fn ask_and_announce(&mut self) {
        while self.voice.announces.front().is_some_and(|at| *at <= self.now) {
            self.voice.announces.pop_front();
            if self.basis.serve && self.view.members.iter().next() == Some(self.setup.me) {
                self.outputs.push_back(Output::Announce);
            }
        }
        for group in &mut self.groups {
            if group.wants_count(self.now) {
                self.outputs.push_back(Output::CountHeld { group: group.id() });
            }
        }
    }
}

/// A life that has not proved itself is acknowledged, so that it can; but nothing of it is handed on.
fn report(node: NodeId, peer: &Peer, life: &Life) -> PeerReport {
    let direct = life.direct.filter(|_| peer.is_confirmed(life.tag)).map(|(said, _)| said);
    PeerReport {
        node,
        boot_tag: life.tag,
        direct_seq: direct.map_or(Seq(0), |said| said.seq),
        best_seq: life.best.seq,
        damped: peer.record.damped,
        state: direct.map_or(life.best.state, |said| said.state),
        rx_ok: direct.is_some_and(|said| said.rx_ok),
        same_config: life.same_config == Some(true),
        holds: direct.is_some_and(|said| said.holds),
        view: direct.map_or(crate::types::NodeSet::EMPTY, |said| said.view),
        follows: direct.map_or(Follows::CONFIGURED, |said| said.follows),
    }
}
