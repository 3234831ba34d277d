//! The journal: what happened on this node and who ordered what, in files of the state directory.
//!
//! ```text
//! farm events ──┐
//! modules ──────┤ Journal::note ──▶ bounded queue ──▶ thread "journal" ──▶ events.jsonl, .1, .2, .3
//! commands ─────┘ Journal::audit                           │              audit.jsonl, .1, .2, .3
//!                                                          └─▶ tracing, and the newest number (watch)
//! ```
//!
//! Readers read the files: what `safekit events` shows is what a dead daemon leaves.

mod farm;
mod file;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::watch;

use super::clock;
use crate::types::WallTime;
use crate::types::journal::{Act, ActResult, Entry, Level, Note, Wanted};
pub use farm::follow;
use file::{Place, Writer};

/// Full: the note is counted as lost, and the journal says how many were.
const QUEUE_MAX: usize = 1024;
/// Four files of each: 16 MiB of events are months of a quiet cluster.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const FILES_MAX: u32 = 4;
/// With two of them, a line stays below [`file::LINE_BYTES_MAX`] however much of it is quotes.
const TEXT_BYTES_MAX: usize = 2000;
/// One reply holds no more.
pub const ENTRIES_MAX: usize = 2000;
/// A wait for news that finds none ends after this long, before the client's own patience does.
const NEWS_TIMEOUT: Duration = Duration::from_secs(1);

enum Line {
    Note(WallTime, Note),
    Act(Act),
    /// Told when all before it is written.
    Flush(SyncSender<()>),
}

/// Hands notes to the thread that writes them. Never waits.
#[derive(Clone)]
pub struct Journal {
    lines: SyncSender<Line>,
    lost: Arc<AtomicU64>,
    last: watch::Receiver<u64>,
    files: Files,
}

/// Where a node keeps its journal.
#[derive(Clone, Debug)]
pub struct Files {
    events: Place,
    audit: Place,
}

impl Files {
    pub fn of(state_dir: &Path) -> Self {
        let place =
            |name| Place { path: state_dir.join(name), file_bytes_max: FILE_BYTES_MAX, files_max: FILES_MAX };
        Self { events: place("events.jsonl"), audit: place("audit.jsonl") }
    }

    /// The oldest first. Blocks for as long as the disk takes.
    pub fn events(&self, wanted: &Wanted, after: Option<u64>) -> Vec<Entry> {
        self.events.newest(wanted.count.min(ENTRIES_MAX), |line| {
            let entry: Entry = serde_json::from_slice(line).ok()?;
            (wanted.holds(&entry) && after.is_none_or(|after| entry.number > after)).then_some(entry)
        })
    }

    /// The oldest first.
    pub fn acts(&self, count: usize) -> Vec<Act> {
        self.audit.newest(count.min(ENTRIES_MAX), |line| serde_json::from_slice(line).ok())
    }

    fn last_number(&self) -> u64 {
        let all = Wanted { module: None, level: Level::Debug, since: None, count: 1 };
        self.events(&all, None).last().map_or(0, |entry| entry.number)
    }
}

impl Journal {
    /// Goes on where a former life ended.
    pub fn open(state_dir: &Path, node: &str) -> io::Result<Self> {
        let files = Files::of(state_dir);
        let number = files.last_number();
        let (lines, received) = sync_channel(QUEUE_MAX);
        let (newest, last) = watch::channel(number);
        let lost = Arc::new(AtomicU64::new(0));
        let mut keeper = Keeper {
            node: node.to_owned(),
            events: Writer::open(files.events.clone())?,
            audit: Writer::open(files.audit.clone())?,
            number,
            newest,
            lost: Arc::clone(&lost),
            failing: false,
        };
        std::thread::Builder::new().name("journal".into()).spawn(move || keeper.run(&received))?;
        Ok(Self { lines, lost, last, files })
    }

    /// Writes it down, as of now.
    pub fn note(&self, note: Note) {
        self.note_at(clock::wall(), note);
    }

    fn note_at(&self, time: WallTime, note: Note) {
        self.hand_over(Line::Note(time, note));
    }

    pub fn audit(&self, act: Act) {
        self.hand_over(Line::Act(act));
    }

    fn hand_over(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Entries as [`Files::events`] has them, and the newest number. With `after` it waits for a newer one, a second
    /// at most.
    pub async fn events(&self, wanted: Wanted, after: Option<u64>) -> (Vec<Entry>, u64) {
        let mut newest = self.last.clone();
        if let Some(after) = after {
            let news = newest.wait_for(|last| *last > after);
            // Without news the answer is empty, and says where the journal ends.
            let _none = tokio::time::timeout(NEWS_TIMEOUT, news).await;
        }
        let last = *newest.borrow();
        if after.is_some_and(|after| last <= after) {
            return (Vec::new(), last);
        }
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || files.events(&wanted, after));
        // What was read may be newer than what was announced.
        let entries = read.await.unwrap_or_default();
        let last = entries.last().map_or(last, |entry| entry.number.max(last));
        (entries, last)
    }

    pub async fn acts(&self, count: usize) -> Vec<Act> {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || files.acts(count)).await.unwrap_or_default()
    }

    /// Returns when all that was noted is with the kernel, or after `within`.
    pub fn flush(&self, within: Duration) {
        let (written, heard) = sync_channel(1);
        if self.lines.try_send(Line::Flush(written)).is_ok() {
            // A disk that is stuck keeps nobody from ending.
            let _late = heard.recv_timeout(within);
        }
    }
}

/// The thread that writes.
struct Keeper {
    node: String,
    events: Writer,
    audit: Writer,
    number: u64,
    newest: watch::Sender<u64>,
    lost: Arc<AtomicU64>,
    /// The last write failed, and that has been said.
    failing: bool,
}

impl Keeper {
    fn run(&mut self, lines: &Receiver<Line>) {
        while let Ok(line) = lines.recv() {
            match line {
                Line::Note(time, note) => self.write_note(time, note),
                Line::Act(act) => self.write_act(act),
                // Who asked may have lost patience.
                Line::Flush(written) => drop(written.try_send(())),
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let text = format!("{lost} events came too fast to be written down");
                let level = Level::Warning;
                self.write_note(clock::wall(), Note { level, module: None, kind: "lost", text, cause: None });
            }
        }
    }

    fn write_note(&mut self, time: WallTime, note: Note) {
        self.number += 1;
        let entry = Entry {
            number: self.number,
            time,
            node: self.node.clone(),
            module: note.module.map(|module| bounded(&module)),
            level: note.level,
            kind: note.kind.to_owned(),
            text: bounded(&note.text),
            cause: note.cause.filter(|cause| !cause.is_empty()).map(|cause| bounded(&cause)),
        };
        let line = serde_json::to_vec(&entry).expect("an entry is plain data");
        let written = self.events.append(line);
        self.told(written, "events");
        log(&entry);
        self.newest.send_replace(self.number);
    }

    fn write_act(&mut self, mut act: Act) {
        act.node.clone_from(&self.node);
        act.what = bounded(&act.what);
        act.who.from = bounded(&act.who.from);
        if let ActResult::Refused { error } = &mut act.result {
            *error = bounded(error);
        }
        let Act { who, what, result, .. } = &act;
        tracing::info!(%who, from = who.from, command = what, %result, "{who}: {what}: {result}");
        let line = serde_json::to_vec(&act).expect("an act is plain data");
        let written = self.audit.append(line);
        self.told(written, "audit");
    }

    /// A full disk is said once, not with every line.
    fn told(&mut self, written: io::Result<()>, what: &'static str) {
        match written {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(%error, what, "cannot write the journal in the state directory");
            }
            Err(_) => {}
        }
    }
}

/// One line, of bounded length.
fn bounded(text: &str) -> String {
    let mut one_line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if one_line.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|&end| one_line.is_char_boundary(end));
        one_line.truncate(end.unwrap_or(0));
        one_line.push('…');
    }
    one_line
}

/// The same for whoever reads the daemon's log. journald makes fields of the values: `SAFEKIT_MODULE`.
fn log(entry: &Entry) {
    let Entry { module, kind, text, cause, .. } = entry;
    let (module, cause) = (module.as_deref(), cause.as_deref());
    let whose = module.map(|module| format!("{module}: ")).unwrap_or_default();
    let why = cause.map(|cause| format!(", because {cause}")).unwrap_or_default();
    let text = format!("{whose}{text}{why}");
    match entry.level {
        Level::Error => tracing::error!(module, kind, cause, "{text}"),
        Level::Warning => tracing::warn!(module, kind, cause, "{text}"),
        Level::Info => tracing::info!(module, kind, cause, "{text}"),
        Level::Debug => tracing::debug!(module, kind, cause, "{text}"),
    }
}

#[cfg(test)]
mod tests;
