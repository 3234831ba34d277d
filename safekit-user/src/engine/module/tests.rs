//! One module and an obedient driver.

use super::*;
use crate::config::upkeep::AfterMaxLoop;
use crate::types::module::Script::{StartBoth, StopBoth};

const TIMEOUT: Duration = Duration::from_secs(30);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn setup() -> Setup {
    Setup {
        name: "www".into(),
        kind: Kind::Farm,
        boot: Boot::On,
        boot_delay: Duration::ZERO,
        after: vec![],
        scripts: vec![(StartBoth, TIMEOUT), (StopBoth, TIMEOUT)],
        max_loop: MaxLoop { count: 3, within: secs(24 * 3600), then: AfterMaxLoop::Stop },
        drain_on_stop: Some(secs(10)),
    }
}

/// Runs scripts and turns the gate as it is told; a script can be made to fail.
struct Driver {
    automaton: Automaton,
    now: Instant,
    fails: Option<(Script, ScriptEnd)>,
    ran: Vec<String>,
    gates: Vec<(Gate, Option<Duration>)>,
    saved: Option<Saved>,
    ended: bool,
}

impl Driver {
    fn of(setup: Setup) -> Self {
        let now = Instant(1_000_000_000);
        Self {
            automaton: Automaton::new(setup, now),
            now,
            fails: None,
            ran: vec![],
            gates: vec![],
            saved: None,
            ended: false,
        }
    }

    fn up() -> Self {
        let mut driver = Self::of(setup());
        driver.tell(Input::Begin { saved: None, same_machine_boot: false });
        assert_eq!(driver.state(), "UP (Ready)");
        driver.ran.clear();
        driver.gates.clear();
        driver
    }

    fn tell(&mut self, input: Input) {
        self.automaton.handle(input, self.now);
        while let Some(output) = self.automaton.poll_output() {
            self.obey(output);
        }
    }

    fn obey(&mut self, output: Output) {
        match output {
            Output::Run(order) => {
                let force = if order.force { " force" } else { "" };
                self.ran.push(format!("{}{force}", order.script.word()));
                let end = match &self.fails {
                    Some((script, end)) if *script == order.script && !order.force => end.clone(),
                    _ => ScriptEnd::Done,
                };
                self.automaton.handle(Input::ScriptEnded { run: order.run, end }, self.now);
            }
            Output::RestartServices { run, .. } => {
                self.ran.push("services".to_owned());
                self.automaton.handle(Input::ScriptEnded { run, end: ScriptEnd::Done }, self.now);
            }
            Output::Gate { gate, drain } => {
                self.gates.push((gate, drain));
                self.automaton.handle(Input::Gate(gate), self.now);
            }
            Output::Save(saved) => self.saved = Some(saved),
            Output::Ended => self.ended = true,
            Output::Kill { .. } | Output::Changed { .. } | Output::Looped { .. } => {}
        }
    }

    fn verb(&mut self, verb: Verb) {
        self.tell(Input::Verb { verb, by: "ann".into() });
    }

    fn failed(&mut self) {
        let cause = "check process.nginx: none of 1 is there".to_owned();
        self.tell(Input::Act { action: Action::Restart, services: vec![], cause });
    }

    fn advance(&mut self, span: Duration) {
        self.now = self.now + span;
        self.tell(Input::Timer);
    }

    fn state(&self) -> String {
        self.automaton.state().to_string()
    }
}

#[test]
fn it_starts_then_opens_and_closes_then_stops() {
    let mut driver = Driver::of(setup());
    driver.tell(Input::Begin { saved: None, same_machine_boot: false });
    assert_eq!((driver.state().as_str(), driver.ran.join(" ").as_str()), ("UP (Ready)", "start_both"));
    assert_eq!(driver.gates, [(Gate::Open, None)]);
    driver.verb(Verb::Stop);
    assert_eq!(
        (driver.state().as_str(), driver.ran.join(" ").as_str()),
        ("STOP (NotReady)", "start_both stop_both")
    );
    assert_eq!(driver.gates[1], (Gate::Closed, Some(secs(10))));
    assert_eq!(driver.automaton.causes(), ["stopped by ann"]);
    assert_eq!(driver.automaton.next_step().as_deref(), Some("`safekit start www` starts it"));
}

#[test]
fn a_failed_check_restarts_without_a_drain_and_the_fourth_stops() {
    let mut driver = Driver::up();
    for count in 1..=3 {
        driver.failed();
        assert_eq!((driver.state().as_str(), driver.automaton.loops(driver.now)), ("UP (Ready)", count));
    }
    assert_eq!(driver.ran.join(" "), ["stop_both start_both"; 3].join(" "));
    assert!(driver.gates.iter().all(|(_, drain)| drain.is_none()));
    driver.failed();
    assert_eq!(driver.state(), "STOP (NotReady)");
    let causes = driver.automaton.causes().join("; ");
    assert!(
        causes.contains("max_loop: more than 3 automatic actions in 24 h")
            && causes.contains("process.nginx"),
        "{causes}"
    );
    driver.verb(Verb::Start);
    assert_eq!((driver.state().as_str(), driver.automaton.loops(driver.now)), ("UP (Ready)", 0));
}

#[test]
fn backing_off_tries_again_later_and_later() {
    let max_loop = MaxLoop { count: 1, within: secs(24 * 3600), then: AfterMaxLoop::Backoff };
    let mut driver = Driver::of(Setup { max_loop, ..setup() });
    driver.fails = Some((StartBoth, ScriptEnd::Failed { code: Some(3), last_line: "no licence".into() }));
    driver.tell(Input::Begin { saved: None, same_machine_boot: false });
    for pause in [60, 120, 240] {
        assert_eq!(driver.state(), "WAIT (NotReady)");
        let tries = driver.ran.len();
        driver.advance(secs(pause - 1));
        assert_eq!(driver.ran.len(), tries, "not before {pause} s");
        driver.advance(secs(1));
        assert!(driver.ran.len() > tries);
    }
    driver.fails = None;
    driver.advance(secs(480));
    assert_eq!(driver.state(), "UP (Ready)");
}

#[test]
fn a_start_that_fails_gets_no_traffic_and_says_why() {
    let mut driver = Driver::of(setup());
    driver.fails = Some((StartBoth, ScriptEnd::Failed { code: Some(3), last_line: "no licence".into() }));
    driver.tell(Input::Begin { saved: None, same_machine_boot: false });
    assert_eq!(driver.state(), "STOP (NotReady)");
    assert!(driver.gates.is_empty(), "{:?}", driver.gates);
    assert_eq!(
        driver.ran.join(" "),
        ["start_both stop_both"; 4].join(" "),
        "each start is followed by a stop"
    );
    let causes = driver.automaton.causes().join("; ");
    assert!(causes.contains("start_both failed with exit code 3: no licence"), "{causes}");
}

#[test]
fn a_stop_that_fails_is_forced() {
    let mut driver = Driver::up();
    driver.fails = Some((StopBoth, ScriptEnd::TimedOut));
    driver.verb(Verb::Stop);
    assert_eq!(
        (driver.state().as_str(), driver.ran.join(" ").as_str()),
        ("STOP (NotReady)", "stop_both stop_both force")
    );
}

#[test]
fn it_waits_for_what_it_comes_after_and_for_what_blocks_it() {
    let mut driver = Driver::of(setup());
    driver.tell(Input::After { missing: vec!["db".into()] });
    driver.tell(Input::Begin { saved: None, same_machine_boot: false });
    assert_eq!(driver.state(), "WAIT (NotReady)");
    assert!(driver.automaton.causes()[0].contains("db"));
    driver.tell(Input::Blocked { by: vec!["link.lan is down".into()] });
    driver.tell(Input::After { missing: vec![] });
    assert_eq!(driver.state(), "WAIT (NotReady)");
    driver.tell(Input::Blocked { by: vec![] });
    assert_eq!(driver.state(), "UP (Ready)");
    driver.tell(Input::Blocked { by: vec!["link.lan is down".into()] });
    assert_eq!(
        (driver.state().as_str(), driver.gates.last()),
        ("WAIT (NotReady)", Some(&(Gate::Closed, None)))
    );
    driver.tell(Input::Blocked { by: vec![] });
    assert_eq!(driver.state(), "UP (Ready)");
}

#[test]
fn a_script_that_never_ends_is_killed_and_then_given_up() {
    let mut automaton = Automaton::new(setup(), Instant(0));
    automaton.handle(Input::Begin { saved: None, same_machine_boot: false }, Instant(0));
    let killed = |automaton: &mut Automaton| {
        std::iter::from_fn(|| automaton.poll_output()).any(|output| matches!(output, Output::Kill { .. }))
    };
    assert!(!killed(&mut automaton));
    let deadline = automaton.next_deadline().expect("a script runs");
    automaton.handle(Input::Timer, deadline);
    assert!(killed(&mut automaton));
    let deadline = automaton.next_deadline().expect("it has been told to end");
    automaton.handle(Input::Timer, deadline);
    assert!(automaton.causes()[0].contains("start_both did not end within 30s"), "{:?}", automaton.causes());
}

#[test]
fn an_application_survives_its_daemon() {
    let driver = Driver::up();
    let saved = driver.saved.clone();
    let mut next = Driver::of(setup());
    next.tell(Input::Begin { saved: saved.clone(), same_machine_boot: true });
    assert_eq!((next.state().as_str(), next.ran.len()), ("UP (Ready)", 0));
    // The machine has restarted: nothing runs any more.
    let mut booted = Driver::of(setup());
    booted.tell(Input::Begin { saved, same_machine_boot: false });
    assert_eq!((booted.state().as_str(), booted.ran.join(" ").as_str()), ("UP (Ready)", "start_both"));
}

#[test]
fn a_daemon_that_died_between_scripts_stops_by_force_before_it_starts() {
    let mut automaton = Automaton::new(setup(), Instant(0));
    automaton.handle(Input::Begin { saved: None, same_machine_boot: false }, Instant(0));
    let saved = std::iter::from_fn(|| automaton.poll_output())
        .filter_map(|output| if let Output::Save(saved) = output { Some(saved) } else { None })
        .last();
    let mut next = Driver::of(setup());
    next.tell(Input::Begin { saved, same_machine_boot: true });
    assert_eq!(
        (next.state().as_str(), next.ran.join(" ").as_str()),
        ("UP (Ready)", "stop_both force start_both")
    );
}

#[test]
fn a_shutdown_stops_everything_and_a_boot_starts_it_again() {
    let mut driver = Driver::up();
    driver.tell(Input::Shutdown { by: "the daemon stops".into() });
    assert!(driver.ended);
    assert_eq!(driver.ran.join(" "), "stop_both");
    let mut next = Driver::of(Setup { boot: Boot::Auto, ..setup() });
    next.tell(Input::Begin { saved: driver.saved.clone(), same_machine_boot: true });
    assert_eq!(next.state(), "UP (Ready)");
    driver = Driver::up();
    driver.verb(Verb::Stop);
    let mut stopped = Driver::of(Setup { boot: Boot::Auto, ..setup() });
    stopped.tell(Input::Begin { saved: driver.saved.clone(), same_machine_boot: false });
    assert_eq!(stopped.state(), "STOP (NotReady)");
}
