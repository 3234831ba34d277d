//! Services under a real systemd: one of its own, as process 1 of namespaces, with the machine's units and programs.

mod farm;
mod machine;
mod mirror;
mod unit;

use std::time::Duration;

use anyhow::Context;
use machine::Machine;
use safekit::config::upkeep::ScriptSpec;
use safekit::driver::clock;
use safekit::driver::scripts::{Place, Run, Runner, logs};
use safekit::engine::doctor::facts::ServiceTrouble;
use safekit::types::Reply;
use safekit::types::module::{Role, RunId, Script, ScriptEnd};
use safekit_tests::lab;
use tokio::sync::mpsc;

/// A module's runner, for the services of such a machine.
struct Bench<'m> {
    machine: &'m Machine,
    place: Place,
    runner: Runner,
    ends: mpsc::Receiver<(RunId, ScriptEnd)>,
    runtime: tokio::runtime::Runtime,
    next: u64,
}

impl<'m> Bench<'m> {
    fn new(machine: &'m Machine, services: &[&str], scripts: Vec<ScriptSpec>) -> anyhow::Result<Self> {
        let place = Place {
            state_dir: machine.dir().join("state"),
            module: services.join("-"),
            node: "web1".to_owned(),
            directory: machine.dir().to_owned(),
            variables: Vec::new(),
            scripts,
            services: services.iter().map(|it| (*it).to_owned()).collect(),
        };
        let (ended, ends) = mpsc::channel(4);
        let runner = Runner::with_systemctl(place.clone(), ended, machine.systemctl());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { machine, place, runner, ends, runtime, next: 0 })
    }

    fn run(&mut self, script: Script, force: bool, timeout: Duration) -> anyhow::Result<ScriptEnd> {
        self.next += 1;
        let run = Run {
            run: RunId(self.next),
            script,
            force,
            from: Role::Wait,
            to: Role::Up,
            action: "start".to_owned(),
            cause: "a test".to_owned(),
            timeout,
        };
        let _inside = self.runtime.enter();
        self.runner.run(run);
        self.end()
    }

    fn restart(&mut self, services: &[&str]) -> anyhow::Result<ScriptEnd> {
        self.next += 1;
        let names: Vec<String> = services.iter().map(|it| (*it).to_owned()).collect();
        let _inside = self.runtime.enter();
        self.runner.restart_services(RunId(self.next), &names, PATIENCE);
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<ScriptEnd> {
        let ended = async { tokio::time::timeout(PATIENCE * 2, self.ends.recv()).await };
        let (run, end) = self.runtime.block_on(ended)?.context("the runner lives")?;
        assert_eq!(run, RunId(self.next));
        Ok(end)
    }

    fn last_output(&self) -> String {
        let Reply::Runs { runs } = logs::runs(&self.place.state_dir, &self.place.module, None, 1) else {
            return String::new();
        };
        let name = runs.first().map(|run| run.name.clone()).unwrap_or_default();
        match logs::page(&self.place.state_dir, &self.place.module, &name, 0) {
            Reply::LogPage { page } => page.text,
            other => format!("{other:?}"),
        }
    }

    fn state(&self, unit: &str) -> String {
        self.machine.output(&["systemctl", "is-active", unit])
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Ends at once when it is asked to start.
const BROKEN: &str = "[Service]\nType=simple\nExecStart=/bin/sh -c 'echo the disk is gone; exit 3'\n";
/// Says that it is up, and dies a moment later.
const BRIEF: &str = "[Service]\nType=simple\nExecStart=/bin/sh -c 'sleep 0.05; echo oh no; exit 7'\n";
/// Does its work and ends, and counts as up.
const ONESHOT: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n";
/// Does not end when it is asked to.
const DEAF: &str =
    "[Service]\nTimeoutStopSec=600\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'\n";

/// One machine for all stories: it takes seconds to boot.
#[test]
fn services_are_started_verified_and_stopped_by_a_real_systemd() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let machine = Machine::boot(1)?;
    let units = [("broken", BROKEN), ("brief", BRIEF), ("once", ONESHOT), ("deaf", DEAF)];
    machine.install(&units)?;
    nginx_serves_and_stops(&machine)?;
    what_fails_says_why(&machine)?;
    what_ended_well_counts_as_up(&machine)?;
    what_does_not_end_is_ended_by_force(&machine)?;
    only_what_is_named_is_restarted(&machine)
}

fn nginx_serves_and_stops(machine: &Machine) -> anyhow::Result<()> {
    let mut bench = Bench::new(machine, &["nginx"], Vec::new())?;
    let begun = clock::now();
    assert_eq!(bench.run(Script::StartBoth, false, PATIENCE)?, ScriptEnd::Done, "{}", bench.last_output());
    eprintln!("nginx started and verified in {:?}", clock::now().since(begun));
    assert_eq!(bench.state("nginx"), "active");
    assert!(machine.first_line_of_page().contains("200 OK"), "{}", machine.first_line_of_page());

    let trouble = bench.runtime.block_on(machine.systemctl().trouble("nginx"));
    assert_eq!(trouble, Some(ServiceTrouble::StartsByItself), "Debian enables what it installs");

    let begun = clock::now();
    assert_eq!(bench.run(Script::StopBoth, false, PATIENCE)?, ScriptEnd::Done);
    eprintln!("nginx stopped and verified in {:?}", clock::now().since(begun));
    assert_eq!(bench.state("nginx"), "inactive");
    Ok(())
}

fn what_fails_says_why(machine: &Machine) -> anyhow::Result<()> {
    for (unit, words) in [("broken", "the disk is gone"), ("brief", "oh no")] {
        let mut bench = Bench::new(machine, &["once", unit], Vec::new())?;
        let end = bench.run(Script::StartBoth, false, PATIENCE)?;
        let ScriptEnd::Failed { code: None, last_line } = end else { panic!("{unit}: {end:?}") };
        let expected = format!("{unit} is failed (failed), result exit-code: {words}");
        assert_eq!(last_line, expected, "{}", bench.last_output());
        assert!(bench.last_output().contains(words), "the log has the unit's own: {}", bench.last_output());
    }
    let mut bench = Bench::new(machine, &["ngnix"], Vec::new())?;
    let end = bench.run(Script::StartBoth, false, PATIENCE)?;
    assert_eq!(end, ScriptEnd::NotStarted { why: "systemd knows no unit ngnix".to_owned() });
    Ok(())
}

fn what_ended_well_counts_as_up(machine: &Machine) -> anyhow::Result<()> {
    let mut bench = Bench::new(machine, &["once"], Vec::new())?;
    assert_eq!(bench.run(Script::StartBoth, false, PATIENCE)?, ScriptEnd::Done);
    assert_eq!(bench.state("once"), "active");
    assert_eq!(bench.run(Script::StopBoth, false, PATIENCE)?, ScriptEnd::Done);
    assert_eq!(bench.state("once"), "inactive");
    Ok(())
}

fn what_does_not_end_is_ended_by_force(machine: &Machine) -> anyhow::Result<()> {
    let mut bench = Bench::new(machine, &["deaf"], Vec::new())?;
    assert_eq!(bench.run(Script::StartBoth, false, PATIENCE)?, ScriptEnd::Done);
    // The shell inside has to ignore the request before it comes.
    std::thread::sleep(Duration::from_millis(300));
    let end = bench.run(Script::StopBoth, false, Duration::from_secs(1))?;
    assert_eq!(end, ScriptEnd::TimedOut, "{}", bench.last_output());
    assert_eq!(bench.run(Script::StopBoth, true, PATIENCE)?, ScriptEnd::Done, "{}", bench.last_output());
    assert_ne!(bench.state("deaf"), "active");
    Ok(())
}

fn only_what_is_named_is_restarted(machine: &Machine) -> anyhow::Result<()> {
    let mut bench = Bench::new(machine, &["nginx", "once"], Vec::new())?;
    assert_eq!(bench.run(Script::StartBoth, false, PATIENCE)?, ScriptEnd::Done);
    let main = |unit: &str| machine.output(&["systemctl", "show", "-p", "InvocationID", "--value", unit]);
    let before = (main("nginx"), main("once"));
    assert_eq!(bench.restart(&["nginx"])?, ScriptEnd::Done);
    assert_ne!(main("nginx"), before.0, "another life of it");
    assert_eq!(main("once"), before.1, "left alone");
    assert_eq!(bench.run(Script::StopBoth, false, PATIENCE)?, ScriptEnd::Done);
    Ok(())
}
