//! One module on one node: what runs when, and why it is where it is. Pure.
//!
//! Farms and light modules; a mirror's roles have their scripts in [`order`] and their decisions in the next issue.
//!
//! ```text
//!            start                 nothing missing          scripts done      in force
//! STOP ──▶ Raising ──▶ Held (WAIT) ──────────▶ Starting ──────────▶ Opening ──────────▶ UP
//!  ▲                    ▲   blocked, missing,     │ failed            │                  │ stop, restart, a check,
//!  │                    │   backing off           ▼                   ▼                  ▼ a wait rule
//!  └──── Lowering ◀─────┴───────────── Stopping ◀─────────────── Closing (traffic first, then connections)
//! ```
//!
//! Scripts run one at a time. A stop script that fails or takes too long is called once more, forced. After a start that
//! failed everything is stopped, so that starts and stops alternate whatever happens; only where a daemon died between
//! its scripts, and nobody knows, are stops forced without a start before them.
//!
//! Automatic actions count: more than `max_loop` allows, and the module stops, or waits longer and longer between tries.

mod begin;
mod causes;
mod loops;
pub mod order;
mod scripts;
#[cfg(test)]
mod tests;
mod verbs;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::upkeep::{Boot, MaxLoop, When};
use crate::types::Instant;
use crate::types::module::{Action, Gate, ModuleState, Role, RunId, Script, ScriptEnd, Status, Verb};

pub use begin::share_at_start;
use loops::Loops;
use scripts::{Running, Step};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Farm,
    Light,
    Mirror,
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub name: String,
    pub kind: Kind,
    pub boot: Boot,
    pub boot_delay: Duration,
    pub after: Vec<String>,
    /// Those that exist, with the deadline of one call. Services count as `start_both` and `stop_both`.
    pub scripts: Vec<(Script, Duration)>,
    pub max_loop: MaxLoop,
    /// How long an operator's stop waits for connections.
    pub drain_on_stop: Option<Duration>,
}

#[derive(Clone, Debug)]
pub enum Input {
    Timer,
    /// Once, first of all.
    Begin {
        saved: Option<Saved>,
        same_machine_boot: bool,
    },
    Verb {
        verb: Verb,
        by: String,
    },
    /// A check or a rule asks for it; `cause` is the sentence for people.
    Act {
        action: Action,
        services: Vec<String>,
        cause: String,
    },
    /// Wait rules that hold, as sentences. Empty: none.
    Blocked {
        by: Vec<String>,
    },
    /// Modules that this one comes after and that are not Ready.
    After {
        missing: Vec<String>,
    },
    ScriptEnded {
        run: RunId,
        end: ScriptEnd,
    },
    /// In force now.
    Gate(Gate),
    /// The daemon ends, with all that it keeps.
    Shutdown {
        by: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Run(Order),
    RestartServices {
        run: RunId,
        services: Vec<String>,
        timeout: Duration,
    },
    /// End it by force; its end is awaited.
    Kill {
        run: RunId,
    },
    /// Answered by [`Input::Gate`]: closed once no connection is left, or past `drain`.
    Gate {
        gate: Gate,
        drain: Option<Duration>,
    },
    Changed {
        from: ModuleState,
        to: ModuleState,
        cause: String,
    },
    /// One more automatic action.
    Looped {
        count: u32,
        cause: String,
    },
    Save(Saved),
    /// After [`Input::Shutdown`]: all is down.
    Ended,
}

/// A script to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub run: RunId,
    pub script: Script,
    pub force: bool,
    pub from: Role,
    pub to: Role,
    pub action: &'static str,
    pub cause: String,
    pub timeout: Duration,
}

/// What survives the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Somebody wants it to run.
    pub wanted: bool,
    pub how: Found,
    /// It went down with the daemon, not by a word about itself.
    pub shut_down: bool,
    pub starts: u64,
    pub loops: Vec<Instant>,
    pub backoff: Duration,
    pub causes: Vec<String>,
}

/// In what state its application was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    Down,
    Up,
    /// Between its scripts.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Stopped,
    /// At boot, until then.
    Delayed(Instant),
    Raising,
    Held,
    Starting,
    /// Until then its traffic should be there.
    Opening(Instant),
    Up,
    /// Until then at the latest.
    Closing(Instant),
    Stopping,
    Lowering,
    RestartingServices,
}

/// What comes after everything is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The start scripts, in the same role.
    Restart,
    /// To WAIT, until nothing holds it there.
    Hold,
    /// To STOP, and up again.
    Stopstart,
    Stop,
}

/// The other nodes agree within milliseconds; longer than this is worth a word.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// Beyond the drain itself: for the word of the other nodes.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
const CAUSES_MAX: usize = 8;

pub struct Automaton {
    setup: Setup,
    now: Instant,
    phase: Phase,
    role: Role,
    status: Status,
    since: Instant,
    causes: Vec<String>,
    /// Somebody wants it to run.
    wanted: bool,
    then: Then,
    /// Asked while a script ran that has to end first.
    interrupted: bool,
    /// The word for scripts.
    action: &'static str,
    steps: VecDeque<Step>,
    running: Option<Running>,
    next_run: u64,
    /// A start script has been begun, and no stop has ended since.
    started: bool,
    /// As asked.
    gate: Gate,
    blocked: Vec<String>,
    missing: Vec<String>,
    loops: Loops,
    starts: u64,
    shutting_down: Option<bool>,
    outputs: VecDeque<Output>,
}

impl Automaton {
    pub fn new(setup: Setup, now: Instant) -> Self {
        let loops = Loops::new(setup.max_loop);
        Self {
            setup,
            now,
            phase: Phase::Stopped,
            role: Role::Stop,
            status: Status::NotReady,
            since: now,
            causes: vec!["it has not been started".to_owned()],
            wanted: false,
            then: Then::Stop,
            interrupted: false,
            action: "start",
            steps: VecDeque::new(),
            running: None,
            next_run: 0,
            started: false,
            gate: Gate::Closed,
            blocked: Vec::new(),
            missing: Vec::new(),
            loops,
            starts: 0,
            shutting_down: None,
            outputs: VecDeque::new(),
        }
    }

    pub fn handle(&mut self, input: Input, now: Instant) {
        self.now = self.now.max(now);
        match input {
            Input::Timer => {}
            Input::Begin { saved, same_machine_boot } => self.begin(saved, same_machine_boot),
            Input::Verb { verb, by } => self.verb(verb, &by),
            Input::Act { action, services, cause } => self.act(action, services, &cause),
            Input::Blocked { by } => self.blocked = by,
            Input::After { missing } => self.missing = missing,
            Input::ScriptEnded { run, end } => self.script_ended(run, &end),
            Input::Gate(gate) => self.gate_is(gate),
            Input::Shutdown { by } => self.shut_down(&by),
        }
        self.look_at_the_clock();
        self.follow_the_blockers();
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Delayed(until) | Phase::Opening(until) | Phase::Closing(until) => Some(until),
            Phase::Held => self.loops.pause_ends(),
            Phase::Stopped
            | Phase::Raising
            | Phase::Starting
            | Phase::Up
            | Phase::Stopping
            | Phase::Lowering
            | Phase::RestartingServices => None,
        };
        let script = self.running.as_ref().map(|running| running.deadline);
        phase.into_iter().chain(script).min()
    }

    pub fn state(&self) -> ModuleState {
        ModuleState::new(self.role, self.status)
    }

    pub fn since(&self) -> Instant {
        self.since
    }

    /// Automatic actions within the span that counts.
    pub fn loops(&self, now: Instant) -> u32 {
        self.loops.count(now)
    }

    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// Whether a check of this kind runs now.
    pub fn runs(&self, when: When) -> bool {
        let settled = matches!(self.phase, Phase::Up | Phase::RestartingServices | Phase::Opening(_));
        match when {
            When::Pre => !matches!(self.phase, Phase::Stopped | Phase::Delayed(_) | Phase::Lowering),
            When::Up => settled && matches!(self.role, Role::Up | Role::Prim | Role::Alone),
            When::Prim => settled && matches!(self.role, Role::Prim | Role::Alone),
            When::Second => settled && self.role == Role::Second,
            When::Both => settled,
        }
    }

    fn enter(&mut self, phase: Phase, role: Role, status: Status, cause: &str) {
        let from = self.state();
        self.phase = phase;
        (self.role, self.status) = (role, status);
        if from != self.state() {
            self.since = self.now;
            let to = self.state();
            self.outputs.push_back(Output::Changed { from, to, cause: cause.to_owned() });
        }
        self.save();
    }

    fn save(&mut self) {
        let how = match self.phase {
            Phase::Stopped | Phase::Delayed(_) => Found::Down,
            Phase::Up => Found::Up,
            Phase::Held if !self.started => Found::Down,
            Phase::Held
            | Phase::Raising
            | Phase::Starting
            | Phase::Opening(_)
            | Phase::Closing(_)
            | Phase::Stopping
            | Phase::Lowering
            | Phase::RestartingServices => Found::Unknown,
        };
        let saved = Saved {
            wanted: self.wanted,
            how,
            shut_down: self.shutting_down.is_some(),
            starts: self.starts,
            loops: self.loops.times(),
            backoff: self.loops.pause(),
            causes: self.causes.clone(),
        };
        self.outputs.push_back(Output::Save(saved));
    }

    fn look_at_the_clock(&mut self) {
        if let Phase::Delayed(until) = self.phase
            && until <= self.now
        {
            self.raise("started at boot");
        }
        if let Phase::Closing(until) = self.phase
            && until <= self.now
        {
            self.explain("the other nodes have not agreed to take its traffic");
            self.stop_scripts();
        }
        if matches!(self.phase, Phase::Opening(until) if until <= self.now) {
            self.phase = Phase::Opening(self.now + OPEN_PATIENCE);
            self.causes = vec!["the other nodes have not agreed to give it traffic".to_owned()];
        }
        self.look_at_the_script();
    }

    /// Wait rules and modules that this one comes after.
    fn follow_the_blockers(&mut self) {
        match self.phase {
            Phase::Held if self.running.is_none() => self.try_to_start(),
            Phase::Up if !self.blocked.is_empty() => {
                let cause = self.blocked[0].clone();
                self.automatic(Then::Hold, "wait", &cause);
            }
            Phase::Held
            | Phase::Up
            | Phase::Stopped
            | Phase::Delayed(_)
            | Phase::Raising
            | Phase::Starting
            | Phase::Opening(_)
            | Phase::Closing(_)
            | Phase::Stopping
            | Phase::Lowering
            | Phase::RestartingServices => {}
        }
    }

    fn check_invariants(&self) {
        assert!(
            self.gate == Gate::Closed
                || matches!(self.phase, Phase::Opening(_) | Phase::Up | Phase::RestartingServices),
            "traffic comes only to an application that has been started and is not being stopped: {:?}",
            self.phase
        );
        assert!(self.causes.len() <= CAUSES_MAX, "a chain of causes is short");
        let explained = self.status == Status::Ready || !self.causes().is_empty();
        assert!(explained, "{} has a cause", self.state());
        let way_out = self.status == Status::Ready || self.next_step().is_some();
        assert!(way_out, "{} says what leaves it", self.state());
        let busy = matches!(
            self.phase,
            Phase::Raising | Phase::Starting | Phase::Stopping | Phase::Lowering | Phase::RestartingServices
        );
        assert!(!busy || self.running.is_some(), "{:?} waits for a script that runs", self.phase);
    }
}
