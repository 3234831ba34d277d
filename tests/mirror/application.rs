//! An application that remembers what it did, in which order, and what it was promised.
//!
//! The copy of the other node is a prefix of the history, so after a crash it has to look exactly as the application's
//! directory looked after one of its steps: the last that was promised, or a later one. That covers every byte that was
//! synced, and leaves no half of a rename.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};

use crate::stage::{PATIENCE, locked};

/// A write is made page by page: the kernel begins a new request to the file system where it likes, at the begin of a page.
const PAGE_BYTES: usize = 4096;
const WRITE_BYTES_MAX: usize = 16 << 10;
const FILE_BYTES_MAX: usize = 128 << 10;
const FILES_MAX: usize = 12;
const DIRECTORIES_MAX: usize = 4;
/// All that an application can have at once.
pub(crate) const BYTES_MAX: u64 = (FILES_MAX * FILE_BYTES_MAX) as u64;

#[derive(Clone, Debug)]
enum Step {
    MakeFile { path: String },
    MakeDirectory { path: String },
    Write { path: String, offset: usize, bytes: Vec<u8> },
    Truncate { path: String, length: usize },
    Rename { from: String, to: String },
    Link { from: String, to: String },
    Remove { path: String },
    RemoveDirectory { path: String },
    Sync { path: String },
}

impl Step {
    fn take(&self, top: &Path) -> io::Result<()> {
        let at = |path: &str| top.join(path);
        match self {
            Self::MakeFile { path } => File::create_new(at(path)).map(drop),
            Self::MakeDirectory { path } => fs::create_dir(at(path)),
            Self::Write { path, offset, bytes } => {
                File::options().write(true).open(at(path))?.write_all_at(bytes, *offset as u64)
            }
            Self::Truncate { path, length } => {
                File::options().write(true).open(at(path))?.set_len(*length as u64)
            }
            Self::Rename { from, to } => fs::rename(at(from), at(to)),
            Self::Link { from, to } => fs::hard_link(at(from), at(to)),
            Self::Remove { path } => fs::remove_file(at(path)),
            Self::RemoveDirectory { path } => fs::remove_dir(at(path)),
            Self::Sync { path } => File::open(at(path))?.sync_all(),
        }
    }
}

/// What each name is: the first of the names of the same file, and its contents; or a directory.
type Look = BTreeMap<String, Option<(String, Arc<Vec<u8>>)>>;

/// The directory as the application believes it to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    directories: BTreeSet<String>,
    files: BTreeMap<String, u64>,
    contents: BTreeMap<u64, Arc<Vec<u8>>>,
    next: u64,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::MakeFile { path } => {
                self.next += 1;
                self.files.insert(path.clone(), self.next);
                self.contents.insert(self.next, Arc::default());
            }
            Step::MakeDirectory { path } => {
                self.directories.insert(path.clone());
            }
            Step::Write { path, offset, bytes } => {
                let contents = self.contents_of(path);
                let end = offset + bytes.len();
                contents.resize(contents.len().max(end), 0);
                contents[*offset..end].copy_from_slice(bytes);
            }
            Step::Truncate { path, length } => self.contents_of(path).resize(*length, 0),
            Step::Rename { from, to } => self.rename(from, to),
            Step::Link { from, to } => {
                let number = self.files[from];
                self.files.insert(to.clone(), number);
            }
            Step::Remove { path } => {
                self.files.remove(path);
            }
            Step::RemoveDirectory { path } => {
                self.directories.remove(path);
            }
            Step::Sync { .. } => {}
        }
    }

    fn contents_of(&mut self, path: &str) -> &mut Vec<u8> {
        let number = self.files[path];
        Arc::make_mut(self.contents.entry(number).or_default())
    }

    fn rename(&mut self, from: &str, to: &str) {
        if let Some(number) = self.files.get(from).copied() {
            // Two names of one file: POSIX wants that nothing happens.
            if self.files.get(to) != Some(&number) {
                self.files.remove(from);
                self.files.insert(to.to_owned(), number);
            }
            return;
        }
        let inner = format!("{from}/");
        let moved = |path: &str| match path.strip_prefix(&inner) {
            Some(rest) => format!("{to}/{rest}"),
            None if path == from => to.to_owned(),
            None => path.to_owned(),
        };
        self.directories = self.directories.iter().map(|path| moved(path)).collect();
        self.files = self.files.iter().map(|(path, number)| (moved(path), *number)).collect();
    }

    fn look(&self) -> Look {
        let mut first_names = BTreeMap::new();
        let mut look: Look = self.directories.iter().map(|path| (path.clone(), None)).collect();
        for (path, number) in &self.files {
            let first: &String = first_names.entry(number).or_insert_with(|| path.clone());
            look.insert(path.clone(), Some((first.clone(), Arc::clone(&self.contents[number]))));
        }
        look
    }

    /// The directory is exactly as this says.
    pub(crate) fn check(&self, top: &Path) -> Result<()> {
        match first_difference(&self.look(), &seen(top)?) {
            None => Ok(()),
            Some(difference) => anyhow::bail!("not as the application left it: {difference}"),
        }
    }

    fn next_step(&self, random: &mut fastrand::Rng) -> Step {
        loop {
            if let Some(step) = self.try_step(random) {
                return step;
            }
        }
    }

    /// None: there is nothing that it could be done to.
    fn try_step(&self, random: &mut fastrand::Rng) -> Option<Step> {
        let file = random.choice(self.files.keys()).cloned();
        let path = self.new_path(random);
        let bytes = |random: &mut fastrand::Rng| {
            let length = random.usize(1..=WRITE_BYTES_MAX);
            let seed = random.u8(..);
            (0..length).map(|index| seed.wrapping_add((index / 7) as u8)).collect::<Vec<u8>>()
        };
        Some(match random.u8(0..100) {
            0..12 if self.files.len() < FILES_MAX => Step::MakeFile { path },
            12..15 if self.directories.len() < DIRECTORIES_MAX => Step::MakeDirectory { path },
            15..45 => {
                let offset = random.usize(0..FILE_BYTES_MAX - WRITE_BYTES_MAX);
                Step::Write { path: file?, offset, bytes: bytes(random) }
            }
            45..60 => {
                let file = file?;
                let offset = self.contents[&self.files[&file]].len();
                (offset < FILE_BYTES_MAX - WRITE_BYTES_MAX).then_some(())?;
                Step::Write { path: file, offset, bytes: bytes(random) }
            }
            60..65 => Step::Truncate { path: file?, length: random.usize(0..FILE_BYTES_MAX) },
            65..72 => Step::Rename { from: file?, to: path },
            72..75 => Step::Rename { from: file?, to: random.choice(self.files.keys())?.clone() },
            75..77 => {
                let from = random.choice(&self.directories)?.clone();
                (!path.starts_with(&format!("{from}/"))).then_some(Step::Rename { from, to: path })?
            }
            77..81 if self.files.len() < FILES_MAX => Step::Link { from: file?, to: path },
            81..87 => Step::Remove { path: file? },
            87..90 => {
                let directory = random.choice(&self.directories)?;
                let inner = format!("{directory}/");
                let is_inner = |path: &&String| path.starts_with(&inner);
                let is_full = self.files.keys().any(|path| is_inner(&path))
                    || self.directories.iter().any(|path| is_inner(&path));
                (!is_full).then(|| Step::RemoveDirectory { path: directory.clone() })?
            }
            90..98 => Step::Sync { path: file? },
            98.. => Step::Sync { path: random.choice(&self.directories)?.clone() },
            _ => return None,
        })
    }

    fn new_path(&self, random: &mut fastrand::Rng) -> String {
        let name = format!("{:08x}", random.u32(..));
        match random.choice(&self.directories) {
            Some(directory) if random.bool() => format!("{directory}/{name}"),
            Some(_) | None => name,
        }
    }
}

fn seen(top: &Path) -> Result<Look> {
    let (mut look, mut files) = (Look::new(), BTreeMap::new());
    let mut left = vec![String::new()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(top.join(&directory)).with_context(|| directory.clone())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let facts = top.join(&path).symlink_metadata()?;
            if facts.is_dir() {
                look.insert(path.clone(), None);
                left.push(path);
            } else {
                files.insert(path, facts.ino());
            }
        }
    }
    let mut first_names = BTreeMap::new();
    for (path, number) in files {
        let first: &String = first_names.entry(number).or_insert_with(|| path.clone());
        let contents = fs::read(top.join(&path))?;
        look.insert(path, Some((first.clone(), Arc::new(contents))));
    }
    Ok(look)
}

fn first_difference(wanted: &Look, found: &Look) -> Option<String> {
    let path = wanted.keys().chain(found.keys()).find(|path| wanted.get(*path) != found.get(*path))?;
    let told = |look: &Look| match look.get(path) {
        None => "nothing".to_owned(),
        Some(None) => "a directory".to_owned(),
        Some(Some((first, contents))) => format!("{} bytes, as {first}", contents.len()),
    };
    let byte = match (wanted.get(path), found.get(path)) {
        (Some(Some((_, wanted))), Some(Some((_, found)))) => {
            wanted.iter().zip(found.iter()).position(|(wanted, found)| wanted != found)
        }
        _ => None,
    };
    let byte = byte.map_or(String::new(), |byte| format!(", from byte {byte} on"));
    Some(format!("{path}: {} wanted, {} found{byte}", told(wanted), told(found)))
}

/// What the application has done, for whoever looks after its end.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// As the last call of a sync that returned left it.
    promised: Model,
    /// What was begun since then; the last may not have been made.
    since: Vec<Step>,
    pub(crate) steps: u64,
    pub(crate) promises: u64,
}

impl Ledger {
    fn now(&self) -> Model {
        let mut model = self.promised.clone();
        self.since.iter().for_each(|step| model.apply(step));
        model
    }

    /// The state that the directory is in, of those that it may be in after a crash.
    pub(crate) fn find(&self, top: &Path) -> Result<Model> {
        let found = seen(top)?;
        let mut model = self.promised.clone();
        let promised = first_difference(&model.look(), &found);
        if promised.is_none() {
            return Ok(model);
        }
        for step in self.since.iter().flat_map(pieces) {
            model.apply(&step);
            if model.look() == found {
                return Ok(model);
            }
        }
        anyhow::bail!(
            "none of the {} states that it may be in: as promised {}; as begun {}; since then {:?}",
            self.since.len() + 1,
            promised.unwrap_or_default(),
            first_difference(&model.look(), &found).unwrap_or_default(),
            self.since.iter().map(short).collect::<Vec<_>>(),
        )
    }
}

/// What may be made of a step on its own.
fn pieces(step: &Step) -> Vec<Step> {
    let Step::Write { path, offset, bytes } = step else { return vec![step.clone()] };
    let (mut pieces, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let end = (at + PAGE_BYTES - (offset + at) % PAGE_BYTES).min(bytes.len());
        pieces.push(Step::Write { path: path.clone(), offset: offset + at, bytes: bytes[at..end].to_vec() });
        at = end;
    }
    pieces
}

fn short(step: &Step) -> String {
    match step {
        Step::Write { path, offset, bytes } => format!("Write {path} {offset}+{}", bytes.len()),
        other => format!("{other:?}"),
    }
}

/// It works until it is told to end, or a call fails.
pub(crate) struct Application {
    name: String,
    ledger: Arc<Mutex<Ledger>>,
    told_to_end: Arc<AtomicBool>,
    ended: Receiver<io::Result<()>>,
}

impl Application {
    /// In `mount`/`name`, which is as `model` says.
    pub(crate) fn start(mount: &Path, name: &str, model: Model, seed: u64) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger { promised: model.clone(), ..Ledger::default() }));
        let told_to_end = Arc::<AtomicBool>::default();
        let (telling, ended) = sync_channel(1);
        let worker = Worker {
            top: mount.join(name),
            model,
            random: fastrand::Rng::with_seed(seed),
            ledger: Arc::clone(&ledger),
            told_to_end: Arc::clone(&told_to_end),
        };
        std::thread::spawn(move || {
            // Nobody listens any longer where the story has failed.
            let _unheard = telling.send(worker.work());
        });
        Self { name: name.to_owned(), ledger, told_to_end, ended }
    }

    /// How it ended, and what it did.
    pub(crate) fn end(self) -> Result<(String, Ledger, io::Result<()>)> {
        self.told_to_end.store(true, Ordering::Relaxed);
        let ended = self.ended.recv_timeout(PATIENCE);
        let ended =
            ended.with_context(|| format!("a call of {} does not return within {PATIENCE:?}", self.name))?;
        Ok((self.name, std::mem::take(&mut locked(&self.ledger)), ended))
    }

    /// Nothing has failed; what it has is exactly this.
    pub(crate) fn end_well(self, mount: &Path) -> Result<(String, Ledger, Model)> {
        let (name, ledger, ended) = self.end()?;
        ended.with_context(|| format!("an error for {name}, after {} steps", ledger.steps))?;
        let model = ledger.now();
        model.check(&mount.join(&name))?;
        ensure!(ledger.promises > 0, "{name} was promised nothing in {} steps", ledger.steps);
        Ok((name, ledger, model))
    }
}

struct Worker {
    top: PathBuf,
    model: Model,
    random: fastrand::Rng,
    ledger: Arc<Mutex<Ledger>>,
    told_to_end: Arc<AtomicBool>,
}

impl Worker {
    fn work(mut self) -> io::Result<()> {
        while !self.told_to_end.load(Ordering::Relaxed) {
            let step = self.model.next_step(&mut self.random);
            locked(&self.ledger).since.push(step.clone());
            step.take(&self.top)?;
            self.model.apply(&step);
            let mut ledger = locked(&self.ledger);
            ledger.steps += 1;
            if matches!(step, Step::Sync { .. }) {
                ledger.promises += 1;
                ledger.since.clear();
                ledger.promised = self.model.clone();
            }
        }
        Ok(())
    }
}
