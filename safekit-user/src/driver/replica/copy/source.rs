//! The copy that is right: carries over what a pass names.

mod carry;

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::find::{Finder, Found, names_of};
use super::index::Memory;
use super::{Failure, Wire, digest};
use crate::driver::replica::apply::files::read_full;
use crate::driver::replica::apply::known::is_hidden;
use crate::driver::replica::apply::shape;
use crate::driver::replica::identity::Numbering;
use crate::driver::replica::object::{FileHandle, reopen};
use crate::driver::replica::watch::Trace;
use crate::types::replica::{EXTENT_BYTES, ObjectId, Part, Region, Touch, ZONE_BYTES};
use crate::wire::replica::{Copied, Copying, Entry, Frame, Unit};

/// Questions that are under way at once.
const QUESTIONS_MAX: usize = 64;
/// Objects that wait for their turn: more, and no more names are asked for.
const JOBS_MAX: usize = 4096;
/// Pieces that are asked for, or sent, at once.
const RUN_MAX: usize = 64;
const ENTRIES_AT_ONCE: usize = 256;
const CONTENTS_BYTES: usize = 256 * 1024;
/// Attributes that fit into a frame with everything else.
const ATTRIBUTES_BYTES_MAX: usize = 1 << 20;

/// What one pass is to carry over.
#[derive(Clone, Debug)]
pub struct Work {
    pub number: u64,
    /// All of the copy, whatever `touches` name.
    pub everything: bool,
    /// Objects from this number on wherever their names are met.
    pub fresh_from: u64,
    pub touches: Vec<Touch>,
}

/// What has been carried over so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub files: u64,
    pub bytes_sent: u64,
}

/// Counted while a pass is under way, for whoever looks.
#[derive(Debug, Default)]
pub struct Counted {
    files: AtomicU64,
    bytes_sent: AtomicU64,
}

impl Counted {
    pub fn now(&self) -> Progress {
        let count = |it: &AtomicU64| it.load(Ordering::Relaxed);
        Progress { files: count(&self.files), bytes_sent: count(&self.bytes_sent) }
    }
}

pub struct Source {
    root: OwnedFd,
    numbering: Arc<Numbering>,
    memory: Memory,
    counted: Arc<Counted>,
}

impl Source {
    /// `root`: the replicated directory.
    pub fn open(
        root: BorrowedFd<'_>,
        numbering: Arc<Numbering>,
        counted: Arc<Counted>,
    ) -> Result<Self, Errno> {
        let root = reopen(root, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Self { root, numbering, memory: Memory::default(), counted })
    }

    /// Gives back what could not be found on the other side, or may be somewhere on this one.
    pub fn pass(
        &mut self,
        work: &Work,
        traces: &dyn Fn(ObjectId) -> Option<Trace>,
        wire: &mut dyn Wire,
    ) -> Result<Vec<ObjectId>, Failure> {
        let everything =
            work.everything || work.touches.iter().any(|touch| touch.region == Region::EVERYTHING);
        self.memory.begin_pass(&work.touches, everything);
        let finder = Finder::new(self.root.as_fd(), &self.numbering, traces, &mut self.memory)
            .map_err(io("open the directory"))?;
        let pass = Pass {
            finder,
            wire,
            everything,
            fresh_from: work.fresh_from,
            wanted: Wanted::of(&work.touches),
            done: HashSet::new(),
            directories: BTreeMap::new(),
            listed: HashSet::new(),
            to_finish: Vec::new(),
            jobs: VecDeque::new(),
            comparing: None,
            asked: VecDeque::new(),
            lost: Vec::new(),
            counted: &self.counted,
            buffer: vec![0; CONTENTS_BYTES],
        };
        pass.run(work.number)
    }
}

/// What is wanted of one object.
#[derive(Clone, Debug, Default)]
struct Parts {
    names: bool,
    whole: bool,
    zones: BTreeMap<u32, u64>,
}

struct Wanted(BTreeMap<ObjectId, Parts>);

impl Wanted {
    fn of(touches: &[Touch]) -> Self {
        let mut wanted: BTreeMap<ObjectId, Parts> = BTreeMap::new();
        for touch in touches {
            let parts = wanted.entry(touch.region.object).or_default();
            match touch.region.part {
                Part::Names => parts.names = true,
                // Of everything that is named.
                Part::Meta => {}
                Part::Whole => parts.whole = true,
                Part::Data(extent) => *parts.zones.entry(extent).or_default() |= touch.zones,
            }
        }
        Self(wanted)
    }
}

/// Offset and length.
type Range = (u64, u64);

/// What is to be done with the contents of an object.
#[derive(Debug)]
enum How {
    /// It is new there: nothing is asked.
    Fill,
    CompareAll,
    Compare(BTreeMap<u32, u64>),
}

/// A file whose contents are compared.
#[derive(Debug)]
struct Comparing {
    found: Found,
    file: OwnedFd,
    size: u64,
    /// Questions without an answer.
    open: Cell<usize>,
    asked_all: Cell<bool>,
}

#[derive(Debug)]
enum Question {
    Names { directory: ObjectId, entries: Vec<Listed>, depth: usize },
    Pieces { of: Rc<Comparing>, unit: Unit, offset: u64, pieces: usize },
    PassEnd { number: u64 },
}

/// A name of a directory, and what has to be known of its object.
#[derive(Debug)]
struct Listed {
    object: ObjectId,
    handle: FileHandle,
    is_directory: bool,
    has_other_names: bool,
}

struct Pass<'a> {
    finder: Finder<'a>,
    wire: &'a mut dyn Wire,
    everything: bool,
    fresh_from: u64,
    wanted: Wanted,
    /// Objects whose contents have been looked after.
    done: HashSet<ObjectId>,
    /// To be listed, those above first; by their handle, or by the record.
    directories: BTreeMap<(usize, ObjectId), Option<FileHandle>>,
    listed: HashSet<ObjectId>,
    /// When nothing in them changes any more, the deepest first.
    to_finish: Vec<(usize, ObjectId, FileHandle)>,
    jobs: VecDeque<(ObjectId, FileHandle, How)>,
    /// And what of it is still to be asked.
    comparing: Option<(Rc<Comparing>, VecDeque<Range>)>,
    asked: VecDeque<Question>,
    lost: Vec<ObjectId>,
    counted: &'a Counted,
    buffer: Vec<u8>,
}

impl Pass<'_> {
    fn run(mut self, number: u64) -> Result<Vec<ObjectId>, Failure> {
        let recorded = self.queue_directories()?;
        loop {
            while self.asked.len() < QUESTIONS_MAX && self.go_on()? {}
            if self.asked.is_empty() {
                break;
            }
            self.take_answer()?;
        }
        for (object, parts) in recorded {
            self.recorded_object(object, parts)?;
            while self.asked.len() >= QUESTIONS_MAX || self.comparing.is_some() {
                if self.asked.len() >= QUESTIONS_MAX || !self.go_on()? {
                    self.take_answer()?;
                }
            }
        }
        while !self.asked.is_empty() {
            self.take_answer()?;
        }
        self.finish_directories()?;
        self.ask(Copying::PassEnd { number }, Question::PassEnd { number })?;
        self.take_answer()?;
        let uncertain = self.finder.memory.uncertain();
        if !self.everything {
            self.lost.extend(uncertain);
        }
        Ok(self.lost)
    }

    /// Gives back what else is recorded: it is looked for when all names are in their places.
    fn queue_directories(&mut self) -> Result<Vec<(ObjectId, Parts)>, Failure> {
        let wanted = std::mem::take(&mut self.wanted.0);
        if self.everything {
            self.directories.insert((0, ObjectId::ROOT), None);
        }
        let mut others = Vec::new();
        for (object, parts) in wanted {
            let Some(found) = self.finder.find(object).map_err(io("find an object"))? else { continue };
            if found.kind() != FileType::Directory {
                others.push((object, parts));
                continue;
            }
            let Some(depth) = self.finder.depth(&found).map_err(io("find a directory"))? else { continue };
            if parts.names || parts.whole {
                self.directories.insert((depth, object), None);
            } else {
                let handle = FileHandle::of(found.fd.as_fd()).map_err(io("find a directory"))?;
                others.push((object, parts));
                self.to_finish.push((depth, object, handle));
            }
        }
        Ok(others)
    }

    /// False: there is nothing to be asked now.
    fn go_on(&mut self) -> Result<bool, Failure> {
        if self.comparing.is_some() {
            self.compare_more()?;
        } else if self.jobs.len() < JOBS_MAX
            && let Some(((depth, object), handle)) = self.directories.pop_first()
        {
            self.list(depth, object, handle)?;
        } else if let Some((object, handle, how)) = self.jobs.pop_front() {
            if let Some(found) = self.open(object, &handle)? {
                self.work_on(found, how)?;
            }
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// None: it has gone, and whoever took it away has marked that.
    fn open(&self, object: ObjectId, handle: &FileHandle) -> Result<Option<Found>, Failure> {
        let fd = match handle.open(self.finder.root) {
            Ok(fd) => fd,
            Err(Errno::STALE | Errno::NOENT) => return Ok(None),
            Err(source) => return Err(Failure::Io { doing: "open an object", source }),
        };
        let stat = rustix::fs::fstat(&fd).map_err(io("look at an object"))?;
        Ok((stat.st_nlink > 0).then_some(Found { object, fd, stat }))
    }

    fn ask(&mut self, copying: Copying, question: Question) -> Result<(), Failure> {
        self.asked.push_back(question);
        Ok(self.wire.send(&Frame::Copying(copying), &[])?)
    }

    fn list(&mut self, depth: usize, object: ObjectId, handle: Option<FileHandle>) -> Result<(), Failure> {
        if !self.listed.insert(object) {
            return Ok(());
        }
        let found = match handle {
            Some(handle) => self.open(object, &handle)?,
            None => self.finder.find(object).map_err(io("find a directory"))?,
        };
        let Some(found) = found else { return Ok(()) };
        if !self.finder.place(&found, self.wire)? {
            return Ok(());
        }
        self.finder.memory.is_compared(object);
        let handle = FileHandle::of(found.fd.as_fd()).map_err(io("find a directory"))?;
        self.to_finish.push((depth, object, handle));
        let (mut entries, mut listed) = (Vec::new(), Vec::new());
        for name in names_of(&found.fd).map_err(io("list a directory"))? {
            if is_hidden(object, &name) {
                continue;
            }
            let Some((entry, one)) = self.entry(&found, name)? else { continue };
            entries.push(entry);
            listed.push(one);
            if entries.len() == ENTRIES_AT_ONCE {
                let (entries, listed) = (std::mem::take(&mut entries), std::mem::take(&mut listed));
                self.ask_names(object, entries, listed, depth, false)?;
            }
        }
        self.ask_names(object, entries, listed, depth, true)
    }

    fn entry(&self, directory: &Found, name: Vec<u8>) -> Result<Option<(Entry, Listed)>, Failure> {
        let look = || {
            let Some(found) = self.finder.inside.meet(directory.fd.as_fd(), &name)? else { return Ok(None) };
            let kind = shape::kind(found.fd.as_fd(), &found.stat)?;
            Ok(Some((kind, FileHandle::of(found.fd.as_fd())?, found)))
        };
        let Some((kind, handle, found)) = look().map_err(io("look at a name"))? else { return Ok(None) };
        let is_directory = found.kind() == FileType::Directory;
        let listed = Listed {
            object: found.object,
            handle,
            is_directory,
            has_other_names: !is_directory && found.stat.st_nlink > 1,
        };
        Ok(Some((Entry { name, object: found.object, kind }, listed)))
    }

    fn ask_names(
        &mut self,
        directory: ObjectId,
        entries: Vec<Entry>,
        listed: Vec<Listed>,
        depth: usize,
        last: bool,
    ) -> Result<(), Failure> {
        for one in &listed {
            self.finder.is_placed(one.object);
        }
        let names = Copying::Names { directory, entries, last };
        self.ask(names, Question::Names { directory, entries: listed, depth })
    }

    fn take_answer(&mut self) -> Result<(), Failure> {
        let answer = self.wire.answer()?;
        let question = self.asked.pop_front().ok_or(Failure::Unexpected)?;
        match (question, answer) {
            (
                Question::Names { directory, entries, depth },
                Copied::Placed { directory: theirs, missing },
            ) if directory == theirs => self.placed(entries, &missing, depth),
            (
                Question::Pieces { of, unit, offset, pieces },
                Copied::Differing { object, unit: their_unit, offset: their_offset, which },
            ) if (of.found.object, unit, offset, pieces.div_ceil(64))
                == (object, their_unit, their_offset, which.len()) =>
            {
                self.differing(&of, unit, offset, pieces, &which)
            }
            (Question::PassEnd { number }, Copied::PassEnded { number: theirs, lost })
                if number == theirs =>
            {
                self.lost.extend(lost);
                Ok(())
            }
            (Question::Names { .. } | Question::Pieces { .. } | Question::PassEnd { .. }, _) => {
                Err(Failure::Unexpected)
            }
        }
    }

    fn placed(&mut self, entries: Vec<Listed>, missing: &[ObjectId], depth: usize) -> Result<(), Failure> {
        let missing: HashSet<_> = missing.iter().copied().collect();
        for Listed { object, handle, is_directory, has_other_names } in entries {
            let is_missing = missing.contains(&object);
            let is_recorded = self.everything || object.0 >= self.fresh_from;
            if !is_missing && !is_recorded && !self.finder.memory.was_missed(object) {
                continue;
            }
            if is_directory {
                if !self.listed.contains(&object) {
                    self.directories.insert((depth + 1, object), Some(handle));
                }
                continue;
            }
            if is_missing && has_other_names {
                // Whoever has another name of it there has another object now.
                self.list_all_of(object, &handle)?;
            }
            if is_missing || self.done.insert(object) {
                self.done.insert(object);
                self.finder.memory.is_compared(object);
                let how = if is_missing { How::Fill } else { How::CompareAll };
                self.jobs.push_back((object, handle, how));
            }
        }
        Ok(())
    }

    fn list_all_of(&mut self, object: ObjectId, handle: &FileHandle) -> Result<(), Failure> {
        let Some(found) = self.open(object, handle)? else { return Ok(()) };
        let directories = self.finder.directories_of(&found).map_err(io("find the names of an object"))?;
        for (directory, handle) in directories {
            if !self.listed.contains(&directory) {
                let Some(found) = self.open(directory, &handle)? else { continue };
                let Some(depth) = self.finder.depth(&found).map_err(io("find a directory"))? else {
                    continue;
                };
                self.directories.insert((depth, directory), Some(handle));
            }
        }
        Ok(())
    }

    /// Of the record, and no directory whose names are.
    fn recorded_object(&mut self, object: ObjectId, parts: Parts) -> Result<(), Failure> {
        if !self.done.insert(object) {
            return Ok(());
        }
        let Some(found) = self.finder.find(object).map_err(io("find an object"))? else { return Ok(()) };
        if !self.finder.place(&found, self.wire)? || found.kind() == FileType::Directory {
            return Ok(());
        }
        let how = if parts.whole { How::CompareAll } else { How::Compare(parts.zones) };
        self.work_on(found, how)
    }

    fn work_on(&mut self, found: Found, how: How) -> Result<(), Failure> {
        if found.kind() != FileType::RegularFile {
            return self.finish(&found);
        }
        let file = match reopen(found.fd.as_fd(), OFlags::RDONLY | OFlags::NOATIME) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::STALE) => return Ok(()),
            Err(source) => return Err(Failure::Io { doing: "open a file", source }),
        };
        let size = found.stat.st_size as u64;
        let ranges: VecDeque<_> = match how {
            How::Fill => {
                self.fill(found.object, &file, size)?;
                return self.finish(&found);
            }
            How::CompareAll => {
                (0..size.div_ceil(EXTENT_BYTES)).map(|extent| (extent * EXTENT_BYTES, EXTENT_BYTES)).collect()
            }
            How::Compare(zones) => {
                zones.into_iter().flat_map(|(extent, zones)| runs(extent, zones)).collect()
            }
        };
        let comparing = Comparing { found, file, size, open: Cell::new(0), asked_all: Cell::new(false) };
        self.comparing = Some((Rc::new(comparing), ranges));
        self.compare_more()
    }

    fn compare_more(&mut self) -> Result<(), Failure> {
        let Some((of, mut ranges)) = self.comparing.take() else { return Ok(()) };
        if let Some((offset, length)) = ranges.pop_front() {
            let length = length.min(of.size.saturating_sub(offset));
            if length > 0 {
                self.ask_pieces(&of, Unit::Zone, offset, length)?;
            }
            self.comparing = Some((of, ranges));
            return Ok(());
        }
        of.asked_all.set(true);
        self.finish_compared(&of)
    }

    fn finish_compared(&mut self, of: &Comparing) -> Result<(), Failure> {
        if of.asked_all.get() && of.open.get() == 0 { self.finish(&of.found) } else { Ok(()) }
    }

    fn ask_pieces(
        &mut self,
        of: &Rc<Comparing>,
        unit: Unit,
        offset: u64,
        length: u64,
    ) -> Result<(), Failure> {
        let mut digests = Vec::new();
        let mut at = offset;
        while at < offset + length {
            let piece = unit.bytes().min(of.size - at) as usize;
            let read = read_full(&of.file, at, &mut self.buffer[..piece]).map_err(io("read a file"))?;
            // It has become shorter meanwhile, and that is marked.
            self.buffer[read..piece].fill(0);
            digests.push(digest(&self.buffer[..piece]));
            at += unit.bytes();
        }
        of.open.set(of.open.get() + 1);
        let pieces = digests.len();
        let copying = Copying::Digests { object: of.found.object, unit, offset, size: of.size, digests };
        self.ask(copying, Question::Pieces { of: Rc::clone(of), unit, offset, pieces })
    }

    fn differing(
        &mut self,
        of: &Rc<Comparing>,
        unit: Unit,
        offset: u64,
        pieces: usize,
        which: &[u64],
    ) -> Result<(), Failure> {
        of.open.set(of.open.get() - 1);
        let differs = |piece: usize| piece < pieces && which[piece / 64] & (1 << (piece % 64)) != 0;
        let mut piece = 0;
        while piece < pieces {
            if !differs(piece) {
                piece += 1;
                continue;
            }
            let first = piece;
            while differs(piece) && piece - first < RUN_MAX {
                piece += 1;
            }
            let at = offset + first as u64 * unit.bytes();
            let length = ((piece - first) as u64 * unit.bytes()).min(of.size - at);
            match unit {
                Unit::Zone => self.ask_pieces(of, Unit::Block, at, length)?,
                Unit::Block => self.send_contents(of.found.object, &of.file, at, length)?,
            }
        }
        self.finish_compared(of)
    }
}

fn io(doing: &'static str) -> impl Fn(Errno) -> Failure {
    move |source| Failure::Io { doing, source }
}

fn runs(extent: u32, zones: u64) -> Vec<Range> {
    let mut runs = Vec::new();
    let mut zone = 0;
    while zone < 64 {
        if zones & (1 << zone) == 0 {
            zone += 1;
            continue;
        }
        let first = zone;
        while zone < 64 && zones & (1 << zone) != 0 {
            zone += 1;
        }
        let offset = u64::from(extent) * EXTENT_BYTES + first * ZONE_BYTES;
        runs.push((offset, (zone - first) * ZONE_BYTES));
    }
    runs
}
