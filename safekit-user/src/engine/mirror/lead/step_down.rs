//! A node that serves and is to serve no longer: everything is on both disks first.

use super::{Checkpoint, LastWords, Serving};
use crate::engine::mirror::{Closing, Greeting, Mirror, Output, Peer, Ticket};
use crate::types::Instant;
use crate::types::replica::{MirrorRole, Position};
use crate::wire::replica::Message;

impl Mirror {
    /// In order: nothing begins, everything is on both disks, then nobody serves.
    pub(in crate::engine::mirror) fn step_down(&mut self, now: Instant) {
        if !self.leading.serves() {
            return;
        }
        if matches!(self.peer, Peer::Source(_)) {
            self.give_up(Closing::Restart, now);
            if !self.leading.serves() {
                // When the record has it.
                return;
            }
        }
        self.leading.steps_down = Some(now);
        self.leading.last_words = LastWords::default();
        self.close_gate(now);
    }

    pub(in crate::engine::mirror) fn close_gate(&mut self, now: Instant) {
        self.leading.gate_closed.get_or_insert(now);
        self.if_drained(now);
    }

    pub(in crate::engine::mirror) fn open_gate(&mut self) {
        self.leading.gate_closed = None;
        self.admit_waiting();
    }

    /// No change is under way, and none begins.
    pub(super) fn if_drained(&mut self, now: Instant) {
        if self.leading.gate_closed.is_none() || !self.leading.is_idle() || !self.leading.serves() {
            return;
        }
        if self.leading.steps_down.is_none() {
            return self.gated(now);
        }
        let is_prim = self.role() == MirrorRole::Prim;
        if is_prim && self.leading.last_words != LastWords::Said {
            if self.leading.last_words == LastWords::NotAsked {
                self.leading.last_words = LastWords::Asked;
                self.outputs.push_back(Output::LastWords);
            }
        } else if is_prim && !self.marks.is_empty() {
            self.checkpoint(now);
        } else if is_prim {
            self.stepped_down(now);
        } else if self.leading.checkpoint.is_none() {
            let number = self.number();
            let position = Position::default();
            self.leading.checkpoint =
                Some(Checkpoint { number, position, untouched: 0, here: false, there: false });
            self.outputs.push_back(Output::SyncHere { number });
        }
    }

    /// So many operations that no change was begun for.
    pub(in crate::engine::mirror) fn last_words(&mut self, operations: u64, now: Instant) {
        if self.leading.last_words != LastWords::Asked {
            return;
        }
        self.leading.last_words = LastWords::Said;
        if operations > 0 && self.role() == MirrorRole::Prim {
            let first = self.leading.sent.next();
            self.leading.sent.0 += operations;
            self.outputs.push_back(Output::Transmit { ticket: Ticket(0), first });
        }
        self.if_drained(now);
    }

    pub(super) fn step_down_synced(&mut self, number: u64, now: Instant) {
        let is_it = self.leading.checkpoint.is_some_and(|checkpoint| checkpoint.number == number);
        if is_it && self.leading.steps_down.is_some() && self.role() == MirrorRole::Alone {
            self.leading.checkpoint = None;
            self.stepped_down(now);
        }
    }

    fn stepped_down(&mut self, now: Instant) {
        let was_prim = self.role() == MirrorRole::Prim;
        self.leading.serving = Serving::No;
        self.leading.steps_down = None;
        self.leading.gate_closed = None;
        self.leading.checkpoint = None;
        for waiting in std::mem::take(&mut self.leading.waiting) {
            self.outputs.push_back(Output::Refuse(waiting.ticket));
        }
        let answers = std::mem::take(&mut self.leading.answers).into_iter().map(|(_, ticket, _)| ticket);
        self.outputs.extend(answers.map(Output::Answer));
        self.release_flushes();
        if was_prim {
            self.intact = true;
            self.send(Message::SteppedDown);
            self.peer = Peer::Greeting(Greeting::default());
        }
        if matches!(self.peer, Peer::Greeting(_)) {
            self.greet();
        }
        self.reconsider(now);
    }
}
