//! The keeper of one module: carries news to its automaton, and out what that decided.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::board::Board;
use super::share::{next_step, share};
use super::valve::Valve;
use super::{Ask, Ground, Happened, Level, Remote, groups_of};
use crate::config::upkeep::{OnFailure, When};
use crate::config::{Config, Kind, Module};
use crate::driver::scripts::store::Store;
use crate::driver::scripts::{Place, Run, Runner};
use crate::driver::{check, clock};
use crate::engine::module::{self, Automaton, Input, Order, Output, Setup};
use crate::engine::rules::{Book, Resources};
use crate::types::module::{
    Action, Gate, Maintenance, ModuleReport, RemoteModule, ResourceState, RunId, Script, ScriptEnd,
};
use crate::types::{Instant, ModuleInfo, NodeId, Snapshot};

/// What survives the daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    automaton: Option<module::Saved>,
    maintenance: Option<Maintenance>,
}

/// Turns of one news: an automaton that answers itself for ever is a defect, not a reason to hang.
const TURNS_MAX: usize = 64;
const FINDINGS_MAX: usize = 64;
const ENDS_MAX: usize = 8;
/// With no deadline of its own, the keeper still looks around so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    pub(super) module: Module,
    place: usize,
    me: NodeId,
    config: Arc<Config>,
    pub(super) automaton: Automaton,
    pub(super) book: Book,
    pub(super) resources: Resources,
    pub(super) checks: check::Handle,
    findings: mpsc::Receiver<check::Finding>,
    runner: Runner,
    ends: mpsc::Receiver<(RunId, ScriptEnd)>,
    store: Store<Kept>,
    kept: Kept,
    /// Farms only.
    valve: Option<Valve>,
    gate: Gate,
    opened: Instant,
    /// Names of the rules that held at the last look.
    holding: BTreeSet<String>,
    missing: Vec<String>,
    board: Board,
    reports: watch::Receiver<Arc<Vec<ModuleReport>>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    remotes: watch::Receiver<Arc<Vec<Remote>>>,
    happened: mpsc::Sender<Happened>,
    pub(super) maintenance: Option<Maintenance>,
    running: Option<RunId>,
    down: Vec<oneshot::Sender<()>>,
    handing_over: Vec<oneshot::Sender<()>>,
}

impl Keeper {
    pub(super) fn new(module: Module, place: usize, ground: &Ground, board: Board) -> Self {
        let now = clock::now();
        let (found, findings) = mpsc::channel(FINDINGS_MAX);
        let (ended, ends) = mpsc::channel(ENDS_MAX);
        let store = Store::open(&ground.state_dir, &module.name);
        let (kept, same_machine_boot): (Kept, bool) = store.load();
        let runner = runner(&module, ground, ended);
        let checks = checks(&module, ground, &board, found);
        let mut automaton = Automaton::new(setup(&module), now);
        automaton.handle(Input::Begin { saved: kept.automaton.clone(), same_machine_boot }, now);
        let groups = groups_of(&ground.config, &module);
        let told = share_at_start(&module, &kept, same_machine_boot);
        let valve = (!groups.is_empty()).then(|| {
            Valve::new(module.name.clone(), ground.me, groups, ground.inbox.clone(), told)
        });
        Self {
            place,
            me: ground.me,
            config: Arc::new(ground.config.clone()),
            automaton,
            book: Book::new(&module),
            resources: Resources::default(),
            checks,
            findings,
            runner,
            ends,
            store,
            valve,
            gate: if told > 0 { Gate::Open } else { Gate::Closed },
            opened: now,
            holding: BTreeSet::new(),
            missing: Vec::new(),
            reports: board.reports(),
            board,
            snapshots: ground.snapshots.clone(),
            remotes: ground.remotes.clone(),
            happened: ground.happened.clone(),
            maintenance: kept.maintenance,
            kept,
            running: None,
            down: Vec::new(),
            handing_over: Vec::new(),
            module,
        }
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
        tracing::error!(module = self.module.name, "the module's automaton does not come to rest");
    }

    fn feed(&mut self, input: Input) {
        self.automaton.handle(input, clock::now());
    }

    /// What the rules ask for: waiting as long as they hold, everything else when they begin to.
    fn rule(&mut self) -> bool {
        let remotes = self.remote_states();
        let holding = self.book.evaluate(&self.resources, self.automaton.state(), &remotes);
        let blocked: Vec<String> =
            holding.iter().filter(|it| it.action == Action::Wait).map(|it| it.why.clone()).collect();
        let began: Vec<_> = holding
            .iter()
            .filter(|it| !matches!(it.action, Action::Wait | Action::None))
            .filter(|it| !self.holding.contains(&it.rule))
            .cloned()
            .collect();
        let names: BTreeSet<String> = holding.iter().map(|it| it.rule.clone()).collect();
        let news = names != self.holding;
        self.holding = names;
        if news {
            self.feed(Input::Blocked { by: blocked });
        }
        for it in began {
            self.note(Level::Warning, "rule", &format!("{} asks for {}", it.rule, it.action.word()), Some(it.why.clone()));
            self.feed(Input::Act { action: it.action, services: it.services, cause: it.why });
        }
        news
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
        let before = valve.share();
        valve.want(wanted, now);
        if wanted == 0 && before > 0 && upkeep.traffic.on_failure == OnFailure::Reset && self.gate == Gate::Open {
            self.reset_connections();
        }
        let Some(valve) = &mut self.valve else { return false };
        let in_force = valve.poll(&self.snapshots.borrow_and_update(), now);
        match in_force {
            Some(gate) => {
                self.feed(Input::Gate(gate));
                true
            }
            None => false,
        }
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
                    self.note(Level::Warning, "loop", &format!("automatic action number {count}"), Some(cause));
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
        self.note(Level::Info, "script", &format!("{:?} starts", order.script), Some(order.cause.clone()));
        self.runner.run(&Run {
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
        self.resources.set(&name, finding.state, "check", &finding.output, clock::now());
        self.note(level, "check", &format!("{name} is {}", finding.state.word()), Some(finding.output));
    }

    fn end(&mut self, run: RunId, end: ScriptEnd) {
        if self.running == Some(run) {
            self.running = None;
        }
        self.feed(Input::ScriptEnded { run, end });
    }

    /// Modules that this one comes after.
    fn look_at_the_others(&mut self) {
        let reports = Arc::clone(&self.reports.borrow_and_update());
        let is_ready = |name: &String| {
            reports.iter().any(|report| {
                report.module == *name && report.state.status == crate::types::module::Status::Ready
            })
        };
        let missing: Vec<String> =
            self.module.upkeep.after.iter().filter(|name| !is_ready(name)).cloned().collect();
        if missing != self.missing {
            self.missing.clone_from(&missing);
            self.feed(Input::After { missing });
        }
    }

    pub(super) fn activate_checks(&self) {
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

    pub(super) fn maintain(&mut self, maintenance: Option<Maintenance>, by: &str) {
        self.maintenance = maintenance;
        self.kept.maintenance = maintenance;
        self.save();
        let text = if maintenance.is_some() { "checks are off" } else { "checks are on" };
        self.note(Level::Info, "maintenance", text, Some(by.to_owned()));
        self.activate_checks();
    }

    fn save(&self) {
        if let Err(error) = self.store.save(&self.kept) {
            tracing::error!(module = self.module.name, %error, "cannot keep the module's state");
        }
    }

    pub(super) fn note(&self, level: Level, kind: &'static str, text: &str, cause: Option<String>) {
        let module = self.module.name.clone();
        // Full: the journal is behind, and the log has the same line.
        let _full =
            self.happened.try_send(Happened { module, level, kind, text: text.to_owned(), cause });
    }

    fn reset_connections(&self) {
        let Kind::Farm(farm) = &self.module.kind else { return };
        match crate::driver::resets::reset(farm) {
            Ok(count) => self.note(Level::Info, "reset", &format!("{count} connections reset"), None),
            Err(error) => tracing::warn!(module = self.module.name, %error, "cannot reset connections"),
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

    fn report(&self) -> ModuleReport {
        ModuleReport {
            module: self.module.name.clone(),
            state: self.automaton.state(),
            cause: self.automaton.causes().into_iter().next(),
            starts: self.automaton.starts(),
            resources: self.resources.all().map(|it| (it.name, it.state)).collect(),
        }
    }

    fn info(&self, now: Instant) -> ModuleInfo {
        ModuleInfo {
            name: self.module.name.clone(),
            kind: self.module.kind.word().to_owned(),
            state: self.automaton.state(),
            since: self.automaton.since(),
            causes: self.automaton.causes(),
            next_step: self.automaton.next_step(),
            loops: self.automaton.loops(now),
            loops_max: self.module.upkeep.max_loop.count,
            share: self.valve.as_ref().map(Valve::share),
            maintenance: self.maintenance,
            checks: self.checks.infos(),
            resources: self.resources.all().collect(),
            remotes: self.remotes(now),
        }
    }

    /// The same module on the other nodes.
    fn remotes(&self, now: Instant) -> Vec<RemoteModule> {
        let remotes = Arc::clone(&self.remotes.borrow());
        let elsewhere = self.module.nodes.iter().filter(|node| **node != self.me);
        let one = |node: &NodeId| {
            let remote = remotes.get(usize::from(node.0));
            let report = remote.and_then(|it| it.reports.iter().find(|it| it.module == self.module.name));
            RemoteModule {
                node: self.config.name(*node).to_owned(),
                state: report.map(|report| report.state),
                heard_ms: remote
                    .and_then(|it| it.heard)
                    .map(|heard| u64::try_from(now.since(heard).as_millis()).unwrap_or(u64::MAX)),
                cause: report.and_then(|report| report.cause.clone()),
            }
        };
        elsewhere.map(one).collect()
    }
}
