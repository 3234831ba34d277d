//! One copy of a mirror: who may change it, what the other copy lacks, and when an application may be answered.
//!
//! Pure. Time comes in as `now`; effects leave as [`Output`], to be carried out in their order.
//!
//! ```text
//!                 order to lead,                     copies equal
//!        WAIT ──── record written ────▶ ALONE ──── resynchronised ────▶ PRIM
//!         ▲ │                             ▲                              │ connection lost, or nothing
//!         │ │                             └──────── record written ──────┘ answered within max_stall:
//!         │ │ overwritten, on the disk                                     nobody is answered meanwhile
//!         │ └──────────▶ SECOND
//!         └── connection lost ──┘
//! ```
//!
//! The **record** is a set of regions on the disk. A region is in it before its first byte changes here, and leaves it
//! when both copies have it on their disks (a checkpoint while PRIM; never while ALONE). So after any crash of either
//! node the two copies differ in recorded regions only, and those are compared. Objects with numbers from `fresh_from`
//! on count as recorded: nothing has to be written for an object that is being made.
//!
//! A **resynchronisation** copies the recorded regions in passes while the application goes on and nothing is
//! mirrored; what changes meanwhile is the next pass. The last, short one runs with the gate closed: no change begins.
//! Then the other copy is flushed and recorded as equal, and only after that may this side forget (`resync`).

mod follow;
mod lead;
mod marks;
mod resync;
mod table;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, VecDeque};

pub use marks::Entry;
pub use table::{Judgement, judge};
pub use words::{CannotLead, Closing, Input, Made, Order, Output, Rules, Settings, Ticket, View};

use self::lead::{Leading, MARKS_MAX};
use self::marks::Marks;
use self::resync::{Source, Target};
use crate::types::Instant;
use crate::types::replica::{Acknowledge, DataGeneration, MirrorRole, ObjectId, Position, Region, Touch};
use crate::wire::replica::{Copy, ITEMS_MAX, Message, VERSION};

/// Generations that a copy remembers to have been.
const HISTORY_MAX: usize = 32;

/// The connection to the other node.
#[derive(Debug)]
enum Peer {
    Absent,
    /// Both say what they have.
    Greeting(Greeting),
    Source(Box<Source>),
    Target(Target),
    /// The copies are equal, and every change goes from one to the other.
    Equal,
}

#[derive(Clone, Debug, Default)]
struct Greeting {
    hello: Option<(Copy, bool)>,
    regions: Vec<Touch>,
    complete: bool,
}

#[derive(Debug)]
pub struct Mirror {
    settings: Settings,
    rules: Rules,
    copy: Copy,
    /// What is recorded, and by which batch.
    record: BTreeMap<Region, u64>,
    last_batch: u64,
    recorded: u64,
    marks: Marks,
    leading: Leading,
    peer: Peer,
    order: Order,
    cannot_lead: Option<CannotLead>,
    /// The copies were equal until the connection was lost, and this process has not been told otherwise since.
    intact: bool,
    /// As SECOND: what has been applied.
    applied: Position,
    received_told: Position,
    numbers: u64,
    next_number: u64,
    random: u64,
    outputs: VecDeque<Output>,
}

impl Mirror {
    /// `random` seeds the names of generations.
    pub fn new(
        settings: Settings,
        rules: Rules,
        copy: Copy,
        regions: impl IntoIterator<Item = Region>,
        random: u64,
    ) -> Self {
        let record: BTreeMap<_, _> = regions.into_iter().map(|region| (region, 0)).collect();
        let mut marks = Marks::default();
        for region in record.keys() {
            marks.add(Touch::all(*region));
        }
        Self {
            settings,
            rules,
            copy,
            record,
            last_batch: 0,
            recorded: 0,
            marks,
            leading: Leading::default(),
            peer: Peer::Absent,
            order: Order::Follow,
            cannot_lead: None,
            intact: false,
            applied: Position::default(),
            received_told: Position::default(),
            numbers: 0,
            next_number: 0,
            random,
            outputs: VecDeque::new(),
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Order(order) => self.take_order(order, now),
            Input::Begin { ticket, touches } => self.begin(ticket, touches, now),
            Input::Done { ticket, made } => self.done(ticket, made, now),
            Input::Flush { ticket, object, data_only } => self.flush(ticket, object, data_only, now),
            Input::FlushedHere { ticket } => self.flushed_here(ticket),
            Input::Recorded { batch } => self.batch_recorded(batch, now),
            Input::LastWords { operations } => self.last_words(operations, now),
            Input::SyncedHere { number } => self.synced_here(number, now),
            Input::Connected => self.connected(),
            Input::Disconnected => self.disconnected(now),
            Input::Message(message) => self.message(message, now),
            Input::Applied { position, more } => self.applied(position, more),
            Input::FlushedFor { number } => {
                if matches!(self.peer, Peer::Equal) {
                    self.send(Message::Flushed { number });
                }
            }
            Input::SyncedFor { position } => {
                if matches!(self.peer, Peer::Equal) {
                    self.send(Message::Checkpointed { position });
                }
            }
            Input::PassDone { number, lost } => self.pass_done(number, &lost, now),
            Input::TargetSynced => self.target_synced(),
            Input::Numbers(numbers) => self.numbers = self.numbers.max(numbers),
            Input::Found { touches } => self.found(&touches),
            Input::Tick => self.tick(now),
        }
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    /// When `Tick` is due at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.stall_deadline(), self.checkpoint_deadline(), self.gate_deadline()].into_iter().flatten().min()
    }

    pub fn role(&self) -> MirrorRole {
        match (self.leading.serves(), &self.peer) {
            (true, Peer::Equal) => MirrorRole::Prim,
            (true, _) => MirrorRole::Alone,
            (false, Peer::Equal) => MirrorRole::Second,
            (false, _) => MirrorRole::Wait,
        }
    }

    pub fn copy(&self) -> &Copy {
        &self.copy
    }

    pub fn acknowledge(&self) -> Acknowledge {
        self.settings.acknowledge
    }

    /// Whether the object's place has to be remembered.
    pub fn is_marked(&self, object: ObjectId) -> bool {
        self.marks.has(object)
    }

    pub fn view(&self) -> View {
        let resync = match &self.peer {
            Peer::Source(source) => Some(source.progress()),
            Peer::Absent | Peer::Greeting(_) | Peer::Target(_) | Peer::Equal => None,
        };
        View {
            role: self.role(),
            generation: self.copy.generation,
            connected: !matches!(self.peer, Peer::Absent),
            frozen: self.leading.claims(),
            resync,
            overwritten: matches!(self.peer, Peer::Target(_)),
            judgement: self.judgement(),
            cannot_lead: self.cannot_lead,
            sent: self.leading.sent,
            received: self.leading.received,
            recorded: self.record.len(),
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.stall_deadline().is_some_and(|deadline| now >= deadline) {
            self.give_up(Closing::Stalled, now);
        }
        if self.gate_deadline().is_some_and(|deadline| now >= deadline) {
            self.reopen_gate();
        }
        if self.checkpoint_deadline().is_some_and(|deadline| now >= deadline) {
            self.checkpoint(now);
        }
    }

    /// The driver ends the connection; nothing that still arrives over it counts.
    fn give_up(&mut self, why: Closing, now: Instant) {
        self.outputs.push_back(Output::Close(why));
        self.disconnected(now);
    }

    fn send(&mut self, message: Message) {
        self.outputs.push_back(Output::Send(message));
    }

    fn record(&mut self, entries: Vec<Entry>) -> u64 {
        self.last_batch += 1;
        let batch = self.last_batch;
        for entry in &entries {
            match entry {
                Entry::Copy(_) => {}
                Entry::Add(region) => {
                    self.record.insert(*region, batch);
                }
                Entry::Remove(region) => {
                    self.record.remove(region);
                }
                Entry::Clear => self.record.clear(),
            }
        }
        self.outputs.push_back(Output::Record { batch, entries });
        batch
    }

    /// Somebody changed the directory while it was not captured. What has no generation is compared as a whole anyway.
    fn found(&mut self, touches: &[Touch]) {
        if self.copy.generation.is_none() || self.copy.distrusted {
            return;
        }
        if self.marks.len() + touches.len() > MARKS_MAX {
            self.marks.clear();
            self.copy.distrusted = true;
            self.record(vec![Entry::Copy(self.copy.clone()), Entry::Clear]);
            return;
        }
        let mut entries = Vec::new();
        for touch in touches {
            self.marks.add(*touch);
            if !self.record.contains_key(&touch.region) {
                entries.push(Entry::Add(touch.region));
            }
        }
        if !entries.is_empty() {
            self.record(entries);
        }
    }

    /// Whether everything that was to be recorded is on the disk.
    pub fn is_recorded(&self) -> bool {
        self.recorded >= self.last_batch
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): names have to differ, nothing more.
    fn new_generation(&mut self) -> DataGeneration {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        DataGeneration(mixed ^ (mixed >> 31))
    }

    /// From now on the other copy is out of date: on the disk before anybody relies on it.
    fn rotated(&mut self) -> Copy {
        let mut copy = self.copy.clone();
        if let Some(generation) = copy.generation {
            copy.parent = copy.parent.or(Some(generation));
            copy.history.push(generation);
            if copy.history.len() > HISTORY_MAX {
                copy.history.remove(0);
            }
        } else {
            copy.distrusted = true;
        }
        copy.generation = Some(self.new_generation());
        copy.peer_out = true;
        copy.led = true;
        copy
    }

    fn connected(&mut self) {
        assert!(matches!(self.peer, Peer::Absent), "one connection at a time");
        self.peer = Peer::Greeting(Greeting::default());
        self.greet();
    }

    /// What the other node has to know; said again when it changes.
    fn greet(&mut self) {
        let leads = self.leading.serves();
        let wants_to_lead = matches!(self.order, Order::Lead { .. });
        self.send(Message::Hello { version: VERSION, copy: self.copy.clone(), leads, wants_to_lead });
        let touches = self.marks.touches();
        let mut pieces = touches.chunks(ITEMS_MAX).peekable();
        let mut messages = Vec::new();
        while let Some(piece) = pieces.next() {
            messages.push(Message::Regions { touches: piece.to_vec(), last: pieces.peek().is_none() });
        }
        if messages.is_empty() {
            messages.push(Message::Regions { touches: Vec::new(), last: true });
        }
        messages.into_iter().for_each(|message| self.send(message));
    }

    fn judgement(&self) -> Option<Judgement> {
        let Peer::Greeting(Greeting { hello: Some((theirs, leads)), regions, complete: true }) = &self.peer
        else {
            return None;
        };
        let (ours, theirs) = (
            table::Side { copy: &self.copy, leads: self.leading.serves(), clean: self.marks.is_empty() },
            table::Side { copy: theirs, leads: *leads, clean: regions.is_empty() },
        );
        Some(judge(&ours, &theirs, self.rules.led_is_source))
    }

    fn disconnected(&mut self, now: Instant) {
        let peer = std::mem::replace(&mut self.peer, Peer::Absent);
        match peer {
            Peer::Absent | Peer::Greeting(_) => {}
            Peer::Source(source) => self.abort_source(*source, now),
            Peer::Target(_) => {}
            Peer::Equal if self.leading.serves() => self.lost_second(now),
            Peer::Equal => self.intact = true,
        }
        self.reconsider(now);
    }

    fn message(&mut self, message: Message, now: Instant) {
        match message {
            Message::Hello { version, .. } if version != VERSION => {
                self.give_up(Closing::Version(version), now);
            }
            Message::Hello { copy, leads, .. } => match &mut self.peer {
                Peer::Greeting(greeting) => {
                    *greeting = Greeting { hello: Some((copy, leads)), ..Greeting::default() };
                }
                // Said before the other side heard of what has begun meanwhile.
                Peer::Source(_) => {}
                Peer::Absent | Peer::Target(_) | Peer::Equal => self.give_up(Closing::Unexpected, now),
            },
            Message::Regions { touches, last } => {
                let Peer::Greeting(greeting) = &mut self.peer else { return };
                // Nobody records more: its engine would have given up on the record.
                if greeting.regions.len() + touches.len() > MARKS_MAX + ITEMS_MAX {
                    return self.give_up(Closing::Unexpected, now);
                }
                greeting.regions.extend(touches);
                greeting.complete = last;
                self.reconsider(now);
            }
            Message::Overwrite { .. } => self.overwrite(now),
            Message::Ready => self.target_ready(now),
            Message::Finish { generation, history, fresh_from } => {
                self.finish_target(generation, history, fresh_from, now);
            }
            Message::Finished => self.target_finished(now),
            Message::Received { position } => self.received(position, now),
            Message::Flushed { number } => self.flushed_there(number),
            Message::Checkpointed { position } => self.checkpointed_there(position, now),
            Message::Flush { number, object, data_only } => {
                if self.role() == MirrorRole::Second {
                    self.outputs.push_back(Output::FlushFor { number, object, data_only });
                }
            }
            Message::Checkpoint { position } => {
                if self.role() == MirrorRole::Second {
                    self.outputs.push_back(Output::SyncFor { position });
                }
            }
            Message::SteppedDown => self.leader_stepped_down(now),
            Message::Alive => {}
        }
    }

    /// Something has changed that may let this node lead, or its data be copied.
    fn reconsider(&mut self, now: Instant) {
        self.try_to_lead(now);
        let stays = self.leading.serves() && !self.leading.steps_down();
        if stays && matches!(self.judgement(), Some(Judgement::Ours { .. })) {
            self.become_source(now);
        }
    }

    #[cfg(debug_assertions)]
    fn check_invariants(&self) {
        assert!(
            !matches!(self.peer, Peer::Source(_)) || self.leading.serves() || self.leading.claims(),
            "who copies to the other node serves"
        );
        assert!(
            !matches!(self.peer, Peer::Target(_)) || !self.leading.serves(),
            "who is overwritten serves nobody"
        );
        assert!(
            !self.copy.half_copied || !self.leading.serves(),
            "a copy that is half of another serves nobody"
        );
        assert!(self.leading.received <= self.leading.sent, "nothing is received before it is sent");
    }
}
