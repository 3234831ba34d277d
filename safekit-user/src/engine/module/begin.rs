//! What a daemon finds when it starts, and what follows for a module.

use super::{Automaton, CAUSES_MAX, Found, Output, Phase, Saved, Then};
use crate::config::Upkeep;
use crate::config::upkeep::Boot;
use crate::types::module::{Gate, Role, Status};

/// How a module begins in a new life of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    /// The machine, or the service of the daemon, has been started: the configuration decides.
    Boot {
        start: bool,
    },
    /// The application has survived its daemon.
    Adopt,
    /// It was down, and somebody wants it to run.
    Raise,
    StayDown,
    /// The daemon ended between its scripts: everything is stopped by force first.
    Recover {
        wanted: bool,
    },
}

fn beginning(boot: Boot, saved: Option<&Saved>, same_machine_boot: bool) -> Beginning {
    let by_boot = match boot {
        Boot::On => true,
        Boot::Off => false,
        Boot::Auto => saved.is_some_and(|saved| saved.wanted),
    };
    let Some(saved) = saved else { return Beginning::Boot { start: by_boot } };
    if !same_machine_boot || saved.shut_down && saved.how == Found::Down {
        return Beginning::Boot { start: by_boot };
    }
    let wanted = if saved.shut_down { by_boot } else { saved.wanted };
    match saved.how {
        Found::Up if !saved.shut_down => Beginning::Adopt,
        Found::Down if wanted => Beginning::Raise,
        Found::Down => Beginning::StayDown,
        // Also what was on its way down with the daemon.
        Found::Unknown | Found::Up => Beginning::Recover { wanted },
    }
}

/// The percentage of its traffic that a farm's node takes before anything has run: all of it where the application has
/// survived its daemon, or where there is none to start.
pub fn share_at_start(upkeep: &Upkeep, saved: Option<&Saved>, same_machine_boot: bool) -> u8 {
    let nothing_to_wait_for = upkeep.scripts.is_empty()
        && upkeep.services.is_empty()
        && upkeep.checks.is_empty()
        && upkeep.after.is_empty()
        && upkeep.boot_delay.is_zero()
        && upkeep.traffic.slow_start.is_zero();
    let starts_now = match beginning(upkeep.boot, saved, same_machine_boot) {
        Beginning::Adopt => return 100,
        Beginning::Boot { start } | Beginning::Recover { wanted: start } => start,
        Beginning::Raise => true,
        Beginning::StayDown => false,
    };
    if starts_now && nothing_to_wait_for { 100 } else { 0 }
}

impl Automaton {
    pub(super) fn begin(&mut self, saved: Option<Saved>, same_machine_boot: bool) {
        let beginning = beginning(self.setup.boot, saved.as_ref(), same_machine_boot);
        if let Some(saved) = saved {
            self.starts = saved.starts;
            self.loops.restore(&saved.loops, saved.backoff, self.now);
            if !same_machine_boot || saved.shut_down {
                // A machine or a service that somebody has started again: a new beginning.
                self.loops.forgive();
            }
            self.causes = saved.causes;
            self.causes.truncate(CAUSES_MAX);
        }
        match beginning {
            Beginning::Boot { start } => self.boot(start),
            Beginning::Adopt => self.adopt(),
            Beginning::Raise => {
                self.wanted = true;
                self.raise("the daemon has started again");
            }
            Beginning::StayDown => {
                self.wanted = false;
                if self.causes.is_empty() {
                    self.causes = vec!["it was stopped before".to_owned()];
                }
            }
            Beginning::Recover { wanted } => self.recover(wanted),
        }
    }

    fn boot(&mut self, start: bool) {
        self.wanted = start;
        if !start {
            self.causes = vec!["it is not started at boot (start: { boot: off })".to_owned()];
            self.save();
        } else if self.setup.boot_delay.is_zero() {
            self.raise("started at boot");
        } else {
            self.causes = vec![format!("its start at boot waits {:?}", self.setup.boot_delay)];
            let until = self.now + self.setup.boot_delay;
            self.enter(Phase::Delayed(until), Role::Wait, Status::NotReady, "started at boot");
        }
    }

    /// It has run all the time.
    fn adopt(&mut self) {
        self.wanted = true;
        self.started = true;
        self.gate = Gate::Open;
        self.causes.clear();
        self.outputs.push_back(Output::Gate { gate: Gate::Open, drain: None });
        self.enter(Phase::Up, Role::Up, Status::Ready, "the daemon has started again");
    }

    /// Nobody knows what runs.
    fn recover(&mut self, wanted: bool) {
        self.wanted = wanted;
        self.started = true;
        self.then = if wanted { Then::Stopstart } else { Then::Stop };
        self.action = "forcestop";
        self.explain("the daemon ended while its scripts ran");
        self.stop_scripts();
    }
}
