//! The keeper of a mirror: sees to the process that keeps the directories, and lets everybody know how they are.
//!
//! ```text
//!  operator ─ verbs ──▶┌────────┐─ start, kill ──▶ process ─ socket: reports ─┐
//!           ─ orders ─▶│ keeper │─ orders, stop ──────────▶                   │
//!  reports, its end ──▶│        │─ report ──▶ board                           │
//!  deadline ──────────▶└────────┘─ Save ────▶ state file                      │
//!        ▲────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What follows from what is in `engine/copies`. The process outlives the daemon; a new life of it finds the one that is
//! there by its socket.

mod answers;
mod line;
mod process;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::block_in_place;

use super::board::Board;
use super::memory::{Found, Kept};
use super::{Ask, Ground, Happened, Level};
use crate::config::{Kind, Mirror, Module};
use crate::driver::check::Ends;
use crate::driver::scripts::lasting::{Begun, Lasting, tend};
use crate::driver::scripts::store::Store;
use crate::driver::scripts::{Way, module_dir};
use crate::driver::{check, clock};
use crate::engine::copies::keeping::{Input, Keeping, Output, Setup};
use crate::engine::copies::{News, Weight};
use crate::types::Instant;
use crate::types::mirror::CopyInfo;
use line::Line;
use process::Process;

/// Reports of a process that comes to speak faster than it is heard wait in its socket.
const TOLD_MAX: usize = 8;
/// With no deadline of its own, the keeper still looks around so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const TEND_INTERVAL: Duration = Duration::from_secs(10);
/// For one word of the process.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// What tasks tell the keeper.
pub(super) enum Told {
    /// None: nobody is there, and nobody was to be started.
    Begun(Result<Option<Begun>, String>),
    Copies(Vec<CopyInfo>),
    Ended(String),
}

pub(super) struct Keeper {
    module: Module,
    place: usize,
    ground: Arc<Ground>,
    board: Board,
    keeping: Keeping,
    store: Store<Kept>,
    kept: Kept,
    process: Option<Process>,
    /// A search for the process is under way; what was asked for meanwhile is done when it is over.
    searching: bool,
    stop_wanted: bool,
    kill_wanted: bool,
    /// Tasks that go on as long as the process: the one that listens, and the one that asks it to end.
    listening: Option<Ends>,
    stopping: Option<Ends>,
    tell: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
    remotes: watch::Receiver<Arc<Vec<check::Remote>>>,
    tended: Instant,
    down: Vec<oneshot::Sender<()>>,
    handing_over: bool,
}

impl Keeper {
    pub(super) fn new(found: Found, place: usize, ground: &Arc<Ground>, board: Board) -> Self {
        let Found { module, store, kept, same_machine_boot, .. } = found;
        let now = clock::now();
        let (tell, told) = mpsc::channel(TOLD_MAX);
        let mut keeper = Self {
            place,
            ground: Arc::clone(ground),
            board,
            keeping: Keeping::new(setup(&module, ground), now),
            store,
            process: None,
            searching: false,
            stop_wanted: false,
            kill_wanted: false,
            listening: None,
            stopping: None,
            tell,
            told,
            remotes: ground.remotes.clone(),
            tended: now,
            down: Vec::new(),
            handing_over: false,
            module,
            kept,
        };
        keeper.feed(Input::Begin { saved: keeper.kept.mirror.clone(), same_machine_boot });
        keeper
    }

    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        loop {
            self.feed(Input::Timer);
            self.carry_out();
            self.post();
            let wake = tokio::time::sleep(self.pause());
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => self.take(ask),
                    None => return,
                },
                Some(told) = self.told.recv() => self.hear(told),
                Ok(()) = self.remotes.changed() => {}
                () = wake => {}
            }
        }
    }

    fn pause(&self) -> Duration {
        let now = clock::now();
        self.keeping.next_deadline().map_or(LOOK_INTERVAL, |next| next.since(now)).min(LOOK_INTERVAL)
    }

    fn feed(&mut self, input: Input) {
        self.keeping.handle(input, clock::now());
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.keeping.poll_output() {
            match output {
                Output::Start => self.search(true),
                Output::Stop => self.stop(),
                Output::Kill => self.kill(),
                Output::Save(saved) => {
                    self.kept.mirror = Some(saved);
                    self.save();
                }
                Output::Changed { from, to, cause } => {
                    self.note(Level::Info, "state", format!("{from} -> {to}"), Some(cause));
                }
                Output::News(News { weight, kind, text, cause }) => {
                    let level = match weight {
                        Weight::Info => Level::Info,
                        Weight::Warning => Level::Warning,
                        Weight::Error => Level::Error,
                    };
                    self.note(level, kind, text, cause);
                }
                Output::Ended => self.tell_down(),
            }
        }
        let now = clock::now();
        if now.since(self.tended) >= TEND_INTERVAL {
            self.tended = now;
            block_in_place(|| tend(&self.log()));
        }
    }

    /// Finds the process, or starts it where it is not there.
    fn search(&mut self, may_start: bool) {
        if self.searching || self.handing_over && may_start {
            return;
        }
        self.searching = true;
        let (socket, lasting, tell) = (self.socket(), self.lasting(), self.tell.clone());
        tokio::spawn(async move {
            let found = match Line::connect(&socket).await.ok().and_then(|line| line.process()) {
                Some(pid) => Ok(Some(Begun { pid, child: None, is_new: false })),
                None if may_start => lasting.start().await.map(Some),
                None => Ok(None),
            };
            // A keeper that has gone leaves the process to the next life of the daemon.
            let _gone = tell.send(Told::Begun(found)).await;
        });
    }

    fn stop(&mut self) {
        if self.process.is_none() {
            self.stop_wanted = true;
            self.search(false);
            return;
        }
        self.stopping = Some(Ends(tokio::spawn(line::stop(self.socket(), ANSWER_TIMEOUT))));
    }

    fn kill(&mut self) {
        match &self.process {
            Some(process) => {
                self.note(
                    Level::Warning,
                    "process",
                    "its process does not end, and is ended".to_owned(),
                    None,
                );
                process.kill();
            }
            None => self.kill_wanted = self.searching,
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Begun(found) => self.begun(found),
            Told::Copies(copies) => self.feed(Input::Copies(copies)),
            Told::Ended(how) => self.ended(how),
        }
    }

    fn begun(&mut self, found: Result<Option<Begun>, String>) {
        self.searching = false;
        let (stop, kill) = (std::mem::take(&mut self.stop_wanted), std::mem::take(&mut self.kill_wanted));
        let begun = match found {
            Ok(Some(begun)) => begun,
            Ok(None) => return self.ended("it was not there".to_owned()),
            Err(why) if stop => return self.ended(why),
            Err(why) => return self.feed(Input::Started(Err(why))),
        };
        let (pid, is_new) = (begun.pid, begun.is_new);
        match Process::watch(begun, self.log(), self.tell.clone()) {
            Ok(process) => self.process = Some(process),
            Err(error) => return self.ended(format!("it ended at once: {error}")),
        }
        if is_new {
            self.kept.runs_with = Some(self.fingerprint());
            self.save();
        }
        self.feed(Input::Started(Ok(pid)));
        self.listening = Some(Ends(tokio::spawn(line::watch(self.socket(), self.tell.clone()))));
        if kill {
            self.kill();
        } else if stop {
            self.stop();
        }
    }

    fn ended(&mut self, how: String) {
        (self.process, self.listening, self.stopping) = (None, None, None);
        self.feed(Input::Ended { how });
    }
}

impl Keeper {
    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Command { command, by, answer } => self.answer(command, by, answer),
            Ask::Shutdown { by, down } => {
                self.down.push(down);
                self.feed(Input::Shutdown { by });
            }
            // It lives on by itself, whatever it is doing.
            Ask::HandOver { idle } => {
                self.handing_over = true;
                let _gone = idle.send(());
            }
            Ask::Changed(module) => {
                if *module != self.module {
                    self.keeping.reconfigure(setup(&module, &self.ground));
                    self.module = *module;
                    self.note(
                        Level::Info,
                        "configuration",
                        "its start is that of the new file".to_owned(),
                        None,
                    );
                }
            }
        }
    }

    fn mirror(&self) -> &Mirror {
        match &self.module.kind {
            Kind::Mirror(mirror) => mirror,
            Kind::Farm(_) | Kind::Light => unreachable!("a keeper of mirrors gets mirrors"),
        }
    }

    fn socket(&self) -> PathBuf {
        self.ground.files.run_dir.join(format!("replica-{}.sock", self.module.name))
    }

    fn log(&self) -> PathBuf {
        log_of(&self.ground, &self.module)
    }

    fn lasting(&self) -> Lasting {
        let ground = &self.ground;
        let mut arguments: Vec<OsString> = vec!["replica".into(), "--module".into()];
        arguments.push(self.module.name.clone().into());
        arguments.extend(["--config".into(), ground.files.config.clone().into()]);
        arguments.extend(["--node".into(), ground.config.name(ground.me).into()]);
        arguments.extend(["--run-dir".into(), ground.files.run_dir.clone().into()]);
        let state_dir = std::path::absolute(&ground.state_dir).unwrap_or_else(|_| ground.state_dir.clone());
        arguments.extend(["--state-dir".into(), state_dir.into()]);
        Lasting {
            way: Way::of_environment(),
            module: self.module.name.clone(),
            what: "replica",
            program: ground.files.program.clone(),
            arguments,
            log: self.log(),
        }
    }

    /// What its process reads once, when it starts.
    fn fingerprint(&self) -> String {
        format!("{:?}", self.mirror())
    }

    /// What was decided is on the disk before anything follows from it.
    fn save(&self) {
        if let Err(error) = block_in_place(|| self.store.save(&self.kept)) {
            tracing::error!(%error, "{}: cannot keep the module's state", self.module.name);
        }
    }

    fn note(&self, level: Level, kind: &'static str, text: String, cause: Option<String>) {
        let module = self.module.name.clone();
        // Full: the journal is behind, and the log has the same line.
        let _full = self.ground.happened.try_send(Happened { module, level, kind, text, cause });
    }

    fn tell_down(&mut self) {
        for down in self.down.drain(..) {
            let _gone = down.send(());
        }
    }
}

fn setup(module: &Module, ground: &Ground) -> Setup {
    let other = module.nodes.iter().find(|node| **node != ground.me);
    Setup {
        name: module.name.clone(),
        boot: module.upkeep.boot,
        boot_delay: module.upkeep.boot_delay,
        other: other.map(|node| ground.config.name(*node).to_owned()).unwrap_or_default(),
        log: log_of(ground, module).display().to_string(),
    }
}

fn log_of(ground: &Ground, module: &Module) -> PathBuf {
    module_dir(&ground.state_dir, &module.name).join("replica.log")
}
