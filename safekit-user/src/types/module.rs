//! What a module can be, what can be asked of it, and what screens know of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Instant;

/// A module, by its place in the configuration's `modules`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModuleId(pub u16);

/// What a module does on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Role {
    /// Stopped, and to be started by somebody.
    Stop,
    /// On its way up or down, or blocked until something is up.
    Wait,
    /// A farm or light module whose application runs.
    Up,
    /// A mirror that serves without its peer.
    Alone,
    /// A mirror that serves, with a peer that follows.
    Prim,
    /// A mirror that follows.
    Second,
}

/// How far it is with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Status {
    /// Blocked: red.
    NotReady,
    /// Scripts run: orange.
    Transient,
    /// Green.
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModuleState {
    pub role: Role,
    pub status: Status,
}

impl ModuleState {
    pub const STOPPED: Self = Self { role: Role::Stop, status: Status::NotReady };

    pub const fn new(role: Role, status: Status) -> Self {
        Self { role, status }
    }
}

impl Role {
    /// The word of screens, rules and scripts.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::Wait => "WAIT",
            Self::Up => "UP",
            Self::Alone => "ALONE",
            Self::Prim => "PRIM",
            Self::Second => "SECOND",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl Status {
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotReady => "NotReady",
            Self::Transient => "Transient",
            Self::Ready => "Ready",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// `UP (Ready)`.
impl fmt::Display for ModuleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.role, self.status)
    }
}

/// What a failed check or a failover rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Stop and start scripts here; the role stays.
    Restart,
    /// Only the services that the check names, or those of the module.
    RestartService,
    /// All the way down, and up again: a mirror fails over meanwhile.
    Stopstart,
    Stop,
    /// Down to WAIT, until what is missing is up again.
    Wait,
    /// A mirror: exchange the roles.
    Swap,
    None,
}

impl Action {
    /// The word of the configuration file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::RestartService => "restart_service",
            Self::Stopstart => "stopstart",
            Self::Stop => "stop",
            Self::Wait => "wait",
            Self::Swap => "swap",
            Self::None => "none",
        }
    }
}

/// What an operator asks of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Start,
    Stop,
    Restart,
    Stopstart,
    /// Without waiting for connections, and at once with the forced scripts.
    Forcestop,
}

impl Verb {
    /// The word of the command line, and of causes.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Stopstart => "stopstart",
            Self::Forcestop => "forcestop",
        }
    }
}

/// A script of a module; which run at which transition is in `engine/module`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Script {
    /// Before anything else on the way up: makes sure that the application is down.
    Prestart,
    /// After everything else on the way down.
    Poststop,
    /// At every change of the role.
    Transition,
    StartBoth,
    StopBoth,
    StartPrim,
    StopPrim,
    StartSecond,
    StopSecond,
    /// On SECOND, and on ALONE in its place.
    StartSec,
    StopSec,
}

impl Script {
    /// The word of the configuration file, of `--script` and of causes.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::Poststop => "poststop",
            Self::Transition => "transition",
            Self::StartBoth => "start_both",
            Self::StopBoth => "stop_both",
            Self::StartPrim => "start_prim",
            Self::StopPrim => "stop_prim",
            Self::StartSecond => "start_second",
            Self::StopSecond => "stop_second",
            Self::StartSec => "start_sec",
            Self::StopSec => "stop_sec",
        }
    }
}

/// One run of a script; never used twice in the life of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId(pub u64);

/// How a script ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum ScriptEnd {
    Done,
    /// No code: ended by a signal that nobody here sent.
    Failed {
        code: Option<i32>,
        last_line: String,
    },
    /// It, and all that it had started, was ended by force.
    TimedOut,
    /// Ended by force on demand.
    Killed,
    NotStarted {
        why: String,
    },
}

/// Whether new sessions may come to a module on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    Open,
    Closed,
}

/// What a node tells the others about one of its modules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleReport {
    pub module: String,
    pub state: ModuleState,
    /// The nearest cause; bounded.
    pub cause: Option<String>,
    /// Rises with each start of the module: who depends on it can tell that it was restarted.
    pub starts: u64,
    pub resources: Vec<(String, ResourceState)>,
}

/// A module on this node, for screens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleInfo {
    pub name: String,
    /// `farm`, `light` or `mirror`.
    pub kind: String,
    pub state: ModuleState,
    pub since: Instant,
    /// Why it is in this state, the nearest cause first: "start_both failed with exit code 3", "asked by root".
    pub causes: Vec<String>,
    /// What leaves this state, as one sentence with the command to run; none where nothing is to be done.
    pub next_step: Option<String>,
    /// Actions of checks and rules that count towards `max_loop`, within its span.
    pub loops: u32,
    pub loops_max: u32,
    /// How often it has been started in the life of this daemon.
    #[serde(default)]
    pub starts: u64,
    /// Of the scripts that have run in the life of this daemon.
    #[serde(default)]
    pub scripts: Vec<ScriptTally>,
    /// Of this node's configured share of the farm's traffic, in percent; none where the module has no traffic.
    pub share: Option<u8>,
    /// Checks are off until then (boot clock), or until they are switched on.
    pub maintenance: Option<Maintenance>,
    pub checks: Vec<CheckInfo>,
    pub resources: Vec<ResourceInfo>,
    /// The same module on other nodes, as they said last.
    pub remotes: Vec<RemoteModule>,
}

/// How the runs of one script went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScriptTally {
    /// `start_both`
    pub script: String,
    /// Runs that have ended, however they did.
    pub runs: u64,
    /// Those of them that did not end well.
    pub failed: u64,
    /// Of all of them together.
    pub took_ms: u64,
    pub took_ms_last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Maintenance {
    pub since: Instant,
    pub until: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteModule {
    pub node: String,
    /// None when the node has never said.
    pub state: Option<ModuleState>,
    /// Time since it said so; screens never show an old state as if it were new.
    pub heard_ms: Option<u64>,
    pub cause: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckInfo {
    pub name: String,
    /// `tcp`, `http`, `process`, …
    pub kind: String,
    pub state: ResourceState,
    /// It runs in the module's present state, and is not switched off.
    pub active: bool,
    pub action: Action,
    pub since: Instant,
    pub took_ms: Option<u64>,
    /// What the last try said; bounded.
    pub output: String,
}

/// Of a resource `class.name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceState {
    /// Not known yet.
    Init,
    Up,
    Down,
    /// Of another node that does not say.
    Unknown,
}

impl ResourceState {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceInfo {
    /// `tcp.http`
    pub name: String,
    pub state: ResourceState,
    pub since: Instant,
    /// Who said so: `check`, `operator`, …
    pub by: String,
}
