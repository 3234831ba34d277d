//! Requests a second, latency and processor time a request, with the same client and the same servers behind all.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context as _, Result};
use safekit::front::demo::topology::{Network, VIRTUAL_IP};
use serde::Serialize;

use super::Spread;
use super::cpu::{Reading, Spent};
use super::exchange::Keeping;
use super::load::{self, Outcome, Plan};
use super::rivals::Balancer;
use super::site::{BALANCER, CLUSTER_IP, PORT, Site, Web};

const HAPROXY_PORT: u16 = 8080;
const STREAM_PORT: u16 = 8081;
const PROFILE: &str = "default";
/// Enough to keep two processors busy, and few enough to stay in their caches.
const CONNECTIONS: usize = 32;
/// What the daemons cost when nobody asks anything.
const IDLE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    Direct,
    /// Direct, while the switch sends frames for the servers to all three: what flooding costs a software switch and
    /// stacks that throw away what is not theirs.
    DirectFlooded,
    Ours,
    XtCluster,
    HaProxy,
    NginxStream,
}

pub const ALL: [Contestant; 6] = [
    Contestant::Direct,
    Contestant::DirectFlooded,
    Contestant::Ours,
    Contestant::XtCluster,
    Contestant::HaProxy,
    Contestant::NginxStream,
];
/// Those that need no package.
pub const OURS_AND_DIRECT: [Contestant; 2] = [Contestant::Direct, Contestant::Ours];

impl Contestant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct, no virtual IP",
            Self::DirectFlooded => "direct, switch floods",
            Self::Ours => "safekit farm, flood",
            Self::XtCluster => "xt_cluster, iptables-nft",
            Self::HaProxy => "HAProxy, TCP mode",
            Self::NginxStream => "nginx stream",
        }
    }

    fn targets(self, site: &Site) -> Vec<SocketAddrV4> {
        let balancer = Network::Lan.address(BALANCER);
        match self {
            Self::Direct | Self::DirectFlooded => site.addresses(),
            Self::Ours => vec![SocketAddrV4::new(VIRTUAL_IP, PORT)],
            Self::XtCluster => vec![SocketAddrV4::new(CLUSTER_IP, PORT)],
            Self::HaProxy => vec![SocketAddrV4::new(balancer, HAPROXY_PORT)],
            Self::NginxStream => vec![SocketAddrV4::new(balancer, STREAM_PORT)],
        }
    }

    /// Puts it between client and servers.
    fn enter(self, site: &mut Site) -> Result<()> {
        match self {
            // A balancer is there all the time, with nothing to do.
            Self::Direct | Self::HaProxy | Self::NginxStream => Ok(()),
            Self::DirectFlooded => site.flood_servers(true),
            Self::Ours => site.start_daemons(PROFILE),
            Self::XtCluster => site.cluster_rules(true),
        }
    }

    /// Takes away all that it put there.
    fn leave(self, site: &mut Site) -> Result<()> {
        match self {
            Self::Direct | Self::HaProxy | Self::NginxStream => Ok(()),
            Self::DirectFlooded => site.flood_servers(false),
            Self::Ours => site.stop_daemons(),
            Self::XtCluster => site.cluster_rules(false),
        }
    }
}

/// How much is asked in a round.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    pub rounds: usize,
    pub keep_alive: usize,
    pub fresh: usize,
    pub one_by_one: usize,
}

/// One contestant in one round.
struct Sample {
    keep_alive: Measured,
    fresh: Measured,
    one_by_one: Outcome,
    one_by_one_fresh: Outcome,
    idle: Spent,
}

struct Measured {
    outcome: Outcome,
    spent: Spent,
}

impl Measured {
    fn lab_us(&self) -> f64 {
        self.per_request(self.spent.lab)
    }

    fn machine_us(&self) -> f64 {
        self.per_request(self.spent.machine)
    }

    fn client_share(&self) -> f64 {
        self.spent.client.as_secs_f64() / self.spent.lab.as_secs_f64()
    }

    fn client_busy(&self) -> f64 {
        self.spent.client.as_secs_f64() / self.spent.elapsed.as_secs_f64()
    }

    fn per_request(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.outcome.latencies_us.len() as f64
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    pub contestant: Contestant,
    pub keep_alive: Throughput,
    pub fresh: Throughput,
    /// One request at a time on a standing connection.
    pub latency: Latency,
    /// One connection at a time, from the SYN to the last byte.
    pub latency_fresh: Latency,
    /// Processors that it takes when nobody asks anything.
    pub idle_processors: Spread,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throughput {
    pub requests_per_second: Spread,
    pub cpu_us_per_request: Spread,
    /// The same from /proc/stat, with all that the machine did besides.
    pub machine_cpu_us_per_request: Spread,
    /// Processor time a request as a multiple of direct access in the same round.
    pub cpu_to_direct: Spread,
    /// Of the lab's processor time: the client's thread, with the frames on their way to the server's socket.
    pub client_share: Spread,
    /// Of one processor: at 1 the client is what limits.
    pub client_busy: Spread,
    pub failed: usize,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    pub p50_us: Spread,
    pub p99_us: Spread,
    /// Beyond direct access in the same round.
    pub added_p50_us: Spread,
    pub added_p99_us: Spread,
}

/// Interleaved rounds; `contestants` begins with [`Contestant::Direct`].
pub fn measure(contestants: &[Contestant], web: Web, amount: Amount) -> Result<Vec<Figure>> {
    assert_eq!(
        contestants.first(),
        Some(&Contestant::Direct),
        "the others are measured against direct access"
    );
    let has = |balancer| contestants.contains(&balancer);
    let mut site = Site::build(1, web)?;
    site.plug_aside(BALANCER)?;
    if has(Contestant::HaProxy) {
        site.start_balancer(BALANCER, Balancer::HaProxy, HAPROXY_PORT)?;
    }
    if has(Contestant::NginxStream) {
        site.start_balancer(BALANCER, Balancer::NginxStream, STREAM_PORT)?;
    }
    let mut rounds: Vec<Vec<Sample>> = Vec::new();
    for number in 0..amount.rounds {
        eprintln!("==> requests: round {} of {}", number + 1, amount.rounds);
        let samples = contestants.iter().map(|contestant| {
            let sample = round(&mut site, *contestant, amount);
            sample.with_context(|| format!("{} in round {}", contestant.name(), number + 1))
        });
        rounds.push(samples.collect::<Result<_>>()?);
    }
    contestants.iter().enumerate().map(|(place, contestant)| figure(*contestant, place, &rounds)).collect()
}

fn round(site: &mut Site, contestant: Contestant, amount: Amount) -> Result<Sample> {
    contestant.enter(site)?;
    let sample = ask(site, contestant, amount);
    contestant.leave(site)?;
    sample
}

fn ask(site: &Site, contestant: Contestant, amount: Amount) -> Result<Sample> {
    let plan = |keeping, connections, requests| Plan {
        targets: contestant.targets(site),
        sources: site.clients(),
        keeping,
        connections,
        requests,
    };
    let processes = site.processes();
    let measured = |plan: &Plan| -> Result<Measured> {
        let before = Reading::take(&processes)?;
        let outcome = load::run(plan)?;
        Ok(Measured { outcome, spent: before.until(&Reading::take(&processes)?) })
    };
    let sample = || -> Result<Sample> {
        // Neighbours are learned, and buckets' connections spread, before anything counts.
        load::run(&plan(Keeping::Alive, CONNECTIONS, 2_000))?;
        let keep_alive = measured(&plan(Keeping::Alive, CONNECTIONS, amount.keep_alive))?;
        let fresh = measured(&plan(Keeping::Once, CONNECTIONS, amount.fresh))?;
        let one_by_one = load::run(&plan(Keeping::Alive, 1, amount.one_by_one))?;
        let one_by_one_fresh = load::run(&plan(Keeping::Once, 1, amount.one_by_one))?;
        let before = Reading::take(&processes)?;
        std::thread::sleep(IDLE);
        let idle = before.until(&Reading::take(&processes)?);
        Ok(Sample { keep_alive, fresh, one_by_one, one_by_one_fresh, idle })
    };
    site.client().inside(sample)?
}

fn figure(contestant: Contestant, place: usize, rounds: &[Vec<Sample>]) -> Result<Figure> {
    Ok(Figure {
        contestant,
        keep_alive: throughput(place, rounds, |sample| &sample.keep_alive)?,
        fresh: throughput(place, rounds, |sample| &sample.fresh)?,
        latency: latency(place, rounds, |sample| &sample.one_by_one)?,
        latency_fresh: latency(place, rounds, |sample| &sample.one_by_one_fresh)?,
        idle_processors: spread(rounds, |round| {
            let idle = &round[place].idle;
            idle.lab.as_secs_f64() / idle.elapsed.as_secs_f64()
        })?,
    })
}

fn throughput(place: usize, rounds: &[Vec<Sample>], of: impl Fn(&Sample) -> &Measured) -> Result<Throughput> {
    let one = |figure: fn(&Measured) -> f64| spread(rounds, |round| figure(of(&round[place])));
    Ok(Throughput {
        requests_per_second: one(|measured| measured.outcome.requests_per_second())?,
        cpu_us_per_request: one(Measured::lab_us)?,
        machine_cpu_us_per_request: one(Measured::machine_us)?,
        cpu_to_direct: spread(rounds, |round| of(&round[place]).lab_us() / of(&round[0]).lab_us())?,
        client_share: one(Measured::client_share)?,
        client_busy: one(Measured::client_busy)?,
        failed: rounds.iter().map(|round| of(&round[place]).outcome.failed).sum(),
    })
}

fn latency(place: usize, rounds: &[Vec<Sample>], of: impl Fn(&Sample) -> &Outcome) -> Result<Latency> {
    let at = |share| spread(rounds, |round| of(&round[place]).latency_us(share));
    let added =
        |share| spread(rounds, |round| of(&round[place]).latency_us(share) - of(&round[0]).latency_us(share));
    Ok(Latency { p50_us: at(0.5)?, p99_us: at(0.99)?, added_p50_us: added(0.5)?, added_p99_us: added(0.99)? })
}

fn spread(rounds: &[Vec<Sample>], figure: impl Fn(&Vec<Sample>) -> f64) -> Result<Spread> {
    Spread::over(rounds, figure).context("no round")
}
