//! The clock, the queue of happenings, and the checks after each of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::Arc;

use safekit::engine::farm::{Input, Output, Table};
use safekit::types::{Bucket, BucketBits, Departure, EventKind, Instant, NodeId};
use safekit::wire::heartbeat::{Body, Heartbeat, OBITUARY_SEQ};

use super::faults::Fault;
use super::naive::Naive;
use super::net::{Datagram, Net, exponential};
use super::node::{Arrival, Common, Connection, INBOX_MAX, Node, Process};
use super::truth::Truth;
use super::{BUCKETS, GROUP, MS, Nanos, nanos};

#[derive(Debug)]
enum Happening {
    Wake {
        node: usize,
        token: u32,
    },
    Written {
        node: usize,
        token: u32,
        table: Arc<Table>,
    },
    Deliver {
        node: usize,
        network: usize,
        datagram: Rc<Datagram>,
    },
    Counted {
        node: usize,
        token: u32,
        since: Instant,
        buckets: BucketBits,
        connections: u32,
    },
    /// The driver looks whether a frame has come.
    Look {
        node: usize,
    },
    Fault(Fault),
    Client,
    Packet,
}

#[derive(Debug)]
struct Entry {
    at: Nanos,
    /// Happenings of one moment come in the order in which they were arranged.
    count: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.count) == (other.at, other.count)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.count).cmp(&(other.at, other.count))
    }
}

pub struct World {
    pub now: Nanos,
    pub rng: fastrand::Rng,
    pub common: Common,
    pub nodes: Vec<Node>,
    pub net: Net,
    pub truth: Truth,
    /// What was broken, first of all.
    pub violation: Option<String>,
    /// Happenings so far.
    pub steps: u64,
    pub trace: bool,
    /// Overlaps are measured, not refused.
    pub lenient: bool,
    /// Heartbeats are weighed.
    pub weighed: Option<super::farms::Weighed>,
    pub(super) naive: Rc<Naive>,
    /// How often each node saw each other one go away without a word since it started itself.
    pub(super) exclusions: Vec<Vec<u32>>,
    queue: BinaryHeap<Reverse<Entry>>,
    count: u64,
    /// Connections are opened and used.
    clients: bool,
}

/// How often the driver looks for frames.
const LOOK_EVERY: Nanos = 20 * MS;

impl World {
    pub fn new(seed: u64, networks: usize, common: Common) -> Self {
        let naive = Rc::new(Naive::new(&common.names));
        Self::with_naive(seed, networks, common, naive)
    }

    pub fn with_naive(seed: u64, networks: usize, common: Common, naive: Rc<Naive>) -> Self {
        let count = common.names.len();
        let mut rng = fastrand::Rng::with_seed(seed);
        let nodes: Vec<Node> =
            (0..count).map(|node| Node::new(node, count, rng.u64(10..1_000_000) * MS)).collect();
        let mut world = Self {
            now: 10_000 * MS,
            rng,
            net: Net::new(networks, count),
            truth: Truth::new(count, nanos(common.hold)),
            nodes,
            common,
            violation: None,
            steps: 0,
            trace: false,
            lenient: false,
            weighed: None,
            naive,
            exclusions: vec![vec![0; count]; count],
            queue: BinaryHeap::new(),
            count: 0,
            clients: false,
        };
        for node in 0..count {
            let first = world.rng.u64(0..LOOK_EVERY);
            world.after(first, Happening::Look { node });
        }
        world
    }

    pub fn with_clients(mut self) -> Self {
        self.clients = true;
        self.after(0, Happening::Client);
        self.after(0, Happening::Packet);
        self
    }

    pub fn start(&mut self, node: usize) {
        self.say(node, "starts");
        self.truth.reborn(node);
        self.exclusions[node].fill(0);
        self.nodes[node].start(&self.common, &mut self.rng, self.now);
        if self.net.is_unplugged(node, self.now) {
            self.arrive(node, Arrival::Other(Input::Carrier { up: false }));
        }
        self.drive(node);
    }

    pub fn fault_after(&mut self, span: Nanos, fault: Fault) {
        self.after(span, Happening::Fault(fault));
    }

    fn after(&mut self, span: Nanos, what: Happening) {
        self.count += 1;
        self.queue.push(Reverse(Entry { at: self.now + span, count: self.count, what }));
    }

    pub fn run_for(&mut self, span: Nanos) {
        self.run_until(self.now + span);
    }

    /// Ends early at a violation.
    pub fn run_until(&mut self, end: Nanos) {
        while self.violation.is_none() && self.queue.peek().is_some_and(|Reverse(entry)| entry.at <= end) {
            let Some(Reverse(entry)) = self.queue.pop() else { break };
            self.now = entry.at;
            self.steps += 1;
            self.happen(entry.what);
        }
        self.now = end;
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Wake { node, token } => {
                if self.nodes[node].token == token {
                    self.nodes[node].wake_at = Nanos::MAX;
                    self.arrive(node, Arrival::Timer);
                }
            }
            Happening::Written { node, token, table } => self.written(node, token, table),
            Happening::Deliver { node, network, datagram } => {
                if !self.net.is_deaf(network, node, self.now) && self.nodes[node].kernel.up {
                    self.arrive(node, Arrival::Datagram(datagram, network));
                }
            }
            Happening::Counted { node, token, since, buckets, connections } => {
                if self.nodes[node].token == token {
                    let held = Input::Held { group: GROUP, buckets, since, connections };
                    self.arrive(node, Arrival::Other(held));
                }
            }
            Happening::Look { node } => {
                self.after(LOOK_EVERY, Happening::Look { node });
                if !self.net.is_deaf(0, node, self.now) && self.nodes[node].process == Process::Running {
                    self.arrive(node, Arrival::Other(Input::FramesSeen));
                }
            }
            Happening::Fault(fault) => self.suffer(fault),
            Happening::Client => self.connect(),
            Happening::Packet => self.send_packets(),
        }
    }

    pub fn arrive(&mut self, node: usize, arrival: Arrival) {
        let receiver = &mut self.nodes[node];
        let full = receiver.inbox.len() >= INBOX_MAX && matches!(arrival, Arrival::Datagram(..));
        if receiver.process == Process::Dead || full {
            return;
        }
        receiver.inbox.push_back(arrival);
        self.drive(node);
    }

    /// The driver's loop, until it has to wait.
    pub fn drive(&mut self, node: usize) {
        while self.nodes[node].process == Process::Running && !self.nodes[node].writing {
            if let Some(output) = self.nodes[node].work.pop_front() {
                self.order(node, output);
                continue;
            }
            self.finish(node);
            let Some(arrival) = self.nodes[node].inbox.pop_front() else {
                self.sleep(node);
                return;
            };
            self.nodes[node].handle(arrival, self.now);
        }
    }

    /// All that follows from the inputs so far is done: what they proved counts from here on.
    fn finish(&mut self, node: usize) {
        if self.nodes[node].unfinished.is_empty() {
            return;
        }
        for datagram in std::mem::take(&mut self.nodes[node].unfinished) {
            self.prove(node, &datagram);
        }
        self.check_overlap(node);
    }

    fn prove(&mut self, node: usize, datagram: &Datagram) {
        let sender = usize::from(datagram.heartbeat.sender.0);
        let tag = self.nodes[sender].tag();
        let [a, b, c, d, ..] = datagram.heartbeat.boot.0;
        if u32::from_be_bytes([a, b, c, d]) != tag {
            return; // of an earlier life
        }
        let since = self.truth.acquainted(node, sender, tag, self.now);
        let proved = self.nodes[node].life(sender) == Some(tag);
        if proved {
            self.truth.direct(node, sender, datagram.sent, self.now);
        } else if datagram.sent.saturating_sub(since) > nanos(self.common.timing.yield_after()) + 10 * MS {
            self.truth.learned(node, sender, datagram.sent, self.now);
        }
        for other in (0..self.nodes.len()).filter(|_| proved) {
            if self.nodes[node].life(other) == Some(self.nodes[other].tag()) {
                self.truth.learned(node, other, datagram.carried[other], self.now);
            }
        }
    }

    fn sleep(&mut self, node: usize) {
        let sleeper = &mut self.nodes[node];
        let Some(engine) = &sleeper.engine else { return };
        let deadline = engine.next_deadline().0.saturating_sub(sleeper.ahead).max(self.now);
        if deadline >= sleeper.wake_at {
            return;
        }
        sleeper.wake_at = deadline;
        let token = sleeper.token;
        let late = exponential(&mut self.rng, 300_000.0);
        self.after(deadline + late - self.now, Happening::Wake { node, token });
    }

    fn order(&mut self, node: usize, output: Output) {
        match output {
            Output::WriteTable { table, .. } => {
                self.check_table(node, &table);
                let token = self.nodes[node].token;
                self.nodes[node].writing = true;
                let slow = if self.rng.u8(..) == 0 { self.rng.u64(0..5 * MS) } else { 0 };
                let cost = 50_000 + exponential(&mut self.rng, 200_000.0) + slow;
                self.after(cost, Happening::Written { node, token, table });
            }
            Output::SetLease(until) => {
                self.check_lease(node, until);
                let was_open = self.nodes[node].is_open(self.now);
                self.nodes[node].kernel.lease = until;
                if !was_open {
                    self.check_overlap(node);
                }
            }
            Output::Send(heartbeat) => self.send(node, heartbeat),
            Output::CountHeld { .. } => self.count_held(node),
            Output::Left => {
                self.say(node, "has left");
                self.nodes[node].stop();
            }
            Output::Announce => {}
            Output::Generation(generation) => {
                if self.trace {
                    self.say(node, &format!("{generation:?} is in force"));
                }
                self.nodes[node].kept = generation;
            }
            Output::Event(event) => {
                self.count_exclusion(node, &event.kind);
                if self.trace && !matches!(event.kind, EventKind::Applied { .. }) {
                    self.say(node, &format!("{:?}", event.kind));
                }
            }
        }
    }

    fn count_exclusion(&mut self, by: usize, event: &EventKind) {
        let EventKind::Departed { node, why } = event else { return };
        match why {
            Departure::Silence | Departure::Obituary | Departure::Changed => {
                self.exclusions[by][usize::from(node.0)] += 1;
            }
            Departure::Leave | Departure::Deaf => {}
        }
    }

    fn written(&mut self, node: usize, token: u32, table: Arc<Table>) {
        let writer = &mut self.nodes[node];
        if writer.token != token {
            return;
        }
        writer.kernel.table = Some(table);
        writer.writing = false;
        self.check_overlap(node);
        self.drive(node);
    }

    pub fn send(&mut self, node: usize, heartbeat: Heartbeat) {
        if let Some(weighed) = &mut self.weighed {
            weighed.add(safekit::wire::heartbeat::encode(&heartbeat.body).len());
        }
        // An obituary tells of nobody else.
        let carried = match heartbeat.body {
            Body::Beat(_) => self.truth.carried_by(node),
            Body::Obituary => vec![0; self.nodes.len()],
        };
        let datagram = Rc::new(Datagram { heartbeat, sent: self.now, carried });
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            for network in 0..self.net.networks {
                let copies = self.net.carry(&mut self.rng, network, node, other, self.now);
                for at in copies.into_iter().flatten() {
                    let datagram = Rc::clone(&datagram);
                    self.after(at - self.now, Happening::Deliver { node: other, network, datagram });
                }
            }
        }
        if let Some(old) = self.net.record(&mut self.rng, &datagram) {
            let victim = self.rng.usize(0..self.nodes.len());
            let network = self.rng.usize(0..self.net.networks);
            let delay = self.rng.u64(0..30 * MS);
            self.after(delay, Happening::Deliver { node: victim, network, datagram: old });
        }
    }

    pub fn obituary(&mut self, node: usize) {
        let heartbeat = Heartbeat {
            sender: NodeId(node as u8),
            boot: self.nodes[node].boot,
            seq: OBITUARY_SEQ,
            body: Body::Obituary,
        };
        self.send(node, heartbeat);
    }

    fn count_held(&mut self, node: usize) {
        let counter = &self.nodes[node];
        let mine = counter.kernel.table.as_ref().map(|table| &table.mine);
        let mut buckets = BucketBits::none(BUCKETS);
        let mut connections = 0;
        for bucket in counter.connections.iter().map(|connection| Bucket(connection.bucket)) {
            if !mine.is_some_and(|mine| mine.contains(bucket)) {
                buckets.insert(bucket);
                connections += 1;
            }
        }
        let (since, token) = (counter.local(self.now), counter.token);
        let span = self.rng.u64(MS / 2..3 * MS);
        self.after(span, Happening::Counted { node, token, since, buckets, connections });
    }

    /// A client opens a connection, and some connection ends.
    fn connect(&mut self) {
        self.after(15 * MS, Happening::Client);
        let bucket = self.rng.u16(0..BUCKETS as u16);
        let takers: Vec<usize> = (0..self.nodes.len()).filter(|node| self.takes(*node, bucket)).collect();
        for taker in &takers {
            self.check_closed(*taker);
        }
        if let Some(node) = takers.first() {
            self.nodes[*node].connections.push(Connection { bucket, opened: self.now });
        }
        let node = self.rng.usize(0..self.nodes.len());
        if self.nodes[node].connections.len() > 8 {
            let ends = self.rng.usize(0..self.nodes[node].connections.len());
            self.nodes[node].connections.swap_remove(ends);
        }
    }

    /// A SYN that is sent now is answered by that node.
    pub fn takes(&self, node: usize, bucket: u16) -> bool {
        self.nodes[node].accepts(bucket, self.now) && !self.net.is_deaf(0, node, self.now)
    }

    /// Each connection gets a packet, and every other node sees it.
    fn send_packets(&mut self) {
        self.after(30 * MS, Happening::Packet);
        for holder in 0..self.nodes.len() {
            for place in 0..self.nodes[holder].connections.len() {
                let connection = self.nodes[holder].connections[place];
                self.check_packet(holder, connection);
            }
        }
    }

    fn check_packet(&mut self, holder: usize, connection: Connection) {
        let bucket = connection.bucket;
        if self.nodes[holder].starves(bucket, self.now) {
            self.violate(&format!("node {holder} drops its own connection in bucket {bucket}"));
        }
        for other in (0..self.nodes.len()).filter(|other| *other != holder) {
            let resets = self.nodes[other].resets(bucket, self.now) && !self.net.is_deaf(0, other, self.now);
            if resets && !self.may_reset(holder, other, connection.opened) {
                let [heard, _] = self.truth.ages_ms(other, holder, self.now);
                let age = (self.now - connection.opened) / MS;
                if self.trace {
                    let table = self.nodes[holder].kernel.table.as_ref();
                    let lost = table.is_some_and(|table| table.transitional.contains(Bucket(bucket)));
                    self.say(holder, &format!("holds it as {}", if lost { "lost" } else { "its own" }));
                }
                self.violate(&format!("node {other} resets a connection of node {holder} in bucket {bucket}, opened {age} ms ago, heard {heard} ms ago"));
            }
        }
    }

    /// What cannot be known: a connection that was opened after the last sign of its node arrived here, and any when
    /// that node was silent for longer than HOLD, until a few milliseconds after it speaks again.
    fn may_reset(&self, holder: usize, other: usize, opened: Nanos) -> bool {
        let hold = nanos(self.common.hold);
        let last = self.truth.last(other, holder);
        let fresh = self.truth.resumed(other, holder);
        self.nodes[other].engine.is_none()
            || opened >= last
            || self.now - last > hold
            || self.now - fresh < 15 * MS
            || self.truth.excuses(holder, other, self.now, &self.common.timing)
    }

    pub fn violate(&mut self, what: &str) {
        self.say(usize::MAX, what);
        if self.trace && self.violation.is_none() {
            for node in &self.nodes {
                println!(
                    "{:?} lease in {} ms, {:?}",
                    node.process,
                    (node.kernel.lease.0 as i64 - node.local(self.now).0 as i64) / 1_000_000,
                    node.engine
                );
            }
        }
        if self.violation.is_none() && !self.lenient {
            let at = self.now as f64 / MS as f64;
            self.violation = Some(format!("at {at:.3} ms: {what}"));
        }
    }

    /// One line of the trace.
    pub fn say(&self, node: usize, what: &str) {
        if self.trace {
            let at = self.now as f64 / MS as f64;
            let who = if node == usize::MAX { "-".to_owned() } else { node.to_string() };
            println!("{at:12.3}  {who:>2}  {what}");
        }
    }
}
