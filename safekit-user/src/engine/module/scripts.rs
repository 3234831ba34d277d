//! One script after the other, each with a deadline.

use std::time::Duration;

use super::order::{self, is_start, is_stop};
use super::{Automaton, Order, Output, Phase, Then};
use crate::types::Instant;
use crate::types::module::{Gate, Role, RunId, Script, ScriptEnd, Status};

#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) script: Script,
    pub(super) force: bool,
    pub(super) from: Role,
    pub(super) to: Role,
}

#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) run: RunId,
    /// None: services are restarted.
    pub(super) step: Option<Step>,
    /// The driver ends it at its timeout; past this the driver itself is stuck.
    pub(super) deadline: Instant,
    pub(super) killed: bool,
}

/// What the driver gets to end a script by force.
const KILL_GRACE: Duration = Duration::from_secs(10);

impl Automaton {
    /// Queues those that exist, and runs the first.
    pub(super) fn run_all(&mut self, scripts: &[Script], force: bool, from: Role, to: Role) {
        let known = |script: &&Script| self.timeout(**script).is_some();
        let steps = scripts.iter().filter(known).map(|script| Step {
            script: *script,
            force: force && is_stop(*script),
            from,
            to,
        });
        self.steps = steps.collect();
        self.next_step_or_done();
    }

    fn timeout(&self, script: Script) -> Option<Duration> {
        self.setup.scripts.iter().find(|(known, _)| *known == script).map(|(_, timeout)| *timeout)
    }

    pub(super) fn next_run(&mut self) -> RunId {
        self.next_run += 1;
        RunId(self.next_run)
    }

    pub(super) fn next_step_or_done(&mut self) {
        let Some(step) = self.steps.pop_front() else {
            self.steps_done();
            return;
        };
        let timeout = self.timeout(step.script).expect("only scripts that exist are queued");
        let run = self.next_run();
        self.started |= is_start(step.script);
        self.running =
            Some(Running { run, step: Some(step), deadline: self.now + timeout + KILL_GRACE, killed: false });
        let cause = self.causes.first().cloned().unwrap_or_default();
        self.outputs.push_back(Output::Run(Order {
            run,
            script: step.script,
            force: step.force,
            from: step.from,
            to: step.to,
            action: self.action,
            cause,
            timeout,
        }));
        self.save();
    }

    pub(super) fn look_at_the_script(&mut self) {
        let Some(running) = &mut self.running else { return };
        if running.deadline > self.now {
            return;
        }
        let run = running.run;
        if running.killed {
            // The driver does not answer either: on without it.
            self.script_ended(run, &ScriptEnd::TimedOut);
            return;
        }
        running.killed = true;
        running.deadline = self.now + KILL_GRACE;
        self.outputs.push_back(Output::Kill { run });
    }

    pub(super) fn script_ended(&mut self, run: RunId, end: &ScriptEnd) {
        let Some(running) = self.running.take_if(|running| running.run == run) else { return };
        let Some(step) = running.step else {
            self.services_restarted(end);
            return;
        };
        if *end == ScriptEnd::Done {
            self.on();
            return;
        }
        let failure = format!("{} {}", step.script.word(), in_words(end, self.timeout(step.script)));
        match self.phase {
            // Told, not asked.
            _ if step.script == Script::Transition => self.on(),
            Phase::Raising | Phase::Starting => self.start_failed(&failure),
            Phase::Stopping | Phase::Lowering if is_stop(step.script) && !step.force => {
                self.explain(&failure);
                self.steps.push_front(Step { force: true, ..step });
                self.next_step_or_done();
            }
            Phase::Stopping
            | Phase::Lowering
            | Phase::Stopped
            | Phase::Delayed(_)
            | Phase::Held
            | Phase::Opening(_)
            | Phase::Up
            | Phase::Closing(_)
            | Phase::RestartingServices => {
                self.explain(&failure);
                self.on();
            }
        }
    }

    /// The next script, unless somebody has asked for something else meanwhile.
    fn on(&mut self) {
        if std::mem::take(&mut self.interrupted) {
            self.steps.clear();
            self.stop_scripts();
        } else {
            self.next_step_or_done();
        }
    }

    fn start_failed(&mut self, failure: &str) {
        self.steps.clear();
        self.interrupted = false;
        if self.wanted && self.shutting_down.is_none() {
            self.automatic(Then::Stopstart, "stopstart", failure);
        } else {
            self.stop_scripts();
        }
    }

    fn steps_done(&mut self) {
        match self.phase {
            Phase::Raising => {
                self.enter(Phase::Held, Role::Wait, Status::NotReady, "everything is down");
                self.try_to_start();
            }
            Phase::Starting => self.open(),
            Phase::Stopping => self.stopped(),
            Phase::Lowering => self.lowered(),
            Phase::Stopped
            | Phase::Delayed(_)
            | Phase::Held
            | Phase::Opening(_)
            | Phase::Up
            | Phase::Closing(_)
            | Phase::RestartingServices => {}
        }
    }

    /// Up from STOP.
    pub(super) fn raise(&mut self, cause: &str) {
        self.causes = vec![cause.to_owned()];
        self.action = "start";
        self.enter(Phase::Raising, Role::Wait, Status::Transient, cause);
        self.run_all(order::scripts(Role::Stop, Role::Wait), false, Role::Stop, Role::Wait);
    }

    /// Out of WAIT, where nothing keeps it.
    pub(super) fn try_to_start(&mut self) {
        if self.loops.is_pausing(self.now) || !self.blocked.is_empty() || !self.missing.is_empty() {
            return;
        }
        self.start_scripts(order::scripts(Role::Wait, Role::Up), Role::Wait);
    }

    fn start_scripts(&mut self, scripts: &[Script], from: Role) {
        let cause = self.causes.first().cloned().unwrap_or_default();
        self.enter(Phase::Starting, Role::Wait, Status::Transient, &cause);
        self.run_all(scripts, false, from, Role::Up);
    }

    fn open(&mut self) {
        self.started = true;
        self.gate = Gate::Open;
        self.outputs.push_back(Output::Gate { gate: Gate::Open, drain: None });
        self.phase = Phase::Opening(self.now + super::OPEN_PATIENCE);
        self.save();
    }

    pub(super) fn gate_is(&mut self, gate: Gate) {
        match (self.phase, gate) {
            (Phase::Opening(_), Gate::Open) => {
                self.starts += 1;
                let cause = self.causes.first().cloned().unwrap_or_default();
                self.causes.clear();
                self.enter(Phase::Up, Role::Up, Status::Ready, &cause);
            }
            (Phase::Closing(_), Gate::Closed) => self.stop_scripts(),
            _ => {}
        }
    }

    /// Down from UP: its traffic first.
    pub(super) fn close(&mut self, then: Then, action: &'static str, drain: Option<Duration>, cause: &str) {
        self.then = then;
        self.action = action;
        self.causes.insert(0, cause.to_owned());
        self.causes.truncate(super::CAUSES_MAX);
        if self.gate == Gate::Closed {
            self.stop_scripts();
            return;
        }
        self.gate = Gate::Closed;
        let until = self.now + drain.unwrap_or_default() + super::CLOSE_PATIENCE;
        self.enter(Phase::Closing(until), self.role, Status::Transient, cause);
        self.outputs.push_back(Output::Gate { gate: Gate::Closed, drain });
    }

    /// All that may run is stopped; graceful, and forced where that does not help.
    pub(super) fn stop_scripts(&mut self) {
        let cause = self.causes.first().cloned().unwrap_or_default();
        let from = self.role;
        self.enter(Phase::Stopping, Role::Wait, Status::Transient, &cause);
        let force = self.action == "forcestop";
        let stops = match self.then {
            _ if force => order::STOP_ALL,
            Then::Restart => order::restart(Role::Up).0,
            Then::Hold | Then::Stopstart | Then::Stop => order::scripts(Role::Up, Role::Wait),
        };
        if self.started {
            self.run_all(stops, force, from, Role::Wait);
        } else {
            self.stopped();
        }
    }

    fn stopped(&mut self) {
        self.started = false;
        match self.then {
            Then::Restart => self.start_scripts(order::restart(Role::Up).1, Role::Up),
            Then::Hold => {
                self.enter(Phase::Held, Role::Wait, Status::NotReady, "everything is down");
                self.try_to_start();
            }
            Then::Stopstart | Then::Stop => {
                self.phase = Phase::Lowering;
                self.run_all(order::scripts(Role::Wait, Role::Stop), false, Role::Wait, Role::Stop);
            }
        }
    }

    fn lowered(&mut self) {
        let again = self.then == Then::Stopstart && self.shutting_down.is_none();
        let cause = self.causes.first().cloned().unwrap_or_default();
        if again {
            let causes = std::mem::take(&mut self.causes);
            self.raise(&cause);
            // Why it failed before is worth more than that it is tried again.
            self.causes = causes;
            return;
        }
        self.enter(Phase::Stopped, Role::Stop, Status::NotReady, &cause);
        self.tell_ended();
    }

    pub(super) fn tell_ended(&mut self) {
        if self.shutting_down == Some(false) {
            self.shutting_down = Some(true);
            self.outputs.push_back(Output::Ended);
        }
    }

    fn services_restarted(&mut self, end: &ScriptEnd) {
        if std::mem::take(&mut self.interrupted) {
            let cause = self.causes.first().cloned().unwrap_or_default();
            self.phase = Phase::Up;
            self.close(self.then, self.action, None, &cause);
        } else if *end == ScriptEnd::Done {
            self.causes.clear();
            self.enter(Phase::Up, Role::Up, Status::Ready, "its services run again");
        } else {
            self.phase = Phase::Up;
            let failure = format!("the restart of its services {}", in_words(end, None));
            self.automatic(Then::Restart, "restart", &failure);
        }
    }

    /// One more link of the chain of causes, the nearest.
    pub(super) fn explain(&mut self, cause: &str) {
        self.causes.insert(0, cause.to_owned());
        self.causes.truncate(super::CAUSES_MAX);
    }
}

fn in_words(end: &ScriptEnd, timeout: Option<Duration>) -> String {
    let quoted = |line: &str| if line.is_empty() { String::new() } else { format!(": {line}") };
    match end {
        ScriptEnd::Done => "ended well".to_owned(),
        ScriptEnd::Failed { code: Some(code), last_line } => {
            format!("failed with exit code {code}{}", quoted(last_line))
        }
        ScriptEnd::Failed { code: None, last_line } => format!("was ended by a signal{}", quoted(last_line)),
        ScriptEnd::TimedOut => match timeout {
            Some(timeout) => format!("did not end within {timeout:?}"),
            None => "did not end in time".to_owned(),
        },
        ScriptEnd::Killed => "was ended by force".to_owned(),
        ScriptEnd::NotStarted { why } => format!("could not be started: {why}"),
    }
}
