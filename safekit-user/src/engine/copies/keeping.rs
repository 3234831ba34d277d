//! The process that keeps the directories of one mirror: when it is started and ended, and what it means that it died.
//!
//! ```text
//!          start            first report
//! Stopped ──────▶ Starting ─────────────▶ Kept ──┐ died
//!    ▲               │ died, or says nothing     ▼
//!    │               └─────────────────────▶ Pausing ─ time ─▶ Starting
//!    └── ended ── Stopping (asked to; past its deadline: by force) ◀── stop, from anywhere
//! ```
//!
//! The process outlives the daemon, as applications do. [`Output::Start`] finds the one that is there before it starts
//! another, and [`Output::Stop`] where there is none is answered by [`Input::Ended`] at once.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{News, Weight, causes, news, next_step, state};
use crate::config::upkeep::Boot;
use crate::types::Instant;
use crate::types::mirror::CopyInfo;
use crate::types::module::{ModuleState, Role, Status, Verb};

/// It looks through its directories before it says its first word.
pub const FIRST_WORD_TIMEOUT: Duration = Duration::from_secs(60);
/// It reports every second.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
pub use crate::config::mirror::{FORCED_STOP_TIMEOUT, STOP_TIMEOUT};
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// One that has lived so long begins with the shortest pause again.
const LONG_LIFE: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub struct Setup {
    pub name: String,
    pub boot: Boot,
    pub boot_delay: Duration,
    /// The node with the other copies.
    pub other: String,
    /// Where the process writes what it has to say.
    pub log: String,
}

/// What survives the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Somebody wants it to run.
    pub wanted: bool,
    pub starts: u64,
    /// The daemon was stopped, and the process with it.
    pub shut_down: bool,
    pub cause: String,
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
    /// It is there, or could not be started.
    Started(Result<u32, String>),
    Copies(Vec<CopyInfo>),
    /// It is not there, or no more; and how it ended.
    Ended {
        how: String,
    },
    /// The daemon ends, with all that it keeps.
    Shutdown {
        by: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Find it, or start it. Answered by [`Input::Started`].
    Start,
    /// Ask it to end. Answered by [`Input::Ended`] once it has.
    Stop,
    /// End it by force. Answered in the same way.
    Kill,
    Save(Saved),
    Changed {
        from: ModuleState,
        to: ModuleState,
        cause: String,
    },
    News(News),
    /// After [`Input::Shutdown`]: it is down.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Stopped,
    /// Until the delay at boot is over.
    Delayed(Instant),
    Starting(Instant),
    Kept,
    Pausing(Instant),
    /// It is to be down, and a former life of the daemon may have left it: asked, as below.
    Sweeping(Instant),
    /// Asked; by force at that moment.
    Stopping(Instant),
    /// By force. Asked for again at that moment.
    Killing(Instant),
}

#[derive(Debug)]
pub struct Keeping {
    setup: Setup,
    now: Instant,
    phase: Phase,
    wanted: bool,
    /// On the way down: up again afterwards.
    again: bool,
    shutting_down: bool,
    starts: u64,
    pause: Duration,
    kept_since: Instant,
    heard: Instant,
    process: Option<u32>,
    copies: Vec<CopyInfo>,
    /// The nearest one, where the copies do not say it themselves.
    cause: String,
    shown: ModuleState,
    since: Instant,
    outputs: VecDeque<Output>,
}

impl Keeping {
    pub fn new(setup: Setup, now: Instant) -> Self {
        Self {
            setup,
            now,
            phase: Phase::Stopped,
            wanted: false,
            again: false,
            shutting_down: false,
            starts: 0,
            pause: PAUSE_MIN,
            kept_since: now,
            heard: now,
            process: None,
            copies: Vec::new(),
            cause: "the daemon has just started".to_owned(),
            shown: ModuleState::STOPPED,
            since: now,
            outputs: VecDeque::new(),
        }
    }

    /// The same module, to be kept otherwise from now on.
    pub fn reconfigure(&mut self, setup: Setup) {
        self.setup = setup;
    }

    pub fn handle(&mut self, input: Input, now: Instant) {
        self.now = self.now.max(now);
        match input {
            Input::Timer => self.look_at_the_time(),
            Input::Begin { saved, same_machine_boot } => self.begin(saved, same_machine_boot),
            Input::Verb { verb, by } => self.verb(verb, &by),
            Input::Started(Ok(process)) => self.process = Some(process),
            Input::Started(Err(why)) => self.died(&why),
            Input::Copies(copies) => self.hear(copies),
            Input::Ended { how } => self.ended(&how),
            Input::Shutdown { by } => self.shut_down(&by),
        }
        self.tell_changes();
        self.check_invariants();
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopped => None,
            Phase::Delayed(at)
            | Phase::Starting(at)
            | Phase::Pausing(at)
            | Phase::Sweeping(at)
            | Phase::Stopping(at)
            | Phase::Killing(at) => Some(at),
            // Its silence has been told.
            Phase::Kept if self.copies.is_empty() => None,
            Phase::Kept => Some(self.heard + SILENCE_MAX),
        }
    }

    pub fn state(&self) -> ModuleState {
        match self.phase {
            Phase::Stopped | Phase::Sweeping(_) => ModuleState::STOPPED,
            Phase::Delayed(_) | Phase::Pausing(_) => ModuleState::new(Role::Wait, Status::NotReady),
            Phase::Starting(_) | Phase::Stopping(_) | Phase::Killing(_) => {
                ModuleState::new(Role::Wait, Status::Transient)
            }
            Phase::Kept => state(&self.copies),
        }
    }

    pub fn since(&self) -> Instant {
        self.since
    }

    pub fn starts(&self) -> u64 {
        self.starts
    }

    pub fn process(&self) -> Option<u32> {
        self.process
    }

    /// None while it is not mounted, or does not say how it is.
    pub fn copies(&self) -> &[CopyInfo] {
        &self.copies
    }

    pub fn causes(&self) -> Vec<String> {
        if self.phase == Phase::Kept && !self.copies.is_empty() {
            return causes(&self.copies);
        }
        vec![self.cause.clone()]
    }

    pub fn next_step(&self) -> Option<String> {
        let (name, log) = (&self.setup.name, &self.setup.log);
        match self.phase {
            Phase::Stopped | Phase::Sweeping(_) => Some(format!("`safekit start {name}`")),
            Phase::Delayed(_) | Phase::Starting(_) | Phase::Stopping(_) | Phase::Killing(_) => None,
            Phase::Pausing(_) => Some(format!("it is started again by itself; its last words are in {log}")),
            Phase::Kept if self.copies.is_empty() => {
                Some(format!("look at {log}, then `safekit stopstart {name}`"))
            }
            Phase::Kept => next_step(name, &self.setup.other, &self.copies),
        }
    }
}

impl Keeping {
    fn begin(&mut self, saved: Option<Saved>, same_machine_boot: bool) {
        let by_boot = match self.setup.boot {
            Boot::On => true,
            Boot::Off => false,
            Boot::Auto => saved.as_ref().is_some_and(|saved| saved.wanted),
        };
        self.starts = saved.as_ref().map_or(0, |saved| saved.starts);
        match saved.filter(|saved| same_machine_boot && !saved.shut_down) {
            // Another life of the daemon: as it was.
            Some(saved) if saved.wanted => {
                self.wanted = true;
                self.start("the daemon has started again");
            }
            Some(saved) => self.stop_leftover(if saved.cause.is_empty() {
                "it was stopped before"
            } else {
                &saved.cause
            }),
            None if !by_boot => self.stop_leftover("it is not started at boot (`start: { boot: … }`)"),
            None if self.setup.boot_delay.is_zero() => self.raise("started at boot"),
            None => {
                self.wanted = true;
                self.cause = format!("its start at boot waits {:?}", self.setup.boot_delay);
                self.phase = Phase::Delayed(self.now + self.setup.boot_delay);
            }
        }
    }

    /// A daemon that died while it stopped the process may have left it.
    fn stop_leftover(&mut self, cause: &str) {
        self.wanted = false;
        self.go_down(cause, FORCED_STOP_TIMEOUT);
        self.phase = Phase::Sweeping(self.now + FORCED_STOP_TIMEOUT);
    }

    fn verb(&mut self, verb: Verb, by: &str) {
        if self.shutting_down {
            return;
        }
        self.pause = PAUSE_MIN;
        match verb {
            Verb::Start => self.raise_for(by),
            Verb::Stop => self.lower(&format!("stopped by {by}"), STOP_TIMEOUT, false),
            Verb::Forcestop => self.lower(&format!("stopped by force by {by}"), FORCED_STOP_TIMEOUT, false),
            Verb::Restart => self.lower(&format!("restarted by {by}"), STOP_TIMEOUT, true),
            Verb::Stopstart => self.lower(&format!("stopped and started by {by}"), STOP_TIMEOUT, true),
        }
    }

    fn raise_for(&mut self, by: &str) {
        match self.phase {
            Phase::Stopped | Phase::Delayed(_) | Phase::Pausing(_) => self.raise(&format!("started by {by}")),
            Phase::Sweeping(_) | Phase::Stopping(_) | Phase::Killing(_) => {
                self.wanted = true;
                self.again = true;
                self.cause = format!("started by {by}");
                self.save();
            }
            Phase::Starting(_) | Phase::Kept => {}
        }
    }

    fn raise(&mut self, cause: &str) {
        self.wanted = true;
        self.again = false;
        self.starts += 1;
        self.start(cause);
        self.save();
    }

    fn start(&mut self, cause: &str) {
        cause.clone_into(&mut self.cause);
        self.phase = Phase::Starting(self.now + FIRST_WORD_TIMEOUT);
        self.outputs.push_back(Output::Start);
    }

    fn lower(&mut self, cause: &str, within: Duration, again: bool) {
        self.wanted = again;
        self.again = again;
        let by_force_at = self.now + within;
        match self.phase {
            Phase::Stopped if again => self.raise(cause),
            Phase::Stopped => {}
            Phase::Sweeping(_) => cause.clone_into(&mut self.cause),
            Phase::Delayed(_) | Phase::Pausing(_) if again => self.raise(cause),
            // Already asked: only the deadline may come sooner.
            Phase::Stopping(at) => {
                self.phase = Phase::Stopping(at.min(by_force_at));
                cause.clone_into(&mut self.cause);
            }
            Phase::Killing(_) => cause.clone_into(&mut self.cause),
            Phase::Delayed(_) | Phase::Pausing(_) | Phase::Starting(_) | Phase::Kept => {
                self.go_down(cause, within);
            }
        }
        self.save();
    }

    fn go_down(&mut self, cause: &str, within: Duration) {
        cause.clone_into(&mut self.cause);
        self.phase = Phase::Stopping(self.now + within);
        self.outputs.push_back(Output::Stop);
    }

    fn shut_down(&mut self, by: &str) {
        self.shutting_down = true;
        self.again = false;
        match self.phase {
            Phase::Stopped => {}
            Phase::Delayed(_) => self.phase = Phase::Stopped,
            Phase::Sweeping(_) | Phase::Stopping(_) | Phase::Killing(_) => {}
            Phase::Starting(_) | Phase::Kept | Phase::Pausing(_) => self.go_down(by, STOP_TIMEOUT),
        }
        self.save();
        if self.phase == Phase::Stopped {
            self.outputs.push_back(Output::Ended);
        }
    }

    fn hear(&mut self, copies: Vec<CopyInfo>) {
        self.heard = self.now;
        match self.phase {
            // It lives, and is not done yet.
            Phase::Starting(_) if copies.is_empty() => {
                self.phase = Phase::Starting(self.now + FIRST_WORD_TIMEOUT);
            }
            Phase::Starting(_) => {
                self.phase = Phase::Kept;
                self.kept_since = self.now;
            }
            Phase::Kept => {
                self.outputs.extend(news(&self.copies, &copies).into_iter().map(Output::News));
            }
            // What it says on its way down is of no use to anybody.
            Phase::Stopped
            | Phase::Delayed(_)
            | Phase::Pausing(_)
            | Phase::Sweeping(_)
            | Phase::Stopping(_)
            | Phase::Killing(_) => return,
        }
        if copies.is_empty() {
            self.cause = "the directories are not mounted".to_owned();
        }
        self.copies = copies;
    }

    fn ended(&mut self, how: &str) {
        self.process = None;
        self.copies.clear();
        match self.phase {
            Phase::Sweeping(_) | Phase::Stopping(_) | Phase::Killing(_) if self.again => {
                let cause = self.cause.clone();
                self.raise(&cause);
            }
            Phase::Sweeping(_) | Phase::Stopping(_) | Phase::Killing(_) => {
                self.phase = Phase::Stopped;
                if self.shutting_down {
                    self.outputs.push_back(Output::Ended);
                }
            }
            Phase::Starting(_) | Phase::Kept => self.died(how),
            Phase::Stopped | Phase::Delayed(_) | Phase::Pausing(_) => {}
        }
    }

    fn died(&mut self, how: &str) {
        if !matches!(self.phase, Phase::Starting(_) | Phase::Kept) {
            return;
        }
        if self.phase == Phase::Kept && self.now.since(self.kept_since) >= LONG_LIFE {
            self.pause = PAUSE_MIN;
        }
        self.process = None;
        self.copies.clear();
        self.cause = format!("the process that keeps its directories is gone: {how}");
        self.phase = Phase::Pausing(self.now + self.pause);
        let text = format!("the process that keeps its directories is gone; another one in {:?}", self.pause);
        self.tell(News { weight: Weight::Error, kind: "process", text, cause: Some(how.to_owned()) });
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn look_at_the_time(&mut self) {
        let now = self.now;
        match self.phase {
            Phase::Delayed(at) if at <= now => self.raise("started at boot"),
            Phase::Pausing(at) if at <= now => self.start("it was started again after it had died"),
            Phase::Starting(at) if at <= now => {
                self.again = true;
                self.go_down("it has said nothing since it was started", FORCED_STOP_TIMEOUT);
            }
            Phase::Sweeping(at) | Phase::Stopping(at) | Phase::Killing(at) if at <= now => {
                self.phase = Phase::Killing(now + FORCED_STOP_TIMEOUT);
                self.outputs.push_back(Output::Kill);
            }
            // Figures that nobody stands behind any more are not shown.
            Phase::Kept if self.heard + SILENCE_MAX <= now && !self.copies.is_empty() => {
                self.copies.clear();
                self.cause = format!(
                    "the process that keeps its directories has said nothing for {} s",
                    SILENCE_MAX.as_secs()
                );
                let text = self.cause.clone();
                self.tell(News { weight: Weight::Error, kind: "process", text, cause: None });
            }
            Phase::Stopped
            | Phase::Delayed(_)
            | Phase::Pausing(_)
            | Phase::Starting(_)
            | Phase::Sweeping(_)
            | Phase::Stopping(_)
            | Phase::Killing(_)
            | Phase::Kept => {}
        }
    }

    fn tell(&mut self, news: News) {
        self.outputs.push_back(Output::News(news));
    }

    fn tell_changes(&mut self) {
        let to = self.state();
        if to != self.shown {
            let cause = self.causes().into_iter().next().unwrap_or_default();
            self.outputs.push_back(Output::Changed { from: self.shown, to, cause });
            (self.shown, self.since) = (to, self.now);
        }
    }

    fn save(&mut self) {
        let saved = Saved {
            wanted: self.wanted,
            starts: self.starts,
            shut_down: self.shutting_down,
            cause: self.cause.clone(),
        };
        self.outputs.push_back(Output::Save(saved));
    }

    fn check_invariants(&self) {
        debug_assert!(
            self.phase == Phase::Kept || self.copies.is_empty() || self.is_going_down(),
            "{}: copies are shown only while somebody keeps them",
            self.setup.name
        );
        debug_assert!(
            !self.again || self.is_going_down() || self.phase == Phase::Stopped,
            "{}: only what goes down comes up again",
            self.setup.name
        );
    }

    fn is_going_down(&self) -> bool {
        matches!(self.phase, Phase::Sweeping(_) | Phase::Stopping(_) | Phase::Killing(_))
    }
}
