//! One node: a real engine, and a model of the driver and the kernel around it.
//!
//! The driver is one thread. It takes an input, does what the engine orders in that order, and only then takes the
//! next input; a map write takes time, during which the process can be stopped or die. The kernel goes on without it.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use safekit::engine::farm::{Engine, HOLD, Input, Output, Rules, Setup, Table};
use safekit::engine::reach::{Admission, Reach};
use safekit::types::{BootId, Bucket, Change, Generation, Instant, NodeId, Seq, Timing};
use safekit::wire::heartbeat::Body;

use super::net::Datagram;
use super::{BUCKETS, GROUP, Nanos};

/// What all nodes of a run have in common.
#[derive(Clone, Debug)]
pub struct Common {
    pub names: Vec<String>,
    pub weights: Vec<u32>,
    pub timing: Timing,
    pub hold: Duration,
    pub rules: Rules,
}

impl Common {
    pub fn of(nodes: usize) -> Self {
        Self {
            names: (0..nodes).map(|node| format!("node{node}")).collect(),
            weights: vec![1; nodes],
            timing: Timing::DEFAULT,
            hold: HOLD,
            rules: Rules::ALL,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Running,
    Paused,
    Dead,
}

/// What the packet filter knows. It outlives the daemon.
#[derive(Debug, Default)]
pub struct Kernel {
    pub up: bool,
    pub table: Option<Arc<Table>>,
    pub lease: Instant,
}

#[derive(Debug)]
pub struct Node {
    pub id: usize,
    pub engine: Option<Engine>,
    pub process: Process,
    pub kernel: Kernel,
    /// How far this node's clock is ahead of the world's.
    pub ahead: Nanos,
    pub boot: BootId,
    pub boots: u8,
    /// Ordered and not done yet; the first may be under way.
    pub work: VecDeque<Output>,
    pub writing: bool,
    /// Grows with each life and each pause: what was scheduled for an earlier one is void.
    pub token: u32,
    pub wake_at: Nanos,
    pub inbox: VecDeque<Arrival>,
    /// Processed by the engine, with what follows from it not done yet.
    pub unfinished: Vec<Rc<Datagram>>,
    pub connections: Vec<Connection>,
    /// Real time that the engine took so far, and for how many inputs; when somebody wants to know.
    pub spent: Option<(Duration, u32)>,
    /// On disk.
    pub kept: Generation,
    /// Of this node's application, in percent; it outlives the daemon.
    pub health: u8,
    /// Since when the engine knows that it is down.
    pub closed_since: Option<Nanos>,
    reach: Reach,
    sent: HashMap<Seq, Instant>,
    /// Send time of my newest heartbeat that each peer acknowledged, by my own books.
    acked: Vec<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub bucket: u16,
    pub opened: Nanos,
}

#[derive(Debug)]
pub enum Arrival {
    Timer,
    /// On that network.
    Datagram(Rc<Datagram>, usize),
    Other(Input),
}

/// A socket's buffer.
pub const INBOX_MAX: usize = 256;

impl Node {
    pub fn new(id: usize, nodes: usize, ahead: Nanos) -> Self {
        Self {
            id,
            engine: None,
            process: Process::Dead,
            kernel: Kernel::default(),
            ahead,
            boot: BootId([0; 16]),
            boots: 0,
            work: VecDeque::new(),
            writing: false,
            token: 0,
            wake_at: Nanos::MAX,
            inbox: VecDeque::new(),
            unfinished: Vec::new(),
            connections: Vec::new(),
            spent: None,
            kept: Generation::configured(),
            health: 100,
            closed_since: None,
            reach: Reach::new(nodes),
            sent: HashMap::new(),
            acked: vec![Instant(0); nodes],
        }
    }

    pub fn local(&self, now: Nanos) -> Instant {
        Instant(now + self.ahead)
    }

    pub fn start(&mut self, common: &Common, rng: &mut fastrand::Rng, now: Nanos) {
        self.boots += 1;
        self.boot = BootId(std::array::from_fn(|_| rng.u8(..)));
        self.forget();
        self.kernel.up = true;
        self.process = Process::Running;
        self.sent.clear();
        self.acked.fill(Instant(0));
        self.reach = Reach::new(common.names.len());
        let setup = Setup {
            me: NodeId(self.id as u8),
            boot: self.boot,
            nodes: common.names.clone(),
            config: 1,
            timing: common.timing,
            groups: vec![safekit::engine::farm::Group {
                id: GROUP,
                share: safekit::types::Share::Weighted(common.weights.clone()),
            }],
            generation: self.kept.clone(),
            health: vec![(GROUP, self.health)],
            buckets: BUCKETS,
            hold: common.hold,
            seed: rng.u64(..),
            rules: common.rules,
        };
        self.closed_since = (self.health == 0).then_some(now);
        self.engine = Some(Engine::new(setup, self.local(now)));
        self.collect(self.local(now));
    }

    /// The process is gone, and with it all that it was about to do.
    pub fn stop(&mut self) {
        self.process = Process::Dead;
        self.engine = None;
        self.forget();
    }

    fn forget(&mut self) {
        self.token += 1;
        self.work.clear();
        self.writing = false;
        self.inbox.clear();
        self.unfinished.clear();
        self.wake_at = Nanos::MAX;
    }

    fn note_health(&mut self, arrival: &Arrival, now: Nanos) {
        let Arrival::Other(Input::Change(changes)) = arrival else { return };
        for change in changes {
            let Change::Health { node, percent, .. } = change else { continue };
            if usize::from(node.0) == self.id {
                self.closed_since = (*percent == 0).then(|| self.closed_since.unwrap_or(now));
            }
        }
    }

    pub fn handle(&mut self, arrival: Arrival, now: Nanos) {
        self.note_health(&arrival, now);
        let now = self.local(now);
        let input = match arrival {
            Arrival::Timer => Input::Timer,
            Arrival::Other(input) => input,
            Arrival::Datagram(datagram, network) => {
                if !self.admits(&datagram, network, now) {
                    return;
                }
                self.book(&datagram);
                let heartbeat = datagram.heartbeat.clone();
                self.unfinished.push(datagram);
                Input::Heartbeat(heartbeat)
            }
        };
        let engine = self.engine.as_mut().expect("only a living process takes inputs");
        match &mut self.spent {
            None => engine.handle(input, now),
            Some((spent, inputs)) => {
                *spent += timed(|| engine.handle(input, now));
                *inputs += 1;
            }
        }
        self.collect(now);
    }

    /// As the driver decides it: network 0 is the virtual IP's own.
    fn admits(&mut self, datagram: &Datagram, network: usize, now: Instant) -> bool {
        match datagram.heartbeat.body {
            Body::Obituary => true,
            Body::Beat(_) => {
                let sender = datagram.heartbeat.sender;
                self.reach.admit(sender, network == 0, now) == Admission::Counts
            }
        }
    }

    /// The books go by the engine's time; the wire's is later.
    fn collect(&mut self, now: Instant) {
        let engine = self.engine.as_mut().expect("a living process has an engine");
        while let Some(output) = engine.poll_output() {
            if let Output::Send(heartbeat) = &output {
                self.sent.insert(heartbeat.seq, now);
            }
            self.work.push_back(output);
        }
    }

    fn book(&mut self, datagram: &Datagram) {
        let Body::Beat(beat) = &datagram.heartbeat.body else { return };
        let tag = self.tag();
        let me = NodeId(self.id as u8);
        let own = beat.peers.iter().filter(|report| report.node == me && report.boot_tag == tag);
        let own = own.map(|report| (datagram.heartbeat.sender, report.best_seq));
        let relayed = beat.acks.iter().filter(|ack| ack.to == me && ack.to_tag == tag);
        for (peer, seq) in own.chain(relayed.map(|ack| (ack.from, ack.seq))) {
            let sent = self.sent.get(&seq).copied().unwrap_or_default();
            let known = &mut self.acked[usize::from(peer.0)];
            *known = (*known).max(sent);
        }
    }

    pub fn tag(&self) -> u32 {
        let [a, b, c, d, ..] = self.boot.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The life of that node that counts here.
    pub fn life(&self, node: usize) -> Option<u32> {
        self.engine.as_ref()?.life(NodeId(node as u8))
    }

    pub fn acked(&self, peer: NodeId) -> Instant {
        self.acked[usize::from(peer.0)]
    }

    /// The kernel lets new connections in at all.
    pub fn is_open(&self, now: Nanos) -> bool {
        self.kernel.up && self.kernel.lease > self.local(now)
    }

    pub fn mine(&self) -> Option<&[u64]> {
        self.kernel.table.as_ref().map(|table| table.mine.words())
    }

    pub fn accepts(&self, bucket: u16, now: Nanos) -> bool {
        let mine = self.kernel.table.as_ref().is_some_and(|table| table.mine.contains(Bucket(bucket)));
        mine && self.is_open(now)
    }

    /// A packet of a connection that is not here reaches the stack, which answers with a reset.
    pub fn resets(&self, bucket: u16, now: Nanos) -> bool {
        let transitional = |table: &Arc<Table>| table.transitional.contains(Bucket(bucket));
        self.accepts(bucket, now) && !self.kernel.table.as_ref().is_some_and(transitional)
    }

    /// A packet of a connection that is here does not reach the stack.
    pub fn starves(&self, bucket: u16, now: Nanos) -> bool {
        let Some(table) = &self.kernel.table else { return false };
        let (mine, transitional) =
            (table.mine.contains(Bucket(bucket)), table.transitional.contains(Bucket(bucket)));
        self.is_open(now) && !mine && !transitional
    }
}

#[expect(clippy::disallowed_methods, reason = "how long an engine takes is a question about this machine")]
fn timed(work: impl FnOnce()) -> Duration {
    let began = std::time::Instant::now();
    work();
    began.elapsed()
}
