//! The modules of this node: a task for each, which drives its automaton.
//!
//! ```text
//!  operator ─ asks ─▶┌────────┐─ Run, Kill ─▶ scripts ─▶ ends
//!  checks ─ findings▶│ keeper │─ share ─────▶ heartbeat thread ─▶ snapshot: in force, drained
//!  other modules ───▶│        │─ report ────▶ board ─▶ other modules, other nodes, screens
//!  deadline ────────▶└────────┘─ Save ──────▶ state file
//! ```
//!
//! The keeper decides nothing: what follows from what is in `engine/module`, `engine/rules` and `engine/check`.

mod board;
mod keeper;
mod memory;
mod mirror;
mod share;
mod tally;
mod valve;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::inbox::Inbox;
use super::{check, clock};
use crate::config::{Config, Kind, Module};
use crate::types::mirror::MirrorInfo;
use crate::types::module::ModuleReport;
use crate::types::{Command, GroupId, ModuleInfo, ModuleState, NodeId, Reply, Snapshot};

pub use board::Board;
use keeper::Keeper;
pub use memory::Memory;

/// Questions under way to one module; more wait in their clients' tasks.
const ASKS_MAX: usize = 16;

/// What the modules of a node stand on.
pub struct Ground {
    pub config: Config,
    pub me: NodeId,
    pub state_dir: PathBuf,
    /// What the process of a mirror is started with.
    pub files: Files,
    pub inbox: Inbox,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What the other nodes say of their modules, by node.
    pub remotes: watch::Receiver<Arc<Vec<check::Remote>>>,
    /// What happened, for the journal.
    pub happened: mpsc::Sender<Happened>,
}

/// Absolute paths.
#[derive(Clone, Debug)]
pub struct Files {
    pub program: PathBuf,
    pub config: PathBuf,
    pub run_dir: PathBuf,
}

/// Something that a person may want to read later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    pub module: String,
    pub level: Level,
    pub kind: &'static str,
    pub text: String,
    pub cause: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warning,
    Error,
}

/// To one keeper.
pub(crate) enum Ask {
    Command {
        command: Command,
        by: String,
        answer: oneshot::Sender<Reply>,
    },
    /// Down, cleanly, and tell when it is.
    Shutdown {
        by: String,
        down: oneshot::Sender<()>,
    },
    /// A successor comes: answer when no script runs, and start none.
    HandOver {
        idle: oneshot::Sender<()>,
    },
    /// The same module, to be kept otherwise from now on.
    Changed(Box<Module>),
}

/// The way to the keepers.
#[derive(Clone)]
pub struct Modules {
    names: Arc<Vec<String>>,
    keepers: Arc<Vec<mpsc::Sender<Ask>>>,
    pub board: Board,
}

impl Modules {
    /// Starts a keeper for each module that this node takes part in.
    pub fn start(ground: Ground, memory: Memory) -> Self {
        let ground = Arc::new(ground);
        let mine = own_modules(&ground.config, ground.me);
        let board = Board::new(
            mine.iter().map(|module| unheard(module)).collect(),
            mine.iter().map(|module| unseen(module)).collect(),
            mine.iter().filter_map(|module| unmounted(module)).collect(),
        );
        let names = mine.iter().map(|module| module.name.clone()).collect();
        let start = |(place, found): (usize, memory::Found)| {
            let (asks, asked) = mpsc::channel(ASKS_MAX);
            if let Kind::Mirror(_) = found.module.kind {
                tokio::spawn(mirror::Keeper::new(found, place, &ground, board.clone()).run(asked));
            } else {
                tokio::spawn(Keeper::new(found, place, &ground, board.clone()).run(asked));
            }
            asks
        };
        let keepers = memory.modules.into_iter().enumerate().map(start).collect();
        Self { names: Arc::new(names), keepers: Arc::new(keepers), board }
    }

    /// Hands a command to its module. A module that is not here is a refusal, not an error.
    pub async fn ask(&self, command: Command, by: String, answer: oneshot::Sender<Reply>) {
        let name = module_of(&command).unwrap_or_default().to_owned();
        let Some(place) = self.names.iter().position(|known| *known == name) else {
            let next_step = if self.names.is_empty() {
                "ask a node that has modules: `safekit status --all`".to_owned()
            } else {
                format!("name one of: {}", self.names.join(", "))
            };
            let error = format!("there is no module {name} on this node");
            let _gone = answer.send(Reply::Refused { error, next_step });
            return;
        };
        // A keeper that has ended drops the question, and so tells the client.
        let _ended = self.keepers[place].send(Ask::Command { command, by, answer }).await;
    }

    /// All modules down, as their scripts have it; ends when they are. Every script has its deadline.
    pub async fn shut_down(&self, by: &str) {
        let mut all = Vec::new();
        for keeper in self.keepers.iter() {
            let (down, is_down) = oneshot::channel();
            if keeper.send(Ask::Shutdown { by: by.to_owned(), down }).await.is_ok() {
                all.push(is_down);
            }
        }
        for down in all {
            let _ended = down.await;
        }
    }

    /// Ends when no script runs; applications run on, and the next life of the daemon adopts them.
    pub async fn hand_over(&self) {
        let mut all = Vec::new();
        for keeper in self.keepers.iter() {
            let (idle, is_idle) = oneshot::channel();
            if keeper.send(Ask::HandOver { idle }).await.is_ok() {
                all.push(is_idle);
            }
        }
        for idle in all {
            let _ended = idle.await;
        }
    }

    /// Another configuration of the same modules.
    pub async fn change(&self, config: &Config, me: NodeId) {
        for module in own_modules(config, me) {
            let Some(place) = self.names.iter().position(|name| *name == module.name) else { continue };
            let _ended = self.keepers[place].send(Ask::Changed(Box::new(module.clone()))).await;
        }
    }
}

/// In the order of the configuration.
pub fn own_modules(config: &Config, me: NodeId) -> Vec<&Module> {
    config.modules.iter().filter(|module| module.nodes.contains(&me)).collect()
}

/// The groups of a farm module; none of others.
pub fn groups_of(config: &Config, module: &Module) -> Vec<GroupId> {
    match module.kind {
        Kind::Farm(_) => {
            config.groups.iter().filter(|group| group.module == module.name).map(|group| group.id).collect()
        }
        Kind::Light | Kind::Mirror(_) => Vec::new(),
    }
}

/// The module that a command is about, of the commands that modules answer.
pub fn module_of(command: &Command) -> Option<&str> {
    match command {
        Command::Module { module, .. }
        | Command::Mirror { module, .. }
        | Command::Resource { module, .. }
        | Command::SetResource { module, .. }
        | Command::Report { module, .. }
        | Command::Checks { module, .. }
        | Command::Rules { module }
        | Command::Logs { module, .. }
        | Command::LogPage { module, .. } => Some(module),
        _ => None,
    }
}

fn unheard(module: &Module) -> ModuleReport {
    ModuleReport {
        module: module.name.clone(),
        state: ModuleState::STOPPED,
        cause: None,
        starts: 0,
        resources: Vec::new(),
    }
}

fn unmounted(module: &Module) -> Option<MirrorInfo> {
    let Kind::Mirror(_) = module.kind else { return None };
    Some(MirrorInfo { module: module.name.clone(), copies: Vec::new(), process: None })
}

fn unseen(module: &Module) -> ModuleInfo {
    ModuleInfo {
        name: module.name.clone(),
        kind: module.kind.word().to_owned(),
        state: ModuleState::STOPPED,
        since: clock::now(),
        causes: vec!["the daemon has just started".to_owned()],
        next_step: None,
        loops: 0,
        loops_max: module.upkeep.max_loop.count,
        starts: 0,
        scripts: Vec::new(),
        share: None,
        maintenance: None,
        checks: Vec::new(),
        resources: Vec::new(),
        remotes: Vec::new(),
    }
}
