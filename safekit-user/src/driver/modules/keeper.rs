//! The keeper of one module: carries news to its automaton, and out what that decided.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::board::Board;
use super::share::{next_step, share};
use super::tally::Tally;
use super::valve::Valve;
use super::{Ask, Ground, Happened, Level, groups_of};
use crate::config::upkeep::{Boot, OnFailure, SCRIPT_TIMEOUT_DEFAULT, When};
use crate::config::{Config, Kind, Module};
use crate::driver::scripts::store::Store;
use crate::driver::scripts::{Place, Run, Runner};
use crate::driver::{check, clock};
use crate::engine::module::{self, Automaton, Found, Input, Order, Output, Setup};
use crate::engine::rules::{Book, Holding, RemoteState, Resources, Sight};
use crate::types::module::{
    Action, Gate, Maintenance, ModuleReport, RemoteModule, ResourceState, Role, RunId, Script, ScriptEnd,
    Status,
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
/// A node says every second how its modules are.
const REMOTE_FRESH: Duration = Duration::from_secs(3);
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
    surroundings: check::Surroundings,
    findings: mpsc::Receiver<check::Finding>,
    runner: Runner,
    ground_place: Place,
    ends: mpsc::Receiver<(RunId, ScriptEnd)>,
    store: Store<Kept>,
    kept: Kept,
    /// Farms only.
    valve: Option<Valve>,
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
    pub(super) maintenance: Option<Maintenance>,
    running: Option<RunId>,
    tally: Tally,
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
        let runner = Runner::new(place_of(&module, ground), ended);
        let checks = check::start(&module.upkeep.checks, surroundings(&module, ground, &board), found);
        let automaton = Automaton::new(setup(&module), now);
        let groups = groups_of(&ground.config, &module);
        let told = share_at_start(&module, &ground.state_dir);
        let valve = (!groups.is_empty())
            .then(|| Valve::new(module.name.clone(), ground.me, groups, ground.inbox.clone(), told));
        let mut keeper = Self {
            place,
            me: ground.me,
            config: Arc::new(ground.config.clone()),
            automaton,
            book: Book::new(&module),
            resources: Resources::default(),
            checks,
            surroundings: surroundings(&module, ground, &board),
            findings,
            runner,
            ground_place: place_of(&module, ground),
            ends,
            store,
            valve,
            gate: if told > 0 { Gate::Open } else { Gate::Closed },
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
        tracing::error!(module = self.module.name, "the module's automaton does not come to rest");
    }

    pub(super) fn feed(&mut self, input: Input) {
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

    pub(super) fn remote_states(&self) -> Vec<RemoteState> {
        let now = clock::now();
        let remotes = Arc::clone(&self.remotes.borrow());
        let one = |node: &NodeId| {
            let (heard, reports) = remotes.get(usize::from(node.0))?;
            let fresh = heard.is_some_and(|heard| now.since(heard) < REMOTE_FRESH);
            let report = reports.iter().find(|it| it.module == self.module.name).filter(|_| fresh)?;
            Some(RemoteState { state: Some(report.state), resources: report.resources.clone() })
        };
        let elsewhere = self.module.nodes.iter().filter(|node| **node != self.me);
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
        let before = valve.share();
        valve.want(wanted, now);
        if wanted == 0
            && before > 0
            && upkeep.traffic.on_failure == OnFailure::Reset
            && self.gate == Gate::Open
        {
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
        self.note(Level::Info, "script", &format!("{:?} starts", order.script), Some(order.cause.clone()));
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
            tracing::error!(module = self.module.name, %error, "a check's finding is lost");
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

    pub(super) fn state_dir(&self) -> &Path {
        &self.ground_place.state_dir
    }

    fn save(&self) {
        if let Err(error) = self.store.save(&self.kept) {
            tracing::error!(module = self.module.name, %error, "cannot keep the module's state");
        }
    }

    pub(super) fn note(&self, level: Level, kind: &'static str, text: &str, cause: Option<String>) {
        let module = self.module.name.clone();
        // Full: the journal is behind, and the log has the same line.
        let _full = self.happened.try_send(Happened { module, level, kind, text: text.to_owned(), cause });
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
            starts: self.automaton.starts(),
            scripts: self.tally.all(),
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
            let report = remote.and_then(|(_, it)| it.iter().find(|it| it.module == self.module.name));
            RemoteModule {
                node: self.config.name(*node).to_owned(),
                state: report.map(|report| report.state),
                heard_ms: remote
                    .and_then(|(heard, _)| *heard)
                    .map(|heard| u64::try_from(now.since(heard).as_millis()).unwrap_or(u64::MAX)),
                cause: report.and_then(|report| report.cause.clone()),
            }
        };
        elsewhere.map(one).collect()
    }
}

/// How the automaton knows a module.
fn setup(module: &Module) -> Setup {
    let upkeep = &module.upkeep;
    let mut scripts: Vec<(Script, Duration)> =
        upkeep.scripts.iter().map(|spec| (spec.script, spec.timeout)).collect();
    for script in [Script::StartBoth, Script::StopBoth] {
        if !upkeep.services.is_empty() && scripts.iter().all(|(known, _)| *known != script) {
            scripts.push((script, SCRIPT_TIMEOUT_DEFAULT));
        }
    }
    let drains = upkeep.traffic.drain_on_stop && !scripts.is_empty();
    let (kind, drain) = match &module.kind {
        Kind::Farm(farm) => (module::Kind::Farm, Some(farm.drain_timeout).filter(|_| drains)),
        Kind::Light => (module::Kind::Light, None),
    };
    Setup {
        name: module.name.clone(),
        kind,
        boot: upkeep.boot,
        boot_delay: upkeep.boot_delay,
        after: upkeep.after.clone(),
        scripts,
        max_loop: upkeep.max_loop,
        drain_on_stop: drain,
    }
}

fn place_of(module: &Module, ground: &Ground) -> Place {
    Place {
        state_dir: ground.state_dir.clone(),
        module: module.name.clone(),
        node: ground.config.name(ground.me).to_owned(),
        directory: module.upkeep.directory.clone(),
        variables: module.upkeep.variables.clone(),
        scripts: module.upkeep.scripts.clone(),
        services: module.upkeep.services.clone(),
    }
}

fn surroundings(module: &Module, ground: &Ground, board: &Board) -> check::Surroundings {
    check::Surroundings {
        module: module.name.clone(),
        node: ground.config.name(ground.me).to_owned(),
        directory: module.upkeep.directory.clone(),
        variables: module.upkeep.variables.clone(),
        modules: board.reports(),
        remotes: ground.remotes.clone(),
        names: ground.config.cluster.nodes.iter().map(|node| node.name.clone()).collect(),
    }
}

/// Before anything runs: all of it where the application has survived its daemon, or where there is none to start.
pub fn share_at_start(module: &Module, state_dir: &Path) -> u8 {
    let (kept, same): (Kept, bool) = Store::open(state_dir, &module.name).load();
    let upkeep = &module.upkeep;
    let was_up = kept.automaton.as_ref().is_some_and(|it| it.how == Found::Up && !it.shut_down && same);
    let stays_down = match (&kept.automaton, upkeep.boot) {
        (Some(saved), _) if same && !saved.shut_down => !saved.wanted,
        (_, Boot::Off) => true,
        (Some(saved), Boot::Auto) => !saved.wanted,
        (None, Boot::Auto) => true,
        (_, Boot::On) => false,
    };
    let nothing_to_start = upkeep.scripts.is_empty()
        && upkeep.services.is_empty()
        && upkeep.checks.is_empty()
        && upkeep.after.is_empty()
        && upkeep.boot_delay.is_zero()
        && upkeep.traffic.slow_start.is_zero();
    if was_up || nothing_to_start && !stays_down { 100 } else { 0 }
}

impl Keeper {
    /// The same module with other scripts, checks or limits; a check that did not change begins anew all the same.
    fn change(&mut self, module: Module) {
        if module == self.module {
            return;
        }
        let (found, findings) = mpsc::channel(FINDINGS_MAX);
        for check in &self.module.upkeep.checks {
            self.resources.forget(&check.resource());
        }
        self.surroundings.directory.clone_from(&module.upkeep.directory);
        self.surroundings.variables.clone_from(&module.upkeep.variables);
        self.checks = check::start(&module.upkeep.checks, self.surroundings.clone(), found);
        self.findings = findings;
        self.ground_place.directory.clone_from(&module.upkeep.directory);
        self.ground_place.variables.clone_from(&module.upkeep.variables);
        self.ground_place.scripts.clone_from(&module.upkeep.scripts);
        self.ground_place.services.clone_from(&module.upkeep.services);
        self.runner.move_to(self.ground_place.clone());
        self.book = Book::new(&module);
        self.automaton.reconfigure(setup(&module));
        self.module = module;
        self.note(Level::Info, "configuration", "scripts, checks and rules are those of the new file", None);
        self.activate_checks();
    }
}
