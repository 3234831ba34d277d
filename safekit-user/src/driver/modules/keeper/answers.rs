//! What a keeper answers to commands.

use std::time::Duration;

use super::Keeper;
use crate::config::upkeep::CheckKind;
use crate::driver::clock;
use crate::driver::modules::Level;
use crate::driver::scripts::logs;
use crate::engine::module::Input;
use crate::engine::rules::Sight;
use crate::types::module::Maintenance;
use crate::types::{Command, Reply};

impl Keeper {
    pub(super) fn answer(&mut self, command: Command, by: String) -> Reply {
        let now = clock::now();
        match command {
            Command::Module { verb, .. } => {
                self.note(Level::Info, "verb", verb.word(), Some(format!("asked by {by}")));
                self.feed(Input::Verb { verb, by });
                Reply::Accepted { at: now }
            }
            Command::Checks { on, for_ms, .. } => {
                let until = for_ms.map(|ms| now + Duration::from_millis(ms));
                self.maintain((!on).then_some(Maintenance { since: now, until }), &format!("asked by {by}"));
                Reply::Accepted { at: now }
            }
            Command::Report { check, state, .. } => match self.checks.report(&check, state, &by) {
                Ok(()) => Reply::Accepted { at: now },
                Err(error) => refused(&error.to_string(), &self.name_one_of_the_checks()),
            },
            Command::Resource { name, .. } => self.resource(&name),
            Command::SetResource { name, state, .. } => match self.resources.set(&name, state, &by, now) {
                Ok(()) => self.resource(&name),
                Err(error) => refused(&error.to_string(), "a name is class.name, as in custom.backup"),
            },
            Command::Rules { .. } => {
                let remotes = self.remote_states();
                let state = self.automaton.state();
                Reply::Rules {
                    rules: self.book.explain(Sight { resources: &self.resources, state, remotes: &remotes }),
                }
            }
            Command::Logs { module, script, last } => {
                logs::runs(self.state_dir(), &module, script.as_deref(), last as usize)
            }
            Command::LogPage { module, run, from } => logs::page(self.state_dir(), &module, &run, from),
            Command::Mirror { module, .. } => refused(
                &format!("{module} is no mirror"),
                "`safekit mirror status` lists the mirrors of this node",
            ),
            _ => refused("this command is not about a module", "report this as a defect"),
        }
    }

    fn resource(&self, name: &str) -> Reply {
        match self.resources.look_up(name) {
            Some((resource, history)) => Reply::Resource { resource, history, taken: clock::now() },
            None => {
                let known: Vec<String> = self.resources.all().map(|it| it.name).collect();
                let next_step = format!("name one of: {}", known.join(", "));
                refused(&format!("{} has no resource {name}", self.module.name), &next_step)
            }
        }
    }

    fn name_one_of_the_checks(&self) -> String {
        let checks = self.module.upkeep.checks.iter();
        let takes_reports =
            checks.filter(|check| matches!(check.kind, CheckKind::Custom { reports: true, .. }));
        let names: Vec<&str> = takes_reports.map(|check| check.name.as_str()).collect();
        match names.is_empty() {
            true => "add `reports: true` to a custom check of its configuration".to_owned(),
            false => format!("name one of: {}", names.join(", ")),
        }
    }
}

fn refused(error: &str, next_step: &str) -> Reply {
    Reply::Refused { error: error.to_owned(), next_step: next_step.to_owned() }
}
