//! One module at a time on a virtual clock: scripts that fail, hang and lie, wait rules that come and go, operators who
//! type at the wrong time, daemons that die anywhere, machines that start again.
//!
//! What must hold after each step, whatever happens: starts and stops alternate; one script runs at a time; traffic comes
//! only to an application whose start ended well; every state has a cause and says what leaves it; the limit of
//! automatic actions holds. And in the quiet afterwards the module comes to rest where it is wanted.

use std::collections::VecDeque;
use std::time::Duration;

use safekit::config::upkeep::{AfterMaxLoop, Boot, MaxLoop};
use safekit::engine::module::{Automaton, Input, Kind, Order, Output, Saved, Setup, order};
use safekit::types::Instant;
use safekit::types::module::{Action, Gate, Role, RunId, Script, ScriptEnd, Status, Verb};

const STEPS: u64 = 300;
const TIMEOUT: Duration = Duration::from_secs(30);
const WITHIN: Duration = Duration::from_secs(3600);
/// Long enough for every script to end, every pause to be over, and every try to be made.
const QUIET_STEPS: usize = 400;

/// What the world does wrong on purpose, so that the checks can be seen to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    None,
    /// The driver runs a script although one runs.
    TwoAtOnce,
    /// The driver opens the gate by itself.
    OpensEarly,
    /// Stop scripts that stop nothing.
    ForgetsStops,
    /// The counter of automatic actions is lost with each daemon.
    ForgetsLoops,
}

struct World {
    random: fastrand::Rng,
    weakness: Weakness,
    setup: Setup,
    now: Instant,
    automaton: Automaton,
    saved: Option<Saved>,
    running: VecDeque<Running>,
    gate_asked: Option<(Gate, Instant)>,
    gate: Gate,
    /// The last of the scripts that matter: a start (begun, ended well) or a stop.
    started: Application,
    /// A start has begun since the last end of a stop.
    needs_stop: bool,
    started_twice: bool,
    /// Automatic actions since an operator said something, by time.
    automatic: Vec<Instant>,
    shutting_down: bool,
    trace: Vec<String>,
}

struct Running {
    order: Order,
    ends: Instant,
    end: ScriptEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Application {
    Down,
    /// A start began, and has not ended well.
    Starting,
    Up,
    /// A stop began.
    Stopping,
    /// The daemon died, and nobody knows.
    Unknown,
}

/// The violation, if there is one, with the last steps before it.
pub fn play(seed: u64, weakness: Weakness) -> Option<String> {
    let mut world = World::new(seed, weakness);
    world.begin(false);
    for _ in 0..STEPS {
        world.step();
        if let Err(violation) = world.check() {
            return Some(world.told(&violation));
        }
    }
    world.quiet().err().map(|violation| world.told(&violation))
}

impl World {
    fn new(seed: u64, weakness: Weakness) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut scripts = Vec::new();
        for script in [Script::StartBoth, Script::StopBoth, Script::StartPrim, Script::StopPrim] {
            if random.u8(..4) > 0 {
                scripts.push((script, TIMEOUT));
            }
        }
        for script in [Script::Prestart, Script::Poststop, Script::Transition] {
            if random.bool() {
                scripts.push((script, TIMEOUT));
            }
        }
        let then = if random.bool() { AfterMaxLoop::Stop } else { AfterMaxLoop::Backoff };
        let setup = Setup {
            name: "www".into(),
            kind: if random.bool() { Kind::Farm } else { Kind::Light },
            boot: [Boot::On, Boot::Off, Boot::Auto][random.usize(..3)],
            boot_delay: Duration::from_secs(u64::from(random.bool()) * 20),
            after: vec![],
            scripts,
            max_loop: MaxLoop { count: random.u32(1..4), within: WITHIN, then },
            drain_on_stop: random.bool().then_some(Duration::from_secs(10)),
        };
        let now = Instant(1_000_000_000_000);
        Self {
            random,
            weakness,
            automaton: Automaton::new(setup.clone(), now),
            setup,
            now,
            saved: None,
            running: VecDeque::new(),
            gate_asked: None,
            gate: Gate::Closed,
            started: Application::Down,
            needs_stop: false,
            started_twice: false,
            automatic: Vec::new(),
            shutting_down: false,
            trace: Vec::new(),
        }
    }

    fn begin(&mut self, same_machine_boot: bool) {
        self.automaton = Automaton::new(self.setup.clone(), self.now);
        self.shutting_down = false;
        let mut saved = self.saved.clone();
        if let Some(saved) = &mut saved
            && self.weakness == Weakness::ForgetsLoops
        {
            saved.loops.clear();
        }
        self.tell(Input::Begin { saved, same_machine_boot });
    }

    fn step(&mut self) {
        let until = self.now + Duration::from_millis(self.random.u64(1..8_000));
        // What is due comes in its time, so that nobody takes the driver for stuck.
        while let Some(at) = self.running.iter().map(|it| it.ends).filter(|at| *at < until).min() {
            self.now = self.now.max(at);
            self.let_things_happen();
        }
        self.now = until;
        match self.random.u8(..24) {
            0..3 => self.verb(),
            3..6 => {
                let actions =
                    [Action::Restart, Action::Stopstart, Action::RestartService, Action::Wait, Action::Stop];
                let action = actions[self.random.usize(..5)];
                self.tell(Input::Act { action, services: vec![], cause: "check tcp.http: refused".into() });
            }
            6..8 => {
                let by =
                    if self.random.bool() { vec![] } else { vec!["rule link_lan: link.lan is down".into()] };
                self.tell(Input::Blocked { by });
            }
            8 => {
                let missing = if self.random.bool() { vec![] } else { vec!["db".into()] };
                self.tell(Input::After { missing });
            }
            9 => self.die(),
            10 if !self.shutting_down => {
                self.shutting_down = true;
                self.tell(Input::Shutdown { by: "the daemon is stopped".into() });
            }
            _ => self.let_things_happen(),
        }
    }

    fn verb(&mut self) {
        let verbs = [Verb::Start, Verb::Stop, Verb::Restart, Verb::Stopstart, Verb::Forcestop];
        let verb = verbs[self.random.usize(..5)];
        if !self.shutting_down {
            self.automatic.clear();
        }
        self.tell(Input::Verb { verb, by: "ann".into() });
    }

    /// Scripts end, the gate turns, time passes.
    fn let_things_happen(&mut self) {
        if self.weakness == Weakness::OpensEarly && self.random.u8(..50) == 0 {
            self.gate = Gate::Open;
        }
        if let Some((gate, at)) = self.gate_asked
            && at <= self.now
        {
            self.gate_asked = None;
            self.gate = gate;
            self.tell(Input::Gate(gate));
        }
        while let Some(place) = self.running.iter().position(|it| it.ends <= self.now) {
            let Some(done) = self.running.remove(place) else { return };
            self.script_ended(&done);
            self.tell(Input::ScriptEnded { run: done.order.run, end: done.end });
        }
        self.tell(Input::Timer);
    }

    fn script_ended(&mut self, done: &Running) {
        let well = done.end == ScriptEnd::Done;
        if order::is_start(done.order.script) && well && self.started == Application::Starting {
            self.started = Application::Up;
        }
        if order::is_stop(done.order.script) && self.weakness != Weakness::ForgetsStops {
            self.needs_stop = false;
            self.started = Application::Down;
        }
    }

    /// The daemon, and sometimes the machine.
    fn die(&mut self) {
        let machine = self.random.bool();
        self.end(machine);
    }

    fn end(&mut self, machine: bool) {
        self.trace.push(format!("dies, machine too: {machine}"));
        if machine || self.shutting_down {
            self.automatic.clear();
        }
        self.running.clear();
        self.gate_asked = None;
        self.gate = Gate::Closed;
        if machine {
            self.needs_stop = false;
            self.started = Application::Down;
        } else if matches!(self.started, Application::Starting | Application::Stopping) {
            self.started = Application::Unknown;
        }
        self.begin(!machine);
    }

    fn tell(&mut self, input: Input) {
        self.trace.push(format!("{:?} {input:?}", self.now));
        self.automaton.handle(input, self.now);
        while let Some(output) = self.automaton.poll_output() {
            self.obey(output);
        }
        self.trace.push(format!("    {}", self.automaton.state()));
    }

    fn obey(&mut self, output: Output) {
        match output {
            Output::Run(order) => self.run(order),
            Output::RestartServices { run, timeout, .. } => self.run(Order {
                run,
                script: Script::Transition,
                force: false,
                from: Role::Up,
                to: Role::Up,
                action: "restart_service",
                cause: String::new(),
                timeout,
            }),
            Output::Kill { run } => {
                let soon = self.now + Duration::from_millis(50);
                for it in self.running.iter_mut().filter(|it| it.order.run == run) {
                    it.ends = it.ends.min(soon);
                    it.end = ScriptEnd::Killed;
                }
            }
            Output::Gate { gate, drain } => {
                let wait = if self.random.u8(..10) == 0 {
                    Duration::from_secs(60)
                } else {
                    drain.unwrap_or_default()
                };
                self.gate_asked = Some((gate, self.now + wait / self.random.u32(1..4)));
                // New sessions end with the word; the answer says that old ones have.
                if gate == Gate::Closed {
                    self.gate = Gate::Closed;
                }
            }
            Output::Looped { .. } => self.automatic.push(self.now),
            Output::Save(saved) => self.saved = Some(saved),
            Output::Changed { .. } | Output::Ended => {}
        }
    }

    fn run(&mut self, order: Order) {
        self.trace.push(format!("    runs {:?} force {}", order.script, order.force));
        let end = match self.random.u8(..12) {
            0 => ScriptEnd::Failed { code: Some(3), last_line: "no licence".into() },
            1 => ScriptEnd::TimedOut,
            2 => ScriptEnd::NotStarted { why: "no such file".into() },
            _ => ScriptEnd::Done,
        };
        let span = match self.random.u8(..10) {
            // It hangs, and so does the driver.
            0 => Duration::from_secs(10_000),
            1..4 => Duration::ZERO,
            _ => Duration::from_millis(self.random.u64(1..20_000)),
        };
        if order::is_start(order.script) {
            let starts = [Script::StartBoth, Script::StartPrim, Script::StartSec];
            let exists = |script: &&Script| self.setup.scripts.iter().any(|(known, _)| known == *script);
            let first = starts.iter().find(exists) == Some(&order.script);
            self.started_twice |= first && self.needs_stop && self.has_stop();
            self.needs_stop = true;
            self.started = match self.started {
                Application::Down | Application::Starting | Application::Up => Application::Starting,
                Application::Stopping | Application::Unknown => self.started,
            };
        } else if order::is_stop(order.script) && self.weakness != Weakness::ForgetsStops {
            self.started = Application::Stopping;
        }
        self.running.push_back(Running { order: order.clone(), ends: self.now + span, end });
        if self.weakness == Weakness::TwoAtOnce && self.random.u8(..20) == 0 {
            let order = Order { run: RunId(u64::MAX), ..order };
            self.running.push_back(Running { order, ends: self.now + span, end: ScriptEnd::Done });
        }
    }

    /// Where nothing can be stopped, nobody can ask for that.
    fn has_stop(&self) -> bool {
        self.setup.scripts.iter().any(|(script, _)| order::is_stop(*script))
    }

    fn check(&mut self) -> Result<(), String> {
        // A script that the automaton has given up runs on in the driver, until that ends it, too.
        let live = self.running.iter().filter(|it| it.ends > self.now && it.end != ScriptEnd::Killed);
        let live: Vec<_> = live.map(|it| it.order.script).collect();
        if live.len() > 1 {
            return Err(format!("{live:?} run at one time"));
        }
        let starting = self.running.iter().any(|it| order::is_start(it.order.script) && it.ends > self.now);
        if starting && self.has_stop() && matches!(self.started, Application::Stopping | Application::Unknown)
        {
            return Err(format!("a start without an end of what was before: {:?}", self.started));
        }
        if self.started_twice {
            return Err("a start follows a start, without a stop between them".to_owned());
        }
        let has_start = self.setup.scripts.iter().any(|(script, _)| order::is_start(*script));
        let up = self.started == Application::Up || !has_start || !self.has_stop();
        if self.gate == Gate::Open && !up {
            return Err(format!("traffic for an application that is {:?}", self.started));
        }
        let state = self.automaton.state();
        if state.status != Status::Ready
            && (self.automaton.causes().is_empty() || self.automaton.next_step().is_none())
        {
            return Err(format!("{state} says neither why nor what leaves it"));
        }
        let now = self.now;
        self.automatic.retain(|at| now.since(*at) < WITHIN);
        let limit = self.setup.max_loop;
        // The one that is too much is counted, and stops it; backing off, each pause ends with one more.
        let most = limit.count as usize + 1 + if limit.then == AfterMaxLoop::Backoff { 8 } else { 0 };
        if self.automatic.len() > most {
            return Err(format!("{} automatic actions of at most {}", self.automatic.len(), limit.count));
        }
        Ok(())
    }

    /// Nothing fails any more, and nothing blocks: it comes to rest.
    fn quiet(&mut self) -> Result<(), String> {
        if self.shutting_down {
            self.end(false);
        }
        self.tell(Input::Blocked { by: vec![] });
        self.tell(Input::After { missing: vec![] });
        for _ in 0..QUIET_STEPS {
            let next = self.automaton.next_deadline();
            let script = self.running.iter().map(|it| it.ends).min();
            let gate = self.gate_asked.map(|(_, at)| at);
            let Some(then) = next.into_iter().chain(script).chain(gate).min() else { break };
            self.now = self.now.max(then);
            for it in &mut self.running {
                it.end = ScriptEnd::Done;
            }
            self.let_things_happen();
            self.check()?;
        }
        let state = self.automaton.state();
        let rests =
            matches!((state.role, state.status), (Role::Stop, Status::NotReady) | (Role::Up, Status::Ready));
        if rests { Ok(()) } else { Err(format!("in the quiet it stays {state}")) }
    }

    fn told(&self, violation: &str) -> String {
        let last = self.trace.len().saturating_sub(40);
        format!("{violation}\n{:#?}\n{}", self.setup, self.trace[last..].join("\n"))
    }
}
