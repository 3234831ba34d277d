//! The node that serves: changes from their begin to their answer, flushes, checkpoints, and the loss of the other copy.

mod step_down;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::marks::Entry;
use super::{CannotLead, Closing, Judgement, Made, Mirror, Order, Output, Peer, Ticket};
use crate::types::Instant;
use crate::types::replica::{Acknowledge, MirrorRole, ObjectId, Position, Region, Touch};
use crate::wire::replica::Message;

/// Operations that the other node has not received: more have to wait.
const WINDOW_OPERATIONS: u64 = 4096;
/// Regions that have changed since the last checkpoint: more, and the next one is due.
const CHECKPOINT_REGIONS: usize = 3072;
/// Nobody serves in the meantime, and a disk may have much to write that is not of this copy: a node that steps down is
/// patient, because the other copy would be out of date otherwise.
const STEP_DOWN_MAX: Duration = Duration::from_secs(20);
/// Regions of a copy without its other one: more, and all of it is compared.
pub(super) const MARKS_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Serving {
    #[default]
    No,
    /// That the other copy is out of date is being recorded; nobody is answered before.
    Claiming {
        batch: u64,
    },
    Yes,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    touches: Vec<Touch>,
    since: Instant,
}

#[derive(Debug)]
struct Flush {
    ticket: Ticket,
    here: bool,
    there: There,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    Asked,
    /// In the other node's memory, when it has received so much.
    From(Position),
    Done,
}

#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    number: u64,
    position: Position,
    /// Objects from here on were not touched when it began.
    untouched: u64,
    here: bool,
    there: bool,
}

#[derive(Debug, Default)]
pub(super) struct Leading {
    serving: Serving,
    /// Changes that have begun, and what they touch.
    under_way: BTreeMap<Ticket, Vec<Region>>,
    /// Of these: what the record has to have before they may go on.
    recording: BTreeMap<Ticket, u64>,
    waiting: VecDeque<Waiting>,
    pub(super) gate_closed: Option<Instant>,
    pub(super) sent: Position,
    pub(super) received: Position,
    /// Changes that are answered when the other node has received them.
    answers: VecDeque<(Position, Ticket, Instant)>,
    /// Changes and flushes that are answered when the loss of the other copy is recorded.
    held: Vec<Ticket>,
    flushes: BTreeMap<u64, Flush>,
    checkpoint: Option<Checkpoint>,
    next_checkpoint: Instant,
    highest: u64,
    steps_down: Option<Instant>,
    /// Since both copies became equal: what was copied then is on both disks.
    checkpointed: bool,
    /// The last operations, on the way down: times that the driver tells a little later than what set them.
    last_words: LastWords,
}

/// What a node that goes on without the other one knows of where the copies differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marked {
    /// Until now they were equal, but for what is marked.
    All,
    /// What is recorded, and new objects by their numbers: the process may have been restarted.
    Recorded,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastWords {
    #[default]
    NotAsked,
    Asked,
    Said,
}

impl Leading {
    pub(super) fn serves(&self) -> bool {
        self.serving == Serving::Yes
    }

    pub(super) fn claims(&self) -> bool {
        matches!(self.serving, Serving::Claiming { .. })
    }

    pub(super) fn steps_down(&self) -> bool {
        self.steps_down.is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    pub(super) fn start_stream(&mut self, now: Instant) {
        self.sent = Position::default();
        self.received = Position::default();
        self.checkpoint = None;
        self.checkpointed = false;
        self.next_checkpoint = now;
    }
}

impl Mirror {
    pub(super) fn begin(&mut self, ticket: Ticket, touches: Vec<Touch>, now: Instant) {
        if self.leading.serving == Serving::No {
            self.outputs.push_back(Output::Refuse(ticket));
        } else if self.must_wait() || !self.leading.waiting.is_empty() {
            self.leading.waiting.push_back(Waiting { ticket, touches, since: now });
        } else {
            self.admit(ticket, &touches);
        }
    }

    fn must_wait(&self) -> bool {
        let full = self.leading.sent.0 - self.leading.received.0 >= WINDOW_OPERATIONS;
        !self.leading.serves()
            || self.leading.gate_closed.is_some()
            || (full && matches!(self.peer, Peer::Equal))
    }

    pub(super) fn admit_waiting(&mut self) {
        while !self.must_wait() {
            let Some(waiting) = self.leading.waiting.pop_front() else { return };
            self.admit(waiting.ticket, &waiting.touches);
        }
    }

    /// The mark is there before the change begins, so a pass that begins meanwhile leaves it for the next.
    fn admit(&mut self, ticket: Ticket, touches: &[Touch]) {
        let mut missing = Vec::new();
        let mut batch = 0;
        for touch in touches {
            self.marks.begin(*touch);
            self.leading.highest = self.leading.highest.max(touch.region.object.0 + 1);
            match self.record.get(&touch.region) {
                Some(recorded) => batch = batch.max(*recorded),
                None if self.has_to_be_recorded(touch.region) => missing.push(Entry::Add(touch.region)),
                None => {}
            }
        }
        if !missing.is_empty() {
            batch = self.record(missing);
        }
        self.leading.under_way.insert(ticket, touches.iter().map(|touch| touch.region).collect());
        if batch > self.recorded && self.rules.record_first {
            self.leading.recording.insert(ticket, batch);
        } else {
            self.outputs.push_back(Output::Proceed(ticket));
        }
    }

    fn has_to_be_recorded(&self, region: Region) -> bool {
        let fresh_from = match &self.peer {
            Peer::Source(source) => source.fresh_from(self.copy.fresh_from),
            // Everything counts as recorded.
            Peer::Absent | Peer::Greeting(_) | Peer::Target(_) | Peer::Equal if self.copy.distrusted => {
                return false;
            }
            Peer::Absent | Peer::Greeting(_) | Peer::Target(_) | Peer::Equal => self.copy.fresh_from,
        };
        region.object.0 < fresh_from || region.object == ObjectId::ROOT
    }

    pub(super) fn done(&mut self, ticket: Ticket, made: Made, now: Instant) {
        let regions = self.leading.under_way.remove(&ticket).unwrap_or_default();
        let is_prim = self.role() == MirrorRole::Prim;
        let operations = match made {
            Made::Operations(count) if is_prim => count,
            Made::Operations(_) | Made::Unknown => 0,
        };
        if operations > 0 {
            let first = self.leading.sent.next();
            self.leading.sent.0 += operations;
            self.outputs.push_back(Output::Transmit { ticket, first });
        }
        for region in regions {
            self.marks.end(region, self.leading.sent);
        }
        if made == Made::Unknown && is_prim {
            self.give_up(Closing::Restart, now);
        }
        if self.leading.claims() {
            self.leading.held.push(ticket);
        } else if operations > 0 && self.settings.acknowledge == Acknowledge::EachWrite {
            self.leading.answers.push_back((self.leading.sent, ticket, now));
        } else {
            self.outputs.push_back(Output::Answer(ticket));
        }
        self.bound_marks(now);
        self.if_drained(now);
    }

    /// Too many to remember one by one: everything is compared when the other node comes.
    fn bound_marks(&mut self, now: Instant) {
        if self.marks.len() <= MARKS_MAX || matches!(self.peer, Peer::Equal) || !self.leading.is_idle() {
            return;
        }
        if matches!(self.peer, Peer::Source(_)) {
            self.give_up(Closing::Restart, now);
        }
        self.marks.clear();
        self.copy.distrusted = true;
        self.record(vec![Entry::Copy(self.copy.clone()), Entry::Clear]);
    }

    pub(super) fn flush(&mut self, ticket: Ticket, object: ObjectId, data_only: bool, now: Instant) {
        let number = self.number();
        let there = match self.role() {
            MirrorRole::Prim if self.settings.acknowledge == Acknowledge::Memory => {
                There::From(self.leading.sent)
            }
            MirrorRole::Prim => {
                self.send(Message::Flush { number, object, data_only });
                There::Asked
            }
            MirrorRole::Alone | MirrorRole::Second | MirrorRole::Wait if self.leading.claims() => {
                There::Asked
            }
            MirrorRole::Alone | MirrorRole::Second | MirrorRole::Wait => There::Done,
        };
        self.leading.flushes.insert(number, Flush { ticket, here: false, there, since: now });
        self.note_received();
    }

    pub(super) fn flushed_here(&mut self, ticket: Ticket) {
        for flush in self.leading.flushes.values_mut().filter(|flush| flush.ticket == ticket) {
            flush.here = true;
        }
        self.answer_flushes();
    }

    pub(super) fn flushed_there(&mut self, number: u64) {
        if let Some(flush) = self.leading.flushes.get_mut(&number) {
            flush.there = There::Done;
        }
        self.answer_flushes();
    }

    fn answer_flushes(&mut self) {
        let done = |_: &u64, flush: &mut Flush| flush.here && flush.there == There::Done;
        for (_, flush) in self.leading.flushes.extract_if(.., done) {
            self.outputs.push_back(Output::Answer(flush.ticket));
        }
    }

    pub(super) fn received(&mut self, position: Position, now: Instant) {
        // Said before the other node heard that this one serves no longer.
        if self.role() != MirrorRole::Prim {
            return;
        }
        if position > self.leading.sent {
            return self.give_up(Closing::Unexpected, now);
        }
        self.leading.received = self.leading.received.max(position);
        self.note_received();
        self.admit_waiting();
    }

    fn note_received(&mut self) {
        let received = self.leading.received;
        while self.leading.answers.front().is_some_and(|(position, ..)| *position <= received) {
            let (_, ticket, _) = self.leading.answers.pop_front().expect("there is a first one");
            self.outputs.push_back(Output::Answer(ticket));
        }
        for flush in self.leading.flushes.values_mut() {
            if matches!(flush.there, There::From(position) if position <= received) {
                flush.there = There::Done;
            }
        }
        self.answer_flushes();
    }

    pub(super) fn stall_deadline(&self) -> Option<Instant> {
        // Only what waits for the other node, not for the disk here.
        if !matches!(self.peer, Peer::Equal | Peer::Source(_)) || !self.leading.serves() {
            return None;
        }
        let leading = &self.leading;
        let asked = leading.flushes.values().filter(|flush| flush.there != There::Done);
        let since = [
            asked.map(|flush| flush.since).min(),
            leading.answers.front().map(|(_, _, since)| *since),
            leading.waiting.front().map(|waiting| waiting.since),
        ];
        let asked = since.into_iter().flatten().min().map(|since| since + self.settings.max_stall);
        let down = leading.steps_down.map(|since| since + self.settings.max_stall.max(STEP_DOWN_MAX));
        asked.into_iter().chain(down).min()
    }

    pub(super) fn checkpoint_deadline(&self) -> Option<Instant> {
        let due =
            self.role() == MirrorRole::Prim && self.leading.checkpoint.is_none() && !self.marks.is_empty();
        due.then(|| {
            if self.marks.len() >= CHECKPOINT_REGIONS {
                Instant::default()
            } else {
                self.leading.next_checkpoint
            }
        })
    }

    /// Both file systems to their disks; what was changed before leaves the record.
    pub(super) fn checkpoint(&mut self, now: Instant) {
        if self.role() != MirrorRole::Prim || self.leading.checkpoint.is_some() {
            return;
        }
        let (number, position) = (self.number(), self.leading.sent);
        let there = !self.rules.cool_when_both;
        let untouched = self.leading.highest.max(self.copy.fresh_from);
        self.leading.checkpoint = Some(Checkpoint { number, position, untouched, here: false, there });
        self.leading.next_checkpoint = now + self.settings.checkpoint_interval;
        self.outputs.push_back(Output::SyncHere { number });
        self.send(Message::Checkpoint { position });
    }

    pub(super) fn synced_here(&mut self, number: u64, now: Instant) {
        if let Some(checkpoint) = self.leading.checkpoint.as_mut().filter(|it| it.number == number) {
            checkpoint.here = true;
        }
        self.source_synced(number, now);
        self.end_checkpoint(now);
        self.step_down_synced(number, now);
    }

    pub(super) fn checkpointed_there(&mut self, position: Position, now: Instant) {
        if let Some(checkpoint) = self.leading.checkpoint.as_mut().filter(|it| it.position == position) {
            checkpoint.there = true;
        }
        self.end_checkpoint(now);
    }

    fn end_checkpoint(&mut self, now: Instant) {
        let Some(checkpoint) = self.leading.checkpoint.take_if(|it| it.here && it.there) else { return };
        self.leading.checkpointed = true;
        let mut entries: Vec<_> =
            self.marks.cool(checkpoint.position).into_iter().map(Entry::Remove).collect();
        entries.retain(|entry| matches!(entry, Entry::Remove(region) if self.record.contains_key(region)));
        // Objects that count as recorded by their numbers, and will not any longer.
        let named = self
            .marks
            .regions()
            .filter(|region| region.object.0 < checkpoint.untouched && !self.record.contains_key(region));
        entries.extend(named.map(Entry::Add));
        if checkpoint.untouched != self.copy.fresh_from {
            self.copy.fresh_from = checkpoint.untouched;
            entries.push(Entry::Copy(self.copy.clone()));
        }
        if !entries.is_empty() {
            self.record(entries);
        }
        self.if_drained(now);
    }

    /// The other copy is out of date from now on: recorded before anybody is answered.
    pub(super) fn lost_second(&mut self, now: Instant) {
        self.leading.checkpoint = None;
        self.marks.forget_positions();
        let marked = if self.leading.checkpointed { Marked::All } else { Marked::Recorded };
        self.claim(marked, now);
    }

    pub(super) fn claim(&mut self, marked: Marked, now: Instant) {
        let mut copy = if self.copy.peer_out && self.leading.serving == Serving::No {
            self.copy.clone()
        } else {
            self.rotated()
        };
        copy.led = true;
        let mut entries = Vec::new();
        if !copy.distrusted
            && (self.marks.is_empty() || marked == Marked::All && self.marks.len() <= CHECKPOINT_REGIONS)
        {
            // What counted as recorded by its number is named, and only objects that are made from now on are new.
            let named = self.marks.regions().filter(|region| !self.record.contains_key(region));
            entries.extend(named.map(Entry::Add));
            copy.fresh_from = copy.fresh_from.max(self.numbers).max(self.leading.highest);
        }
        self.copy = copy;
        entries.push(Entry::Copy(self.copy.clone()));
        let batch = self.record(entries);
        self.leading.serving = Serving::Claiming { batch };
        if !self.rules.record_loss {
            self.claimed(now);
        }
    }

    fn claimed(&mut self, now: Instant) {
        self.leading.serving = Serving::Yes;
        self.intact = false;
        let held = std::mem::take(&mut self.leading.held);
        let answers = std::mem::take(&mut self.leading.answers).into_iter().map(|(_, ticket, _)| ticket);
        self.outputs.extend(answers.chain(held).map(Output::Answer));
        self.release_flushes();
        if !matches!(self.order, Order::Lead { .. }) {
            return self.step_down(now);
        }
        if matches!(self.peer, Peer::Greeting(_)) {
            self.greet();
        }
        self.admit_waiting();
        self.reconsider(now);
    }

    /// Nobody waits for the other node any longer.
    fn release_flushes(&mut self) {
        for flush in self.leading.flushes.values_mut() {
            flush.there = There::Done;
        }
        self.answer_flushes();
    }

    pub(super) fn batch_recorded(&mut self, batch: u64, now: Instant) {
        self.recorded = self.recorded.max(batch);
        let recorded = self.recorded;
        let ready = self.leading.recording.extract_if(.., |_, wanted| *wanted <= recorded);
        self.outputs.extend(ready.map(|(ticket, _)| Output::Proceed(ticket)));
        if matches!(self.leading.serving, Serving::Claiming { batch } if batch <= recorded) {
            self.claimed(now);
        }
        self.source_recorded(now);
        self.target_recorded();
    }

    pub(super) fn take_order(&mut self, order: Order, now: Instant) {
        self.order = order;
        self.cannot_lead = None;
        match order {
            Order::Lead { .. } => {
                if self.leading.steps_down.take().is_some() {
                    if self.role() != MirrorRole::Prim {
                        // It was for the way down, and the next way down needs one of its own.
                        self.leading.checkpoint = None;
                    }
                    self.open_gate();
                }
                self.reconsider(now);
            }
            Order::Follow => self.step_down(now),
            Order::Discard => {
                self.step_down(now);
                self.discard(now);
            }
        }
    }

    /// Whoever may be newer is not passed over, unless the operator says so.
    pub(super) fn try_to_lead(&mut self, now: Instant) {
        let Order::Lead { force } = self.order else { return };
        if self.leading.serving != Serving::No {
            return;
        }
        match self.objection() {
            None => {}
            Some(objection @ (CannotLead::HalfCopied | CannotLead::OtherLeads)) => {
                self.cannot_lead = Some(objection);
                return;
            }
            Some(_) if force => self.copy.distrusted = true,
            Some(objection) => {
                self.cannot_lead = Some(objection);
                return;
            }
        }
        if matches!(&self.peer, Peer::Greeting(greeting) if !greeting.complete) {
            // It will say in a moment what it has.
            return;
        }
        self.cannot_lead = None;
        // An order by force is meant once.
        self.order = Order::Lead { force: false };
        self.claim(Marked::Recorded, now);
    }

    fn objection(&self) -> Option<CannotLead> {
        if self.copy.half_copied {
            return Some(CannotLead::HalfCopied);
        }
        match &self.peer {
            Peer::Equal | Peer::Target(_) => Some(CannotLead::OtherLeads),
            Peer::Source(_) => None,
            Peer::Absent if self.copy.generation.is_none() => Some(CannotLead::NeverMet),
            Peer::Absent => {
                let alone = self.copy.peer_out || self.intact || !self.rules.restarted_waits;
                (!alone).then_some(CannotLead::Unknown)
            }
            Peer::Greeting(greeting) if greeting.hello.as_ref().is_some_and(|(_, leads)| *leads) => {
                Some(CannotLead::OtherLeads)
            }
            Peer::Greeting(_) => match self.judgement()? {
                Judgement::BothNew | Judgement::Either | Judgement::Ours { .. } => None,
                Judgement::BothLead => Some(CannotLead::OtherLeads),
                Judgement::Theirs { .. }
                | Judgement::SplitBrain
                | Judgement::BothHalf
                | Judgement::Unrelated => Some(CannotLead::OtherNewer),
            },
        }
    }

    fn discard(&mut self, now: Instant) {
        self.order = Order::Follow;
        if self.leading.serving != Serving::No {
            return;
        }
        if !matches!(self.peer, Peer::Absent) {
            self.give_up(Closing::Restart, now);
        }
        self.marks.clear();
        self.intact = false;
        self.copy.generation = None;
        self.copy.parent = None;
        self.copy.history.clear();
        (self.copy.peer_out, self.copy.led, self.copy.half_copied) = (false, false, false);
        self.record(vec![Entry::Copy(self.copy.clone()), Entry::Clear]);
    }
}
