//! How a module's application is started, watched and stopped: the shapes. Reading them is in `read` and `checks`.

mod checks;
pub mod expression;
mod read;
mod show;

pub(super) use checks::{CHECK, CHECK_KINDS, CHECKS_MAX, COUNT_MAX, WHENS};
pub use expression::Expression;
pub use read::DEFAULT_RULES;
pub(super) use read::{
    ACTIONS, AFTER_MAX_LOOP, BOOTS, FAILOVER, FAILOVER_RULE, FAILOVER_RULES_MAX, ON_FAILURE, SCRIPT, SCRIPTS,
    SERVICES_MAX, START, TRAFFIC, VARIABLES_MAX,
};
pub(super) use read::{Others, follow_up, of_mirror, start, upkeep};
pub(super) use show::UpkeepView;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::types::NodeId;
use crate::types::module::{Action, Script};

/// What every kind of module has.
#[derive(Clone, Debug, PartialEq)]
pub struct Upkeep {
    pub boot: Boot,
    /// Between the start of the daemon and that of the module, at boot.
    pub boot_delay: Duration,
    /// Modules of this node that are Ready before this one starts.
    pub after: Vec<String>,
    /// systemd units: started in this order, stopped in the reverse one.
    pub services: Vec<String>,
    pub scripts: Vec<ScriptSpec>,
    /// Where relative scripts are, and where all of them run; absolute.
    pub directory: PathBuf,
    /// Exported to scripts and custom checks.
    pub variables: Vec<(String, String)>,
    /// Names unique within the module.
    pub checks: Vec<Check>,
    pub max_loop: MaxLoop,
    pub failover: Failover,
    pub traffic: Traffic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    On,
    Off,
    /// As it was before the machine went down.
    Auto,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptSpec {
    pub script: Script,
    /// For `/bin/sh -c`, in [`Upkeep::directory`].
    pub run: String,
    /// For the graceful call; the forced one of a stop script has as long again.
    pub timeout: Duration,
}

/// `3 in 24h`, and what then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxLoop {
    /// Zero: no limit.
    pub count: u32,
    pub within: Duration,
    pub then: AfterMaxLoop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterMaxLoop {
    Stop,
    /// Stops, and tries again after a pause that doubles from a minute to an hour.
    Backoff,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// A mirror: take over without an operator.
    pub automatic: bool,
    /// Before the default rules; the first one that holds and asks for the most counts.
    pub rules: Vec<FailoverRule>,
    /// Names of default rules that do not hold here.
    pub disabled: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverRule {
    pub name: String,
    pub when: Expression,
    pub action: Action,
}

/// How the health of this node's application decides its share of a farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    pub on_failure: OnFailure,
    /// Grows from a tenth to the whole share over so long after a start.
    pub slow_start: Duration,
    /// Wait for connections to end before the stop scripts, as long as the farm's `drain_timeout`.
    pub drain_on_stop: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// No new sessions; those that live stay.
    Drain,
    /// No new sessions, and those that live are reset.
    Reset,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub name: String,
    pub kind: CheckKind,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row after which it is up, failures after which it is down; at least 1.
    pub rise: u32,
    pub fall: u32,
    pub when: When,
    pub action: Action,
    /// For [`Action::RestartService`]; empty: those of the module.
    pub services: Vec<String>,
    /// While it is down, this many percent of the node's share are left; 0 where nothing is said, unless its action is
    /// [`Action::None`]: 100.
    pub share_when_down: u8,
}

/// In which states a check runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// From the start on, in WAIT too: it decides whether the module comes up.
    Pre,
    /// UP, or PRIM and ALONE.
    Up,
    Prim,
    Second,
    /// UP, PRIM, ALONE and SECOND.
    Both,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    Process {
        /// As /proc/PID/comm or the base name of the program has it.
        name: String,
        /// A regular expression over the arguments, joined by blanks.
        arguments: Option<String>,
        at_least: u32,
        at_most: Option<u32>,
    },
    Tcp {
        address: IpAddr,
        port: u16,
    },
    Http {
        /// `http://` or `https://`
        url: String,
        /// Accepted status codes, from and to.
        status: (u16, u16),
        /// A regular expression over the first part of the body.
        body: Option<String>,
        /// Of the certificate.
        verify: bool,
    },
    Ping {
        address: IpAddr,
    },
    /// Carrier of the interface.
    Link {
        interface: String,
    },
    /// The address is configured here.
    Address {
        address: IpAddr,
    },
    /// The state of another module: here, on another node, or of another cluster by its health URL.
    Module {
        module: String,
        at: ModuleAt,
    },
    /// A program: exit code 0 is up; or one that runs on and reports through `safekit check set`.
    Custom {
        run: String,
        reports: bool,
    },
    /// Another node of the cluster is heard, or an address answers a ping.
    Witness(Witness),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleAt {
    Here,
    Node(NodeId),
    Url(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witness {
    Node(NodeId),
    Address(IpAddr),
}

impl CheckKind {
    /// The class of the check's resource, and the key of its parameters in the file.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Process { .. } => "process",
            Self::Tcp { .. } => "tcp",
            Self::Http { .. } => "http",
            Self::Ping { .. } => "ping",
            Self::Link { .. } => "link",
            Self::Address { .. } => "address",
            Self::Module { .. } => "module",
            Self::Custom { .. } => "custom",
            Self::Witness(_) => "witness",
        }
    }
}

impl Check {
    /// `tcp.http`
    pub fn resource(&self) -> String {
        format!("{}.{}", self.kind.class(), self.name)
    }
}

/// Where the file says nothing.
pub const SCRIPT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
pub const CHECK_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
pub const CHECK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            boot: Boot::On,
            boot_delay: Duration::ZERO,
            after: Vec::new(),
            services: Vec::new(),
            scripts: Vec::new(),
            directory: PathBuf::from("/"),
            variables: Vec::new(),
            checks: Vec::new(),
            max_loop: MaxLoop { count: 3, within: Duration::from_secs(24 * 3600), then: AfterMaxLoop::Stop },
            failover: Failover { automatic: true, rules: Vec::new(), disabled: Vec::new() },
            traffic: Traffic {
                on_failure: OnFailure::Drain,
                slow_start: Duration::ZERO,
                drain_on_stop: true,
            },
        }
    }
}
