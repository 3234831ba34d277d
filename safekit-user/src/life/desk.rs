//! Who answers a command: the heartbeat thread, the parent, or other nodes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use safekit::driver::clock;
use safekit::driver::cluster::{Asked, Cluster, applier};
use safekit::driver::inbox::{Inbox, Request};
use safekit::driver::journal::Journal;
use safekit::driver::modules::{Board, Modules, module_of};
use safekit::engine::copies;
use safekit::front::control::Question;
use safekit::types::cluster::{ApplyMessage, LinksInfo};
use safekit::types::command::{Answer, NodeAnswer};
use safekit::types::journal::{Act, ActResult, Actor};
use safekit::types::mirror::MirrorInfo;
use safekit::types::snapshot::{ConsoleInfo, Warning};
use safekit::types::{Command, Instant, ModuleInfo, NodeId, Reply, Snapshot};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Questions that are being answered; more wait in their clients' tasks.
const ANSWERING_MAX: usize = 64;
/// Shorter than what the client on the control socket waits.
pub(super) const OTHER_NODE: Duration = Duration::from_secs(3);
/// The heartbeat thread answers from memory.
const OWN_THREAD: Duration = Duration::from_secs(2);
/// All nodes are asked twice, each time with a deadline of its own.
const APPLIER: Duration = Duration::from_secs(6);
/// Ages on the screen are never older.
const FRESH: Duration = Duration::from_secs(1);

pub(super) struct Desk {
    pub(super) inbox: Inbox,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) cluster: Cluster,
    pub(super) journal: Journal,
    pub(super) modules: Modules,
    pub(super) applier: mpsc::Sender<applier::Request>,
}

impl Desk {
    /// Answers what people ask here and what other nodes pass on, each in a task of its own.
    pub(super) async fn serve(
        self,
        mut here: mpsc::Receiver<Question>,
        mut passed_on: mpsc::Receiver<Asked>,
    ) {
        let desk = Arc::new(self);
        let places = Arc::new(Semaphore::new(ANSWERING_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (command, by, passed_on, answer) = tokio::select! {
                Some((command, by, answer)) = here.recv() => (command, by, None, answer),
                Some(Asked { command, by, from, answer }) = passed_on.recv() => {
                    (command, by, Some(from), answer)
                }
                else => return,
            };
            let desk = Arc::clone(&desk);
            tokio::spawn(async move {
                // A client that no longer waits needs no answer.
                let _gone = answer.send(desk.answer_audited(command, by, passed_on).await);
                drop(place);
            });
        }
    }

    /// The control socket remembers its own commands; those of other nodes are remembered here.
    async fn answer_audited(&self, command: Command, by: String, passed_on: Option<NodeId>) -> Reply {
        let (Some(from), Some(what)) = (passed_on, command.audited()) else {
            return self.answer(command, &by, passed_on).await;
        };
        let began = clock::wall();
        let reply = self.answer(command, &by, passed_on).await;
        let from = format!("node {}", self.cluster.config().name(from));
        let who = Actor { uid: None, user: Some(by), from };
        let (ended, result) = (clock::wall(), ActResult::of(&reply));
        self.journal.audit(Act { began, ended, node: String::new(), who, what, result });
        reply
    }

    /// `passed_on`: the node on which it was asked, where that is another one.
    async fn answer(&self, command: Command, by: &str, passed_on: Option<NodeId>) -> Reply {
        match command {
            Command::Status => {
                Reply::Status { snapshot: Box::new(Snapshot::clone(&self.snapshots.borrow())) }
            }
            Command::Reload => ask_parent_to_restart(),
            Command::On { .. } if passed_on.is_some() => refused(
                "a command that another node passed on is not passed on again",
                "ask that node itself",
            ),
            Command::On { nodes, each, by } => self.on(&nodes, &each, &by).await,
            Command::Events { wanted, after } => {
                let (entries, last) = self.journal.events(wanted, after).await;
                Reply::Events { entries, last }
            }
            Command::Audit { count } => Reply::Audit { acts: self.journal.acts(count).await },
            // Only the control socket has it: it never ends.
            Command::Watch => refused("only the node itself can be watched", "ask that node itself"),
            command if module_of(&command).is_some() => self.ask_module(command, by).await,
            Command::ConfigApply { text, dry_run, by } => {
                let user = format!("{by} on {}", self.cluster.config().name(self.cluster.me()));
                self.ask_applier(|answer| applier::Request::Propose { text, user, dry_run, answer }).await
            }
            Command::ConfigText { number } => {
                self.ask_applier(|answer| applier::Request::Text { number, answer }).await
            }
            Command::ConfigHistory => self.ask_applier(|answer| applier::Request::History { answer }).await,
            Command::KeyRotate if passed_on.is_some() => {
                refused("the key is changed from the node that is asked", "ask that node itself")
            }
            Command::KeyRotate => self.rotate().await,
            Command::KeyStep { step } if passed_on.is_some() => self.key_step(&step),
            Command::KeyStep { .. } => {
                refused("only nodes say that to each other", "use `safekit keygen --rotate`")
            }
            Command::Agree { message } => self.agree(message, passed_on).await,
            command => self.ask_engine(command).await,
        }
    }

    /// The same on all of these nodes at once, answers in the order of the configuration.
    async fn on(&self, names: &[String], each: &Command, by: &str) -> Reply {
        let config = self.cluster.config();
        if let Some(unknown) = names.iter().find(|name| config.node(name).is_none()) {
            let known: Vec<&str> = config.cluster.nodes.iter().map(|node| node.name.as_str()).collect();
            return refused(
                &format!("there is no node {unknown}"),
                &format!("name one of: {}", known.join(", ")),
            );
        }
        // A module's commands to all are for all that have it.
        let having = match module_of(each).filter(|_| names.is_empty()) {
            None => None,
            Some(name) => match config.modules.iter().find(|module| module.name == name) {
                Some(module) => Some(&module.nodes),
                None => {
                    let known: Vec<&str> = config.modules.iter().map(|module| module.name.as_str()).collect();
                    return refused(
                        &format!("there is no module {name}"),
                        &format!("name one of: {}", known.join(", ")),
                    );
                }
            },
        };
        let is_wanted = |node: NodeId| {
            if names.is_empty() {
                having.is_none_or(|nodes| nodes.contains(&node))
            } else {
                names.iter().any(|name| name == config.name(node))
            }
        };
        let mut asked = JoinSet::new();
        for node in (0..config.cluster.nodes.len()).map(|node| NodeId(node as u8)) {
            if is_wanted(node) && node != self.cluster.me() {
                let (cluster, each, by) = (self.cluster.clone(), each.clone(), by.to_owned());
                asked.spawn(async move { (node, cluster.ask(node, each, &by, OTHER_NODE).await) });
            }
        }
        let me = self.cluster.me();
        let mut answers = Vec::new();
        if is_wanted(me) {
            answers.push((me, Answer::Said(Box::pin(self.answer(each.clone(), by, None)).await)));
        }
        while let Some(Ok((node, answer))) = asked.join_next().await {
            let answer = match answer {
                Ok(reply) => Answer::Said(reply),
                Err(why) => Answer::Unreachable(why.to_string()),
            };
            answers.push((node, answer));
        }
        answers.sort_by_key(|(node, _)| *node);
        let named = |(node, answer)| NodeAnswer { node: config.name(node).to_owned(), answer };
        Reply::ByNode { answers: answers.into_iter().map(named).collect() }
    }

    async fn ask_module(&self, command: Command, by: &str) -> Reply {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.modules.ask(command, by.to_owned(), answer).await;
            answered.await
        };
        match timeout(OWN_THREAD, asked).await {
            Ok(Ok(reply)) => reply,
            _ => refused("the module does not answer: the daemon is stopping or stuck", "look at its log"),
        }
    }

    async fn ask_applier(&self, request: impl FnOnce(oneshot::Sender<Reply>) -> applier::Request) -> Reply {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.applier.send(request(answer)).await.ok()?;
            answered.await.ok()
        };
        match timeout(APPLIER, asked).await {
            Ok(Some(reply)) => reply,
            Ok(None) | Err(_) => {
                refused("the daemon is stopping or stuck", "look at its log, then try again")
            }
        }
    }

    async fn agree(&self, message: ApplyMessage, passed_on: Option<NodeId>) -> Reply {
        let Some(from) = passed_on else {
            return refused("only nodes say that to each other", "use `safekit config apply FILE`");
        };
        match self.applier.send(applier::Request::Message { from, message }).await {
            Ok(()) => Reply::Accepted { at: clock::now() },
            Err(_) => refused("the daemon is stopping", "try again in a moment"),
        }
    }

    async fn ask_engine(&self, command: Command) -> Reply {
        let (answer, answered) = oneshot::channel();
        let posted = self.inbox.post(Request::Question(command, answer));
        match timeout(OWN_THREAD, answered).await {
            Ok(Ok(reply)) if posted.is_ok() => reply,
            _ => refused("the daemon is stopping or stuck", "look at its log, then try again"),
        }
    }
}

pub(super) fn refused(error: &str, next_step: &str) -> Reply {
    Reply::Refused { error: error.to_owned(), next_step: next_step.to_owned() }
}

pub(super) fn ask_parent_to_restart() -> Reply {
    let asked = rustix::process::getppid()
        .context("this daemon has no parent process")
        .and_then(|parent| Ok(rustix::process::kill_process(parent, rustix::process::Signal::HUP)?));
    match asked {
        Ok(()) => Reply::Accepted { at: clock::now() },
        Err(error) => refused(
            &format!("cannot ask the parent process to restart the daemon: {error:#}"),
            "restart the service of this node",
        ),
    }
}

/// Snapshots of the heartbeat thread, with what the modules and the connections to other nodes know.
pub(super) fn complete(
    mut plain: watch::Receiver<Arc<Snapshot>>,
    cluster: Cluster,
    board: &Board,
    mut console: watch::Receiver<Option<ConsoleInfo>>,
) -> watch::Receiver<Arc<Snapshot>> {
    let (mut modules, mut mirrors) = (board.infos(), board.mirrors());
    let joined = move |plain: &Arc<Snapshot>,
                       links: LinksInfo,
                       modules: &[ModuleInfo],
                       mirrors: &[MirrorInfo],
                       console: &Option<ConsoleInfo>| {
        let mut snapshot = Snapshot::clone(plain);
        age(&mut snapshot, clock::now());
        snapshot.modules = modules.to_vec();
        snapshot.mirrors = mirrors.to_vec();
        snapshot.warnings.extend(of_mirrors(modules, mirrors));
        snapshot.warnings.extend(other_configurations(&links));
        snapshot.warnings.extend(console.as_ref().and_then(deaf_console));
        snapshot.console.clone_from(console);
        snapshot.links = links;
        Arc::new(snapshot)
    };
    let first = joined(
        &plain.borrow_and_update(),
        cluster.info(),
        &modules.borrow_and_update(),
        &mirrors.borrow_and_update(),
        &console.borrow_and_update(),
    );
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        loop {
            let news = async {
                tokio::select! {
                    news = plain.changed() => news,
                    news = modules.changed() => news,
                    news = mirrors.changed() => news,
                    news = console.changed() => news,
                }
            };
            if let Ok(Err(_)) = timeout(FRESH, news).await {
                return;
            }
            let next = joined(
                &plain.borrow_and_update(),
                cluster.info(),
                &modules.borrow_and_update(),
                &mirrors.borrow_and_update(),
                &console.borrow_and_update(),
            );
            sender.send_replace(next);
        }
    });
    receiver
}

/// Copies that lack something, cannot serve, or are not there.
fn of_mirrors(modules: &[ModuleInfo], mirrors: &[MirrorInfo]) -> Vec<Warning> {
    let module_of = |mirror: &MirrorInfo| modules.iter().find(|module| module.name == mirror.module);
    let pairs = mirrors.iter().filter_map(|mirror| Some((module_of(mirror)?, mirror)));
    pairs.flat_map(|(module, mirror)| copies::warnings(module, mirror)).collect()
}

/// Nothing answers where somebody may ask.
fn deaf_console(console: &ConsoleInfo) -> Option<Warning> {
    let error = console.error.as_ref()?;
    Some(Warning {
        what: format!("the console cannot listen on {}: {error}; trying again", console.listen),
        remedy: "free the port, or set another `console: { listen: … }`".to_owned(),
    })
}

/// Nodes that run with another text than this one.
fn other_configurations(links: &LinksInfo) -> Option<Warning> {
    let other = links.nodes.iter().filter(|link| {
        link.connected && link.config.as_ref().is_some_and(|config| config.hash != links.config.hash)
    });
    let names: Vec<&str> = other.map(|link| link.node.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let verb = if names.len() == 1 { "runs" } else { "run" };
    Some(Warning {
        what: format!("{} {verb} with another configuration than this node", names.join(", ")),
        remedy: "on the node that has the right one: `safekit config apply FILE`".to_owned(),
    })
}

/// What is shown later than it was taken is older by that.
fn age(snapshot: &mut Snapshot, now: Instant) {
    let later = u64::try_from(now.since(snapshot.taken).as_millis()).unwrap_or(u64::MAX);
    for heard in snapshot.nodes.iter_mut().filter_map(|node| node.heard_ms.as_mut()) {
        *heard = heard.saturating_add(later);
    }
    snapshot.taken = snapshot.taken.max(now);
}
