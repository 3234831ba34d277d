//! What the keeper of a mirror answers, and what it tells everybody.

use tokio::sync::oneshot;

use super::line;
use super::{ANSWER_TIMEOUT, Keeper};
use crate::driver::clock;
use crate::driver::modules::Level;
use crate::driver::modules::keeper::report::remotes;
use crate::engine::copies::keeping::Input;
use crate::types::mirror::{MirrorInfo, MirrorOrder, ReplicaReply, ReplicaRequest};
use crate::types::module::ModuleReport;
use crate::types::{Command, ModuleInfo, Reply};

impl Keeper {
    pub(super) fn answer(&mut self, command: Command, by: String, answer: oneshot::Sender<Reply>) {
        let reply = match command {
            Command::Module { verb, .. } => {
                self.note(Level::Info, "verb", verb.word().to_owned(), Some(format!("asked by {by}")));
                self.feed(Input::Verb { verb, by });
                // What is shown from now on follows from it.
                self.carry_out();
                self.post();
                Reply::Accepted { at: clock::now() }
            }
            Command::Mirror { order, .. } => return self.order(order, &by, answer),
            Command::Rules { .. } => Reply::Rules { rules: Vec::new() },
            Command::Logs { .. } | Command::LogPage { .. } => refused(
                &format!("the mirror {} runs no scripts in this version", self.module.name),
                &format!("its process writes to {}", self.log().display()),
            ),
            _ => refused(
                &format!("the mirror {} has no checks in this version", self.module.name),
                &format!("`safekit mirror status {}`", self.module.name),
            ),
        };
        // A client that no longer waits needs no answer.
        let _gone = answer.send(reply);
    }

    /// Passed on to the process, whose answer is the answer.
    fn order(&self, order: MirrorOrder, by: &str, answer: oneshot::Sender<Reply>) {
        let name = self.module.name.clone();
        if self.keeping.copies().is_empty() {
            let next_step = self.keeping.next_step();
            let error =
                format!("the directories of mirror {name} are not kept here now: {}", self.first_cause());
            let next_step = next_step.unwrap_or_else(|| format!("`safekit status {name}`, and try again"));
            let _gone = answer.send(refused(&error, &next_step));
            return;
        }
        self.note(Level::Info, "order", words(order), Some(format!("asked by {by}")));
        let socket = self.socket();
        tokio::spawn(async move {
            let asked = line::ask(&socket, &ReplicaRequest::Order { order }, ANSWER_TIMEOUT).await;
            let reply = match asked {
                Ok(ReplicaReply::Taken) => Reply::Accepted { at: clock::now() },
                Ok(ReplicaReply::Refused { error, next_step }) => Reply::Refused { error, next_step },
                Ok(ReplicaReply::Copies { .. }) => {
                    refused("its process answers another question", "report this as a defect")
                }
                Err(error) => refused(&format!("{name}: {error}"), &format!("`safekit status {name}`")),
            };
            let _gone = answer.send(reply);
        });
    }

    fn first_cause(&self) -> String {
        self.keeping.causes().into_iter().next().unwrap_or_default()
    }

    pub(super) fn post(&self) {
        self.board.post(self.place, self.report(), self.info());
        self.board.post_mirror(MirrorInfo {
            module: self.module.name.clone(),
            copies: self.keeping.copies().to_vec(),
            process: self.keeping.process(),
        });
    }

    fn report(&self) -> ModuleReport {
        ModuleReport {
            module: self.module.name.clone(),
            state: self.keeping.state(),
            cause: self.keeping.causes().into_iter().next(),
            starts: self.keeping.starts(),
            resources: Vec::new(),
        }
    }

    fn info(&self) -> ModuleInfo {
        let mut causes = self.keeping.causes();
        let mut next_step = self.keeping.next_step();
        if self.is_outdated() {
            causes.push("its process runs with the configuration of before".to_owned());
            next_step = next_step.or_else(|| Some(format!("`safekit stopstart {}`", self.module.name)));
        }
        ModuleInfo {
            name: self.module.name.clone(),
            kind: self.module.kind.word().to_owned(),
            state: self.keeping.state(),
            since: self.keeping.since(),
            causes,
            next_step,
            loops: 0,
            loops_max: 0,
            starts: self.keeping.starts(),
            scripts: Vec::new(),
            share: None,
            maintenance: None,
            checks: Vec::new(),
            resources: Vec::new(),
            remotes: remotes(&self.module, &self.ground, &self.remotes.borrow(), clock::now()),
        }
    }

    fn is_outdated(&self) -> bool {
        let runs_with = self.kept.runs_with.as_ref().filter(|_| self.keeping.process().is_some());
        runs_with.is_some_and(|text| *text != self.fingerprint())
    }
}

fn words(order: MirrorOrder) -> String {
    match order {
        MirrorOrder::Prim { force: false } => "prim",
        MirrorOrder::Prim { force: true } => "prim, by force",
        MirrorOrder::Second { full_sync: false } => "second",
        MirrorOrder::Second { full_sync: true } => "second, with all of the copy",
        MirrorOrder::Verify => "verify",
    }
    .to_owned()
}

fn refused(error: &str, next_step: &str) -> Reply {
    Reply::Refused { error: error.to_owned(), next_step: next_step.to_owned() }
}
