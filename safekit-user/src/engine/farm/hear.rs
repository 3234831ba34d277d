//! A heartbeat comes in: evidence, acknowledgements, what it hands on.

use super::Engine;
use super::peers::{self, Acked, Said};
use crate::types::{NodeId, Seq};
use crate::wire::heartbeat::{Beat, Body, Heartbeat, PeerReport};

/// Heartbeats in a row.
const MISSED: u64 = 3;

impl Engine {
    pub(super) fn hear(&mut self, heartbeat: Heartbeat) {
        let Heartbeat { sender, boot, seq, body } = heartbeat;
        if sender == self.setup.me || !self.nodes.contains(sender) {
            return;
        }
        self.heard_a_heartbeat();
        let tag = peers::boot_tag(&boot);
        match body {
            Body::Obituary => self.hear_obituary(sender, tag),
            Body::Beat(beat) => self.hear_beat(sender, tag, seq, *beat),
        }
    }

    /// Its parent has closed the kernel before it spoke. Of an unknown life nothing is to be taken over.
    fn hear_obituary(&mut self, sender: NodeId, tag: u32) {
        let now = self.now;
        if let Some(life) = self.peers[usize::from(sender.0)].known(tag) {
            life.direct = Some((Said::DEAD, now));
            life.learn(Said::DEAD, now);
        }
    }

    fn hear_beat(&mut self, sender: NodeId, tag: u32, seq: Seq, mut beat: Beat) {
        let holds = !beat.held.is_empty();
        let Beat { state, rx_ok, view, follows, .. } = beat;
        let said = Said { seq, state, rx_ok, holds, view, follows };
        let challenge = self.voice.next_seq;
        let peer = &mut self.peers[usize::from(sender.0)];
        let Some(life) = peer.life_of(tag, said, self.now, challenge) else { return };
        if seq <= life.direct_seq() {
            return; // a duplicate, a straggler or a replay
        }
        let unheard = life.direct.is_none();
        let missed = seq.0 - life.direct_seq().0 > MISSED;
        life.direct = Some((said, self.now));
        life.learn(said, self.now);
        life.same_config = Some(beat.config == self.setup.config);
        self.held_news |= unheard || life.held != beat.held;
        life.held = std::mem::take(&mut beat.held);
        life.notes = std::mem::take(&mut beat.notes);
        life.loads = std::mem::take(&mut beat.loads);
        life.wishes = std::mem::take(&mut beat.wishes);
        life.drain = beat.drain;
        life.keep_reports(&beat.peers, beat.partial);
        let me = life.report_on(self.setup.me, self.tag).map(|report| report.best_seq);
        if let Some(acked) = me.and_then(|seq| self.voice.sent(seq)) {
            life.acknowledge(acked);
        }
        // Both sides of a first contact need an answer, and so do those that have not heard each other for a while.
        self.voice.urgent |= unheard || missed;
        self.confirm(sender);
        if self.peers[usize::from(sender.0)].is_confirmed(tag) {
            self.hear_relayed(sender, &beat);
        }
    }

    /// Second-hand news, from a life that counts and goes by the same rules. What the sender got itself is one hop
    /// old; what it got from others it does not hand on, so old news cannot circulate.
    fn hear_relayed(&mut self, sender: NodeId, beat: &Beat) {
        if beat.config != self.setup.config {
            return;
        }
        self.hear_offers(&beat.offers);
        if !self.setup.rules.relay {
            return;
        }
        for report in &beat.peers {
            self.hear_report(sender, report);
        }
        let (me, my_tag) = (self.setup.me, self.tag);
        for ack in beat.acks.iter().filter(|ack| ack.to == me && ack.to_tag == my_tag) {
            let Some(acked) = self.voice.sent(ack.seq) else { continue };
            let Some(peer) = self.peers.get_mut(usize::from(ack.from.0)) else { continue };
            if let Some(life) = peer.known(ack.from_tag) {
                life.acknowledge(acked);
                self.confirm(ack.from);
            }
        }
    }

    fn hear_report(&mut self, sender: NodeId, report: &PeerReport) {
        let other = report.node != self.setup.me && report.node != sender && self.nodes.contains(report.node);
        if !other || report.direct_seq == Seq(0) {
            return;
        }
        let life = self.peers[usize::from(report.node.0)].life.as_ref();
        let old = |life: &peers::Life| {
            life.tag == report.boot_tag && life.direct.is_some() && report.direct_seq <= life.best.seq
        };
        if life.is_some_and(old) {
            return; // nearly all of them
        }
        let said = Said {
            seq: report.direct_seq,
            state: report.state,
            rx_ok: report.rx_ok,
            holds: report.holds,
            view: report.view,
            follows: report.follows,
        };
        let challenge = self.voice.next_seq;
        let peer = &mut self.peers[usize::from(report.node.0)];
        let Some(life) = peer.life_of(report.boot_tag, said, self.now, challenge) else { return };
        life.learn(said, self.now);
        if life.direct.is_none() {
            life.same_config = Some(report.same_config);
        }
    }

    fn confirm(&mut self, node: NodeId) {
        let peer = &mut self.peers[usize::from(node.0)];
        let confirmed = if self.setup.rules.boot_ids {
            peer.promote(peers::Life::is_proved)
        } else {
            peer.believe_the_latest()
        };
        self.voice.urgent |= confirmed;
    }
}

impl super::Voice {
    /// The heartbeat with that number, if its send time is still known.
    fn sent(&self, seq: Seq) -> Option<Acked> {
        self.sent_at(seq).map(|sent| Acked { seq, sent })
    }
}
