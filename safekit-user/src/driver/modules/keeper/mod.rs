//! The keeper of one module: carries news to its automaton, and out what that decided.

mod answers;
pub(super) mod report;
mod setup;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::board::Board;
use super::memory::{Found, Kept};
use super::share::{next_step, share};
use super::tally::Tally;
use super::valve::Valve;
use super::{Ask, Ground, Happened, Level};
use crate::config::upkeep::{OnFailure, When};
use crate::config::{Kind, Module};
use crate::driver::scripts::store::Store;
use crate::driver::scripts::{Run, Runner};
use crate::driver::{check, clock, resets};
use crate::engine::module::{Automaton, Input, Order, Output};
use crate::engine::rules::{Book, Holding, RemoteState, Resources, Sight};
use crate::types::module::{
    Action, Gate, Maintenance, ModuleReport, ResourceState, Role, RunId, ScriptEnd, Status,
};
use crate::types::{Instant, NodeId, Snapshot};
use setup::{place_of, setup, surroundings};

/// Turns of one news: an automaton that answers itself for ever is a defect, not a reason to hang.
const TURNS_MAX: usize = 64;
const FINDINGS_MAX: usize = 64;
/// A node says every second how its modules are.
const REMOTE_FRESH: Duration = Duration::from_secs(3);
const ENDS_MAX: usize = 8;
/// With no deadline of its own, the keeper still looks around so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    module: Module,
    place: usize,
    ground: Arc<Ground>,
    automaton: Automaton,
    book: Book,
    resources: Resources,
    checks: check::Handle,
    findings: mpsc::Receiver<check::Finding>,
    runner: Runner,
    ends: mpsc::Receiver<(RunId, ScriptEnd)>,
    store: Store<Kept>,
    kept: Kept,
    /// Farms only.
    valve: Option<Valve>,
    /// Its connections are to be ended once the other nodes have its traffic.
    resetting: bool,
    gate: Gate,
    opened: Instant,
    /// Names of the rules that held at the last look, and sentences of those that block.
    holding: BTreeSet<String>,
    blocked: Vec<String>,
    missing: Vec<String>,
    board: Board,
    reports: watch::Receiver<Arc<Vec<ModuleReport>>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    remotes: watch::Receiver<Arc<Vec<check::Remote>>>,
    happened: mpsc::Sender<Happened>,
    maintenance: Option<Maintenance>,
    running: Option<RunId>,
    tally: Tally,
    down: Vec<oneshot::Sender<()>>,
    handing_over: Vec<oneshot::Sender<()>>,
}

impl Keeper {
    pub(super) fn new(found: Found, place: usize, ground: &Arc<Ground>, board: Board) -> Self {
        let Found { module, groups, store, kept, same_machine_boot, share } = found;
        let now = clock::now();
        let (finder, findings) = mpsc::channel(FINDINGS_MAX);
        let (ended, ends) = mpsc::channel(ENDS_MAX);
        let valve = (!groups.is_empty())
            .then(|| Valve::new(module.name.clone(), ground.me, groups, ground.inbox.clone(), share));
        let mut keeper = Self {
            place,
            ground: Arc::clone(ground),
            automaton: Automaton::new(setup(&module), now),
            book: Book::new(&module),
            resources: Resources::default(),
            checks: check::start(&module.upkeep.checks, surroundings(&module, ground, &board), finder),
            findings,
            runner: Runner::new(place_of(&module, ground), ended),
            ends,
            store,
            valve,
            resetting: false,
            gate: if share > 0 { Gate::Open } else { Gate::Closed },
            opened: now,
            holding: BTreeSet::new(),
            blocked: Vec::new(),
            missing: Vec::new(),
            reports: board.reports(),
            board,
            snapshots: ground.snapshots.clone(),
            remotes: ground.remotes.clone(),
            happened: ground.happened.clone(),
            maintenance: kept.maintenance,
            kept,
            running: None,
            tally: Tally::default(),
            down: Vec::new(),
            handing_over: Vec::new(),
            module,
        };
        keeper.look_at_the_others();
        keeper.rule();
        keeper.feed(Input::Begin { saved: keeper.kept.automaton.clone(), same_machine_boot });
        keeper
    }

    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        self.runner.end_leftovers().await;
        loop {
            self.settle();
            self.post();
            let wake = tokio::time::sleep(self.pause());
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => self.take(ask),
                    None => return,
                },
                Some(finding) = self.findings.recv() => self.find(finding),
                Some((run, end)) = self.ends.recv() => self.end(run, end),
                Ok(()) = self.reports.changed() => self.look_at_the_others(),
                Ok(()) = self.remotes.changed() => {}
                Ok(()) = self.snapshots.changed(), if self.valve.is_some() => {}
                () = wake => {}
            }
        }
    }

    fn pause(&self) -> Duration {
        let now = clock::now();
        let slow = match self.gate {
            Gate::Open => next_step(self.opened, self.module.upkeep.traffic.slow_start, now),
            Gate::Closed => None,
        };
        let valve = self.valve.as_ref().and_then(Valve::next_deadline);
        let until = self.maintenance.and_then(|maintenance| maintenance.until);
        let deadlines = [self.automaton.next_deadline(), slow, valve, until];
        let next = deadlines.into_iter().flatten().min();
        next.map_or(LOOK_INTERVAL, |next| next.since(now)).min(LOOK_INTERVAL)
    }

    /// Until nothing follows from anything any more.
    fn settle(&mut self) {
        self.end_maintenance();
        self.feed(Input::Timer);
        for _ in 0..TURNS_MAX {
            let ruled = self.rule();
            let turned = self.turn_valve();
            let done = self.carry_out();
            if !ruled && !turned && !done {
                return;
            }
        }
        tracing::error!("{}: the module's automaton does not come to rest", self.module.name);
    }

    fn feed(&mut self, input: Input) {
        self.automaton.handle(input, clock::now());
    }

    /// What the rules ask for: waiting as long as they hold, everything else when they begin to.
    fn rule(&mut self) -> bool {
        let state = self.automaton.state();
        let remotes = self.remote_states();
        let sight = Sight { resources: &self.resources, state, remotes: &remotes };
        let holding = self.book.evaluate(sight);
        let waits = holding.iter().filter(|it| it.action == Action::Wait);
        let mut blocked: Vec<String> = waits.map(|it| it.why.clone()).collect();
        if state.role == Role::Wait {
            blocked.extend(self.book.undecided_waits(sight));
        }
        let mut news = blocked != self.blocked;
        if news {
            self.blocked.clone_from(&blocked);
            self.feed(Input::Blocked { by: blocked });
        }
        // What holds while scripts run has to begin to hold again before it counts.
        let settled = state.status == Status::Ready;
        let acts: Vec<Holding> =
            holding.into_iter().filter(|it| !matches!(it.action, Action::Wait | Action::None)).collect();
        let began: Vec<Holding> =
            acts.iter().filter(|it| settled && !self.holding.contains(&it.rule)).cloned().collect();
        self.holding = if settled { acts.into_iter().map(|it| it.rule).collect() } else { BTreeSet::new() };
        // The first one changes everything; the others are looked at again afterwards.
        if let Some(it) = began.into_iter().next() {
            news = true;
            let text = format!("{} asks for {}", it.rule, it.action.word());
            self.note(Level::Warning, "rule", &text, Some(it.why.clone()));
            self.feed(Input::Act { action: it.action, services: it.services, cause: it.why });
        }
        news
    }

    fn remote_states(&self) -> Vec<RemoteState> {
        let now = clock::now();
        let remotes = Arc::clone(&self.remotes.borrow());
        let one = |node: &NodeId| {
            let (heard, reports) = remotes.get(usize::from(node.0))?;
            let fresh = heard.is_some_and(|heard| now.since(heard) < REMOTE_FRESH);
            let report = reports.iter().find(|it| it.module == self.module.name).filter(|_| fresh)?;
            Some(RemoteState { state: Some(report.state), resources: report.resources.clone() })
        };
        let elsewhere = self.module.nodes.iter().filter(|node| **node != self.ground.me);
        elsewhere.map(|node| one(node).unwrap_or_default()).collect()
    }

    fn turn_valve(&mut self) -> bool {
        let Some(valve) = &mut self.valve else { return false };
        let now = clock::now();
        let upkeep = &self.module.upkeep;
        let states = upkeep.checks.iter().map(|check| {
            let state = self.resources.state(&check.resource());
            (check.share_when_down, state)
        });
        let wanted = share(self.gate, self.opened, &upkeep.traffic, states, now);
        let lost = wanted == 0 && valve.share() > 0 && self.gate == Gate::Open;
        self.resetting =
            wanted == 0 && (self.resetting || lost && upkeep.traffic.on_failure == OnFailure::Reset);
        valve.want(wanted, now);
        let (turned, in_force) = {
            let snapshot = self.snapshots.borrow_and_update();
            (valve.poll(&snapshot, now), valve.is_in_force(&snapshot))
        };
        // Not before: a client that comes again at once would find this node a second time.
        if self.resetting && in_force {
            self.resetting = false;
            self.reset_connections();
        }
        if let Some(gate) = turned {
            self.feed(Input::Gate(gate));
        }
        turned.is_some()
    }

    fn carry_out(&mut self) -> bool {
        let mut done = false;
        while let Some(output) = self.automaton.poll_output() {
            done = true;
            match output {
                Output::Run(order) => self.run_script(&order),
                Output::RestartServices { run, services, timeout } => {
                    self.running = Some(run);
                    self.runner.restart_services(run, &services, timeout);
                }
                Output::Kill { run } => self.runner.kill(run),
                Output::Gate { gate, drain } => self.turn(gate, drain),
                Output::Changed { from, to, cause } => {
                    self.note(Level::Info, "state", &format!("{from} -> {to}"), Some(cause));
                    self.activate_checks();
                }
                Output::Looped { count, cause } => {
                    self.note(
                        Level::Warning,
                        "loop",
                        &format!("automatic action number {count}"),
                        Some(cause),
                    );
                }
                Output::Save(saved) => {
                    self.kept.automaton = Some(saved);
                    self.save();
                }
                Output::Ended => self.tell_down(),
            }
        }
        self.tell_idle();
        done
    }

    fn run_script(&mut self, order: &Order) {
        self.running = Some(order.run);
        self.tally.begin(order.run, order.script, clock::now());
        self.note(
            Level::Info,
            "script",
            &format!("{} starts", order.script.word()),
            Some(order.cause.clone()),
        );
        self.runner.run(Run {
            run: order.run,
            script: order.script,
            force: order.force,
            from: order.from,
            to: order.to,
            action: order.action.to_owned(),
            cause: order.cause.clone(),
            timeout: order.timeout,
        });
    }
}

impl Keeper {
    fn turn(&mut self, gate: Gate, drain: Option<Duration>) {
        let now = clock::now();
        if gate == Gate::Open && self.gate == Gate::Closed {
            self.opened = now;
        }
        self.gate = gate;
        match &mut self.valve {
            Some(valve) => valve.turn(gate, drain, now),
            // No traffic to wait for.
            None => self.feed(Input::Gate(gate)),
        }
    }

    fn find(&mut self, finding: check::Finding) {
        let Some(check) = self.module.upkeep.checks.get(finding.check) else { return };
        let name = check.resource();
        if self.resources.state(&name) == finding.state {
            return;
        }
        let level = if finding.state == ResourceState::Down { Level::Warning } else { Level::Info };
        let by = format!("check: {}", finding.output.lines().next().unwrap_or_default());
        if let Err(error) = self.resources.set(&name, finding.state, &by, clock::now()) {
            tracing::error!(%error, "{}: a check's finding is lost", self.module.name);
        }
        self.note(level, "check", &format!("{name} is {}", finding.state.word()), Some(finding.output));
    }

    fn end(&mut self, run: RunId, end: ScriptEnd) {
        self.tally.end(run, &end, clock::now());
        if self.running == Some(run) {
            self.running = None;
        }
        self.feed(Input::ScriptEnded { run, end });
    }

    /// Modules that this one comes after.
    fn look_at_the_others(&mut self) {
        let reports = Arc::clone(&self.reports.borrow_and_update());
        let is_ready = |name: &String| {
            reports.iter().any(|report| report.module == *name && report.state.status == Status::Ready)
        };
        let missing: Vec<String> =
            self.module.upkeep.after.iter().filter(|name| !is_ready(name)).cloned().collect();
        if missing != self.missing {
            self.missing.clone_from(&missing);
            self.feed(Input::After { missing });
        }
    }

    fn activate_checks(&self) {
        let off = self.maintenance.is_some();
        let runs = |when: When| !off && self.automaton.runs(when);
        self.checks.set_active(self.module.upkeep.checks.iter().map(|check| runs(check.when)).collect());
    }

    fn end_maintenance(&mut self) {
        let over = |it: Maintenance| it.until.is_some_and(|until| until <= clock::now());
        if self.maintenance.is_some_and(over) {
            self.maintain(None, "its time is over");
        }
    }

    fn maintain(&mut self, maintenance: Option<Maintenance>, cause: &str) {
        self.maintenance = maintenance;
        self.kept.maintenance = maintenance;
        self.save();
        let text = if maintenance.is_some() { "checks are off" } else { "checks are on" };
        self.note(Level::Info, "maintenance", text, Some(cause.to_owned()));
        self.activate_checks();
    }

    fn state_dir(&self) -> &Path {
        &self.ground.state_dir
    }

    /// What was decided is on the disk before anything follows from it.
    fn save(&self) {
        let saved = tokio::task::block_in_place(|| self.store.save(&self.kept));
        if let Err(error) = saved {
            tracing::error!(%error, "{}: cannot keep the module's state", self.module.name);
        }
    }

    fn note(&self, level: Level, kind: &'static str, text: &str, cause: Option<String>) {
        let module = self.module.name.clone();
        // Full: the journal is behind, and the log has the same line.
        let _full = self.happened.try_send(Happened { module, level, kind, text: text.to_owned(), cause });
    }

    fn reset_connections(&self) {
        let Kind::Farm(farm) = &self.module.kind else { return };
        match tokio::task::block_in_place(|| resets::reset(farm)) {
            Ok(count) => self.note(Level::Info, "reset", &format!("{count} connections reset"), None),
            Err(error) => tracing::warn!(%error, "{}: cannot reset connections", self.module.name),
        }
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Command { command, by, answer } => {
                // A client that no longer waits needs no answer.
                let _gone = answer.send(self.answer(command, by));
            }
            Ask::Shutdown { by, down } => {
                self.down.push(down);
                self.feed(Input::Shutdown { by });
            }
            Ask::HandOver { idle } => {
                self.handing_over.push(idle);
                self.tell_idle();
            }
            Ask::Changed(module) => self.change(*module),
        }
    }

    /// The same module with other scripts, checks or limits.
    fn change(&mut self, module: Module) {
        if module == self.module {
            return;
        }
        let (old, new) = (&self.module.upkeep, &module.upkeep);
        let looks_as_before =
            (&old.checks, &old.directory, &old.variables) == (&new.checks, &new.directory, &new.variables);
        if !looks_as_before {
            let (finder, findings) = mpsc::channel(FINDINGS_MAX);
            // A check that stays keeps its last word until it has looked again: what is down gets no traffic meanwhile.
            for gone in old.checks.iter().filter(|check| !new.checks.contains(check)) {
                self.resources.forget(&gone.resource());
            }
            let surroundings = surroundings(&module, &self.ground, &self.board);
            self.checks = check::start(&new.checks, surroundings, finder);
            self.findings = findings;
        }
        self.runner.move_to(place_of(&module, &self.ground));
        self.book = Book::new(&module);
        self.automaton.reconfigure(setup(&module));
        self.module = module;
        self.note(Level::Info, "configuration", "scripts, checks and rules are those of the new file", None);
        self.activate_checks();
    }

    fn tell_down(&mut self) {
        for down in self.down.drain(..) {
            let _gone = down.send(());
        }
    }

    fn tell_idle(&mut self) {
        if self.running.is_none() {
            for idle in self.handing_over.drain(..) {
                let _gone = idle.send(());
            }
        }
    }

    fn post(&self) {
        let now = clock::now();
        self.board.post(self.place, self.report(), self.info(now));
    }
}
