//! The engine, and all that has to be in one order with what it says: who waits, what is queued for the other node, and
//! what is recorded.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{SyncSender, sync_channel};

use rustix::io::Errno;

use super::copying::PassOrder;
use super::figures::Figures;
use super::shared::Parts;
use super::verifying::Verification;
use crate::driver::clock;
use crate::driver::replica::copy::Work;
use crate::driver::replica::link::Link;
use crate::driver::replica::store::Kept;
use crate::driver::replica::watch::{Change, FlushReply, Reply, Trace};
use crate::engine::mirror::{Closing, Entry, Input, Mirror, Output, Ticket};
use crate::types::Instant;
use crate::types::replica::{MirrorRole, ObjectId, Position};
use crate::wire::replica::{Copied, Frame, Message};

/// Answers of the other node that the copying thread has not taken: more than the questions that it asks at once.
const ANSWERS_MAX: usize = 256;

/// Who waits for the engine, from its begin to its answer.
pub(super) enum Waiting {
    ToBegin { since: Instant, verdict: Option<Result<(), Errno>> },
    UnderWay { since: Instant },
    Change { since: Instant, reply: Reply },
    Flush { since: Instant, reply: FlushReply, result: Result<(), Errno> },
}

/// What frames of the other node are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Of engines only.
    Talk,
    /// This copy is overwritten.
    Target,
    /// Its changes are made again.
    Follow,
}

pub(super) struct Connection {
    pub(super) link: Link,
    pub(super) number: u64,
    pub(super) mode: Mode,
    /// What the other node can find by its number.
    pub(super) placed: HashSet<ObjectId>,
    pub(super) answers: Option<SyncSender<Copied>>,
}

/// For the thread that reads from the other node: it has the files.
#[derive(Clone, Copy, Debug)]
pub(super) enum Errand {
    Flush { number: u64, object: ObjectId, data_only: bool },
    SyncAll { position: Position },
    SyncTarget,
}

/// What is done when the lock is free again.
#[derive(Default)]
pub(super) struct After {
    replies: Vec<Box<dyn FnOnce() + Send>>,
    kick: Option<Link>,
    close: Vec<(Link, String)>,
    /// As that, and the other node hears why.
    part: Vec<(Link, String)>,
    errands: Vec<Errand>,
    dropped: Vec<Waiting>,
    pub(super) woke: bool,
}

impl After {
    pub(super) fn carry_out(self) -> Vec<Errand> {
        if let Some(link) = self.kick {
            link.kick();
        }
        for (link, why) in self.close {
            link.close(&why);
        }
        for (link, why) in self.part {
            link.part(&why);
        }
        self.replies.into_iter().for_each(|reply| reply());
        // A reply that is dropped tells the application of an error.
        drop(self.dropped);
        self.errands
    }
}

pub(super) struct Desk {
    pub(super) engine: Mirror,
    next_ticket: u64,
    waiting: HashMap<Ticket, Waiting>,
    pub(super) connection: Option<Connection>,
    connections: u64,
    /// The mount lets applications change something.
    pub(super) open: bool,
    pub(super) ended: bool,
    /// The engine waits for what is left to be told.
    pub(super) last_words: bool,
    pub(super) verification: Option<Verification>,
    failed: Option<String>,
    /// Of objects with recorded regions, and how many those are.
    traces: HashMap<ObjectId, (Option<Trace>, u32)>,
    clock_wakes: Instant,
    pub(super) figures: Figures,
    role: MirrorRole,
    frozen: bool,
}

impl Desk {
    pub(super) fn new(engine: Mirror, kept: Kept) -> Self {
        let mut traces: HashMap<ObjectId, (Option<Trace>, u32)> = HashMap::new();
        for region in &kept.regions {
            traces.entry(region.object).or_default().1 += 1;
        }
        for (object, trace) in kept.traces {
            traces.entry(object).and_modify(|known| known.0 = Some(trace));
        }
        let role = engine.role();
        Self {
            engine,
            next_ticket: 0,
            waiting: HashMap::new(),
            connection: None,
            connections: 0,
            open: false,
            ended: false,
            last_words: false,
            verification: None,
            failed: None,
            traces,
            clock_wakes: Instant(u64::MAX),
            figures: Figures::default(),
            role,
            frozen: false,
        }
    }

    /// One input of the engine. `changes`: what was made, if it is about that.
    pub(super) fn handle(&mut self, input: Input, changes: &[Change<'_>], parts: &Parts, after: &mut After) {
        self.engine.handle(input, clock::now());
        while let Some(output) = self.engine.poll_output() {
            self.carry_out(output, changes, parts, after);
        }
        self.note_role(parts, after);
    }

    fn note_role(&mut self, parts: &Parts, after: &mut After) {
        let view = self.engine.view();
        if (view.role, view.frozen) == (self.role, self.frozen) {
            return;
        }
        if view.role != self.role {
            tracing::info!(from = ?self.role, to = ?view.role, "the role of a copy changes");
        }
        (self.role, self.frozen) = (view.role, view.frozen);
        after.woke = true;
        self.figures.note_role(&view, parts.progress());
    }

    fn carry_out(&mut self, output: Output, changes: &[Change<'_>], parts: &Parts, after: &mut After) {
        match output {
            Output::Proceed(ticket) => self.decide(ticket, Ok(()), after),
            Output::Refuse(ticket) => self.decide(ticket, Err(Errno::ROFS), after),
            Output::Transmit { first, .. } => self.transmit(first, changes, parts, after),
            Output::Answer(ticket) => self.answer(ticket, after),
            Output::Send(message) => self.send(&Frame::Message(message), after),
            Output::Record { batch, entries } => self.record(batch, entries, parts),
            Output::LastWords => {
                self.last_words = true;
                after.woke = true;
            }
            Output::SyncHere { number } => parts.flushers.sync_here(number),
            Output::FlushFor { number, object, data_only } => {
                after.errands.push(Errand::Flush { number, object, data_only });
            }
            Output::SyncFor { position } => after.errands.push(Errand::SyncAll { position }),
            Output::SyncTarget => after.errands.push(Errand::SyncTarget),
            Output::StartPass { number, everything, fresh_from, work } => {
                self.start_pass(Work { number, everything, fresh_from, touches: work }, parts);
            }
            Output::BeginTarget => {
                self.set_mode(Mode::Target);
                self.figures.target_began();
            }
            Output::EndTarget => self.set_mode(Mode::Follow),
            Output::Close(why) => self.closed_by_engine(why, parts, after),
        }
    }

    fn set_mode(&mut self, mode: Mode) {
        if let Some(connection) = &mut self.connection {
            connection.mode = mode;
        }
    }

    fn decide(&mut self, ticket: Ticket, verdict: Result<(), Errno>, after: &mut After) {
        if let Some(Waiting::ToBegin { verdict: open, .. }) = self.waiting.get_mut(&ticket) {
            *open = Some(verdict);
            after.woke = true;
        }
    }

    fn answer(&mut self, ticket: Ticket, after: &mut After) {
        let now = clock::now();
        match self.waiting.remove(&ticket) {
            Some(Waiting::Change { since, reply }) => {
                self.figures.writes.add(now.since(since));
                after.replies.push(reply);
            }
            Some(Waiting::Flush { since, reply, result }) => {
                self.figures.flushes.add(now.since(since));
                after.replies.push(Box::new(move || reply(result)));
            }
            Some(other @ (Waiting::ToBegin { .. } | Waiting::UnderWay { .. })) => {
                debug_assert!(false, "nobody is answered before the change was made");
                self.waiting.insert(ticket, other);
            }
            // Whoever waited has been told of a failure.
            None => {}
        }
    }

    pub(super) fn send(&mut self, frame: &Frame, after: &mut After) {
        if let Some(connection) = &self.connection {
            connection.link.queue(frame, &[]);
            after.kick = Some(connection.link.clone());
        }
    }

    fn transmit(&mut self, first: Position, changes: &[Change<'_>], parts: &Parts, after: &mut After) {
        let Some(connection) = &mut self.connection else { return };
        let acknowledge = self.engine.acknowledge();
        let mut position = first;
        for change in changes {
            // A comparison counts on what was placed.
            if self.verification.is_none() {
                connection.bound_places();
            }
            if let Err(unplaced) = connection.place_for(&change.operation, parts.atlas()) {
                // Its operations cannot be told any more: a resynchronisation finds what has changed.
                let why = format!("object {} has no name that is known here", unplaced.0);
                return after.part.push((connection.link.clone(), why));
            }
            let operation = change.operation.clone();
            connection.link.queue(&Frame::Operation { position, acknowledge, operation }, change.bulk);
            position = position.next();
        }
        after.kick = Some(connection.link.clone());
    }

    fn record(&mut self, batch: u64, entries: Vec<Entry>, parts: &Parts) {
        let mut traces = Vec::new();
        for entry in &entries {
            match entry {
                Entry::Copy(_) => {}
                Entry::Clear => self.traces.clear(),
                Entry::Add(region) => {
                    let known = self.traces.entry(region.object).or_default();
                    known.1 += 1;
                    if known.0.is_none() {
                        known.0 = parts.atlas().trace(region.object);
                    }
                    if known.1 == 1
                        && let Some(trace) = &known.0
                    {
                        traces.push((region.object, trace.clone()));
                    }
                }
                Entry::Remove(region) => {
                    if let Some(known) = self.traces.get_mut(&region.object) {
                        known.1 -= 1;
                        if known.1 == 0 {
                            self.traces.remove(&region.object);
                        }
                    }
                }
            }
        }
        if let Some(recorder) = &*parts.recorder() {
            recorder.record(batch, entries, traces);
        }
    }

    fn start_pass(&mut self, work: Work, parts: &Parts) {
        let Some(connection) = &mut self.connection else { return };
        let (answers, answered) = sync_channel(ANSWERS_MAX);
        connection.answers = Some(answers);
        self.figures.pass_begins(&work, parts.progress());
        let link = connection.link.clone();
        parts.copier().start_pass(PassOrder { link, connection: connection.number, answered, work });
    }

    fn closed_by_engine(&mut self, why: Closing, parts: &Parts, after: &mut After) {
        if why == Closing::Stalled {
            self.figures.stalls += 1;
        }
        if let Some(connection) = self.connection.take() {
            self.figures.connection_ended(&connection.link, parts.progress());
            // To start over is no reason for anybody to worry.
            let ends = if why == Closing::Restart { &mut after.close } else { &mut after.part };
            ends.push((connection.link, why.to_string()));
        }
    }

    /// Where an object is that nobody has looked at through the mount.
    pub(super) fn know(&mut self, object: ObjectId, trace: Trace) {
        self.traces.entry(object).or_default().0 = Some(trace);
    }

    pub(super) fn trace(&self, object: ObjectId) -> Option<Trace> {
        self.traces.get(&object).and_then(|known| known.0.clone())
    }

    /// Applications may change this copy, now or as soon as the record has it.
    pub(super) fn leads(&self) -> bool {
        self.role.leads() || self.frozen
    }

    /// Each change goes to the other node.
    pub(super) fn is_prim(&self) -> bool {
        self.role == MirrorRole::Prim
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// The engine has a deadline before the clock looks again.
    pub(super) fn is_due_sooner(&mut self) -> bool {
        self.engine.next_deadline().is_some_and(|deadline| deadline < self.clock_wakes)
    }

    pub(super) fn clock_wakes(&mut self, at: Instant) {
        self.clock_wakes = at;
    }

    pub(super) fn say_alive(&mut self) -> Option<Link> {
        let connection = self.connection.as_ref()?;
        connection.link.queue(&Frame::Message(Message::Alive), &[]);
        Some(connection.link.clone())
    }

    /// The number of the connection from now on.
    pub(super) fn connect(&mut self, link: Link, parts: &Parts, after: &mut After) -> u64 {
        self.connections += 1;
        let number = self.connections;
        let placed = HashSet::from([ObjectId::ROOT]);
        self.connection = Some(Connection { link, number, mode: Mode::Talk, placed, answers: None });
        self.figures.connected();
        self.handle(Input::Connected, &[], parts, after);
        number
    }

    pub(super) fn is_connected_by(&self, number: u64) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.number == number)
    }

    pub(super) fn disconnect(&mut self, number: u64, why: &str, parts: &Parts, after: &mut After) {
        self.figures.not_connected = Some(why.to_owned());
        if self.is_connected_by(number) {
            if let Some(connection) = self.connection.take() {
                self.figures.connection_ended(&connection.link, parts.progress());
            }
            self.handle(Input::Disconnected, &[], parts, after);
        }
    }

    pub(super) fn ticket(&mut self, waiting: Waiting) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.waiting.insert(ticket, waiting);
        ticket
    }

    pub(super) fn waits(&mut self, ticket: Ticket) -> Option<&mut Waiting> {
        self.waiting.get_mut(&ticket)
    }

    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
    }

    /// None: it was answered with an error meanwhile.
    pub(super) fn made(&mut self, ticket: Ticket, reply: Reply) -> Option<Reply> {
        match self.waiting.remove(&ticket) {
            Some(Waiting::UnderWay { since } | Waiting::ToBegin { since, .. }) => {
                self.waiting.insert(ticket, Waiting::Change { since, reply });
                None
            }
            Some(Waiting::Change { .. } | Waiting::Flush { .. }) | None => Some(reply),
        }
    }

    /// Nothing changes any more, and nobody is told that something is safe.
    pub(super) fn fail(&mut self, why: &str, after: &mut After) {
        self.failed = Some(why.to_owned());
        self.let_go(after);
        if let Some(connection) = &self.connection {
            after.part.push((connection.link.clone(), why.to_owned()));
        }
    }

    fn let_go(&mut self, after: &mut After) {
        for (ticket, waiting) in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::ToBegin { since, verdict } => {
                    let verdict = Some(verdict.unwrap_or(Err(Errno::IO)));
                    self.waiting.insert(ticket, Waiting::ToBegin { since, verdict });
                }
                Waiting::UnderWay { .. } => {
                    self.waiting.insert(ticket, waiting);
                }
                Waiting::Change { .. } | Waiting::Flush { .. } => after.dropped.push(waiting),
            }
        }
        after.woke = true;
    }

    /// The disk of this node: a copy that cannot be flushed follows nobody, and one that serves has its applications told
    /// by the flushes that they ask for themselves.
    pub(super) fn disk_failed(&mut self, why: &str, after: &mut After) {
        if !self.leads()
            && let Some(connection) = &self.connection
        {
            after.part.push((connection.link.clone(), why.to_owned()));
        }
        self.figures.disk_failure = Some(why.to_owned());
    }

    pub(super) fn end(&mut self, parts: &Parts, after: &mut After) {
        self.ended = true;
        self.let_go(after);
        if let Some(connection) = self.connection.take() {
            self.figures.connection_ended(&connection.link, parts.progress());
            after.close.push((connection.link, "this node stops".to_owned()));
        }
    }
}
