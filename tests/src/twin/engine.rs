//! The engine of a node, to which anything happens that its driver may do, and to which the other node says anything.
//!
//! ```text
//! what the copy was, then steps: what happens (1 byte), which or how much (1 byte), and of a message its bytes
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use safekit::engine::mirror::{Entry, Input, Made, Mirror, Order, Output, Rules, Settings, Ticket};
use safekit::types::Instant;
use safekit::types::replica::{
    Acknowledge, DataGeneration, MirrorRole, ObjectId, Part, Position, Region, Touch,
};
use safekit::wire::replica::{
    Attribute, Check, Checked, Copied, Copy, Copying, Frame, Kind, Message, Meta, Operation, Piece, Unit,
    VERSION,
};

const STEPS_MAX: usize = 600;
/// Bytes of a message.
const MESSAGE_MAX: usize = 64;

struct World {
    engine: Mirror,
    now: Instant,
    connected: bool,
    next_ticket: u64,
    begun: BTreeSet<Ticket>,
    under_way: Vec<Ticket>,
    /// Done or asked to be flushed, and not answered.
    open: BTreeSet<Ticket>,
    flushes: Vec<Ticket>,
    batches: VecDeque<u64>,
    last_batch: u64,
    syncs: Vec<u64>,
    due: Vec<Input>,
    pass: Option<u64>,
    sent: Option<Position>,
}

/// Whether it ever served or followed.
pub(super) fn check(bytes: &[u8]) -> bool {
    let (first, mut rest) = bytes.split_first().unwrap_or((&0, &[]));
    let mut world = World::new(*first);
    let mut lived = false;
    for _ in 0..STEPS_MAX {
        let [what, which, behind @ ..] = rest else { break };
        rest = world.step(*what, *which, behind);
        lived |= world.engine.role() != MirrorRole::Wait;
    }
    world.end();
    lived
}

fn copy(how: u8) -> Copy {
    let flag = |bit: u8| how & (1 << bit) != 0;
    let generation = |number: u64| Some(DataGeneration(number));
    Copy {
        generation: if flag(0) { generation(3) } else { None },
        parent: if flag(1) { generation(2) } else { None },
        history: if flag(1) { vec![DataGeneration(1), DataGeneration(2)] } else { Vec::new() },
        half_copied: flag(2),
        peer_out: flag(3),
        led: flag(4),
        distrusted: flag(5),
        fresh_from: 16,
    }
}

impl World {
    fn new(how: u8) -> Self {
        let acknowledge = [Acknowledge::Disk, Acknowledge::Memory, Acknowledge::EachWrite, Acknowledge::Disk];
        let settings = Settings { acknowledge: acknowledge[usize::from(how >> 6)], ..Settings::default() };
        let regions = [Region::whole(ObjectId(20)), Region::names(ObjectId::ROOT)];
        let recorded = regions.into_iter().take(usize::from(how & 1) * 2);
        Self {
            engine: Mirror::new(settings, Rules::ALL, copy(how), recorded, 7),
            now: Instant(1_000_000_000),
            connected: false,
            next_ticket: 0,
            begun: BTreeSet::new(),
            under_way: Vec::new(),
            open: BTreeSet::new(),
            flushes: Vec::new(),
            batches: VecDeque::new(),
            last_batch: 0,
            syncs: Vec::new(),
            due: Vec::new(),
            pass: None,
            sent: None,
        }
    }

    fn step<'a>(&mut self, what: u8, which: u8, rest: &'a [u8]) -> &'a [u8] {
        let place = usize::from(which);
        match what % 16 {
            0 => self.tell(Input::Order(order(which))),
            1 => {
                let ticket = self.ticket();
                self.begun.insert(ticket);
                self.tell(Input::Begin { ticket, touches: touches(which) });
            }
            2 if !self.under_way.is_empty() => {
                let ticket = self.under_way.swap_remove(place % self.under_way.len());
                self.open.insert(ticket);
                let made = if which >= 250 { Made::Unknown } else { Made::Operations(u64::from(which % 3)) };
                self.tell(Input::Done { ticket, made });
            }
            3 => {
                let ticket = self.ticket();
                self.open.insert(ticket);
                self.flushes.push(ticket);
                let flush = Input::Flush {
                    ticket,
                    object: ObjectId(u64::from(which)),
                    data_only: which.is_multiple_of(2),
                };
                self.tell(flush);
            }
            4 if !self.flushes.is_empty() => {
                let ticket = self.flushes.swap_remove(place % self.flushes.len());
                self.tell(Input::FlushedHere { ticket });
            }
            5 => self.record_one(),
            6 if !self.syncs.is_empty() => {
                let number = self.syncs.swap_remove(place % self.syncs.len());
                self.tell(Input::SyncedHere { number });
            }
            7 if self.connected => {
                self.connected = false;
                self.tell(Input::Disconnected);
            }
            7 => {
                self.connected = true;
                self.tell(Input::Connected);
            }
            8..=10 => self.hear(likely(which, &self.engine)),
            11 => {
                let (bytes, behind) = rest.split_at(place.min(MESSAGE_MAX).min(rest.len()));
                if let Ok(message) = postcard::from_bytes(bytes) {
                    self.hear(message);
                }
                return behind;
            }
            12 => {
                if let Some(position) = self.engine.expects() {
                    self.tell(Input::Applied { position, more: which.is_multiple_of(2) });
                }
            }
            13 => {
                if let Some(number) = self.pass.take() {
                    let lost = (0..which / 64).map(|it| ObjectId(u64::from(it) + 20)).collect();
                    self.tell(Input::PassDone { number, lost });
                }
            }
            14 if !self.due.is_empty() => {
                let input = self.due.swap_remove(place % self.due.len());
                self.tell(input);
            }
            15 => {
                self.now = self.now + Duration::from_millis(u64::from(which) * 40);
                self.tell(Input::Tick);
            }
            _ => {}
        }
        rest
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Nothing that arrives counts when the engine has given the connection up.
    fn hear(&mut self, message: Message) {
        if self.connected {
            self.tell(Input::Message(message));
        }
    }

    fn record_one(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.tell(Input::Recorded { batch });
        }
    }

    fn tell(&mut self, input: Input) {
        self.engine.handle(input, self.now);
        while let Some(output) = self.engine.poll_output() {
            self.carry_out(output);
        }
        if self.engine.role() != MirrorRole::Prim {
            self.sent = None;
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Proceed(ticket) => {
                assert!(self.begun.remove(&ticket), "{ticket:?} is admitted once, if it asked");
                self.under_way.push(ticket);
            }
            Output::Refuse(ticket) => assert!(self.begun.remove(&ticket), "{ticket:?} is refused once"),
            Output::Answer(ticket) => {
                assert!(self.open.remove(&ticket), "{ticket:?} is answered once, and when it has been made");
                assert!(!self.flushes.contains(&ticket), "{ticket:?} is not on the disk here");
            }
            Output::Transmit { first, .. } => {
                assert!(self.connected, "operations go to somebody");
                assert!(self.sent.is_none_or(|last| first > last), "{first:?} after {:?}", self.sent);
                self.sent = Some(first);
            }
            Output::Send(message) => self.check_sent(&message),
            Output::Record { batch, entries } => {
                assert_eq!(batch, self.last_batch + 1, "batches are numbered");
                assert!(!entries.is_empty(), "nobody waits for nothing");
                self.last_batch = batch;
                self.batches.push_back(batch);
            }
            Output::LastWords => self.due.push(Input::LastWords { operations: 1 }),
            Output::SyncHere { number } => self.syncs.push(number),
            Output::FlushFor { number, .. } => self.due.push(Input::FlushedFor { number }),
            Output::SyncFor { position } => self.due.push(Input::SyncedFor { position }),
            Output::StartPass { number, .. } => self.pass = Some(number),
            Output::SyncTarget => self.due.push(Input::TargetSynced),
            Output::BeginTarget => {
                assert!(self.engine.copy().half_copied, "it is recorded before anything is overwritten");
            }
            Output::EndTarget => {}
            Output::Close(_) => {
                assert!(self.connected, "there is something to close");
                self.connected = false;
            }
        }
    }

    fn check_sent(&self, message: &Message) {
        if let Message::Hello { copy, leads, .. } = message {
            assert!(!leads || !copy.half_copied, "what is half of something does not serve: {copy:?}");
        }
    }

    /// The other node is gone and the disk works: nobody waits for ever.
    fn end(mut self) {
        if std::mem::take(&mut self.connected) {
            self.tell(Input::Disconnected);
        }
        for _ in 0..STEPS_MAX {
            while !self.batches.is_empty() {
                self.record_one();
            }
            for ticket in std::mem::take(&mut self.under_way) {
                self.open.insert(ticket);
                self.tell(Input::Done { ticket, made: Made::Operations(1) });
            }
            for ticket in std::mem::take(&mut self.flushes) {
                self.tell(Input::FlushedHere { ticket });
            }
            for number in std::mem::take(&mut self.syncs) {
                self.tell(Input::SyncedHere { number });
            }
            for input in std::mem::take(&mut self.due) {
                self.tell(input);
            }
            self.now = self.now + Duration::from_secs(30);
            self.tell(Input::Tick);
        }
        assert!(self.begun.is_empty(), "{:?} neither begin nor are refused", self.begun);
        assert!(self.open.is_empty(), "{:?} are never answered", self.open);
    }
}

fn order(which: u8) -> Order {
    match which % 4 {
        0 => Order::Follow,
        1 => Order::Lead { force: true },
        2 => Order::Discard,
        _ => Order::Lead { force: false },
    }
}

fn touches(which: u8) -> Vec<Touch> {
    let object = ObjectId(u64::from(which / 8) + 1);
    let part = match which % 4 {
        0 => Part::Names,
        1 => Part::Whole,
        2 => Part::Data(u32::from(which)),
        _ => return vec![],
    };
    vec![Touch::all(Region { object, part }), Touch::all(Region::meta(object))]
}

/// What a node would say, more or less.
fn likely(which: u8, engine: &Mirror) -> Message {
    let own = engine.copy().clone();
    let sent = engine.view().sent;
    match which % 16 {
        0 => hello(Copy { led: false, ..own }, false),
        1 => hello(Copy { led: true, peer_out: true, ..own }, which >= 128),
        2 => {
            let history = own.history.iter().copied().chain(own.generation).collect();
            hello(Copy { generation: Some(DataGeneration(u64::from(which))), history, ..own }, true)
        }
        3 => hello(copy(which), which >= 128),
        4 | 5 => Message::Regions { touches: touches(which), last: which % 16 == 4 },
        6 => Message::Overwrite { everything: which >= 128 },
        7 => Message::Ready,
        8 => Message::Finish { generation: DataGeneration(9), history: own.history, fresh_from: 100 },
        9 => Message::Finished,
        10 => Message::Received { position: sent },
        11 => Message::Flush { number: u64::from(which), object: ObjectId(20), data_only: true },
        12 => Message::Flushed { number: u64::from(which / 16) },
        13 => Message::Checkpoint { position: sent },
        14 => Message::Checkpointed { position: sent },
        _ if which >= 128 => Message::SteppedDown,
        _ => Message::Received { position: Position(u64::from(which)) },
    }
}

fn hello(copy: Copy, leads: bool) -> Message {
    Message::Hello { version: VERSION, copy, leads, wants_to_lead: leads }
}

/// A node that serves until it has an equal copy, and one that is overwritten and follows.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let write = [1, 162, 5, 0, 2, 1, 3, 20, 4, 0];
    let lead = [7, 0, 8, 0, 8, 4, 0, 3, 5, 0, 8, 0, 8, 4];
    let alone = [&[5, 0x01][..], &lead, &write].concat();
    let prim = [
        &[5, 0x01][..],
        &lead,
        &[5, 0, 8, 7, 13, 0, 13, 0, 8, 9, 5, 0],
        &write,
        &[8, 10, 15, 200, 8, 14, 6, 0],
        &[0, 0, 14, 0, 6, 0, 8, 14],
    ]
    .concat();
    let second =
        [&[5, 0x03][..], &[7, 0, 8, 130, 8, 4, 8, 6, 5, 0, 8, 8, 14, 0, 5, 0, 12, 0, 8, 11, 14, 0, 8, 255]]
            .concat();
    vec![alone, prim, second]
}

/// Blocks of a record: length, number, content.
pub(super) fn records() -> Vec<Vec<u8>> {
    let content = |kind: u8, copy: &Copy, left: u32, region: Region| {
        let head = postcard::to_extend(&(copy, left), vec![kind]).expect("plain data");
        postcard::to_extend(&region, head).expect("plain data")
    };
    let of_regions = content(0, &copy(1), 0, Region::whole(ObjectId(20)));
    let mut append = vec![2];
    for entry in [Entry::Add(Region::meta(ObjectId(21))), Entry::Remove(Region::whole(ObjectId(20)))] {
        append.push(0);
        append = postcard::to_extend(&entry, append).expect("plain data");
    }
    let block = |number: u8, content: &[u8]| [&[content.len() as u8, number][..], content].concat();
    vec![block(0, &of_regions), [block(0, &of_regions), block(1, &append)].concat()]
}

pub(super) fn frames() -> Vec<(Frame, &'static [u8])> {
    let object = ObjectId(20);
    let operation =
        |operation| Frame::Operation { position: Position(3), acknowledge: Acknowledge::Disk, operation };
    let name = b"name".to_vec();
    let kind = Kind { mode: 0o120_777, device: 0, target: b"elsewhere".to_vec() };
    let entry = safekit::wire::replica::Entry { name: name.clone(), object, kind };
    let attribute = Attribute { name: b"user.colour".to_vec(), value: b"red".to_vec() };
    let attributes = vec![attribute.clone()];
    let facts = Piece::Facts { meta: Meta::default(), others: [7; 16] };
    let parent = ObjectId::ROOT;
    let plain = [
        Frame::Message(hello(copy(3), true)),
        Frame::Place { object, parent, name: name.clone() },
        operation(Operation::Create {
            parent,
            entry: entry.clone(),
            meta: Meta::default(),
            attributes: attributes.clone(),
        }),
        operation(Operation::Rename {
            object,
            parent,
            name: name.clone(),
            new_parent: object,
            new_name: name.clone(),
            replaced: Some(object),
            exchanged: false,
        }),
        operation(Operation::SetAttribute { object, attribute }),
        Frame::Copying(Copying::Names { directory: parent, entries: vec![entry], last: true }),
        Frame::Copying(Copying::Digests {
            object,
            unit: Unit::Zone,
            offset: 0,
            size: 9,
            digests: vec![[1; 16]],
        }),
        Frame::Copying(Copying::Finish { object, size: Some(9), meta: Meta::default(), attributes }),
        Frame::Copied(Copied::Differing { object, unit: Unit::Block, offset: 0, which: vec![5] }),
        Frame::Copied(Copied::PassEnded { number: 1, lost: vec![object] }),
        Frame::Check(Check { number: 1, object, place: Some((parent, name)), piece: facts }),
        Frame::Checked(Checked { number: 1, differs: true }),
        Frame::farewell("the disk is full"),
    ];
    let with_bulk: [(Frame, &'static [u8]); 2] = [
        (operation(Operation::Write { object, offset: 5 }), b"hello"),
        (Frame::Copying(Copying::Contents { object, offset: 5 }), b"hello"),
    ];
    plain.into_iter().map(|frame| (frame, &b""[..])).chain(with_bulk).collect()
}
