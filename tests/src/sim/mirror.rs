//! Two copies of a directory over the real engine: a disk that forgets what was not flushed, a record that is written
//! batch by batch, a connection that is cut, nodes that die, and an arbiter that never lets both serve.
//!
//! An object is a number with a version; a write makes a new version. What is checked after each step:
//!
//! - never do both nodes serve;
//! - a node that serves has at least the version of each object that an application was told to be safe (I1, I4, I12);
//! - copies that count as equal are equal when nothing is on its way (I5, I9, I14);
//! - and at the end, when everything is mended, both are equal and one serves.

mod node;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use safekit::engine::mirror::{Input, Made, Mirror, Order, Output, Rules, Settings, Ticket};
use safekit::types::Instant;
use safekit::types::replica::{DataGeneration, MirrorRole, ObjectId, Part, Region, Touch};

use node::{Item, Job, Node, Request};

const OBJECTS: u64 = 4;
const FIRST: u64 = 16;

/// How often things happen.
#[derive(Clone, Copy, Debug)]
struct Weather {
    crash: u32,
    cut: u32,
}

pub struct World {
    random: fastrand::Rng,
    rules: Rules,
    nodes: [Node; 2],
    now: Instant,
    linked: bool,
    granted: Option<usize>,
    /// The arbiter's memory, written before anybody serves.
    register: Option<Register>,
    safe: BTreeMap<u64, u64>,
    version: u64,
    next_ticket: u64,
    numbers: u64,
    trace: bool,
    reached: Reached,
    violation: Option<String>,
}

/// Whoever may serve next: who has this generation, or its owner, whose disk may never have got it.
#[derive(Clone, Copy, Debug)]
struct Register {
    generation: Option<DataGeneration>,
    owner: usize,
}

/// What a run has been through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    pub compared: u32,
    pub crashes: u32,
    pub answers: u32,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    pub reached: Reached,
    pub violation: Option<String>,
}

/// One run. A broken assertion of the engine is a violation like any other.
pub fn play(seed: u64, rules: Rules, trace: bool) -> Outcome {
    std::panic::catch_unwind(|| run(seed, rules, trace)).unwrap_or_else(|_| Outcome {
        seed,
        reached: Reached::default(),
        violation: Some("the engine panicked".to_owned()),
    })
}

fn run(seed: u64, rules: Rules, trace: bool) -> Outcome {
    let mut world = World::new(seed, rules, trace);
    let steps = world.random.u32(200..2500);
    let weather = match world.random.u8(..4) {
        0 => Weather { crash: 6, cut: 6 },
        1 => Weather { crash: 0, cut: 8 },
        2 => Weather { crash: 8, cut: 0 },
        _ => Weather { crash: 2, cut: 2 },
    };
    for _ in 0..steps {
        world.step(Some(weather));
        if world.violation.is_some() {
            break;
        }
    }
    world.mend();
    Outcome { seed, reached: world.reached, violation: world.violation }
}

impl World {
    fn new(seed: u64, rules: Rules, trace: bool) -> Self {
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            rules,
            nodes: [Node::new(), Node::new()],
            now: Instant(1_000_000_000),
            linked: false,
            granted: None,
            register: None,
            safe: BTreeMap::new(),
            version: 0,
            next_ticket: 0,
            numbers: FIRST,
            trace,
            reached: Reached::default(),
            violation: None,
        };
        for at in 0..2 {
            world.start(at);
        }
        world
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{} {}", self.now.0 / 1_000_000, text());
        }
    }

    fn other(at: usize) -> usize {
        1 - at
    }

    fn start(&mut self, at: usize) {
        let settings = Settings {
            checkpoint_interval: Duration::from_millis(30),
            max_stall: Duration::from_millis(200),
            ..Settings::default()
        };
        let random = self.random.u64(..);
        let node = &mut self.nodes[at];
        let mut engine = Mirror::new(settings, self.rules, node.copy.clone(), node.regions.clone(), random);
        engine.handle(Input::Numbers(self.numbers), self.now);
        node.engine = Some(engine);
        self.say(|| format!("node {at} starts"));
    }

    fn crash(&mut self, at: usize) {
        self.reached.crashes += 1;
        self.cut();
        let kept = self.random.usize(..=self.nodes[at].batches.len());
        let power = self.random.bool();
        let node = &mut self.nodes[at];
        let batches: Vec<_> = node.batches.drain(..).take(kept).collect();
        batches.iter().for_each(|(_, entries)| node.write_batch(entries));
        // A process that dies leaves what it wrote to the kernel; a machine does not.
        if power {
            node.disk.crash(&mut self.random);
        }
        node.engine = None;
        node.jobs.clear();
        node.requests.clear();
        (node.connected, node.target) = (false, false);
        self.say(|| format!("node {at} dies, power {power}, batches {kept}"));
    }

    fn cut(&mut self) {
        if !self.linked {
            return;
        }
        for at in 0..2 {
            for _ in 0..self.random.usize(..=self.nodes[at].inbox.len()) {
                self.deliver(at);
            }
            self.nodes[at].inbox.clear();
        }
        self.linked = false;
        self.say(|| "cut".to_owned());
    }

    fn input(&mut self, at: usize, input: Input) {
        self.say(|| format!("  {at} <- {input:?}"));
        let now = self.now;
        if let Some(engine) = &mut self.nodes[at].engine {
            engine.handle(input, now);
        }
        while let Some(output) = self.nodes[at].engine.as_mut().and_then(Mirror::poll_output) {
            self.carry_out(at, output);
        }
        self.register();
    }

    fn carry_out(&mut self, at: usize, output: Output) {
        self.say(|| format!("    {at} -> {output:?}"));
        match output {
            Output::Proceed(ticket) => {
                if let Some(Request::Write { ready, .. }) = self.nodes[at].requests.get_mut(&ticket) {
                    *ready = true;
                }
            }
            Output::Refuse(ticket) => {
                self.nodes[at].requests.remove(&ticket);
            }
            Output::Transmit { ticket, first } => {
                if let Some(Request::Write { object, .. }) = self.nodes[at].requests.get(&ticket) {
                    let (object, version) = (*object, self.nodes[at].disk.version(*object));
                    self.send(at, Item::Operation { position: first, object, version });
                }
            }
            Output::Answer(ticket) => {
                if let Some(Request::Flush { object, version }) = self.nodes[at].requests.remove(&ticket) {
                    self.reached.answers += 1;
                    let safe = self.safe.entry(object).or_default();
                    *safe = (*safe).max(version);
                }
            }
            Output::Send(message) => self.send(at, Item::Message(message)),
            Output::Record { batch, entries } => self.nodes[at].batches.push_back((batch, entries)),
            Output::LastWords => self.nodes[at].jobs.push(Job::LastWords),
            Output::SyncHere { number } => self.flush_all(at, Input::SyncedHere { number }),
            Output::FlushFor { number, object, .. } => {
                let version = self.nodes[at].disk.version(object.0);
                let what = vec![(object.0, version)];
                self.nodes[at].jobs.push(Job::Flush { what, then: Input::FlushedFor { number } });
            }
            Output::SyncFor { position } => self.flush_all(at, Input::SyncedFor { position }),
            Output::SyncTarget => self.flush_all(at, Input::TargetSynced),
            Output::BeginTarget => self.nodes[at].target = true,
            Output::EndTarget => self.nodes[at].target = false,
            Output::StartPass { number, everything, fresh_from, work } => {
                let left = self.plan(at, everything, fresh_from, &work);
                self.nodes[at].jobs.push(Job::Pass { number, left });
            }
            Output::Close(_) => {
                self.linked = false;
                self.nodes[at].connected = false;
                self.nodes.iter_mut().for_each(|node| node.inbox.clear());
            }
        }
    }

    /// What a pass has to copy: objects, each with whatever it is when its turn comes.
    fn plan(&self, at: usize, everything: bool, fresh_from: u64, work: &[Touch]) -> VecDeque<u64> {
        let there = self.nodes[Self::other(at)].disk.objects();
        let here = self.nodes[at].disk.objects();
        let listed = everything || work.iter().any(|touch| touch.region == Region::names(ObjectId::ROOT));
        let named =
            work.iter().filter(|touch| touch.region.part == Part::Whole).map(|touch| touch.region.object.0);
        let mut all: Vec<u64> = named.collect();
        if listed {
            let missing = |object: &u64| everything || *object >= fresh_from || !there.contains(object);
            all.extend(here.iter().copied().filter(missing));
            all.extend(there.iter().copied().filter(|object| !here.contains(object)));
        }
        all.sort_unstable();
        all.dedup();
        all.into()
    }

    fn flush_all(&mut self, at: usize, then: Input) {
        let what = self.nodes[at].disk.snapshot();
        self.nodes[at].jobs.push(Job::Flush { what, then });
    }

    fn send(&mut self, at: usize, item: Item) {
        if self.linked && self.nodes[at].connected {
            self.nodes[Self::other(at)].inbox.push_back(item);
        }
    }

    fn deliver(&mut self, at: usize) {
        let Some(item) = self.nodes[at].inbox.pop_front() else { return };
        self.say(|| format!("{at} hears {item:?}"));
        match item {
            Item::Message(message) => self.input(at, Input::Message(message)),
            Item::Operation { position, object, version } => {
                let node = &mut self.nodes[at];
                if node.engine.as_ref().and_then(Mirror::expects) != Some(position) {
                    self.fail(format!("node {at} gets {position:?} out of its order"));
                    return;
                }
                node.disk.put(object, version);
                let more = !node.inbox.is_empty();
                self.input(at, Input::Applied { position, more });
            }
            Item::Copy { object, version } => {
                if self.nodes[at].target {
                    self.nodes[at].disk.put(object, version);
                }
            }
            Item::PassEnd { number } => self.send(at, Item::PassEnded { number }),
            Item::PassEnded { number } => self.input(at, Input::PassDone { number, lost: Vec::new() }),
        }
    }

    fn fail(&mut self, violation: String) {
        self.say(|| format!("VIOLATION {violation}"));
        self.violation.get_or_insert(violation);
    }

    /// One thing happens. `weather`: none while everything is being mended.
    fn step(&mut self, weather: Option<Weather>) {
        self.now = self.now + Duration::from_micros(self.random.u64(..2000));
        let at = self.random.usize(..2);
        let Weather { crash, cut } = weather.unwrap_or(Weather { crash: 0, cut: 0 });
        match self.random.u32(..1000) {
            roll if roll < crash => {
                if self.nodes[at].engine.is_some() {
                    self.crash(at);
                }
            }
            roll if roll < crash + cut => self.cut(),
            roll if roll < 250 && weather.is_some() => self.write(at),
            roll if roll < 330 && weather.is_some() => self.flush(at),
            roll if roll < 420 => self.finish_write(at),
            roll if roll < 640 => (0..3).for_each(|_| self.deliver(at)),
            roll if roll < 760 => (0..2).for_each(|_| self.work(at)),
            roll if roll < 840 => self.write_record(at),
            roll if roll < 880 => self.arbitrate(weather.is_some()),
            roll if roll < 940 => self.connect(),
            roll if roll < 960 => self.restart(at),
            _ => self.write_back(at),
        }
        self.tick();
        self.check();
    }

    fn tick(&mut self) {
        for at in 0..2 {
            let due = self.nodes[at].engine.as_ref().and_then(Mirror::next_deadline);
            if due.is_some_and(|due| due <= self.now) {
                self.input(at, Input::Tick);
            }
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Of an object that is there, or a new one.
    fn write(&mut self, at: usize) {
        let busy = |node: &Node, object| {
            node.requests
                .values()
                .any(|request| matches!(request, Request::Write { object: it, .. } if *it == object))
        };
        let is_new = self.random.u8(..10) == 0;
        let object = if is_new && self.numbers < FIRST + 40 {
            self.numbers += 1;
            self.numbers - 1
        } else {
            FIRST + self.random.u64(..OBJECTS.max(self.numbers - FIRST))
        };
        // An object has a lock.
        if !self.nodes[at].serves() && self.random.u8(..10) != 0 || busy(&self.nodes[at], object) {
            return;
        }
        self.numbers = self.numbers.max(object + 1);
        let mut touches = vec![Touch::all(Region::whole(ObjectId(object)))];
        if self.nodes[at].disk.version(object) == 0 {
            touches.push(Touch::all(Region::names(ObjectId::ROOT)));
        }
        let ticket = self.ticket();
        self.nodes[at].requests.insert(ticket, Request::Write { object, ready: false });
        self.input(at, Input::Numbers(self.numbers));
        self.input(at, Input::Begin { ticket, touches });
    }

    fn finish_write(&mut self, at: usize) {
        let ready = self.nodes[at].requests.iter().find_map(|(ticket, request)| match request {
            Request::Write { object, ready: true } => Some((*ticket, *object)),
            Request::Write { .. } | Request::Flush { .. } => None,
        });
        let Some((ticket, object)) = ready else { return };
        self.version += 1;
        self.nodes[at].disk.put(object, self.version);
        let made = if self.random.u8(..50) == 0 { Made::Unknown } else { Made::Operations(1) };
        self.input(at, Input::Done { ticket, made });
        self.nodes[at].requests.remove(&ticket);
    }

    fn flush(&mut self, at: usize) {
        if !self.nodes[at].serves() {
            return;
        }
        let objects = self.nodes[at].disk.objects();
        if objects.is_empty() {
            return;
        }
        let object = objects[self.random.usize(..objects.len())];
        let version = self.nodes[at].disk.version(object);
        let ticket = self.ticket();
        self.nodes[at].requests.insert(ticket, Request::Flush { object, version });
        self.input(at, Input::Flush { ticket, object: ObjectId(object), data_only: false });
        let job = Job::Flush { what: vec![(object, version)], then: Input::FlushedHere { ticket } };
        self.nodes[at].jobs.push(job);
    }

    fn work(&mut self, at: usize) {
        if self.nodes[at].jobs.is_empty() {
            return;
        }
        let which = self.random.usize(..self.nodes[at].jobs.len());
        match self.nodes[at].jobs.swap_remove(which) {
            Job::Flush { what, then } => {
                for (object, version) in what {
                    self.nodes[at].disk.flush(object, version);
                }
                self.input(at, then);
            }
            // Nothing of this disk is told later than it was done.
            Job::LastWords => self.input(at, Input::LastWords { operations: 0 }),
            Job::Pass { number, mut left } => match left.pop_front() {
                Some(object) => {
                    let version = self.nodes[at].disk.version(object);
                    self.send(at, Item::Copy { object, version });
                    self.nodes[at].jobs.push(Job::Pass { number, left });
                }
                None => self.send(at, Item::PassEnd { number }),
            },
        }
    }

    fn write_record(&mut self, at: usize) {
        if let Some((batch, entries)) = self.nodes[at].batches.pop_front() {
            self.nodes[at].write_batch(&entries);
            self.input(at, Input::Recorded { batch });
        }
    }

    fn write_back(&mut self, at: usize) {
        let snapshot = self.nodes[at].disk.snapshot();
        if let Some((object, version)) = snapshot.first() {
            self.nodes[at].disk.flush(*object, *version);
        }
    }

    /// The arbiter: one leader at most, and never one that another has left behind.
    fn arbitrate(&mut self, moves: bool) {
        if let Some(at) = self.granted {
            if self.nodes[at].serves() {
                if moves && self.random.u8(..12) == 0 {
                    self.input(at, Input::Order(Order::Follow));
                }
                return;
            }
            if self.claims(at) {
                return;
            }
            self.input(at, Input::Order(Order::Follow));
            self.granted = None;
        }
        let at = self.random.usize(..2);
        let generation = self.nodes[at].engine.as_ref().map(|engine| engine.view().generation);
        let admitted = |register: Register| register.owner == at || Some(register.generation) == generation;
        // Two nodes that see each other know all that the arbiter knows.
        let meet = self.linked && self.nodes.iter().all(|node| node.connected);
        if generation.is_some() && (meet || self.register.is_none_or(admitted)) {
            self.granted = Some(at);
            self.input(at, Input::Order(Order::Lead { force: false }));
            // Meant for now: what the two know of each other may be old in a moment.
            if !self.claims(at) && !self.nodes[at].serves() {
                self.input(at, Input::Order(Order::Follow));
                self.granted = None;
            }
        }
    }

    fn claims(&self, at: usize) -> bool {
        self.nodes[at].engine.as_ref().is_some_and(|engine| engine.view().frozen)
    }

    /// Written when a node begins to claim, which is before it serves.
    fn register(&mut self) {
        for at in (0..2).filter(|at| self.claims(*at) || self.nodes[*at].serves()).collect::<Vec<_>>() {
            let view = self.nodes[at].engine.as_ref().map(Mirror::view);
            self.register = Some(Register { generation: view.and_then(|view| view.generation), owner: at });
        }
    }

    fn connect(&mut self) {
        if self.linked {
            return;
        }
        let noticed = (0..2).find(|at| self.nodes[*at].connected);
        if let Some(at) = noticed {
            self.nodes[at].connected = false;
            self.nodes[at].target = false;
            self.nodes[at].jobs.retain(|job| !matches!(job, Job::Pass { .. }));
            self.input(at, Input::Disconnected);
            return;
        }
        if self.nodes.iter().all(|node| node.engine.is_some()) {
            self.linked = true;
            for at in 0..2 {
                self.nodes[at].connected = true;
                self.nodes[at].target = false;
                self.nodes[at].jobs.retain(|job| !matches!(job, Job::Pass { .. }));
            }
            for at in 0..2 {
                self.input(at, Input::Connected);
            }
        }
    }

    fn restart(&mut self, at: usize) {
        if self.nodes[at].engine.is_none() {
            self.start(at);
        }
    }

    fn check(&mut self) {
        if self.nodes.iter().all(Node::serves) {
            self.fail("both serve".to_owned());
        }
        // Whoever serves has what applications were told to be safe.
        for at in 0..2 {
            if !self.nodes[at].serves() {
                continue;
            }
            let lost =
                self.safe.iter().find(|(object, version)| self.nodes[at].disk.version(**object) < **version);
            if let Some((object, version)) = lost {
                let has = self.nodes[at].disk.version(*object);
                self.fail(format!("node {at} serves version {has} of {object}, and {version} was safe"));
            }
        }
        let roles = [self.nodes[0].role(), self.nodes[1].role()];
        let equal = roles.contains(&Some(MirrorRole::Prim)) && roles.contains(&Some(MirrorRole::Second));
        let quiet = self.nodes.iter().all(|node| node.inbox.is_empty() && node.requests.is_empty());
        if equal && quiet && self.linked {
            self.reached.compared += 1;
            self.compare();
        }
    }

    fn compare(&mut self) {
        let [first, second] = &self.nodes;
        let mut all = first.disk.objects();
        all.extend(second.disk.objects());
        let differs = all.iter().find(|object| first.disk.version(**object) != second.disk.version(**object));
        if let Some(object) = differs {
            let (one, two) = (first.disk.version(*object), second.disk.version(*object));
            self.fail(format!("object {object} is {one} and {two}"));
        }
    }

    /// Everything works again: both copies have to become equal, and one node serves.
    fn mend(&mut self) {
        for _ in 0..30_000 {
            if self.violation.is_some() {
                return;
            }
            let roles = [self.nodes[0].role(), self.nodes[1].role()];
            let equal = roles.contains(&Some(MirrorRole::Prim)) && roles.contains(&Some(MirrorRole::Second));
            if equal && self.linked && self.nodes.iter().all(|node| node.inbox.is_empty()) {
                self.compare();
                return;
            }
            self.step(None);
        }
        let views = [0, 1].map(|at| self.nodes[at].engine.as_ref().map(Mirror::view));
        self.fail(format!("the copies do not come together: {views:?}"));
    }
}
