//! The demo on a terminal: a picture ten times a second, and keys.
//!
//! ```text
//!   main thread     scenario ──caption, result──▶ Stage ◀── picture ── screen thread ──▶ terminal
//!        ▲                                                                  │
//!        └──────────────────────────── wishes (bounded) ◀───────── keys ────┘
//! ```
//!
//! The scenario stays on the main thread, because the kernel kills the farm's processes with the thread that
//! started them.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind, KeyModifiers};

use super::farm::Farm;
use super::interrupt::Interrupt;
use super::ledger::Ledger;
use super::picture::{NodeRow, Picture};
use super::report::StepReport;
use super::scenario::{Audience, Scenario};
use super::script::{Action, Step};
use super::topology::node_name;
use super::watch::Sight;
use super::{client, watch};
use crate::driver::clock;
use crate::types::snapshot::MemberState;
use crate::types::{EventKind, Instant, NodeId};

const FRAME: Duration = Duration::from_millis(100);
const LOG_MAX: usize = 200;
/// Full: further keys are ignored until the present step is over.
const WISHES_MAX: usize = 8;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Power off, or on again.
    Power(NodeId),
    /// Stop a node cleanly, or start it again.
    StopOrStart,
}

/// The step that a wish stands for as things are, or why there is none.
pub fn step(wish: Wish, farm: &Farm) -> Result<Step, String> {
    let is_up = |node: &NodeId| farm.is_powered(*node) && farm.runs_daemon(*node);
    let is_last = |node: NodeId| !farm.ids().any(|other| other != node && is_up(&other));
    let stopped = farm.ids().find(|node| farm.is_powered(*node) && !farm.runs_daemon(*node));
    let (action, node) = match wish {
        Wish::Power(node) if usize::from(node.0) >= farm.ids().count() => {
            return Err(format!("there is no node {}", node.0 + 1));
        }
        Wish::Power(node) if !farm.is_powered(node) => (Action::Revive, node),
        Wish::Power(node) if !farm.runs_daemon(node) => (Action::Start, node),
        Wish::Power(node) => (Action::Kill, node),
        Wish::StopOrStart => match stopped {
            Some(node) => (Action::Start, node),
            None => (Action::Stop, farm.ids().filter(is_up).nth(1).unwrap_or(NodeId(0))),
        },
    };
    if matches!(action, Action::Kill | Action::Stop) && is_last(node) {
        return Err(format!("{} is the last one up: nobody would be left to take over", node_name(node)));
    }
    Ok(Step { action, node })
}

/// What both threads see.
#[derive(Default)]
struct Stage {
    sights: Vec<Arc<Mutex<Sight>>>,
    ledger: Option<Arc<Mutex<Ledger>>>,
    log: VecDeque<String>,
    caption: String,
    /// Nodes without power, which no daemon can speak for.
    off: Vec<bool>,
    stopped: Vec<bool>,
    began: Instant,
    /// Up to where the daemons' events are in the log.
    logged: Instant,
}

/// Restores the terminal when dropped.
pub struct Screen {
    stage: Arc<Mutex<Stage>>,
    wishes: Receiver<Wish>,
    pending: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Screen {
    pub fn open(interrupt: &Interrupt) -> io::Result<Self> {
        let mut terminal = ratatui::try_init()?;
        let now = clock::now();
        let stage = Arc::new(Mutex::new(Stage { began: now, logged: now, ..Stage::default() }));
        let (wish, wishes) = sync_channel(WISHES_MAX);
        let (pending, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut painter = Painter {
            stage: Arc::clone(&stage),
            wish,
            pending: Arc::clone(&pending),
            interrupt: interrupt.clone(),
            colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        let ended = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("screen".into()).spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let picture = painter.picture();
                // A terminal that went away: there is nobody to show anything to.
                if terminal.draw(|frame| picture.draw(frame)).is_err() || painter.read_keys().is_err() {
                    painter.interrupt.set();
                    break;
                }
            }
            ratatui::restore();
        })?;
        Ok(Self { stage, wishes, pending, over, thread: Some(thread) })
    }

    /// From now on the farm and its client are on the screen.
    pub fn show(&self, scenario: &Scenario<'_>) {
        let mut stage = lock(&self.stage);
        stage.ledger = Some(scenario.client.shared_ledger());
        stage.learn(&scenario.farm);
    }

    pub fn show_farm(&self, farm: &Farm) {
        lock(&self.stage).learn(farm);
    }

    /// The next key's wish, if there is one.
    pub fn wish(&self) -> Option<Wish> {
        let wish = self.wishes.try_recv().ok()?;
        self.pending.fetch_sub(1, Ordering::Relaxed);
        Some(wish)
    }

    /// A key waits to be heard.
    pub fn has_wish(&self) -> bool {
        self.pending.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

impl Audience for Screen {
    fn caption(&self, text: &str) {
        let mut stage = lock(&self.stage);
        stage.caption = text.to_owned();
        let line = format!("{:>6.1} s  {text}", clock::now().since(stage.began).as_secs_f64());
        stage.write(line);
    }

    fn result(&self, report: &StepReport) {
        let mut stage = lock(&self.stage);
        stage.caption = report.sentence();
        stage.write(format!("          {}", report.sentence()));
        for missed in report.missed() {
            stage.write(format!("          missed: {missed}"));
        }
    }

    fn is_impatient(&self) -> bool {
        self.has_wish()
    }
}

struct Painter {
    stage: Arc<Mutex<Stage>>,
    wish: SyncSender<Wish>,
    pending: Arc<AtomicUsize>,
    interrupt: Interrupt,
    colours: bool,
}

impl Painter {
    fn picture(&mut self) -> Picture {
        let mut stage = lock(&self.stage);
        stage.log_events();
        let mut picture = stage.picture();
        picture.colours = self.colours;
        picture
    }

    /// Waits for keys for the time of a frame.
    fn read_keys(&mut self) -> io::Result<()> {
        if !event::poll(FRAME)? {
            return Ok(());
        }
        if let Event::Key(key) = event::read()? {
            self.press(key);
        }
        Ok(())
    }

    fn press(&self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let character = match key.code.as_char() {
            _ if key.code.is_esc() => 'q',
            Some('c') if key.modifiers.contains(KeyModifiers::CONTROL) => 'q',
            Some(character) => character,
            None => return,
        };
        let wish = match character {
            'q' => return self.interrupt.set(),
            's' => Wish::StopOrStart,
            digit @ '1'..='9' => Wish::Power(NodeId(digit as u8 - b'1')),
            _ => return,
        };
        // Full: the person presses again.
        // Counted first: the other side subtracts as soon as it has it.
        self.pending.fetch_add(1, Ordering::Relaxed);
        if self.wish.try_send(wish).is_err() {
            self.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn lock(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    fn learn(&mut self, farm: &Farm) {
        self.sights = farm.ids().map(|node| farm.watcher(node).shared()).collect();
        self.off = farm.ids().map(|node| !farm.is_powered(node)).collect();
        self.stopped = farm.ids().map(|node| !farm.runs_daemon(node)).collect();
    }

    fn write(&mut self, line: String) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    /// The daemons' own words, in the order of their clocks.
    fn log_events(&mut self) {
        let (began, logged) = (self.began, self.logged);
        let mut news = Vec::new();
        for (index, sight) in self.sights.iter().enumerate() {
            let sight = watch::lock(sight);
            let new = sight.events.iter().rev().take_while(|event| event.at > logged);
            news.extend(new.filter_map(|event| Some((event.at, index, words(&event.kind)?))));
        }
        news.sort_unstable_by_key(|(at, index, _)| (*at, *index));
        for (at, index, words) in news {
            let who = node_name(NodeId(index as u8));
            self.write(format!("{:>6.1} s  {who}: {words}", at.since(began).as_secs_f64()));
            self.logged = self.logged.max(at);
        }
    }

    fn picture(&self) -> Picture {
        let mut picture = Picture {
            caption: self.caption.clone(),
            log: self.log.iter().cloned().collect(),
            ..Picture::default()
        };
        for (index, sight) in self.sights.iter().enumerate() {
            let sight = watch::lock(sight);
            let speaks = sight.snapshot.as_ref().filter(|_| sight.connected);
            let groups = || speaks.into_iter().flat_map(|it| &it.farms).flat_map(|farm| &farm.groups);
            picture.nodes.push(NodeRow {
                name: node_name(NodeId(index as u8)),
                state: self.state(index, speaks.map(|snapshot| snapshot.state)),
                owned: groups().map(|group| u64::from(group.owned)).sum(),
                ..NodeRow::default()
            });
            if let Some(snapshot) = speaks {
                picture.buckets = groups().map(|group| u64::from(group.buckets)).sum();
                let word = || (snapshot.verdict, snapshot.summary.clone());
                picture.verdict.get_or_insert_with(word);
            }
        }
        if let Some(ledger) = &self.ledger {
            count(&client::lock(ledger), &mut picture);
        }
        picture
    }

    fn state(&self, index: usize, member: Option<MemberState>) -> &'static str {
        match member {
            _ if self.off.get(index) == Some(&true) => "OFF",
            _ if self.stopped.get(index) == Some(&true) => "STOPPED",
            Some(MemberState::Active) => "UP",
            Some(MemberState::Joining | MemberState::Announce) => "WAIT",
            Some(MemberState::Leaving) => "STOP",
            None => "unknown",
        }
    }
}

fn count(ledger: &Ledger, picture: &mut Picture) {
    let totals = ledger.totals();
    picture.requests = totals.requests;
    picture.failed = totals.failed;
    picture.retried = totals.retried;
    picture.long_broken = totals.broken;
    picture.long_alive = ledger.alive().count();
    let second_ago = clock::now() - Duration::from_secs(1);
    let recent = ledger.newest_first().take_while(|request| request.ended() >= second_ago);
    for node in recent.filter_map(|request| request.outcome.ok()) {
        if let Some(row) = picture.nodes.get_mut(usize::from(node.0)) {
            row.requests_per_second += 1;
        }
    }
    for connection in ledger.alive() {
        if let Some(row) = picture.nodes.get_mut(usize::from(connection.node.0)) {
            row.long_connections += 1;
        }
    }
}

/// None for what would only fill the log.
fn words(event: &EventKind) -> Option<String> {
    Some(match event {
        EventKind::Joined { node } => format!("{} is a member", node_name(*node)),
        EventKind::Departed { node, why } => {
            format!("{} is no member any more: {}", node_name(*node), format!("{why:?}").to_lowercase())
        }
        EventKind::WokeLate { late_ms } => {
            format!("my timer was {late_ms} ms late; accepting nothing for now")
        }
        EventKind::View { .. } | EventKind::Applied { .. } | EventKind::Member { .. } => return None,
    })
}
