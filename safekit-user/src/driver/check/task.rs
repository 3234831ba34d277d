//! The task of one check: carries probes, events and reports to its checker, and out what that decided.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::reporter::{Reporter, Trouble};
use super::sight::{Look, Seen, Sight};
use super::{Finding, Infos, Surroundings};
use crate::config::upkeep::{Check, CheckKind};
use crate::driver::clock;
use crate::engine::check::{Checker, Input, Output};
use crate::types::Instant;
use crate::types::module::ResourceState;

/// Between two looks that events asked for: what flaps all the time must not keep a core busy.
const STIR_PAUSE: Duration = Duration::from_millis(25);
/// Programs end faster than they are restarted.
const TROUBLES_MAX: usize = 4;

/// The latest report, and how many there were.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) count: u64,
    pub(super) state: ResourceState,
    pub(super) by: String,
}

impl Default for Said {
    fn default() -> Self {
        Self { count: 0, state: ResourceState::Init, by: String::new() }
    }
}

pub(super) struct Task {
    place: usize,
    check: Check,
    around: Arc<Surroundings>,
    checker: Checker,
    sight: Sight,
    stir: Arc<Notify>,
    active: watch::Receiver<Vec<bool>>,
    reports: watch::Receiver<Said>,
    infos: Infos,
    findings: mpsc::Sender<Finding>,
    /// The probe under way: its number and when it began.
    probe: Option<(u64, Instant, Look)>,
    /// The look that the next event asks for.
    glance: Option<Look>,
    /// Of a program that runs on and reports, while the check is active.
    reporter: Option<Reporter>,
    trouble: (mpsc::Sender<Trouble>, mpsc::Receiver<Trouble>),
}

impl Task {
    pub(super) fn new(
        place: usize,
        check: Check,
        around: &Arc<Surroundings>,
        active: watch::Receiver<Vec<bool>>,
        reports: watch::Receiver<Said>,
        infos: Infos,
        findings: mpsc::Sender<Finding>,
    ) -> Self {
        let stir = Arc::new(Notify::new());
        let sight = Sight::of(&check, around, &stir);
        let now = clock::now();
        let checker = match sight {
            Sight::Told => Checker::told(check.rise, check.fall, now),
            _ => Checker::new(check.interval, check.timeout, check.rise, check.fall, now),
        };
        Self {
            place,
            around: Arc::clone(around),
            checker,
            sight,
            stir,
            active,
            reports,
            infos,
            findings,
            probe: None,
            glance: None,
            reporter: None,
            trouble: mpsc::channel(TROUBLES_MAX),
            check,
        }
    }

    /// Until it is aborted, or nobody listens any more.
    pub(super) async fn run(mut self) {
        self.set_active();
        while self.carry_out().await {
            let wake = pause(self.checker.next_deadline());
            tokio::select! {
                () = wake => self.feed(Input::Timer),
                input = answer(&mut self.probe) => {
                    self.probe = None;
                    self.feed(input);
                }
                seen = glanced(&mut self.glance) => {
                    self.glance = Some(self.listen(STIR_PAUSE));
                    self.feed(Input::Event { up: seen.up, output: seen.output });
                }
                Some(Trouble { output }) = self.trouble.1.recv() => self.feed(Input::Failed { output }),
                changed = self.active.changed() => match changed {
                    Ok(()) => self.set_active(),
                    Err(_) => return,
                },
                Ok(()) = self.reports.changed() => self.take_report(),
            }
        }
    }

    fn feed(&mut self, input: Input) {
        self.checker.handle(input, clock::now());
    }

    /// Whether there is still somebody to tell.
    async fn carry_out(&mut self) -> bool {
        while let Some(output) = self.checker.poll_output() {
            match output {
                Output::Probe { attempt } => self.probe = Some((attempt, clock::now(), self.sight.look())),
                Output::Changed { state, output } => {
                    self.show();
                    let finding = Finding { check: self.place, state, output };
                    if self.findings.send(finding).await.is_err() {
                        return false;
                    }
                }
            }
        }
        // One whose answer does not count any more ends here, with what it started.
        let under_way = self.checker.under_way();
        self.probe.take_if(|(attempt, ..)| Some(*attempt) != under_way);
        self.show();
        true
    }

    fn set_active(&mut self) {
        let active = self.active.borrow_and_update().get(self.place).copied().unwrap_or(false);
        if active == self.checker.is_active() {
            return;
        }
        self.feed(Input::Activate(active));
        self.glance = active.then(|| self.listen(Duration::ZERO));
        self.reporter = match &self.check.kind {
            CheckKind::Custom { run, reports: true } if active => {
                Some(Reporter::start(&self.check, run, &self.around, self.trouble.0.clone()))
            }
            _ => None,
        };
    }

    fn take_report(&mut self) {
        let said = self.reports.borrow_and_update().clone();
        let output = format!("reported {} by {}", said.state.word(), said.by);
        match said.state {
            ResourceState::Up => self.feed(Input::Certain { up: true, output }),
            ResourceState::Down => self.feed(Input::Certain { up: false, output }),
            // Nothing is known any more: as if it had just begun.
            ResourceState::Init | ResourceState::Unknown if self.checker.is_active() => {
                self.feed(Input::Activate(false));
                self.feed(Input::Activate(true));
            }
            ResourceState::Init | ResourceState::Unknown => {}
        }
    }

    /// Waits until something stirs, and looks then.
    fn listen(&self, pause: Duration) -> Look {
        let (sight, stir) = (self.sight.clone(), Arc::clone(&self.stir));
        let limit = self.check.timeout;
        Box::pin(async move {
            sleep(pause).await;
            loop {
                tokio::select! {
                    () = stir.notified() => {}
                    () = sight.differs() => {}
                }
                // A look that does not end says nothing; the next probe will.
                if let Ok(seen) = timeout(limit, sight.look()).await {
                    return seen;
                }
            }
        })
    }

    fn show(&self) {
        let mut infos = self.infos.lock().unwrap_or_else(PoisonError::into_inner);
        let info = &mut infos[self.place];
        info.state = self.checker.state();
        info.active = self.checker.is_active();
        info.since = self.checker.since();
        info.took_ms = self.checker.took().map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.checker.output().clone_into(&mut info.output);
    }
}

async fn pause(until: Option<Instant>) {
    match until {
        Some(until) => sleep(until.since(clock::now())).await,
        None => std::future::pending().await,
    }
}

async fn answer(probe: &mut Option<(u64, Instant, Look)>) -> Input {
    let Some((attempt, begun, look)) = probe else { return std::future::pending().await };
    let Seen { up, output } = look.await;
    Input::Probed { attempt: *attempt, up, output, took: clock::now().since(*begun) }
}

async fn glanced(glance: &mut Option<Look>) -> Seen {
    match glance {
        Some(look) => look.await,
        None => std::future::pending().await,
    }
}
