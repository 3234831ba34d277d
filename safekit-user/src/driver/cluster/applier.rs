//! Carries out what `engine/apply` decides: checks, files, messages, and the start of the daemon anew.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use super::Cluster;
use super::store::{Store, hash};
use crate::config::change::Change;
use crate::config::upkeep::Boot;
use crate::config::{self, Config, Module, key};
use crate::driver::clock;
use crate::driver::datapath::Plan;
use crate::driver::journal::Journal;
use crate::driver::modules::own_modules;
use crate::engine::apply::{Apply, Asked, Conclusion, Input, Output, Stored};
use crate::engine::farm::rank::Ranks;
use crate::types::cluster::{ApplyMessage, ConfigEntry, ConfigIdentity, Effect, Proposal};
use crate::types::journal::{Level, Note};
use crate::types::{Bucket, Command, NodeId, NodeSet, Reply};

/// Requests and messages that wait; full: the sender's are refused or lost, and said again.
const REQUESTS_MAX: usize = 64;
/// Long enough for all nodes to have it and for the client to have its answer; then all hand over at once.
const HAND_OVER_DELAY: Duration = Duration::from_millis(300);
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);
/// With everything else it has to fit into one frame between nodes.
const TEXT_BYTES_MAX: usize = 400 * 1024;

#[derive(Debug)]
pub enum Request {
    Propose { text: String, user: String, dry_run: bool, answer: oneshot::Sender<Reply> },
    Message { from: NodeId, message: ApplyMessage },
    Text { number: Option<u64>, answer: oneshot::Sender<Reply> },
    History { answer: oneshot::Sender<Reply> },
}

struct Applier {
    engine: Apply,
    cluster: Cluster,
    store: Store,
    running: Arc<Config>,
    configs: watch::Sender<Arc<Config>>,
    /// Who waits for the end of this node's proposal.
    waiting: Option<oneshot::Sender<Reply>>,
    journal: Journal,
    hand_over: Arc<dyn Fn() + Send + Sync>,
    /// The last commit needs a daemon that is started anew.
    handing_over: bool,
}

/// Starts the task. What comes out are configurations that the modules of this daemon take while they run;
/// `hand_over` asks for a daemon that is started anew.
pub fn start(
    cluster: Cluster,
    store: Store,
    journal: Journal,
    hand_over: Arc<dyn Fn() + Send + Sync>,
) -> io::Result<(mpsc::Sender<Request>, watch::Receiver<Arc<Config>>)> {
    let running = Arc::clone(cluster.config());
    let engine = new_engine(&cluster, store.load()?);
    let (configs, receiver) = watch::channel(Arc::clone(&running));
    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let applier = Applier {
        engine,
        cluster,
        store,
        running,
        configs,
        waiting: None,
        journal,
        hand_over,
        handing_over: false,
    };
    tokio::spawn(applier.run(asked));
    Ok((requests, receiver))
}

impl Applier {
    async fn run(mut self, mut asked: mpsc::Receiver<Request>) {
        self.give(Input::Timer);
        let mut reports = self.cluster.reports();
        loop {
            let now = clock::now();
            let pause = self.engine.next_deadline().map_or(Duration::from_secs(60), |due| due.since(now));
            tokio::select! {
                request = asked.recv() => match request {
                    Some(request) => self.take(request),
                    None => return,
                },
                _ = reports.changed() => {
                    let heard = reports.borrow_and_update().clone();
                    for (node, heard) in heard.into_iter().enumerate() {
                        if let Some(heard) = heard {
                            let version = heard.config.version;
                            self.give(Input::Heard { node: NodeId(node as u8), version });
                        }
                    }
                }
                () = sleep(pause) => self.give(Input::Timer),
            }
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Message { from, message } => self.give(Input::From { node: from, message }),
            Request::Propose { text, user, dry_run, answer } => self.propose(text, user, dry_run, answer),
            Request::Text { number, answer } => {
                let _gone = answer.send(self.text(number));
            }
            Request::History { answer } => {
                let _gone = answer.send(self.history());
            }
        }
    }

    fn propose(&mut self, text: String, user: String, dry_run: bool, answer: oneshot::Sender<Reply>) {
        let mut attempt = [0; 8];
        let error = if text.len() > TEXT_BYTES_MAX {
            Some("the configuration is too long to be sent to all nodes")
        } else if self.waiting.as_ref().is_some_and(|waiting| !waiting.is_closed()) {
            Some("another configuration is under way on this node")
        } else if SystemRandom::new().fill(&mut attempt).is_err() {
            Some("the system has no random numbers")
        } else {
            None
        };
        if let Some(error) = error {
            let _gone = answer.send(refused(error, "try again in a moment"));
            return;
        }
        self.waiting = Some(answer);
        let attempt = u64::from_le_bytes(attempt);
        self.give(Input::Propose { text, user, at: clock::unix_seconds(), attempt, dry_run });
    }

    /// Files are written here and now: an answer must not leave before what it promises is on the disk.
    fn give(&mut self, input: Input) {
        self.engine.handle(input, clock::now());
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Check(proposal, asked) => {
                    let verdict = self.check(&proposal.text).and_then(|(new, effect)| match asked {
                        Asked::Beforehand => self.takes_no_running_module_away(&new).map(|()| effect),
                        Asked::Afterwards => Ok(effect),
                    });
                    let version = proposal.version;
                    self.engine.handle(Input::Checked { version, verdict }, clock::now());
                }
                Output::Keep(promise) => {
                    if let Err(error) = self.store.promise(promise.as_ref()) {
                        return self.begin_anew(&error);
                    }
                }
                Output::Commit(proposal) => match self.store.commit(&proposal) {
                    Ok(()) => self.take_effect(&proposal),
                    Err(error) => return self.begin_anew(&error),
                },
                Output::Send { to, message } => self.send(to, message),
                Output::Concluded(conclusion) => self.conclude(conclusion),
            }
        }
    }

    /// What a promise or a decision rests on could not be written: nobody hears of it, and the disk alone says how it is.
    fn begin_anew(&mut self, error: &io::Error) {
        tracing::error!(%error, "cannot keep a configuration on the disk");
        if let Some(waiting) = self.waiting.take() {
            let error = format!("this node cannot write it to its disk: {error}");
            let _gone = waiting.send(refused(&error, "make room on the disk of the state directory"));
        }
        match self.store.load() {
            Ok(stored) => self.engine = new_engine(&self.cluster, stored),
            Err(error) => tracing::error!(%error, "cannot read the configurations that are kept"),
        }
    }

    fn send(&self, to: NodeId, message: ApplyMessage) {
        let cluster = self.cluster.clone();
        tokio::spawn(async move {
            // A lost one is said again.
            let _lost = cluster.ask(to, Command::Agree { message }, "the daemon", MESSAGE_TIMEOUT).await;
        });
    }

    /// Whether this node could run with it.
    fn check(&self, text: &str) -> Result<(Config, Effect), String> {
        let file =
            std::path::absolute(self.store.config()).unwrap_or_else(|_| self.store.config().to_owned());
        let new = config::parse(text, &file.display().to_string()).map_err(|errors| errors.to_string())?;
        let (old, own) = (&*self.running, self.running.name(self.cluster.me()));
        if new.cluster.name != old.cluster.name {
            return Err("the name of a cluster cannot be changed while it runs".to_owned());
        }
        let me = new.node(own).ok_or_else(|| format!("it has no node {own}, which this node is"))?;
        key::read_key(&new.cluster.key_file).map_err(|error| format!("{error}; {}", error.next_step()))?;
        Plan::of(&new, me, [0; 16]).map_err(|error| error.to_string())?;
        let effect = effect(old, &new, own);
        Ok((new, effect))
    }

    /// Its application would run on, and nobody would know of it.
    fn takes_no_running_module_away(&self, new: &Config) -> Result<(), String> {
        let own = self.running.name(self.cluster.me());
        let keeps = |name: &str| modules_on(new, own).iter().any(|module| module.name == name);
        match self.cluster.running_modules().into_iter().find(|report| !keeps(&report.module)) {
            None => Ok(()),
            Some(report) => Err(format!(
                "module {0} is {1} here and would be left to itself: `safekit stop {0} --node {own}` first",
                report.module, report.state.role
            )),
        }
    }

    /// It is on the disk; now this daemon, or its successor, goes by it.
    fn take_effect(&mut self, proposal: &Proposal) {
        let identity =
            ConfigIdentity { version: proposal.version.clone(), hash: hash(proposal.text.as_bytes()) };
        let text = format!("configuration {} is in force", proposal.version);
        let note = Note::of_node(Level::Info, "config", text);
        self.journal.note(note.because(format!("applied by {}", proposal.user)));
        self.cluster.note_config(identity);
        let Ok((new, effect)) = self.check(&proposal.text) else {
            tracing::error!("the configuration in force cannot be run any more: has the key file gone?");
            return;
        };
        self.handing_over = effect.hand_over.is_some();
        if self.handing_over {
            let hand_over = Arc::clone(&self.hand_over);
            tokio::spawn(async move {
                sleep(HAND_OVER_DELAY).await;
                hand_over();
            });
        } else {
            self.running = Arc::new(new);
            self.configs.send_replace(Arc::clone(&self.running));
        }
    }

    fn conclude(&mut self, conclusion: Conclusion) {
        let name = |node: NodeId| self.running.name(node).to_owned();
        let reply = match conclusion {
            Conclusion::Refused(against) => {
                let against: Vec<String> =
                    against.into_iter().map(|(node, why)| format!("{}: {why}", name(node))).collect();
                let error = format!("nothing was changed anywhere\n{}", against.join("\n"));
                refused(error.trim_end(), "mend what the nodes named, then apply it again")
            }
            Conclusion::Possible(effects) => {
                let effects = effects.into_iter().map(|(node, effect)| (name(node), effect)).collect();
                Reply::ConfigPlan { effects }
            }
            Conclusion::Applied { version, missing } => {
                let missing = NodeSet::iter(missing).map(name).collect();
                Reply::ConfigApplied { version, missing, hand_over: self.handing_over }
            }
        };
        if let Some(waiting) = self.waiting.take() {
            let _gone = waiting.send(reply);
        }
    }

    fn text(&self, number: Option<u64>) -> Reply {
        let history = match self.store.history() {
            Ok(history) => history,
            Err(error) => {
                return refused(&format!("cannot read the history: {error}"), "look at the state directory");
            }
        };
        let wanted = match number {
            None => Some(self.engine.committed().clone()),
            Some(number) => history.into_iter().rev().find(|it| it.version.number == number),
        };
        let Some(Proposal { version, text, .. }) = wanted else {
            return refused("that version is not kept", "`safekit config history` lists those that are");
        };
        Reply::ConfigText { version, text, file: self.store.config().display().to_string() }
    }

    fn history(&self) -> Reply {
        let in_force = &self.engine.committed().version;
        let entry = |it: Proposal| ConfigEntry {
            in_force: it.version == *in_force,
            version: it.version,
            user: it.user,
            at: it.at,
        };
        match self.store.history() {
            Ok(history) => Reply::ConfigHistory { entries: history.into_iter().rev().map(entry).collect() },
            Err(error) => {
                refused(&format!("cannot read the history: {error}"), "look at the state directory")
            }
        }
    }
}

fn new_engine(cluster: &Cluster, stored: Stored) -> Apply {
    let names = cluster.config().cluster.nodes.iter().map(|node| node.name.clone()).collect();
    Apply::new(cluster.me(), names, stored, clock::now())
}

/// In the order of the file.
fn modules_on<'c>(config: &'c Config, node: &str) -> Vec<&'c Module> {
    match config.node(node) {
        Some(node) => own_modules(config, node),
        None => Vec::new(),
    }
}

/// What happens on the node of that name.
fn effect(old: &Config, new: &Config, own: &str) -> Effect {
    let mut lines = Vec::new();
    let hand_over = match Change::of(old, new) {
        Change::Nothing => {
            lines.push("nothing changes but comments and order".to_owned());
            None
        }
        Change::WhileRunning(about) => {
            lines.push(format!("taken while it runs: {}", about.join(", ")));
            None
        }
        Change::HandOver(about) => Some(format!(
            "the daemon is started anew for {}: new connections pause for about a second, established ones stay",
            about.join(", ")
        )),
    };
    lines.extend(hand_over.iter().cloned());
    lines.extend(come_and_go(&modules_on(old, own), &modules_on(new, own)));
    lines.extend(moves(old, new));
    Effect { hand_over, lines }
}

/// Applications are started and stopped for these alone: a change of a module leaves its application running.
fn come_and_go(old: &[&Module], new: &[&Module]) -> Vec<String> {
    let lacks = |list: &[&Module], name: &str| list.iter().all(|module| module.name != name);
    let come = new.iter().filter(|module| lacks(old, &module.name)).map(|module| match module.upkeep.boot {
        Boot::On => format!("module {} is new here and starts at once", module.name),
        Boot::Off | Boot::Auto => {
            format!("module {0} is new here: `safekit start {0}` starts it", module.name)
        }
    });
    let gone = old.iter().filter(|module| lacks(new, &module.name));
    come.chain(gone.map(|module| format!("module {} goes from here", module.name))).collect()
}

/// Buckets that get another owner while all nodes are there.
fn moves(old: &Config, new: &Config) -> Vec<String> {
    let names =
        |config: &Config| config.cluster.nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
    let (before, after) = (names(old), names(new));
    let everybody = |count: usize| (0..count).map(|node| NodeId(node as u8)).collect::<NodeSet>();
    let mut lines = Vec::new();
    for (was, is) in old.groups.iter().zip(&new.groups).filter(|(was, is)| was.module == is.module) {
        if was.share == is.share && before == after {
            continue;
        }
        let buckets = safekit_ebpf::abi::BUCKETS;
        let ranks = (Ranks::of(&before, &was.share, buckets), Ranks::of(&after, &is.share, buckets));
        let moved = (0..buckets).map(|bucket| Bucket(bucket as u16)).filter(|bucket| {
            let from =
                ranks.0.first(*bucket, everybody(before.len())).map(|node| &before[usize::from(node.0)]);
            let to = ranks.1.first(*bucket, everybody(after.len())).map(|node| &after[usize::from(node.0)]);
            from != to
        });
        let moved = moved.count();
        if moved > 0 {
            lines.push(format!("{moved} of {buckets} buckets of {} move (group {})", is.module, is.id.0));
        }
    }
    lines
}

fn refused(error: &str, next_step: &str) -> Reply {
    Reply::Refused { error: error.to_owned(), next_step: next_step.to_owned() }
}
