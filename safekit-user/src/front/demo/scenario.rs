//! Plays a script on a farm, and measures what each step does to the client.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::client::{self, Client, Load};
use super::farm::{self, Farm, PORT};
use super::interrupt::{Interrupt, Interrupted};
use super::report::{Course, StepReport};
use super::script::{Action, Step};
use super::tap::{self, Tap};
use super::timeline::{Change, Fault};
use super::topology::{VIRTUAL_IP, node_name};
use crate::driver::clock;
use crate::types::{Instant, NodeId};

/// A farm that has not come to rest by then never will.
pub const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the client is watched after a change: longer than its timeout, so that what the change broke shows.
const MEASURE: Duration = Duration::from_secs(4);
/// Also when somebody waits for the next step.
const MEASURE_MIN: Duration = Duration::from_secs(1);
/// A node that leaves keeps its connections for a second: within it, its web server says goodbye to them.
const DRAIN: Duration = Duration::from_millis(200);
/// After the client's own timeout.
const DECIDED_TIMEOUT: Duration = Duration::from_secs(5);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(15);

pub const REQUESTS_PER_SECOND: u32 = 200;
pub const LONG_CONNECTIONS: usize = 60;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    #[error(transparent)]
    Farm(#[from] farm::Error),
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error(transparent)]
    Tap(#[from] tap::Error),
    #[error("{what} not within {:?}; seen was:\n{seen}", CONVERGENCE_TIMEOUT)]
    NotConverged { what: String, seen: String },
    #[error("cannot use the terminal")]
    Screen(#[source] std::io::Error),
    #[error("only {standing} of {wanted} long connections stood within {:?}", CLIENT_TIMEOUT)]
    NoConnections { standing: usize, wanted: usize },
}

/// Who watches: a screen, or lines on a terminal.
pub trait Audience {
    /// Something begins.
    fn caption(&self, text: &str);
    /// A step is over.
    fn result(&self, report: &StepReport);
    /// Somebody waits for the next step: no more measuring.
    fn is_impatient(&self) -> bool;
}

/// A farm with its client, ready for steps.
pub struct Scenario<'a> {
    // Dropped in this order: the client before the wires that it uses.
    pub client: Client,
    tap: Tap,
    pub farm: Farm,
    interrupt: &'a Interrupt,
    audience: &'a dyn Audience,
}

impl<'a> Scenario<'a> {
    /// Builds everything and waits until it is at rest.
    pub fn build(
        binary: &Path,
        nodes: usize,
        interrupt: &'a Interrupt,
        audience: &'a dyn Audience,
    ) -> Result<Self, Error> {
        let farm = Farm::build(binary, nodes)?;
        Self::with(farm, LONG_CONNECTIONS, interrupt, audience)
    }

    /// Waits until `farm` is at rest, and sets a client on it.
    pub fn with(
        mut farm: Farm,
        long_connections: usize,
        interrupt: &'a Interrupt,
        audience: &'a dyn Audience,
    ) -> Result<Self, Error> {
        audience.caption("waiting until the nodes have found each other");
        wait_whole(&mut farm, interrupt)?;
        audience.caption("starting the client");
        let namespace = farm.topology().client();
        let tap = Tap::start(namespace, (VIRTUAL_IP, PORT).into())?;
        let load = Load {
            target: (VIRTUAL_IP, PORT).into(),
            requests_per_second: REQUESTS_PER_SECOND,
            long_connections,
            nodes: farm.ids().map(node_name).collect(),
        };
        let client = Client::start(namespace, load)?;
        let scenario = Self { farm, client, tap, interrupt, audience };
        scenario.wait_connected(long_connections)?;
        Ok(scenario)
    }

    /// Lets one thing happen, waits until it is over, and reports.
    pub fn play(&mut self, step: Step) -> Result<StepReport, Error> {
        self.play_shown(step, |_| {})
    }

    /// The same; `on_change` sees the farm as soon as a machine has changed its state.
    pub fn play_shown(&mut self, step: Step, on_change: impl Fn(&Self)) -> Result<StepReport, Error> {
        self.audience.caption(&announcement(step));
        let full = self.farm.buckets().unwrap_or_default();
        let others =
            self.farm.ids().filter(|node| *node != step.node && self.farm.runs_daemon(*node)).collect();
        let at = self.act(step)?;
        on_change(self);
        let change = match step.action {
            Action::Kill | Action::Crash | Action::Stop => Change::Gone,
            Action::Revive | Action::Start => Change::Back,
        };
        let fault = Fault { at, victim: step.node, change, full };
        self.wait_converged(&fault)?;
        match step.action {
            Action::Crash => self.wait_converged(&Fault { change: Change::Back, ..fault })?,
            Action::Stop => {
                self.interrupt.pause(DRAIN)?;
                self.farm.finish_stop(step.node)?;
            }
            Action::Kill | Action::Revive | Action::Start => {}
        }
        on_change(self);
        let until = self.measure()?;
        let report = self.report(step, &fault, until, others);
        self.audience.result(&report);
        Ok(report)
    }

    /// Nothing happens, and nothing may go wrong: the client alone, for `span`.
    pub fn idle(&self, span: Duration) -> Result<(), Error> {
        let deadline = clock::now() + span;
        while clock::now() < deadline && !self.audience.is_impatient() {
            self.interrupt.nap()?;
        }
        Ok(())
    }

    fn act(&mut self, step: Step) -> Result<Instant, Error> {
        Ok(match step.action {
            Action::Kill => self.farm.kill(step.node)?,
            Action::Crash => self.farm.crash(step.node)?,
            Action::Revive => self.farm.revive(step.node)?,
            Action::Stop => self.farm.stop(step.node)?,
            Action::Start => self.farm.start(step.node)?,
        })
    }

    /// Returns as soon as all buckets are owned as they should be; whether that lasts shows in the report.
    fn wait_converged(&mut self, fault: &Fault) -> Result<(), Error> {
        let deadline = clock::now() + CONVERGENCE_TIMEOUT;
        let back = Fault { change: Change::Back, ..*fault };
        loop {
            let (timeline, now) = (self.farm.timeline(), clock::now());
            // A daemon that crashed may be back before we look.
            let until =
                if fault.change == Change::Gone { timeline.detected(&back).unwrap_or(now) } else { now };
            if timeline.converged(fault, until).is_some() {
                return Ok(());
            }
            if now > deadline {
                let what =
                    format!("the farm {:?} {} had not converged", fault.change, node_name(fault.victim));
                return Err(Error::NotConverged { what, seen: seen(&self.farm) });
            }
            if fault.change == Change::Back {
                self.farm.check_daemons()?;
            }
            self.interrupt.nap()?;
        }
    }

    /// Lets the client work on, and then waits for the fate of its last request. Says until when requests count.
    fn measure(&self) -> Result<Instant, Error> {
        self.interrupt.pause(MEASURE_MIN)?;
        self.idle(MEASURE - MEASURE_MIN)?;
        let until = clock::now();
        let deadline = until + DECIDED_TIMEOUT;
        while self.client.ledger().undecided(until) > 0 && clock::now() < deadline {
            self.interrupt.nap()?;
        }
        Ok(until)
    }

    fn report(&self, step: Step, fault: &Fault, until: Instant, others: Vec<NodeId>) -> StepReport {
        let timeline = self.farm.timeline();
        let decided = clock::now();
        let back = Fault { change: Change::Back, ..*fault };
        let crashed = step.action == Action::Crash;
        let end = if crashed { timeline.detected(&back).unwrap_or(decided) } else { decided };
        let course = Course {
            fault: fault.at,
            detected: timeline.detected(fault),
            converged: timeline.converged(fault, end),
            restored: if crashed { timeline.converged(&back, decided) } else { None },
            until,
            decided,
            others,
        };
        let nodes: Vec<NodeId> = self.farm.ids().collect();
        StepReport::new(step, &course, &self.client.ledger(), self.tap.doubles(fault.at, decided), &nodes)
    }

    fn wait_connected(&self, wanted: usize) -> Result<(), Error> {
        let deadline = clock::now() + CLIENT_TIMEOUT;
        loop {
            let standing = self.client.ledger().alive().count();
            if standing == wanted {
                return Ok(());
            }
            if clock::now() > deadline {
                return Err(Error::NoConnections { standing, wanted });
            }
            self.interrupt.nap()?;
        }
    }

    /// SYNs that two nodes answered in `[from, until)`.
    pub fn double_answers(&self, from: Instant, until: Instant) -> usize {
        self.tap.doubles(from, until)
    }
}

/// Waits until every running daemon owns its share and together they own all.
pub fn wait_whole(farm: &mut Farm, interrupt: &Interrupt) -> Result<(), Error> {
    let deadline = clock::now() + CONVERGENCE_TIMEOUT;
    while !farm.is_whole() {
        farm.check_daemons()?;
        if clock::now() > deadline {
            let what = "not every bucket had its owner".to_owned();
            return Err(Error::NotConverged { what, seen: seen(farm) });
        }
        interrupt.nap()?;
    }
    Ok(())
}

fn announcement(step: Step) -> String {
    let node = node_name(step.node);
    match step.action {
        Action::Kill => format!("{node} loses its power: both cables are dead, everything on it is killed"),
        Action::Crash => {
            format!("the daemon of {node} crashes; its parent process lives and tells the others")
        }
        Action::Revive => format!("{node} gets its power back and boots"),
        Action::Stop => format!("an operator stops {node}: it hands over first, then its connections end"),
        Action::Start => format!("an operator starts {node} again"),
    }
}

/// What the nodes say of themselves, for a message about a failure.
pub fn seen(farm: &Farm) -> String {
    let timeline = farm.timeline();
    let mut text = String::new();
    for node in farm.ids() {
        let sight = farm.sight(node);
        let state = match &sight.snapshot {
            Some(snapshot) => format!("{:?}: {}", snapshot.verdict, snapshot.summary),
            None => "never answered".to_owned(),
        };
        let connection = if sight.connected { "answers" } else { "does not answer" };
        _ = writeln!(
            text,
            "  {}: {connection}, owns {} buckets, {state}",
            node_name(node),
            timeline.owned(node)
        );
        for line in farm.last_words(node).lines() {
            _ = writeln!(text, "      {line}");
        }
    }
    text
}
