//! What operators, checks, rules and the machine ask for.

use std::time::Duration;

use super::loops::Verdict;
use super::scripts::Running;
use super::{Automaton, Output, Phase, Then};
use crate::config::upkeep::MaxLoop;
use crate::types::module::{Action, Gate, Role, Status, Verb};

/// For the restart of some services.
const SERVICES_TIMEOUT: Duration = Duration::from_secs(120);

impl Automaton {
    pub(super) fn verb(&mut self, verb: Verb, by: &str) {
        if self.shutting_down.is_some() {
            return;
        }
        self.loops.forgive();
        match verb {
            Verb::Start => self.start(&format!("started by {by}")),
            Verb::Stop => self.stop(Then::Stop, "stop", &format!("stopped by {by}")),
            Verb::Restart => self.again(Then::Restart, "restart", &format!("restarted by {by}")),
            Verb::Stopstart => {
                self.again(Then::Stopstart, "stopstart", &format!("stopped and started by {by}"));
            }
            Verb::Forcestop => self.force(&format!("stopped by force by {by}")),
        }
    }

    fn start(&mut self, cause: &str) {
        self.wanted = true;
        match self.phase {
            Phase::Stopped | Phase::Delayed(_) => self.raise(cause),
            Phase::Closing(_) | Phase::Stopping | Phase::Lowering if self.then == Then::Stop => {
                self.then = Then::Stopstart;
                self.explain(cause);
            }
            Phase::Raising | Phase::Starting if self.interrupted => {
                self.then = Then::Stopstart;
                self.explain(cause);
            }
            Phase::Held => self.causes = vec![cause.to_owned()],
            Phase::Raising
            | Phase::Starting
            | Phase::Opening(_)
            | Phase::Up
            | Phase::Closing(_)
            | Phase::Stopping
            | Phase::Lowering
            | Phase::RestartingServices => {}
        }
    }

    /// `then` is [`Then::Stop`], or the way through a stop to something else.
    fn stop(&mut self, then: Then, action: &'static str, cause: &str) {
        self.wanted = then != Then::Stop;
        let drain = self.setup.drain_on_stop;
        match self.phase {
            Phase::Stopped => {}
            Phase::Delayed(_) => {
                self.causes = vec![cause.to_owned()];
                self.enter(Phase::Stopped, Role::Stop, Status::NotReady, cause);
                self.tell_ended();
            }
            Phase::Up | Phase::Opening(_) => {
                self.causes.clear();
                self.close(then, action, drain, cause);
            }
            Phase::Held => {
                self.causes.clear();
                self.close(then, action, None, cause);
            }
            Phase::Raising | Phase::Starting | Phase::RestartingServices => {
                self.interrupted = true;
                self.then = then;
                self.action = action;
                self.explain(cause);
            }
            Phase::Closing(_) | Phase::Stopping | Phase::Lowering => {
                self.then = then;
                self.explain(cause);
            }
        }
    }

    fn again(&mut self, then: Then, action: &'static str, cause: &str) {
        match self.phase {
            Phase::Stopped | Phase::Delayed(_) | Phase::Held => self.start(cause),
            // Down already, with scripts that belong to that: all the way.
            Phase::Lowering => self.stop(Then::Stopstart, action, cause),
            Phase::Raising
            | Phase::Starting
            | Phase::Opening(_)
            | Phase::Up
            | Phase::Closing(_)
            | Phase::Stopping
            | Phase::RestartingServices => self.stop(then, action, cause),
        }
    }

    fn force(&mut self, cause: &str) {
        self.wanted = false;
        self.then = Then::Stop;
        self.action = "forcestop";
        self.explain(cause);
        if self.gate == Gate::Open {
            self.gate = Gate::Closed;
            self.outputs.push_back(Output::Gate { gate: Gate::Closed, drain: None });
        }
        let now = self.now;
        match (&mut self.running, self.phase) {
            (_, Phase::Lowering | Phase::Stopped) => {}
            (Some(running), _) => {
                running.killed = true;
                running.deadline = now + SERVICES_TIMEOUT / 10;
                let run = running.run;
                self.steps.clear();
                self.interrupted = true;
                // Whatever it was: everything is stopped by force afterwards.
                self.started = true;
                if self.phase == Phase::Stopping {
                    self.phase = Phase::Starting;
                }
                if self.phase == Phase::RestartingServices {
                    self.phase = Phase::Starting;
                    if let Some(running) = &mut self.running {
                        running.step = Some(super::scripts::Step {
                            script: crate::types::module::Script::Transition,
                            force: true,
                            from: Role::Up,
                            to: Role::Wait,
                        });
                    }
                }
                self.enter(self.phase, Role::Wait, Status::Transient, cause);
                self.outputs.push_back(Output::Kill { run });
            }
            (None, _) => {
                self.started = true;
                self.stop_scripts();
            }
        }
    }

    pub(super) fn act(&mut self, action: Action, services: Vec<String>, cause: &str) {
        if self.phase != Phase::Up || self.shutting_down.is_some() {
            return;
        }
        match action {
            Action::Restart => self.automatic(Then::Restart, "restart", cause),
            // Farms and light modules have no other role to give theirs to.
            Action::Stopstart | Action::Swap => self.automatic(Then::Stopstart, "stopstart", cause),
            Action::Wait => self.automatic(Then::Hold, "wait", cause),
            Action::Stop => {
                self.wanted = false;
                self.close(Then::Stop, "stop", None, cause);
            }
            Action::RestartService => self.restart_services(services, cause),
            Action::None => {}
        }
    }

    fn restart_services(&mut self, services: Vec<String>, cause: &str) {
        if !self.may_go_on(cause) {
            return;
        }
        self.causes = vec![cause.to_owned()];
        let run = self.next_run();
        let deadline = self.now + SERVICES_TIMEOUT;
        self.running = Some(Running { run, step: None, deadline, killed: false });
        self.enter(Phase::RestartingServices, Role::Up, Status::Transient, cause);
        self.outputs.push_back(Output::RestartServices { run, services, timeout: SERVICES_TIMEOUT });
    }

    /// Nobody asked for it: it counts.
    pub(super) fn automatic(&mut self, then: Then, action: &'static str, cause: &str) {
        if self.may_go_on(cause) {
            self.close(then, action, None, cause);
        }
    }

    /// Counts. Beyond the limit the module goes down, and stays there or waits.
    fn may_go_on(&mut self, cause: &str) -> bool {
        let verdict = self.loops.add(self.now);
        let count = self.loops.count(self.now);
        self.outputs.push_back(Output::Looped { count, cause: cause.to_owned() });
        if verdict == Verdict::GoOn {
            return true;
        }
        self.explain(cause);
        let given_up = format!("max_loop: more than {}", self.loops.limit());
        match verdict {
            Verdict::Stop => {
                self.wanted = false;
                self.close(Then::Stop, "stop", None, &given_up);
            }
            Verdict::GoOn | Verdict::BackOff => {
                let paused = format!("{given_up}; the next try comes after {:?}", self.loops.pause());
                self.close(Then::Hold, "wait", None, &paused);
            }
        }
        false
    }

    pub(super) fn shut_down(&mut self, by: &str) {
        if self.shutting_down.is_some() {
            return;
        }
        self.shutting_down = Some(false);
        let wanted = self.wanted;
        if self.phase == Phase::Stopped {
            self.save();
            self.tell_ended();
            return;
        }
        self.stop(Then::Stop, "stop", by);
        // It was to run: that is what a start at boot may go by.
        self.wanted = wanted;
        self.save();
    }

    /// Another configuration of the same module, from now on.
    pub fn reconfigure(&mut self, setup: super::Setup) {
        let limit: MaxLoop = setup.max_loop;
        self.loops.limit_to(limit);
        self.steps.retain(|step| setup.scripts.iter().any(|(script, _)| *script == step.script));
        self.setup = setup;
    }
}
