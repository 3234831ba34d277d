//! The load client, the same for all: a closed loop of connections on one thread, and every latency.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use safekit::driver::clock;

use super::exchange::{Exchange, Keeping, Progress};

/// Longer than two retransmissions of a SYN: a load that stands still for so long is over.
const STALL: Duration = Duration::from_secs(4);
/// Of the requests; more is no measurement of a working service.
const FAILED_SHARE_MAX: f64 = 0.01;

#[derive(Clone, Debug)]
pub struct Plan {
    /// Taken in turns, as a client without a virtual IP does.
    pub targets: Vec<SocketAddrV4>,
    /// Taken in turns: some contestants spread by the client's address alone.
    pub sources: Vec<Ipv4Addr>,
    pub keeping: Keeping,
    /// At a time.
    pub connections: usize,
    pub requests: usize,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub elapsed: Duration,
    /// In microseconds, sorted; with [`Keeping::Once`] from the first SYN to the last byte of the answer.
    pub latencies_us: Vec<f64>,
    pub failed: usize,
}

impl Outcome {
    pub fn requests_per_second(&self) -> f64 {
        self.latencies_us.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// `share` of 0.99 is the 99th percentile.
    pub fn latency_us(&self, share: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        let index = (share * last as f64).round() as usize;
        self.latencies_us.get(index).copied().unwrap_or(f64::NAN)
    }
}

/// Runs on the calling thread, in its network namespace.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let mut load = Load::new(plan)?;
    let began = clock::now();
    for place in 0..plan.connections {
        load.open(place)?;
    }
    let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 128];
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let mut progress = began;
    while load.done() < plan.requests {
        let ready = epoll::wait(&load.epoll, &mut events[..], Some(&second))?;
        if ready > 0 {
            progress = clock::now();
        } else if clock::now().since(progress) > STALL {
            bail!("no answer for {STALL:?} after {} of {} requests", load.done(), plan.requests);
        }
        for event in &events[..ready] {
            load.advance(event.data.u64() as usize)?;
        }
    }
    let elapsed = clock::now().since(began);
    let Load { mut latencies_us, failed, .. } = load;
    ensure!(
        failed as f64 <= FAILED_SHARE_MAX * plan.requests as f64,
        "{failed} of {} requests failed",
        plan.requests
    );
    latencies_us.sort_by(f64::total_cmp);
    Ok(Outcome { elapsed, latencies_us, failed })
}

struct Load<'a> {
    plan: &'a Plan,
    epoll: OwnedFd,
    /// None after its last request.
    connections: Vec<Option<Exchange>>,
    opened: usize,
    asked: usize,
    latencies_us: Vec<f64>,
    failed: usize,
}

impl<'a> Load<'a> {
    fn new(plan: &'a Plan) -> Result<Self> {
        ensure!(
            !plan.targets.is_empty() && !plan.sources.is_empty(),
            "a load goes from somewhere to somewhere"
        );
        let mut connections = Vec::new();
        connections.resize_with(plan.connections, || None);
        let latencies_us = Vec::with_capacity(plan.requests);
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { plan, epoll, connections, opened: 0, asked: 0, latencies_us, failed: 0 })
    }

    fn done(&self) -> usize {
        self.latencies_us.len() + self.failed
    }

    fn may_ask(&mut self) -> bool {
        let more = self.asked < self.plan.requests;
        self.asked += usize::from(more);
        more
    }

    /// The next connection, with its first request; none when all have been asked.
    fn open(&mut self, place: usize) -> Result<()> {
        self.connections[place] = None;
        if !self.may_ask() {
            return Ok(());
        }
        let Plan { targets, sources, keeping, .. } = self.plan;
        // Sources move on after a round of targets, so that each meets each.
        let source = sources[self.opened / targets.len() % sources.len()];
        let exchange = Exchange::open(source, targets[self.opened % targets.len()], *keeping)?;
        self.opened += 1;
        // Edges: one registration for the whole life of a connection.
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &exchange, EventData::new_u64(place as u64), flags)?;
        self.connections[place] = Some(exchange);
        Ok(())
    }

    fn advance(&mut self, place: usize) -> Result<()> {
        let Some(exchange) = &mut self.connections[place] else { return Ok(()) };
        match (exchange.advance(), self.plan.keeping) {
            (Progress::Waiting, _) => Ok(()),
            (Progress::Answered, Keeping::Alive) => {
                self.latencies_us.push(micros(exchange));
                self.ask_again(place)
            }
            // The server says goodbye first, so that no port of the client waits for a minute until it is free again.
            (Progress::Answered, Keeping::Once) => {
                self.latencies_us.push(micros(exchange));
                match exchange.advance() {
                    Progress::Waiting => Ok(()),
                    // A reset after a whole answer harms nobody.
                    Progress::Closed | Progress::Failed | Progress::Answered => self.open(place),
                }
            }
            (Progress::Closed | Progress::Failed, Keeping::Once) if exchange.is_answered() => {
                self.open(place)
            }
            (Progress::Closed | Progress::Failed, _) => self.fail(place),
        }
    }

    fn ask_again(&mut self, place: usize) -> Result<()> {
        if !self.may_ask() {
            self.connections[place] = None;
            return Ok(());
        }
        let exchange = self.connections[place].as_mut().expect("the connection that has just been answered");
        exchange.ask_again();
        match exchange.advance() {
            Progress::Waiting => Ok(()),
            Progress::Answered | Progress::Closed | Progress::Failed => self.fail(place),
        }
    }

    fn fail(&mut self, place: usize) -> Result<()> {
        self.failed += 1;
        self.open(place)
    }
}

fn micros(exchange: &Exchange) -> f64 {
    clock::now().since(exchange.started).as_nanos() as f64 / 1e3
}
