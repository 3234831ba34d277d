//! Farm, clients, probe and tap, and the waits between what happens to them.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use safekit::driver::clock;
use safekit::front::demo::farm::{Design, Farm};
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::seen;
use safekit::front::demo::tap::Tap;
use safekit::front::demo::topology::{
    CLIENT, CLIENT_V6, Families, VIRTUAL_IP, VIRTUAL_IP_V6, ip_batch, node_name,
};
use safekit::types::{Instant, NodeId};

use super::client::{Client, Load};
use super::ledger::Ledger;
use super::options::{Options, Scenario};
use super::probe::Probe;
use super::server::{DATAGRAM_PORT, DOWNLOAD_PORT, ECHO_PORT};
use super::{Programs, verbs::Verbs};

/// A farm that has not come to rest by then never will.
pub(super) const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// The last answers get this long.
const LAST_WORDS: Duration = Duration::from_secs(12);
const SOURCES: u8 = 4;

/// Something that happened to a node, after which its connections may break.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub node: NodeId,
    pub what: What,
    pub from: Instant,
    /// None: it is still so.
    pub until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Power off: server and daemon.
    Died,
    /// Its daemon has left, and took the virtual IP along.
    Stopped,
    Paused,
    /// Its heartbeats do not reach some of the others.
    CutOff,
}

/// What the scenario did.
#[derive(Clone, Debug)]
pub(super) struct Act {
    pub at: Instant,
    pub what: String,
}

/// A time in which nothing happened: shares can be compared with quotas.
#[derive(Clone, Debug)]
pub(super) struct Quiet {
    pub name: String,
    pub from: Instant,
    pub until: Instant,
    /// Of each node, as the tables in the kernels say.
    pub quotas: Vec<f64>,
}

pub(super) struct Stage<'a> {
    // Dropped in this order: who uses the wires goes before them.
    pub probe: Probe,
    pub client: Client,
    pub tap: Arc<Tap>,
    pub farm: Farm,
    pub verbs: Verbs,
    /// Drains and weights at run time.
    pub changes_are_taken: bool,
    pub options: &'a Options,
    pub interrupt: &'a Interrupt,
    pub fates: Vec<Fate>,
    pub acts: Vec<Act>,
    pub quiets: Vec<Quiet>,
    /// Promises that the acts themselves saw broken.
    pub broken: Vec<String>,
    /// Since when everything has stood.
    pub began: Instant,
    /// The first act began, and the farm was at rest again after the last.
    pub acted: Instant,
    pub settled: Instant,
    /// Figures for the report that only one scenario has.
    pub notes: Vec<(String, f64)>,
}

impl<'a> Stage<'a> {
    /// Builds the farm, waits until it is whole, and lets the clients connect.
    pub(super) fn build(
        options: &'a Options,
        programs: &Programs,
        interrupt: &'a Interrupt,
    ) -> anyhow::Result<Self> {
        let mut farm = Farm::designed(&programs.safekit, design(options, programs))?;
        let absent = if options.scenario == Scenario::Join { 1 } else { 0 };
        let first: Vec<NodeId> = farm.ids().take(usize::from(options.nodes) - absent).collect();
        for node in &first {
            farm.start(*node)?;
        }
        wait_for_owners(&mut farm, &first, interrupt)?;
        add_addresses(&farm, options.family)?;
        let target = SocketAddr::new(virtual_ip(options.family), ECHO_PORT);
        let namespace = farm.topology().client();
        let tap = Arc::new(Tap::start(namespace, target)?);
        let load = Load {
            target,
            sources: (0..SOURCES).map(|number| source(options.family, number)).collect(),
            held: options.connections,
            rate: options.rate,
            nodes: farm.ids().map(node_name).collect(),
        };
        let client = Client::start(namespace, load, Arc::clone(&tap))?;
        let probe = Probe::start(namespace, probe_address(options.family), target)?;
        let verbs = Verbs::of(&programs.safekit)?;
        let now = clock::now();
        let mut stage = Self {
            probe,
            client,
            tap,
            changes_are_taken: verbs.demand_changes(&farm).is_ok(),
            verbs,
            farm,
            options,
            interrupt,
            fates: Vec::new(),
            acts: Vec::new(),
            quiets: Vec::new(),
            broken: Vec::new(),
            began: now,
            acted: now,
            settled: now,
            notes: Vec::new(),
        };
        stage.wait_connected()?;
        stage.began = clock::now();
        Ok(stage)
    }

    fn wait_connected(&self) -> anyhow::Result<()> {
        let deadline = clock::now() + CONNECT_TIMEOUT;
        loop {
            let standing = self.client.ledger().held().count();
            if standing == self.options.connections {
                return Ok(());
            }
            if clock::now() > deadline {
                let failures: Vec<_> = self.client.ledger().not_opened.iter().take(3).copied().collect();
                bail!(
                    "only {standing} of {} connections stand after {CONNECT_TIMEOUT:?}; failed: {failures:?}\n{}",
                    self.options.connections,
                    seen(&self.farm)
                );
            }
            self.interrupt.pause(POLL)?;
        }
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.farm.ids().collect()
    }

    /// All but one.
    pub(super) fn others(&self, node: NodeId) -> Vec<NodeId> {
        self.farm.ids().filter(|other| *other != node).collect()
    }

    /// Notes what happens now.
    pub(super) fn act(&mut self, what: impl Into<String>) -> Instant {
        let (at, what) = (clock::now(), what.into());
        eprintln!("… {what}");
        self.acts.push(Act { at, what });
        at
    }

    pub(super) fn fate(&mut self, node: NodeId, what: What, from: Instant) {
        self.fates.push(Fate { node, what, from, until: None });
    }

    pub(super) fn fate_ends(&mut self, node: NodeId, what: What) {
        let now = clock::now();
        let open = self
            .fates
            .iter_mut()
            .filter(|fate| fate.node == node && fate.what == what && fate.until.is_none());
        open.for_each(|fate| fate.until = Some(now));
    }

    /// Waits until these nodes, and only they, own everything.
    pub(super) fn settle(&mut self, serving: &[NodeId]) -> anyhow::Result<()> {
        wait_for_owners(&mut self.farm, serving, self.interrupt)
    }

    pub(super) fn pause(&self, span: Duration) -> anyhow::Result<()> {
        Ok(self.interrupt.pause(span)?)
    }

    /// Nothing happens: speed and shares are measured.
    pub(super) fn quiet(&mut self, name: &str) -> anyhow::Result<()> {
        let from = clock::now();
        self.pause(Duration::from_secs(u64::from(self.options.quiet)))?;
        self.farm.check_daemons()?;
        let timeline = self.farm.timeline();
        let owned: Vec<u64> = self.farm.ids().map(|node| timeline.owned(node)).collect();
        let total = owned.iter().sum::<u64>().max(1);
        let quotas = owned.iter().map(|owned| *owned as f64 / total as f64).collect();
        self.quiets.push(Quiet { name: name.to_owned(), from, until: clock::now(), quotas });
        Ok(())
    }

    /// Waits until `ready`; the message says what for.
    pub(super) fn wait(
        &mut self,
        what: &str,
        within: Duration,
        mut ready: impl FnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = clock::now() + within;
        while !ready(self)? {
            if clock::now() > deadline {
                bail!("{what}: not within {within:?}; seen was:\n{}", seen(&self.farm));
            }
            self.interrupt.pause(POLL)?;
        }
        Ok(())
    }

    /// Every connection that stands shows that it lives, and every attempt under way is decided.
    pub(super) fn last_words(&mut self) -> anyhow::Result<()> {
        self.client.ask_for_signs_of_life();
        self.pause(Duration::from_secs(1))?;
        let usual = (self.options.rate as usize / 10).max(5);
        let deadline = clock::now() + LAST_WORDS;
        // What broke last is opened again, too.
        let is_busy =
            |ledger: &Ledger| ledger.in_flight > usual || ledger.held().count() < self.options.connections;
        while is_busy(&self.client.ledger()) && clock::now() < deadline {
            self.pause(POLL)?;
        }
        Ok(())
    }
}

pub(super) fn wait_for_owners(
    farm: &mut Farm,
    serving: &[NodeId],
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let deadline = clock::now() + SETTLE_TIMEOUT;
    loop {
        let timeline = farm.timeline();
        let owned: Vec<u64> = serving.iter().map(|node| timeline.owned(*node)).collect();
        let is_whole = farm.buckets().is_some_and(|buckets| owned.iter().sum::<u64>() == buckets);
        if is_whole && owned.iter().all(|owned| *owned > 0) {
            return Ok(());
        }
        farm.check_daemons()?;
        if clock::now() > deadline {
            bail!("{serving:?} do not own everything within {SETTLE_TIMEOUT:?}; seen was:\n{}", seen(farm));
        }
        interrupt.pause(POLL)?;
    }
}

pub(super) fn design(options: &Options, programs: &Programs) -> Design {
    let virtual_ip = virtual_ip(options.family);
    let rule =
        |protocol: &str, port: u16| format!("{{ protocol: {protocol}, port: {port}, balance: connection }}");
    Design {
        nodes: usize::from(options.nodes),
        families: if virtual_ip.is_ipv4() { Families::Ipv4 } else { Families::Ipv4And6 },
        virtual_ips: vec![virtual_ip],
        delivery: options.delivery.name().to_owned(),
        profile: options.profile.name().to_owned(),
        rules: vec![rule("tcp", ECHO_PORT), rule("tcp", DOWNLOAD_PORT), rule("udp", DATAGRAM_PORT)],
        server: vec![
            programs.server.clone().into(),
            "serve".into(),
            "--virtual-ip".into(),
            virtual_ip.to_string().into(),
        ],
        upkeep: Vec::new(),
        modules: Vec::new(),
    }
}

pub(super) fn virtual_ip(family: u8) -> IpAddr {
    if family == 6 { VIRTUAL_IP_V6.into() } else { VIRTUAL_IP.into() }
}

/// Addresses of the client, the first being that of the topology.
pub(super) fn source(family: u8, number: u8) -> IpAddr {
    if family == 6 {
        Ipv6Addr::from_bits(CLIENT_V6.to_bits() + u128::from(number)).into()
    } else {
        Ipv4Addr::from_bits(CLIENT.to_bits() + u32::from(number)).into()
    }
}

/// Of the probe alone.
fn probe_address(family: u8) -> IpAddr {
    source(family, 50)
}

fn add_addresses(farm: &Farm, family: u8) -> anyhow::Result<()> {
    let mut batch = String::new();
    let more = (1..SOURCES).map(|number| source(family, number)).chain([probe_address(family)]);
    for address in more {
        match address {
            IpAddr::V4(address) => _ = writeln!(batch, "addr add {address}/24 dev eth0"),
            IpAddr::V6(address) => _ = writeln!(batch, "addr add {address}/64 dev eth0 nodad"),
        }
    }
    ip_batch(farm.topology().client().name(), &batch).context("cannot give the client more addresses")
}
