//! One life of the daemon: brings up addresses, filter and heartbeat, and takes them down again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::announce::{Announcement, Announcer};
use super::census::{self, Places};
use super::datapath::{self, Datapath, ModeChoice, Plan, PlannedVip, VirtualMac};
use super::frames::{Frames, Path as FramePath};
use super::heartbeat::{Port, Sockets};
use super::inbox::{self, Inbox, Request};
use super::notes::Noter;
use super::report::Reporter;
use super::roads::Roads;
use super::runtime::{self, Runtime};
use super::vip::{self, VirtualIps, Wanted};
use super::{clock, generations, links, realtime};
use crate::config::{Balance, Config, Delivery, ownership_hash};
use crate::engine::farm::{Engine, HOLD, Input, Rules, Setup};
use crate::engine::groups::groups;
use crate::engine::reach::Reach;
use crate::types::snapshot::VirtualIpInfo;
use crate::types::{BootId, Generation, GroupId, KeyRing, NodeId, Snapshot};
use crate::wire::seal::{Opener, Sealer, derive_hash_key};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    VirtualIp(#[from] vip::Error),
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    #[error(transparent)]
    Plan(#[from] datapath::PlanError),
    #[error(transparent)]
    Heartbeat(#[from] super::heartbeat::Error),
    #[error("cannot {action}")]
    Io {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the heartbeat thread failed")]
    Runtime(#[from] runtime::Error),
    #[error("the heartbeat thread died")]
    Died,
}

/// What a life needs to know.
pub struct Life {
    pub config: Config,
    pub keys: KeyRing,
    pub me: NodeId,
    pub boot: BootId,
    pub pin_dir: PathBuf,
    pub state_dir: PathBuf,
    /// How well the applications of this node are, by rule group.
    pub health: Vec<(GroupId, u8)>,
}

/// A daemon that is up.
pub struct Running {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub inbox: Inbox,
    ended: oneshot::Receiver<Result<(), runtime::Error>>,
    addresses: VirtualIps,
    pin_dir: PathBuf,
}

/// The three ends of the heartbeat thread.
type Started = (watch::Receiver<Arc<Snapshot>>, Inbox, oneshot::Receiver<Result<(), runtime::Error>>);

impl Life {
    /// Brings everything up, the heartbeat thread last.
    pub async fn start(self) -> Result<Running, Error> {
        let plan = Plan::of(&self.config, self.me, derive_hash_key(&self.keys.seed))?;
        let pin_dir = self.pin_dir.clone();
        let mut addresses = VirtualIps::prepare(&wanted(&plan)).await?;
        match self.start_on(&plan, &mut addresses).await {
            Ok((snapshots, inbox, ended)) => {
                watch_carrier(&addresses, inbox.clone());
                Ok(Running { snapshots, inbox, ended, addresses, pin_dir })
            }
            Err(error) => {
                if let Err(second) = take_down(addresses, &pin_dir).await {
                    tracing::warn!(error = %second, "cannot take the farm filter back");
                }
                Err(error)
            }
        }
    }

    /// The filter first, then the addresses: the stack must not answer for buckets of other nodes.
    async fn start_on(self, plan: &Plan, addresses: &mut VirtualIps) -> Result<Started, Error> {
        let datapath = Datapath::load(plan, Some(&self.pin_dir), ModeChoice::Auto)?;
        addresses.add_addresses(&wanted(plan)).await?;
        let on_virtual_ip = self.on_virtual_ip(addresses).await;
        self.start_with(plan, datapath, addresses, on_virtual_ip)
    }

    fn start_with(
        self,
        plan: &Plan,
        datapath: Datapath,
        addresses: &VirtualIps,
        on_virtual_ip: Vec<bool>,
    ) -> Result<Started, Error> {
        let io = |action| move |source| Error::Io { action, source };
        let sockets = Sockets::open(&self.config, self.me, Port::Configured)?;
        let frames = Frames::open(&Self::paths(plan, addresses)).map_err(io("open a packet socket"))?;
        let (inbox, requests) = inbox::inbox().map_err(io("make the heartbeat thread's inbox"))?;
        let places = Places::new(&self.config, bucket_of(plan));
        let census = census::start(places, datapath.flow_notes(), inbox.clone())
            .map_err(io("start the counting thread"))?;
        let realtime = realtime::lock_memory().is_ok();
        let announcements = self.announcements(plan, addresses);
        let mut reporter = Reporter::new(
            self.config.clone(),
            self.me,
            self.boot,
            realtime,
            bucket_of(plan),
            self.virtual_ips(plan, &datapath, addresses),
        );
        let now = clock::now();
        let generation = generations::load(&self.state_dir, &self.config);
        let (keep, kept) = watch::channel(generation.clone());
        tokio::spawn(generations::keep(self.state_dir.clone(), self.config.clone(), kept));
        let engine = Engine::new(self.setup(generation), now);
        let (snapshots, receiver) = watch::channel(Arc::new(reporter.snapshot(&engine, &datapath, now)));
        let announcer = Announcer::open().map_err(io("open a packet socket"))?;
        let noter =
            Noter::open(&self.config, self.me, plan).map_err(io("open a packet socket for probes"))?;
        let (sealer, opener) = self.seals();
        let nodes = self.config.cluster.nodes.len();
        let timing = self.config.cluster.timing;
        let roads = Roads::new(self.me, nodes, &datapath);
        let (done, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || {
                reporter.note_realtime(realtime::raise_priority().is_ok());
                let runtime = Runtime {
                    engine,
                    timing,
                    sockets,
                    frames,
                    datapath,
                    sealer,
                    opener,
                    announcer,
                    announcements,
                    roads,
                    requests,
                    census,
                    reporter,
                    reach: Reach::new(nodes),
                    noter,
                    on_virtual_ip,
                    snapshots,
                    generations: keep,
                };
                // Nobody waits any more when the process is being killed.
                let _unheard = done.send(runtime.run());
            })
            .map_err(io("start the heartbeat thread"))?;
        Ok((receiver, inbox, ended))
    }

    fn seals(&self) -> (Sealer, Opener) {
        let name = &self.config.cluster.name;
        let mut opener = Opener::new(&self.keys.sending, name, self.config.cluster.nodes.len());
        opener.accept(&self.keys.accepted());
        (Sealer::new(&self.keys.sending, name, self.me, self.boot), opener)
    }

    /// Which heartbeat networks share an interface with a virtual IP. When none does, all count: then nobody can tell
    /// a node that clients do not reach, and the log says so.
    async fn on_virtual_ip(&self, addresses: &VirtualIps) -> Vec<bool> {
        let mut on = Vec::new();
        for address in &self.config.cluster.nodes[usize::from(self.me.0)].addresses {
            on.push(match address {
                Some(address) => addresses.is_beside(*address).await,
                None => false,
            });
        }
        if !on.contains(&true) {
            tracing::warn!(
                "no heartbeat network is on the virtual IPs' interfaces: add that network to the cluster"
            );
            on.fill(true);
        }
        on
    }

    fn setup(&self, generation: Generation) -> Setup {
        Setup {
            me: self.me,
            boot: self.boot,
            nodes: self.config.cluster.nodes.iter().map(|node| node.name.clone()).collect(),
            config: ownership_hash(&self.config),
            timing: self.config.cluster.timing,
            groups: groups(&self.config),
            buckets: safekit_ebpf::abi::BUCKETS,
            seed: u64::from_le_bytes(self.boot.0[..8].try_into().expect("a boot id has sixteen bytes")),
            hold: HOLD,
            generation,
            health: self.health.clone(),
            rules: Rules::ALL,
        }
    }

    fn announcements(&self, plan: &Plan, addresses: &VirtualIps) -> Vec<Announcement> {
        let announcement = |vip: &PlannedVip| {
            let interface = addresses.interfaces.get(&vip.interface)?;
            Some(Announcement {
                address: vip.address,
                mac: match vip.delivery {
                    Delivery::Flood | Delivery::Multicast => vip.mac.0,
                    Delivery::Directed => interface.mac,
                },
                interface_index: interface.index,
                interface_mac: interface.mac,
            })
        };
        plan.virtual_ips.iter().filter_map(announcement).collect()
    }

    /// One for each interface of virtual IPs: the first of them there stands for all.
    fn paths(plan: &Plan, addresses: &VirtualIps) -> Vec<FramePath> {
        let mut paths: Vec<FramePath> = Vec::new();
        for vip in &plan.virtual_ips {
            let Some(interface) = addresses.interfaces.get(&vip.interface) else { continue };
            let target = match vip.delivery {
                Delivery::Flood | Delivery::Multicast => vip.mac.0,
                Delivery::Directed => [0xff; 6],
            };
            if paths.iter().all(|path| path.interface_index != interface.index) {
                let (interface_index, interface_mac) = (interface.index, interface.mac);
                paths.push(FramePath { interface_index, interface_mac, target });
            }
        }
        paths
    }

    fn virtual_ips(&self, plan: &Plan, datapath: &Datapath, addresses: &VirtualIps) -> Vec<VirtualIpInfo> {
        let info = |vip: &PlannedVip| {
            let attached = datapath.attached().iter().find(|attached| attached.interface == vip.interface);
            VirtualIpInfo {
                address: vip.address,
                interface: vip.interface.clone(),
                mac: match (vip.delivery, addresses.interfaces.get(&vip.interface)) {
                    // Neighbours learn the MAC of whoever answers them: of this node, what its card has.
                    (Delivery::Directed, Some(interface)) => VirtualMac(interface.mac).to_string(),
                    (Delivery::Flood | Delivery::Multicast | Delivery::Directed, _) => vip.mac.to_string(),
                },
                xdp_mode: attached.map_or("none", |attached| attached.mode.as_str()).to_owned(),
                xdp_reason: attached.map_or("not attached", |attached| &attached.why).to_owned(),
            }
        };
        plan.virtual_ips.iter().map(info).collect()
    }
}

impl Running {
    /// Waits for the heartbeat thread, then takes addresses and filter down, unless a successor wants them.
    pub async fn ended(self, handing_over: &AtomicBool) -> Result<(), Error> {
        let result = self.ended.await.map_err(|_| Error::Died)?;
        if !handing_over.load(Ordering::Acquire) {
            take_down(self.addresses, &self.pin_dir).await?;
        }
        Ok(result?)
    }
}

/// The reverse of starting: the addresses go first, and the filter keeps the stack from speaking until then.
async fn take_down(mut addresses: VirtualIps, pin_dir: &Path) -> Result<(), datapath::Error> {
    addresses.remove_addresses().await;
    let filter = datapath::remove_pins(pin_dir);
    addresses.take_down().await;
    filter
}

fn wanted(plan: &Plan) -> Vec<Wanted> {
    let wanted = |vip: &PlannedVip| Wanted {
        address: vip.address,
        interface: vip.interface.clone(),
        virtual_mac: (vip.delivery == Delivery::Flood).then_some(vip.mac.0),
        joins: vip.joins.clone(),
    };
    plan.virtual_ips.iter().map(wanted).collect()
}

/// Asks the engine to leave: release, announce, wait for connections as long as that, and then end.
pub async fn leave(inbox: &Inbox, drain_max: Duration) {
    post(inbox, || Request::Engine(Input::Leave { drain_max })).await;
}

/// Asks for the end of this process alone: filter and addresses stay for the next one.
pub async fn hand_over(inbox: &Inbox) {
    post(inbox, || Request::HandOver).await;
}

async fn post(inbox: &Inbox, request: impl Fn() -> Request) {
    while inbox.post(request()).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn watch_carrier(addresses: &VirtualIps, inbox: Inbox) {
    let interfaces = addresses.interfaces.values().map(|interface| interface.index).collect();
    tokio::spawn(async move {
        let changed = |up| {
            if inbox.post(Request::Engine(Input::Carrier { up })).is_err() {
                tracing::error!(up, "the heartbeat thread takes no requests: a change of carrier is lost");
            }
        };
        if let Err(error) = links::watch(interfaces, changed).await {
            tracing::error!(%error, "cannot watch the carrier of the virtual IPs' interfaces");
        }
    });
}

fn bucket_of(plan: &Plan) -> census::BucketOf {
    let hash_key = plan.hash_key;
    Box::new(move |balance: Balance, client, port| datapath::bucket(hash_key, balance, client, port))
}

/// Where a node keeps its pinned maps and links.
pub fn pin_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("bpf")
}
