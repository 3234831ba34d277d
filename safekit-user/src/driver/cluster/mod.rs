//! What nodes ask and tell each other: commands, answers, and the state of their modules.
//!
//! ```text
//! ask ──▶ errands (bounded, per peer) ──▶ dial: TLS connection to the peer ──▶ its listen ──▶ Asked ──▶ whoever answers
//! publish ──▶ news (the latest) ─────────▶        "                          ──▶ its `reports`
//! ```
//!
//! Nothing here is needed to serve traffic: heartbeats go their own way, and a broken connection is only news that
//! are late and commands that say so.

pub mod applier;
mod dial;
mod listen;
mod refusals;
pub mod store;
mod stream;
pub mod tls;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

pub use refusals::Refusal;
use refusals::Refusals;
use tls::Identities;

use crate::config::Config;
use crate::driver::clock;
use crate::types::cluster::{LinkInfo, LinksInfo};
use crate::types::module::{ModuleReport, Role};
use crate::types::{ClusterKey, Command, ConfigIdentity, Instant, NodeId, Reply};
use crate::wire::link::{Hello, VERSION};

/// Full: the asker is told that the node is busy.
const ERRANDS_MAX: usize = 64;
/// Requests of other nodes that nobody has taken yet; full: they wait in their connections.
const ASKED_MAX: usize = 64;

/// Why a node has not answered, as a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// A command that another node passes on.
#[derive(Debug)]
pub struct Asked {
    pub command: Command,
    /// `root on web1`: proven is the node, and the name is what that node says.
    pub by: String,
    pub from: NodeId,
    pub answer: oneshot::Sender<Reply>,
}

/// What another node said last.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    pub at: Instant,
    pub reports: Vec<ModuleReport>,
    pub config: ConfigIdentity,
}

/// What this node tells.
#[derive(Clone, Debug, Default, PartialEq)]
struct News {
    reports: Vec<ModuleReport>,
    config: ConfigIdentity,
}

/// The connections of this node to all others.
#[derive(Clone)]
pub struct Cluster(Arc<Shared>);

struct Shared {
    config: Arc<Config>,
    me: NodeId,
    identities: watch::Sender<Arc<Identities>>,
    /// By node; none for this one.
    peers: Vec<Option<Peer>>,
    news: watch::Sender<News>,
    reports: watch::Sender<Vec<Option<Heard>>>,
    refusals: Refusals,
}

struct Peer {
    errands: mpsc::Sender<Errand>,
    state: Mutex<LinkState>,
}

#[derive(Clone)]
struct LinkState {
    connected: bool,
    how: String,
}

/// Something to ask a node.
struct Errand {
    command: Command,
    by: String,
    answer: oneshot::Sender<Result<Reply, Unreachable>>,
}

impl Cluster {
    /// Listens and dials from now on, as long as the runtime lives. This node shows the first of `keys`.
    pub fn start(
        config: Arc<Config>,
        me: NodeId,
        keys: &[ClusterKey],
        identity: ConfigIdentity,
    ) -> (Self, mpsc::Receiver<Asked>) {
        let nodes = config.cluster.nodes.len();
        let (peers, errands): (Vec<_>, Vec<_>) = (0..nodes)
            .map(|node| {
                if node == usize::from(me.0) {
                    return (None, None);
                }
                let (sender, receiver) = mpsc::channel(ERRANDS_MAX);
                let state = LinkState { connected: false, how: "not connected yet".to_owned() };
                (Some(Peer { errands: sender, state: Mutex::new(state) }), Some(receiver))
            })
            .unzip();
        let shared = Arc::new(Shared {
            identities: watch::Sender::new(Identities::of(keys, &config, me)),
            me,
            peers,
            news: watch::Sender::new(News { reports: Vec::new(), config: identity }),
            reports: watch::Sender::new(vec![None; nodes]),
            refusals: Refusals::default(),
            config,
        });
        let (asked, asking) = mpsc::channel(ASKED_MAX);
        listen::start(&shared, &asked);
        for (node, errands) in errands.into_iter().enumerate() {
            if let Some(errands) = errands {
                tokio::spawn(dial::keep(Arc::clone(&shared), NodeId(node as u8), errands));
            }
        }
        (Self(shared), asking)
    }

    /// Has another node answer a command. `by` is who wants it, on this node: `root`.
    pub async fn ask(
        &self,
        node: NodeId,
        command: Command,
        by: &str,
        within: Duration,
    ) -> Result<Reply, Unreachable> {
        let Some(Some(peer)) = self.0.peers.get(usize::from(node.0)) else {
            return Err(Unreachable("this node itself has no connection to ask by".to_owned()));
        };
        let (answer, answered) = oneshot::channel();
        let by = format!("{by} on {}", self.0.config.name(self.0.me));
        let errand = Errand { command, by, answer };
        if peer.errands.try_send(errand).is_err() {
            return Err(Unreachable("too many commands wait for it".to_owned()));
        }
        match timeout(within, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Unreachable("the connection broke".to_owned())),
            Err(_) => Err(Unreachable(match peer.state() {
                LinkState { connected: true, .. } => format!("no answer within {within:?}"),
                LinkState { how, .. } => how,
            })),
        }
    }

    /// Tells all other nodes what the modules of this one do: at once when that is new, and every second.
    pub fn publish(&self, reports: Vec<ModuleReport>) {
        self.0.news.send_if_modified(|news| {
            let new = news.reports != reports;
            news.reports = reports;
            new
        });
    }

    /// The modules of this node that are not stopped.
    pub(super) fn running_modules(&self) -> Vec<ModuleReport> {
        let news = self.0.news.borrow();
        news.reports.iter().filter(|it| it.state.role != Role::Stop).cloned().collect()
    }

    /// What the other nodes said last, by node.
    pub fn reports(&self) -> watch::Receiver<Vec<Option<Heard>>> {
        self.0.reports.subscribe()
    }

    /// The keys to go by from now on; connections that are there stay.
    pub fn use_keys(&self, keys: &[ClusterKey]) {
        self.0.identities.send_replace(Identities::of(keys, &self.0.config, self.0.me));
    }

    /// What this node runs with, from now on.
    pub fn note_config(&self, identity: ConfigIdentity) {
        self.0.news.send_modify(|news| news.config = identity);
    }

    pub fn me(&self) -> NodeId {
        self.0.me
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.0.config
    }

    /// All other nodes.
    pub fn others(&self) -> impl Iterator<Item = NodeId> + use<> {
        let me = self.0.me;
        (0..self.0.peers.len()).map(|node| NodeId(node as u8)).filter(move |node| *node != me)
    }

    pub fn info(&self) -> LinksInfo {
        let now = clock::now();
        let reports = self.0.reports.borrow().clone();
        let link = |node: NodeId| {
            let LinkState { connected, how } = self.0.peers[usize::from(node.0)].as_ref()?.state();
            let heard = reports[usize::from(node.0)].as_ref();
            Some(LinkInfo {
                node: self.0.config.name(node).to_owned(),
                connected,
                how,
                config: heard.map(|heard| heard.config.clone()),
                heard_ms: heard.map(|heard| now.since(heard.at).as_millis() as u64),
            })
        };
        LinksInfo {
            nodes: self.others().filter_map(link).collect(),
            config: self.0.news.borrow().config.clone(),
            refused: self.0.refusals.infos(),
        }
    }
}

impl Peer {
    fn state(&self) -> LinkState {
        self.state.lock().expect("nobody panics with it").clone()
    }
}

impl Shared {
    fn hello(&self) -> Hello {
        Hello {
            version: VERSION,
            cluster: self.config.cluster.name.clone(),
            node: self.config.name(self.me).to_owned(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// What is wrong with what the other side says of itself.
    fn check(&self, hello: &Hello, peer: NodeId) -> Result<(), (Refusal, String)> {
        if hello.version != VERSION {
            let detail = format!(
                "{} (safekit {}) speaks version {} of the protocol, and this node version {VERSION}",
                hello.node, hello.program, hello.version
            );
            return Err((Refusal::Version, detail));
        }
        if hello.cluster != self.config.cluster.name || hello.node != self.config.name(peer) {
            return Err((Refusal::Name, format!("it is {} of cluster {}", hello.node, hello.cluster)));
        }
        Ok(())
    }

    /// The node that has this address, as far as addresses tell.
    fn node_at(&self, address: IpAddr) -> Option<&str> {
        let nodes = self.config.cluster.nodes.iter();
        let mut there = nodes.filter(|node| node.addresses.contains(&Some(address)));
        there.next().map(|node| node.name.as_str())
    }

    fn refuse(&self, why: Refusal, from: IpAddr, detail: &str) {
        self.refusals.add(why, from, self.node_at(from), detail);
    }

    fn set_state(&self, peer: NodeId, connected: bool, how: String) {
        let Some(Some(peer)) = self.peers.get(usize::from(peer.0)) else { return };
        *peer.state.lock().expect("nobody panics with it") = LinkState { connected, how };
    }

    fn hear(&self, peer: NodeId, reports: Vec<ModuleReport>, config: ConfigIdentity) {
        let heard = Heard { at: clock::now(), reports, config };
        self.reports.send_modify(|all| all[usize::from(peer.0)] = Some(heard));
    }
}

#[cfg(test)]
mod tests;
