//! How long a service is away when the machine that serves it is switched off: measured by its clients.
//!
//! ```text
//!   fresh attempts, one every few milliseconds   ✓ ✓ ✓ ✓ ✗ ✗ ✓ ✗ ✗ ✗ ✓ ✓ ✓ ✓
//!                                                        ▲ kill      ▲ last attempt that failed
//!                                                        └──────────┘ away
//! ```
//!
//! An attempt that is not answered within [`PATIENCE`] has failed: that is before a lost SYN is sent again, so nothing
//! that a retransmission heals later counts as served.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use safekit::driver::clock;
use safekit::front::demo::topology::VIRTUAL_IP;
use safekit::types::{Instant, NodeId};
use serde::Serialize;

use super::Spread;
use super::exchange::{Exchange, Keeping, Progress};
use super::rivals::{Advertisement, Balancer};
use super::site::{BALANCER, PORT, Site, UNDERSTUDY, Web};
use crate::lab::wait_until;

const INTERVAL: Duration = Duration::from_millis(3);
/// TCP sends a SYN again after a second (RFC 6298 2.1).
const PATIENCE: Duration = Duration::from_millis(500);
/// Undisturbed before the kill, so that the attempts themselves are known to work.
const CALM: Duration = Duration::from_millis(600);
/// Of one kill, on a machine that others use too.
const TRIES_MAX: usize = 3;
/// keepalived's first election takes three advertisements and a bit.
const READY_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    OursDefault,
    OursFast,
    Keepalived(Advertisement),
}

pub const CONTESTANTS: [Contestant; 5] = [
    Contestant::OursDefault,
    Contestant::OursFast,
    Contestant::Keepalived(Advertisement::Default),
    Contestant::Keepalived(Advertisement::Tuned),
    Contestant::Keepalived(Advertisement::Eager),
];

impl Contestant {
    pub fn name(self) -> &'static str {
        match self {
            Self::OursDefault => "safekit farm, profile default",
            Self::OursFast => "safekit farm, profile fast",
            Self::Keepalived(advertisement) => advertisement.name(),
        }
    }

    /// A service at rest, and the machine to switch off.
    fn build(self) -> Result<(Site, NodeId)> {
        let advertisement = match self {
            Self::OursDefault | Self::OursFast => {
                let mut site = Site::build(0, Web::Nginx)?;
                site.start_daemons(if self == Self::OursFast { "fast" } else { "default" })?;
                return Ok((site, NodeId(0)));
            }
            Self::Keepalived(advertisement) => advertisement,
        };
        let mut site = Site::build(2, Web::Nginx)?;
        for balancer in [BALANCER, UNDERSTUDY] {
            site.plug(balancer)?;
            site.start_balancer(balancer, Balancer::HaProxy, PORT)?;
            site.start_keepalived(balancer, advertisement)?;
        }
        Ok((site, BALANCER))
    }

    /// How long the attempts go on after the kill: longer than it may be away, and their patience.
    fn watch(self) -> Duration {
        match self {
            Self::OursDefault | Self::OursFast => Duration::from_millis(1500),
            Self::Keepalived(Advertisement::Default) => Duration::from_millis(5500),
            // Nominally a third of a second and less; a busy machine makes it seconds now and then.
            Self::Keepalived(Advertisement::Tuned | Advertisement::Eager) => Duration::from_millis(2500),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    pub contestant: Contestant,
    /// From the kill to the last attempt that failed.
    pub away_ms: Spread,
    /// Of the attempts within that time.
    pub failed_share: Spread,
}

pub fn measure(contestants: &[Contestant], rounds: usize) -> Result<Vec<Figure>> {
    let mut all: Vec<(Contestant, Vec<Outage>)> =
        contestants.iter().map(|contestant| (*contestant, Vec::new())).collect();
    for number in 0..rounds {
        eprintln!("==> kills: round {} of {rounds}", number + 1);
        for (contestant, outages) in &mut all {
            outages.push(settled(*contestant)?);
        }
    }
    let figure = |(contestant, outages): (Contestant, Vec<Outage>)| {
        let spread = |of: fn(&Outage) -> f64| Spread::over(&outages, of).context("no round");
        Ok(Figure {
            contestant,
            away_ms: spread(|outage| outage.away.as_secs_f64() * 1e3)?,
            failed_share: spread(|outage| outage.failed_share)?,
        })
    };
    all.into_iter().map(figure).collect()
}

#[derive(Debug)]
struct Outage {
    away: Duration,
    failed_share: f64,
}

/// A service that was not at rest before the kill gives no figure: it is built again, and said so.
fn settled(contestant: Contestant) -> Result<Outage> {
    let mut tries = TRIES_MAX;
    loop {
        tries -= 1;
        match outage(contestant) {
            Err(error) if tries > 0 => eprintln!("warning: {}: {error:#}; once more", contestant.name()),
            result => return result.with_context(|| contestant.name()),
        }
    }
}

fn outage(contestant: Contestant) -> Result<Outage> {
    let (site, victim) = contestant.build()?;
    wait_ready(&site, contestant)?;
    let (stop, sources) = (AtomicBool::new(false), site.clients());
    let door = site.client().door()?;
    let (attempts, fault) = std::thread::scope(|scope| {
        let client = scope.spawn(|| -> Result<Vec<Attempt>> {
            door.enter()?;
            attempt_until(&stop, &sources)
        });
        std::thread::sleep(CALM);
        let fault = site.kill(victim);
        std::thread::sleep(contestant.watch());
        stop.store(true, Ordering::Relaxed);
        let attempts = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        anyhow::Ok((attempts?, fault?))
    })?;
    judge(&attempts, fault)
}

/// Until the service is there, and with keepalived the virtual IP on the machine that is to be switched off.
fn wait_ready(site: &Site, contestant: Contestant) -> Result<()> {
    wait_until("the service", READY_TIMEOUT, || {
        let is_home = !matches!(contestant, Contestant::Keepalived(_)) || site.has_virtual_ip(BALANCER);
        let address = SocketAddr::from((VIRTUAL_IP, PORT));
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
        is_home && site.client().inside(connect).unwrap_or(false)
    })
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    started: Instant,
    answered: bool,
}

/// Fresh connections, one each [`INTERVAL`]; returns when the last of them is decided.
fn attempt_until(stop: &AtomicBool, sources: &[Ipv4Addr]) -> Result<Vec<Attempt>> {
    let mut attempts =
        Attempts { epoll: epoll::create(CreateFlags::CLOEXEC)?, open: HashMap::new(), done: Vec::new() };
    let target = SocketAddrV4::new(VIRTUAL_IP, PORT);
    let (mut number, mut next) = (0_u64, clock::now());
    loop {
        let now = clock::now();
        let stopped = stop.load(Ordering::Relaxed);
        if !stopped && now >= next {
            attempts.start(number, sources[number as usize % sources.len()], target)?;
            number += 1;
            // A client that was late does not catch up in a burst.
            next = now + INTERVAL;
        }
        attempts.expire(now);
        if stopped && attempts.open.is_empty() {
            return Ok(attempts.done);
        }
        attempts.advance()?;
    }
}

struct Attempts {
    epoll: OwnedFd,
    open: HashMap<u64, Exchange>,
    done: Vec<Attempt>,
}

impl Attempts {
    fn start(&mut self, number: u64, source: Ipv4Addr, target: SocketAddrV4) -> Result<()> {
        match Exchange::open(source, target, Keeping::Once) {
            Ok(exchange) => {
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                epoll::add(&self.epoll, &exchange, EventData::new_u64(number), flags)?;
                self.open.insert(number, exchange);
            }
            // Nobody answers ARP: that is an attempt that failed.
            Err(_) => self.done.push(Attempt { started: clock::now(), answered: false }),
        }
        Ok(())
    }

    /// For a millisecond at most.
    fn advance(&mut self) -> Result<()> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 64];
        let moment = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let ready = epoll::wait(&self.epoll, &mut events[..], Some(&moment))?;
        for event in &events[..ready] {
            let number = event.data.u64();
            let Some(exchange) = self.open.get_mut(&number) else { continue };
            let answered = match exchange.advance() {
                Progress::Waiting => continue,
                Progress::Answered => true,
                Progress::Closed | Progress::Failed => false,
            };
            self.done.push(Attempt { started: exchange.started, answered });
            self.open.remove(&number);
        }
        Ok(())
    }

    fn expire(&mut self, now: Instant) {
        let done = &mut self.done;
        self.open.retain(|_, exchange| {
            let waits = now.since(exchange.started) < PATIENCE;
            if !waits {
                done.push(Attempt { started: exchange.started, answered: false });
            }
            waits
        });
    }
}

fn judge(attempts: &[Attempt], fault: Instant) -> Result<Outage> {
    let (before, after): (Vec<&Attempt>, Vec<&Attempt>) =
        attempts.iter().partition(|attempt| attempt.started < fault);
    // Those under way when the machine went down are its victims too, and no sign of a bad start.
    let calm: Vec<_> = before.iter().filter(|attempt| fault.since(attempt.started) > CALM / 3).collect();
    let failed = calm.iter().filter(|attempt| !attempt.answered).count();
    ensure!(
        !calm.is_empty() && failed * 50 <= calm.len(),
        "{failed} of {} failed before the kill",
        calm.len()
    );
    let failed: Vec<_> = after.iter().filter(|attempt| !attempt.answered).collect();
    let last = failed.iter().map(|attempt| attempt.started).max();
    let away = last.map_or(Duration::ZERO, |last| last.since(fault));
    let newest = after.iter().map(|attempt| attempt.started).max().context("no attempt after the kill")?;
    ensure!(
        newest.since(fault) > away + Duration::from_millis(100),
        "it was still away at the end: {away:?}"
    );
    let within = after.iter().filter(|attempt| attempt.started.since(fault) <= away).count();
    Ok(Outage { away, failed_share: failed.len() as f64 / within.max(1) as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(failed_ms: std::ops::Range<u64>, of: u64) -> Vec<Attempt> {
        let ms = |ms: u64| Instant(1_000_000 * ms);
        let answered = |at: u64| !(failed_ms.contains(&at) && at.is_multiple_of(of));
        (0..3000).step_by(3).map(|at| Attempt { started: ms(at), answered: answered(at) }).collect()
    }

    #[test]
    fn a_service_is_away_until_the_last_attempt_that_fails() {
        let kill = Instant(1_000_000_000);
        let all = judge(&attempts(1000..1301, 1), kill).unwrap();
        assert_eq!((all.away, all.failed_share), (Duration::from_millis(299), 1.0));
        let some = judge(&attempts(1000..1301, 9), kill).unwrap();
        assert_eq!(some.away, Duration::from_millis(296));
        assert!((some.failed_share - 0.33).abs() < 0.02, "{some:?}");
        let none = judge(&attempts(0..0, 1), kill).unwrap();
        assert_eq!((none.away, none.failed_share), (Duration::ZERO, 0.0));
    }

    #[test]
    fn what_was_broken_before_or_stays_broken_is_no_figure() {
        assert!(judge(&attempts(500..1301, 1), Instant(1_000_000_000)).is_err());
        assert!(judge(&attempts(1000..3000, 1), Instant(1_000_000_000)).is_err());
    }
}
