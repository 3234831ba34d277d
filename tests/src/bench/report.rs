//! What came out, as one JSON object, and whether the goals are met.

use serde::Serialize;

use super::cases::{self, Amount};
use super::rivals::{self, Advertisement, Balancer, Iptables};
use super::site::{BALANCER, CLUSTER_IP, PORT, SERVERS};
use super::{dropping, failover};

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub api_version: &'static str,
    pub machine: Machine,
    pub amount: Amount,
    pub goals: Vec<Goal>,
    /// Why processor time a request is what it is; none without the contestant that tells flooding apart.
    pub parts: Option<Parts>,
    pub frames: Vec<dropping::Figure>,
    pub requests: Vec<cases::Figure>,
    pub kills: Vec<failover::Figure>,
    pub configurations: Vec<Configuration>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub kernel: String,
    pub processor: String,
    pub processors: usize,
    /// Processes that wanted to run besides, over the last minute: other work spoils figures.
    pub load_average: String,
    pub build: &'static str,
    pub packages: Vec<String>,
}

impl Machine {
    pub fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            load_average: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            build: if cfg!(debug_assertions) { "dev (optimised, with assertions)" } else { "release" },
            packages: rivals::packages(),
        }
    }
}

/// A bar that was set before anything was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Goal {
    pub goal: &'static str,
    pub measured: f64,
    pub bar: f64,
    pub met: bool,
}

/// Microseconds of processor time a keep-alive request, as differences of medians.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parts {
    pub direct: f64,
    /// The software switch copies each frame and two stacks throw theirs away; a hardware switch copies for nothing.
    pub flooding: f64,
    /// What three daemons do anyway, spread over the requests of that second.
    pub daemons: f64,
    /// What is left: the filter on three nodes, in the stack. Below zero it is cheaper than the stacks' own drop.
    pub filter: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Configuration {
    pub of: String,
    pub text: String,
}

impl Report {
    pub fn of(
        machine: Machine,
        amount: Amount,
        frames: Vec<dropping::Figure>,
        requests: Vec<cases::Figure>,
        kills: Vec<failover::Figure>,
    ) -> Self {
        let mut goals = dropping_goals(&frames);
        goals.extend(processor_goals(&requests));
        let parts = parts(&requests);
        let configurations = configurations();
        Self { api_version: "v1", machine, amount, goals, parts, frames, requests, kills, configurations }
    }
}

/// How many times as many frames a second our filter drops, in each mode, than the faster front end of xt_cluster.
pub fn dropping_ratios(frames: &[dropping::Figure], kind: dropping::Kind) -> Option<[f64; 2]> {
    use dropping::Contestant::{Generic, Native, XtCluster};
    let rate = |contestant| {
        let mut of = frames.iter().filter(|figure| figure.kind == kind);
        Some(of.find(|figure| figure.contestant == contestant)?.packets_per_second.median)
    };
    let rival = rate(XtCluster(Iptables::Legacy))?.max(rate(XtCluster(Iptables::Nft))?);
    Some([rate(Native)? / rival, rate(Generic)? / rival])
}

fn dropping_goals(frames: &[dropping::Figure]) -> Vec<Goal> {
    let Some([native, generic]) = dropping_ratios(frames, dropping::Kind::Established) else {
        return Vec::new();
    };
    vec![
        at_least("foreign frames a second to xt_cluster's, filter in the driver", native, 5.0),
        at_least("foreign frames a second to xt_cluster's, filter in the stack", generic, 5.0),
    ]
}

pub fn request_figure(requests: &[cases::Figure], contestant: cases::Contestant) -> Option<&cases::Figure> {
    requests.iter().find(|figure| figure.contestant == contestant)
}

/// Against direct access over a switch that floods as well; against HAProxy in all; and in what each adds to direct
/// access, which takes the client's and the servers' own time out.
const KEEP_ALIVE_GOALS: [&str; 3] = [
    "processor time a request to direct access over a flooding switch, keep-alive",
    "processor time a request to HAProxy's, keep-alive",
    "processor time added to direct access, to what HAProxy adds, keep-alive",
];
const FRESH_GOALS: [&str; 3] = [
    "processor time a request to direct access over a flooding switch, fresh",
    "processor time a request to HAProxy's, fresh",
    "processor time added to direct access, to what HAProxy adds, fresh",
];

type Kind = fn(&cases::Figure) -> &cases::Throughput;

fn processor_goals(requests: &[cases::Figure]) -> Vec<Goal> {
    let find = |contestant| request_figure(requests, contestant);
    let Some(ours) = find(cases::Contestant::Ours) else { return Vec::new() };
    let mut goals = vec![
        at_most(
            "processor time a request to direct access, keep-alive",
            ours.keep_alive.cpu_to_direct.median,
            1.03,
        ),
        at_most("processor time a request to direct access, fresh", ours.fresh.cpu_to_direct.median, 1.03),
    ];
    let kinds: [(Kind, [&'static str; 3]); 2] =
        [(|figure| &figure.keep_alive, KEEP_ALIVE_GOALS), (|figure| &figure.fresh, FRESH_GOALS)];
    for (kind, [over_flooded, to_haproxy, added_to_haproxy]) in kinds {
        let cost = |figure: &cases::Figure| kind(figure).cpu_us_per_request.median;
        if let Some(flooded) = find(cases::Contestant::DirectFlooded) {
            goals.push(at_most(over_flooded, cost(ours) / cost(flooded), 1.03));
        }
        if let (Some(direct), Some(rival)) =
            (find(cases::Contestant::Direct), find(cases::Contestant::HaProxy))
        {
            let added = (cost(ours) - cost(direct)) / (cost(rival) - cost(direct));
            goals.push(at_most(to_haproxy, cost(ours) / cost(rival), 0.5));
            goals.push(at_most(added_to_haproxy, added, 0.5));
        }
    }
    goals
}

pub(super) fn at_least(goal: &'static str, measured: f64, bar: f64) -> Goal {
    Goal { goal, measured, bar, met: measured >= bar }
}

pub(super) fn at_most(goal: &'static str, measured: f64, bar: f64) -> Goal {
    Goal { goal, measured, bar, met: measured <= bar }
}

fn parts(requests: &[cases::Figure]) -> Option<Parts> {
    let find = |contestant| request_figure(requests, contestant);
    let cost = |figure: &cases::Figure| figure.keep_alive.cpu_us_per_request.median;
    let direct_figure = find(cases::Contestant::Direct)?;
    let (direct, flooded) = (cost(direct_figure), cost(find(cases::Contestant::DirectFlooded)?));
    let ours = find(cases::Contestant::Ours)?;
    let idle = ours.idle_processors.median - direct_figure.idle_processors.median;
    let daemons = idle * 1e6 / ours.keep_alive.requests_per_second.median;
    Some(Parts { direct, flooding: flooded - direct, daemons, filter: cost(ours) - flooded - daemons })
}

/// As they are used; paths of a run are left out.
fn configurations() -> Vec<Configuration> {
    let dir = std::path::Path::new("DIRECTORY");
    let servers: Vec<_> = (1..=SERVERS as u8).map(|host| ([10, 99, 0, host], PORT)).collect();
    let servers: Vec<_> = servers
        .into_iter()
        .map(|(address, port)| std::net::SocketAddrV4::new(address.into(), port))
        .collect();
    let keepalived = |advertisement: Advertisement| Configuration {
        of: advertisement.name().to_owned(),
        text: rivals::keepalived_config("n4", advertisement, 150, safekit::front::demo::topology::VIRTUAL_IP),
    };
    let balancer = |balancer: Balancer, name: &str| Configuration {
        of: format!("{name}, on the machine n{}", BALANCER.0 + 1),
        text: balancer.config(dir, 8080, &servers),
    };
    let cluster =
        rivals::cluster_rules(CLUSTER_IP, SERVERS, 1).map(|rule| format!("iptables {rule}\n")).concat();
    vec![
        Configuration { of: "nginx, on each server".to_owned(), text: rivals::nginx_server(dir, "n1", PORT) },
        Configuration { of: "safekit".to_owned(), text: rivals::SAFEKIT.to_owned() },
        Configuration { of: "xt_cluster, on the server n1".to_owned(), text: cluster },
        balancer(Balancer::HaProxy, "HAProxy"),
        balancer(Balancer::NginxStream, "nginx stream"),
        keepalived(Advertisement::Default),
        keepalived(Advertisement::Tuned),
        keepalived(Advertisement::Eager),
    ]
}
