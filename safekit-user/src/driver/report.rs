//! What screens are told: collects facts and makes [`Snapshot`]s and answers of them. Decides nothing.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::datapath::{Counter, Datapath, Leak};
use super::wishes::{self, Refusal};
use safekit_ebpf::verdict::Reason;

use crate::config::{Balance, Config, Farm, Share};
use crate::driver::census::BucketOf;
use crate::driver::notes::Findings;
use crate::engine::farm::{Engine, Moved, PeerStatus, Table};
use crate::engine::health::{Facts, judge};
use crate::types::cluster::LinksInfo;
use crate::types::command::{Explanation, Move, Preview};
use crate::types::snapshot::{
    API_VERSION, CounterInfo, FarmInfo, GroupInfo, HeartbeatInfo, MemberState, NodeInfo, RuleInfo, Verdict,
    VirtualIpInfo, Warning,
};
use crate::types::{
    BootId, Change, Command, Event, EventKind, GroupId, Instant, NodeId, NodeSet, Reply, Snapshot, Wish,
};

/// The newest events that a snapshot carries.
const EVENTS_MAX: usize = 128;
/// Datagrams of strangers count as present trouble for so long.
const STRANGERS_FRESH: Duration = Duration::from_secs(10);
/// A heartbeat's worst lateness is forgotten after one to two of these.
const LATENESS_WINDOW: Duration = Duration::from_secs(30);

/// Reading the filter's counters takes a system call for each; a person needs them once a second.
const COUNTERS_INTERVAL: Duration = Duration::from_secs(1);

pub struct Reporter {
    config: Config,
    me: NodeId,
    boot: BootId,
    realtime: bool,
    bucket_of: BucketOf,
    virtual_ips: BTreeMap<IpAddr, VirtualIpInfo>,
    events: VecDeque<Event>,
    groups: BTreeMap<GroupId, Applied>,
    rejected: u64,
    rejected_last: Option<Instant>,
    unsent: u64,
    lateness: Lateness,
    counters: Vec<Counter>,
    leaks: Vec<Leak>,
    counted: Option<Instant>,
    findings: Findings,
    /// By node.
    heard: Vec<Heard>,
}

/// When a node was last heard, by the way of its heartbeats.
#[derive(Clone, Copy, Default)]
struct Heard {
    datagram: Option<Instant>,
    frame: Option<Instant>,
}

/// A node is heard on one path alone when the other has been silent for so long.
const PATH_SILENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Default)]
struct Applied {
    owned: u32,
    transitional: u32,
    at: Instant,
    took: Duration,
    held_connections: u64,
}

/// Maximum over a sliding window, in two halves.
#[derive(Default)]
struct Lateness {
    window_began: Instant,
    before: Duration,
    present: Duration,
}

impl Reporter {
    pub fn new(
        config: Config,
        me: NodeId,
        boot: BootId,
        realtime: bool,
        bucket_of: BucketOf,
        virtual_ips: Vec<VirtualIpInfo>,
    ) -> Self {
        let nodes = config.cluster.nodes.len();
        Self {
            config,
            me,
            boot,
            realtime,
            bucket_of,
            virtual_ips: virtual_ips.into_iter().map(|info| (info.address, info)).collect(),
            events: VecDeque::with_capacity(EVENTS_MAX),
            groups: BTreeMap::new(),
            rejected: 0,
            rejected_last: None,
            unsent: 0,
            lateness: Lateness::default(),
            counters: Vec::new(),
            leaks: Vec::new(),
            counted: None,
            findings: Findings::default(),
            heard: vec![Heard::default(); nodes],
        }
    }

    pub fn note_findings(&mut self, findings: &Findings) {
        self.findings.clone_from(findings);
    }

    /// A heartbeat that came as a datagram, or as a frame on the clients' own path.
    pub fn note_heard(&mut self, node: NodeId, as_frame: bool, now: Instant) {
        let Some(heard) = self.heard.get_mut(usize::from(node.0)) else { return };
        *(if as_frame { &mut heard.frame } else { &mut heard.datagram }) = Some(now);
    }

    pub fn note_realtime(&mut self, priority: bool) {
        self.realtime &= priority;
    }

    pub fn note_event(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// `table` is in the kernel since `at`; `took` counts from the decision.
    pub fn note_applied(&mut self, group: GroupId, table: &Table, at: Instant, took: Duration) {
        let applied = self.groups.entry(group).or_default();
        applied.owned = table.mine.len() as u32;
        applied.transitional = table.transitional.len() as u32;
        applied.at = at;
        applied.took = took;
        let (owned, transitional) = (applied.owned, applied.transitional);
        self.note_event(Event { at, kind: EventKind::Applied { group, owned, transitional } });
    }

    pub fn note_held(&mut self, group: GroupId, connections: u64) {
        self.groups.entry(group).or_default().held_connections = connections;
    }

    pub fn note_rejected(&mut self, now: Instant) {
        self.rejected += 1;
        self.rejected_last = Some(now);
    }

    pub fn note_unsent(&mut self, datagrams: u64) {
        self.unsent += datagrams;
    }

    pub fn note_lateness(&mut self, now: Instant, late: Duration) {
        let lateness = &mut self.lateness;
        if now.since(lateness.window_began) > LATENESS_WINDOW {
            lateness.window_began = now;
            lateness.before = std::mem::take(&mut lateness.present);
        }
        lateness.present = lateness.present.max(late);
    }

    pub fn snapshot(&mut self, engine: &Engine, datapath: &Datapath, now: Instant) -> Snapshot {
        if self.counted.is_none_or(|counted| now.since(counted) > COUNTERS_INTERVAL) {
            // A map that cannot be read for once leaves the figures as they were.
            if let Ok(counters) = datapath.counters() {
                self.counters = counters;
            }
            if let Ok(leaks) = datapath.leaks() {
                self.leaks = leaks;
            }
            self.counted = Some(now);
        }
        let peers = engine.peers();
        let view = engine.view();
        let verdict = judge(&self.facts(engine, &peers, now));
        Snapshot {
            api_version: API_VERSION.to_owned(),
            cluster: self.config.cluster.name.clone(),
            node: self.name(self.me).to_owned(),
            boot: self.boot.to_string(),
            taken: now,
            verdict,
            summary: self.summary(verdict, engine, &peers),
            state: engine.member_state(),
            view: view.id,
            view_since: view.since,
            heartbeat: self.heartbeat(),
            nodes: self.nodes(engine, &peers, now),
            farms: self.farms(engine),
            // Added where this meets the modules, outside of the heartbeat thread.
            modules: Vec::new(),
            mirrors: Vec::new(),
            links: LinksInfo::default(),
            console: None,
            generation: engine.generation().counter,
            changing: engine.pending_change().is_some(),
            warnings: self.warnings(now),
            undelivered: self.findings.undelivered.clone(),
            events: self.events.iter().cloned().collect(),
        }
    }

    fn facts(&self, engine: &Engine, peers: &[PeerStatus], now: Instant) -> Facts {
        let members = engine.view().members;
        let where_ = |holds: &dyn Fn(&PeerStatus) -> bool| {
            peers.iter().filter(|peer| holds(peer)).map(|peer| peer.node).collect::<NodeSet>()
        };
        Facts {
            state: engine.member_state(),
            lease_live: engine.lease_until() > now,
            all: (0..self.config.cluster.nodes.len()).map(|node| NodeId(node as u8)).collect(),
            members,
            disagreeing: where_(&|peer| peer.member && peer.view.is_some_and(|view| view != members)),
            other_config: where_(&|peer| peer.live && peer.same_config == Some(false)),
            strangers: self.rejected_last.is_some_and(|last| now.since(last) < STRANGERS_FRESH),
        }
    }

    fn summary(&self, verdict: Verdict, engine: &Engine, peers: &[PeerStatus]) -> String {
        let members = engine.view().members;
        let missing = peers.iter().filter(|peer| !peer.member && peer.node != self.me);
        let missing: Vec<&str> = missing.map(|peer| self.name(peer.node)).collect();
        let all = self.config.cluster.nodes.len();
        match verdict {
            Verdict::Converged => format!("all {all} nodes are members and every bucket has its owner"),
            Verdict::Converging => match engine.member_state() {
                MemberState::Joining => "this node listens before it joins".to_owned(),
                MemberState::Announce => "this node announces itself and takes its share next".to_owned(),
                MemberState::Active | MemberState::Leaving => "members are agreeing on a new view".to_owned(),
            },
            Verdict::Degraded => format!(
                "{} of {all} nodes serve; missing: {}. Start the missing node, or look at its log",
                members.len(),
                missing.join(", ")
            ),
            Verdict::Split => "a node is alive that this one does not understand: compare the configuration \
                               and the cluster key of all nodes (`safekit config check`)"
                .to_owned(),
            Verdict::Down => match engine.member_state() {
                MemberState::Leaving => "this node has left the farm".to_owned(),
                MemberState::Joining | MemberState::Announce | MemberState::Active => {
                    "this node accepts nothing: its lease has run out until its peers answer".to_owned()
                }
            },
        }
    }

    fn warnings(&self, now: Instant) -> Vec<Warning> {
        let lately = |at: Option<Instant>| at.is_some_and(|at| now.since(at) < PATH_SILENCE);
        let by_frames_alone = |(node, heard): (usize, &Heard)| {
            (lately(heard.frame) && !lately(heard.datagram)).then(|| Warning {
                what: format!(
                    "heartbeats of {} arrive as Ethernet frames on the clients' network, and not as datagrams",
                    self.config.cluster.nodes[node].name
                ),
                remedy: "look for a firewall or a wrong route on either node: the heartbeat port must be open".to_owned(),
            })
        };
        let by_frames_alone = self.heard.iter().enumerate().filter_map(by_frames_alone);
        let leaks = self.leaks.iter().filter_map(leak_warning);
        self.findings.warnings.iter().cloned().chain(by_frames_alone).chain(leaks).collect()
    }

    fn heartbeat(&self) -> HeartbeatInfo {
        let timing = self.config.cluster.timing;
        HeartbeatInfo {
            interval_ms: timing.interval.as_millis() as u64,
            timeout_ms: timing.timeout.as_millis() as u64,
            lease_ms: timing.lease.as_millis() as u64,
            realtime: self.realtime,
            lateness_max_us: self.lateness.before.max(self.lateness.present).as_micros() as u64,
            rejected: self.rejected,
            unsent: self.unsent,
        }
    }

    fn nodes(&self, engine: &Engine, peers: &[PeerStatus], now: Instant) -> Vec<NodeInfo> {
        let node_info = |(index, node): (usize, &crate::config::Node)| {
            let id = NodeId(index as u8);
            let peer = peers.iter().find(|peer| peer.node == id);
            let this = id == self.me;
            NodeInfo {
                name: node.name.clone(),
                this,
                member: engine.view().members.contains(id),
                state: if this { Some(engine.member_state()) } else { peer.and_then(|peer| peer.state) },
                heard_ms: peer.and_then(|peer| peer.heard).map(|heard| now.since(heard).as_millis() as u64),
                departed: peer.and_then(|peer| peer.departed),
                same_config: peer.and_then(|peer| peer.same_config),
                drained: engine.drained().contains(id),
                connections: engine.connections(id).filter(|_| engine.view().members.contains(id)),
                drain: engine.drain_progress(id),
            }
        };
        self.config.cluster.nodes.iter().enumerate().map(node_info).collect()
    }

    fn farms(&self, engine: &Engine) -> Vec<FarmInfo> {
        let farm_info = |farm: &Farm| FarmInfo {
            module: farm.name.clone(),
            delivery: farm.delivery.name().to_owned(),
            virtual_ips: farm
                .virtual_ips
                .iter()
                .filter_map(|vip| self.virtual_ips.get(&vip.address).cloned())
                .collect(),
            rules: farm.rules.iter().map(rule_info).collect(),
            groups: self.groups_of(farm).map(|group| self.group_info(engine, group)).collect(),
            counters: self.counters_of(&farm.name),
        };
        self.config.farms().map(farm_info).collect()
    }

    fn groups_of(&self, farm: &Farm) -> impl Iterator<Item = GroupId> {
        let of_farm = self.config.groups.iter().filter(move |group| group.module == farm.name);
        of_farm.map(|group| group.id)
    }

    /// Per reason, over the module's virtual IPs and rules.
    fn counters_of(&self, module: &str) -> Vec<CounterInfo> {
        let mut packets: BTreeMap<Reason, u64> = BTreeMap::new();
        for counter in self.counters.iter().filter(|counter| counter.scope.module() == Some(module)) {
            *packets.entry(counter.reason).or_default() += counter.packets;
        }
        let info =
            |(reason, packets): (Reason, u64)| CounterInfo { reason: reason.as_str().to_owned(), packets };
        packets.into_iter().map(info).collect()
    }

    fn group_info(&self, engine: &Engine, group: GroupId) -> GroupInfo {
        let applied = self.groups.get(&group).copied().unwrap_or_default();
        let share = match self.config.share(group) {
            Share::Weighted(_) => "weighted",
            Share::Cascade(_) => "cascade",
        };
        GroupInfo {
            group: group.0,
            share: share.to_owned(),
            weights: engine.weights(group),
            health: engine.healths(group),
            buckets: engine.table(group).mine.capacity() as u32,
            owned: applied.owned,
            transitional: applied.transitional,
            applied: applied.at,
            apply_us: applied.took.as_micros() as u64,
            shares: engine.shares(group),
            held_connections: applied.held_connections,
        }
    }

    pub fn resolve(&self, wish: &Wish) -> Result<Vec<Change>, Refusal> {
        wishes::resolve(&self.config, self.me, wish)
    }

    pub fn preview(&self, engine: &Engine, moved: &[Moved]) -> Preview {
        let moves = moved.iter().map(|moved| self.one_move(engine, moved)).collect();
        let groups = self.config.groups.len() as u32;
        Preview { moves, buckets: groups * safekit_ebpf::abi::BUCKETS as u32 }
    }

    fn one_move(&self, engine: &Engine, moved: &Moved) -> Move {
        let group = &self.config.groups[usize::from(moved.group.0)];
        let farm = self.config.farms().find(|farm| farm.name == group.module);
        let rules = farm.into_iter().flat_map(|farm| &farm.rules).filter(|rule| rule.group == group.id);
        let rules: Vec<String> = rules.map(wishes::rule_name).collect();
        let name = |node: Option<NodeId>| node.map(|node| self.name(node).to_owned());
        Move {
            module: group.module.clone(),
            rules: if rules.is_empty() { "ARP, echo".to_owned() } else { rules.join(", ") },
            from: name(moved.from),
            to: name(moved.to),
            buckets: moved.buckets,
            connections: moved.from.and_then(|from| connections_on(engine, from, moved)),
        }
    }

    pub fn answer(&self, command: &Command, engine: &Engine) -> Reply {
        match command {
            Command::Explain { client, port } => self.explain(engine, *client, *port),
            _ => Reply::Refused {
                error: "this command is not answered by the reporter".to_owned(),
                next_step: "report this as a defect".to_owned(),
            },
        }
    }

    fn explain(&self, engine: &Engine, client: IpAddr, port: Option<u16>) -> Reply {
        let mut answers = Vec::new();
        for farm in self.config.farms() {
            for vip in farm.virtual_ips.iter().filter(|vip| vip.address.is_ipv4() == client.is_ipv4()) {
                for rule in &farm.rules {
                    let Some(port) = client_port(rule.balance, port) else {
                        return Reply::Refused {
                            error: format!(
                                "module {} balances by connection: the client's port decides",
                                farm.name
                            ),
                            next_step: format!("name it: `safekit farm explain {client}:PORT`"),
                        };
                    };
                    let bucket = (self.bucket_of)(rule.balance, client, port);
                    let group = rule.group;
                    let mut order = engine.preference(group, bucket).into_iter();
                    let owner = order.next().map(|node| self.name(node).to_owned());
                    let (since_view, since) = engine.owner_since(group, bucket);
                    answers.push(Explanation {
                        module: farm.name.clone(),
                        virtual_ip: vip.address,
                        protocol: rule.protocol.name().to_owned(),
                        port: rule.ports.to_string(),
                        balance: rule.balance.name().to_owned(),
                        bucket,
                        owner,
                        transitional: engine.table(group).transitional.contains(bucket),
                        since_view,
                        since,
                        next: order.map(|node| self.name(node).to_owned()).collect(),
                    });
                }
            }
        }
        Reply::Explained { answers }
    }

    fn name(&self, node: NodeId) -> &str {
        &self.config.cluster.nodes[usize::from(node.0)].name
    }
}

fn leak_warning(leak: &Leak) -> Option<Warning> {
    let Leak { address, interface, mac, sent, heard } = leak;
    if *heard > 0 {
        return Some(Warning {
            what: format!(
                "{heard} frames with the virtual MAC {mac} of {address} as their source arrived on {interface}: \
                 switches learn it, and then flood no longer"
            ),
            remedy: format!(
                "find who sends as {mac} (`tcpdump -eni {interface} ether src {mac}`) and stop it"
            ),
        });
    }
    (*sent > 0).then(|| Warning {
        what: format!(
            "{sent} frames of this node with the virtual MAC {mac} as their source were kept from {interface}"
        ),
        remedy: format!("find what on this node sends as {mac}: a bridge, a macvlan or a virtual machine"),
    })
}

/// The port that goes into the hash; none when the rule needs one and the client named none.
fn client_port(balance: Balance, port: Option<u16>) -> Option<u16> {
    match balance {
        Balance::Connection => port,
        Balance::Client | Balance::ClientNetwork { .. } => Some(port.unwrap_or_default()),
    }
}

/// A node's connections are spread evenly over the buckets of its share, and so are those that move.
fn connections_on(engine: &Engine, from: NodeId, moved: &Moved) -> Option<u64> {
    let loads = engine.loads_of(from)?;
    let load = loads.iter().find(|load| load.group == moved.group);
    let here = load.map_or(0, |load| u64::from(load.live.saturating_sub(load.held)));
    let owned = u64::from(*engine.shares(moved.group).get(usize::from(from.0))?).max(1);
    Some(here * u64::from(moved.buckets) / owned)
}

fn rule_info(rule: &crate::config::Rule) -> RuleInfo {
    RuleInfo {
        protocol: rule.protocol.name().to_owned(),
        port: rule.ports.to_string(),
        balance: rule.balance.name().to_owned(),
        evidence: rule.evidence.name().to_owned(),
        group: rule.group.0,
    }
}
