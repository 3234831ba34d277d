//! Random trees, changed at random: after each pass both sides are the same, also when the one before was cut off.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

use super::*;
use crate::driver::replica::apply::scratch::{Scratch, open};
use crate::driver::replica::apply::shape;
use crate::driver::replica::identity::{self, Numbering};
use crate::driver::replica::object::{FileHandle, proc_path};
use crate::driver::replica::watch::Trace;
use crate::types::replica::{ObjectId, Region, Touch};
use crate::wire::replica::{Copying, Decoder, Entry, encode};

/// What is sent arrives at once, through the frames of the wire.
struct Direct<'a> {
    target: &'a mut Target,
    answers: VecDeque<Copied>,
    /// Frames until the connection is cut.
    left: u64,
    contents_bytes: u64,
    files_filled: u64,
    /// When the names of this directory have been sent.
    meanwhile: Option<(ObjectId, Box<dyn FnOnce()>)>,
}

impl Wire for Direct<'_> {
    fn send(&mut self, frame: &Frame, bulk: &[u8]) -> Result<(), Ended> {
        self.left = self.left.checked_sub(1).ok_or(Ended)?;
        let mut decoder = Decoder::default();
        encode(frame, bulk, decoder.buffer());
        let (frame, bulk) = decoder.take().expect("it is a frame").expect("it is complete");
        match frame {
            Frame::Place { object, parent, name } => {
                self.target.place(object, parent, &name).expect("no error");
            }
            Frame::Copying(copying) => {
                self.contents_bytes += bulk.len() as u64;
                let listed =
                    if let Copying::Names { directory, .. } = &copying { Some(*directory) } else { None };
                let answer = self.target.handle(copying, bulk).expect("a disk with room");
                if let Some(Copied::Placed { missing, .. }) = &answer {
                    self.files_filled += missing.len() as u64;
                }
                self.answers.extend(answer);
                if let Some((_, change)) = self.meanwhile.take_if(|(directory, _)| Some(*directory) == listed)
                {
                    change();
                }
            }
            other => panic!("not of a copy: {other:?}"),
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<Copied, Ended> {
        Ok(self.answers.pop_front().expect("nobody waits for what was not asked"))
    }
}

/// Two copies, and a random application of the first.
struct Copies {
    scratch: Scratch,
    numbering: [Arc<Numbering>; 2],
    random: fastrand::Rng,
    touches: Vec<Touch>,
    traces: BTreeMap<ObjectId, Trace>,
    next_name: u32,
    passes: u64,
}

impl Copies {
    fn new(seed: u64) -> Option<Self> {
        let scratch = Scratch::new()?;
        let numbering = ["source", "target"]
            .map(|side| Arc::new(Numbering::open(scratch.root(side).as_fd()).expect("it keeps attributes")));
        Some(Self {
            scratch,
            numbering,
            random: fastrand::Rng::with_seed(seed),
            touches: Vec::new(),
            traces: BTreeMap::new(),
            next_name: 0,
            passes: 0,
        })
    }

    fn root(&self, side: &str) -> PathBuf {
        self.scratch.path().join(side)
    }

    fn number(&self, path: &Path) -> ObjectId {
        if path == self.root("source") {
            return ObjectId::ROOT;
        }
        let fd = open(path);
        let inode = rustix::fs::fstat(&fd).expect("it is open").st_ino;
        self.numbering[0].number_of(fd.as_fd(), inode).expect("it keeps attributes").object
    }

    /// As the captured directory tells it: before the change, with the place of then.
    fn touch(&mut self, path: &Path, region: impl Fn(ObjectId) -> Vec<Touch>) {
        let object = self.number(path);
        self.touches.extend(region(object));
        if object != ObjectId::ROOT {
            let handle = FileHandle::of(open(path).as_fd()).expect("it has one");
            let parent = path.parent().expect("it is below");
            let above = FileHandle::of(open(parent).as_fd()).expect("it has one");
            let name = path.file_name().expect("it has one").as_encoded_bytes().to_vec();
            self.traces.insert(object, Trace { handle, place: Some((above, name)) });
        }
    }

    fn touch_names(&mut self, directory: &Path) {
        self.touch(directory, |it| vec![Touch::all(Region::names(it)), Touch::all(Region::meta(it))]);
    }

    /// All of one kind, the root first.
    fn all(&self, directories: bool) -> Vec<PathBuf> {
        let root = self.root("source");
        let mut found = if directories { vec![root.clone()] } else { Vec::new() };
        let mut left = vec![root];
        while let Some(directory) = left.pop() {
            let mut entries: Vec<_> = fs::read_dir(&directory)
                .expect("a directory")
                .map(|entry| entry.expect("an entry").path())
                .collect();
            entries.sort();
            for path in entries {
                let is_directory = path.symlink_metadata().expect("it is there").is_dir();
                if is_directory {
                    left.push(path.clone());
                }
                if is_directory == directories {
                    found.push(path);
                }
            }
        }
        found
    }

    fn pick(&mut self, directories: bool) -> Option<PathBuf> {
        let all = self.all(directories);
        (!all.is_empty()).then(|| all[self.random.usize(..all.len())].clone())
    }

    fn new_name(&mut self) -> PathBuf {
        let directory = self.pick(true).expect("the root");
        self.next_name += 1;
        directory.join(format!("{}", self.next_name % 40))
    }

    fn change(&mut self) {
        match self.random.u32(..12) {
            0..3 => self.make(),
            3..6 => self.write(),
            6 | 7 => self.rename(),
            8 => self.link(),
            9 => self.remove(),
            10 => self.set_facts(),
            _ => self.truncate(),
        }
    }

    fn make(&mut self) {
        let path = self.new_name();
        if path.symlink_metadata().is_ok() {
            return;
        }
        self.touch_names(path.parent().expect("a directory"));
        match self.random.u32(..6) {
            0 | 1 => fs::create_dir(&path).expect("a new name"),
            2 => std::os::unix::fs::symlink("somewhere else", &path).expect("a new name"),
            3 => {
                rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, 0o640.into(), 0).expect("a pipe");
            }
            _ => {
                let mut contents = vec![0; self.random.usize(..200_000)];
                self.random.fill(&mut contents);
                fs::write(&path, contents).expect("a new name");
            }
        }
        // The captured directory numbers what it makes.
        self.number(&path);
    }

    fn file(&mut self) -> Option<(PathBuf, fs::File)> {
        let path = self.pick(false)?;
        if !path.symlink_metadata().expect("it is there").is_file() {
            return None;
        }
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("a file");
        Some((path, file))
    }

    fn write(&mut self) {
        let Some((path, file)) = self.file() else { return };
        let offset = self.random.u64(..3_000_000);
        let mut contents = vec![0; self.random.usize(1..30_000)];
        self.random.fill(&mut contents);
        self.touch(&path, |it| contents_touched(it, offset, contents.len() as u64));
        file.write_all_at(&contents, offset).expect("there is room");
    }

    fn truncate(&mut self) {
        let Some((path, file)) = self.file() else { return };
        let (before, size) = (file.metadata().expect("a file").len(), self.random.u64(..1_000_000));
        self.touch(&path, |it| contents_touched(it, size, before.saturating_sub(size)));
        file.set_len(size).expect("there is room");
    }

    fn rename(&mut self) {
        let directories = self.random.bool();
        let Some(from) = self.pick(directories) else { return };
        let to = self.new_name();
        if from == self.root("source") {
            return;
        }
        self.touch_names(from.parent().expect("a directory"));
        self.touch_names(to.parent().expect("a directory"));
        // Into itself, onto a directory that is not empty: refused.
        let _refused = fs::rename(&from, &to);
    }

    fn link(&mut self) {
        let Some(from) = self.pick(false) else { return };
        let to = self.new_name();
        self.touch_names(to.parent().expect("a directory"));
        let _taken = fs::hard_link(&from, &to);
    }

    fn remove(&mut self) {
        let directories = self.random.bool();
        let Some(path) = self.pick(directories) else { return };
        if path == self.root("source") {
            return;
        }
        self.touch_names(path.parent().expect("a directory"));
        if directories {
            let _not_empty = fs::remove_dir(&path);
        } else {
            fs::remove_file(&path).expect("it is there");
        }
    }

    fn set_facts(&mut self) {
        let directories = self.random.bool();
        let Some(path) = self.pick(directories) else { return };
        self.touch(&path, |it| vec![Touch::all(Region::meta(it))]);
        if path.symlink_metadata().expect("it is there").is_symlink() {
            return std::os::unix::fs::lchown(&path, Some(self.random.u32(..9)), None).expect("root may");
        }
        std::os::unix::fs::chown(&path, Some(self.random.u32(..9)), Some(7)).expect("root may");
        let mode = self.random.u32(..0o1000) | 0o400;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("root may");
        let value = [self.random.u8(..); 20];
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&path, "trusted.colour", &value, flags).expect("root may");
    }

    /// One resynchronisation; `cut`: the connection ends after so many frames.
    fn copy(&mut self, everything: bool, cut: Option<u64>) -> Option<(u64, u64)> {
        let work = Work { number: 0, everything, fresh_from: u64::MAX, touches: self.touches.clone() };
        self.copy_while(work, cut, None, Vec::new())
    }

    /// `meanwhile` happens when the names of that directory have been sent, and marks `touches`.
    fn copy_while(
        &mut self,
        mut work: Work,
        cut: Option<u64>,
        meanwhile: Option<(ObjectId, Box<dyn FnOnce()>)>,
        mut touches: Vec<Touch>,
    ) -> Option<(u64, u64)> {
        let root = open(&self.root("target"));
        let mut target = Target::open(root, Arc::clone(&self.numbering[1])).expect("a directory");
        let mut wire = Direct {
            target: &mut target,
            answers: VecDeque::new(),
            left: cut.unwrap_or(u64::MAX),
            contents_bytes: 0,
            files_filled: 0,
            meanwhile,
        };
        let source = open(&self.root("source"));
        let numbering = Arc::clone(&self.numbering[0]);
        let mut source = Source::open(source.as_fd(), numbering, Arc::default()).expect("a directory");
        let traces = self.traces.clone();
        loop {
            self.passes += 1;
            work.number = self.passes;
            match source.pass(&work, &|object| traces.get(&object).cloned(), &mut wire) {
                Ok(lost) if lost.is_empty() && touches.is_empty() => break,
                Ok(lost) if lost.is_empty() => {
                    (work.everything, work.touches) = (false, std::mem::take(&mut touches));
                }
                Ok(lost) => work.touches.extend(lost.into_iter().flat_map(|object| {
                    [Touch::all(Region::whole(object)), Touch::all(Region::names(object))]
                })),
                Err(Failure::Ended) => return None,
                Err(failure) => panic!("{failure:?}"),
            }
        }
        let moved = (wire.contents_bytes, wire.files_filled);
        target.sync().expect("a disk with room");
        self.touches.clear();
        Some(moved)
    }

    fn assert_same(&self) {
        let (source, target) = (list(&self.root("source")), list(&self.root("target")));
        for (path, facts) in &source {
            assert_eq!(target.get(path), Some(facts), "{}", path.display());
        }
        let more: Vec<_> = target.keys().filter(|path| !source.contains_key(*path)).collect();
        assert!(more.is_empty(), "{more:?}");
    }
}

fn contents_touched(object: ObjectId, offset: u64, length: u64) -> Vec<Touch> {
    let mut touches = Touch::contents(object, offset, length);
    touches.push(Touch::all(Region::meta(object)));
    touches
}

/// Everything that two copies have in common.
fn list(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let facts = path.symlink_metadata().expect("it is there");
        let below = path.strip_prefix(root).expect("below").to_owned();
        let fd = open(&path);
        let number = identity::read(fd.as_fd(), facts.ino()).expect("it keeps attributes");
        let attributes = shape::attributes(fd.as_fd()).expect("it keeps attributes");
        let contents = if facts.is_file() {
            format!("{:?}", digest(&fs::read(proc_path(fd.as_fd())).expect("a file")))
        } else if facts.is_symlink() {
            format!("{:?}", fs::read_link(&path).expect("a link"))
        } else {
            String::new()
        };
        let size = if facts.is_dir() { 0 } else { facts.len() };
        let nlink = if facts.is_dir() { 0 } else { facts.nlink() };
        let number = if path == root { None } else { number };
        let text = format!(
            "{number:?} {:o} {}:{} {size} {nlink} {}.{:09} {attributes:?} {contents}",
            facts.mode(),
            facts.uid(),
            facts.gid(),
            facts.mtime(),
            facts.mtime_nsec(),
        );
        if let Some(first) = inodes.insert(facts.ino(), below.clone()) {
            assert!(facts.nlink() > 1, "{} and {}", first.display(), below.display());
        }
        found.insert(below, text);
        if facts.is_dir() {
            let entries =
                fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path());
            left.extend(entries.filter(|path| !path.ends_with(".safekit")));
        }
    }
    found
}

#[test]
fn a_copy_is_the_same_after_every_pass() {
    for seed in 0..40 {
        let Some(mut copies) = Copies::new(seed) else { return };
        for _ in 0..60 {
            copies.change();
        }
        copies.copy(true, None).expect("nobody cuts it");
        copies.assert_same();
        for _ in 0..4 {
            for _ in 0..12 {
                copies.change();
            }
            if copies.random.bool() {
                let frames = copies.random.u64(1..80);
                if copies.copy(false, Some(frames)).is_none() {
                    for _ in 0..4 {
                        copies.change();
                    }
                }
            }
            copies.copy(false, None).expect("nobody cuts it");
            copies.assert_same();
        }
    }
}

#[test]
fn little_is_moved_for_a_little_change() {
    let Some(mut copies) = Copies::new(1) else { return };
    let path = copies.root("source").join("large");
    let mut contents = vec![0; 32 << 20];
    copies.random.fill(&mut contents);
    copies.touch_names(&copies.root("source"));
    fs::write(&path, &contents).expect("there is room");
    copies.number(&path);
    let (moved, _) = copies.copy(true, None).expect("nobody cuts it");
    assert_eq!(moved, contents.len() as u64);
    copies.assert_same();
    // A crash leaves whole extents in the record.
    copies.touch(&path, |it| contents_touched(it, 0, 32 << 20));
    let file = fs::OpenOptions::new().write(true).open(&path).expect("a file");
    for place in 0..8 {
        file.write_all_at(b"changed", place * (4 << 20) + 777).expect("a file");
    }
    let (moved, _) = copies.copy(false, None).expect("nobody cuts it");
    assert_eq!(moved, 8 * 4096, "the blocks that changed, and no more");
    copies.assert_same();
}

/// From where nobody has been yet to where somebody was.
#[test]
fn what_moves_while_everything_is_compared_is_compared_too() {
    let Some(mut copies) = Copies::new(7) else { return };
    let root = copies.root("source");
    let [a, z] = ["a", "z"].map(|it| root.join(it));
    fs::create_dir(&a).expect("a directory");
    fs::create_dir_all(z.join("deep")).expect("a directory");
    let numbers = [&a, &z].map(|it| copies.number(it));
    assert!(numbers[0] < numbers[1], "they are listed in this order");
    for path in ["z/file", "z/deep/file"] {
        fs::write(root.join(path), vec![7; 200_000]).expect("a file");
    }
    copies.copy(true, None).expect("nobody cuts it");
    for path in ["z/file", "z/deep/file"] {
        let file = fs::OpenOptions::new().write(true).open(copies.root("target").join(path)).expect("a file");
        file.write_all_at(b"another", 70_000).expect("a file");
    }
    let moves = move || {
        for name in ["file", "deep"] {
            fs::rename(z.join(name), a.join(name)).expect("it is free");
        }
    };
    let touches = numbers.into_iter().flat_map(|it| [Region::names(it), Region::meta(it)].map(Touch::all));
    let work = Work { number: 0, everything: true, fresh_from: u64::MAX, touches: Vec::new() };
    let meanwhile: Box<dyn FnOnce()> = Box::new(moves);
    let moved = copies.copy_while(work, None, Some((numbers[0], meanwhile)), touches.collect());
    assert_eq!(moved, Some((2 * 4096, 0)), "a block of each");
    copies.assert_same();
}

/// What is renamed is found again where it was, and not copied.
#[test]
fn a_renamed_directory_keeps_what_is_in_it() {
    let Some(mut copies) = Copies::new(2) else { return };
    let root = copies.root("source");
    fs::create_dir_all(root.join("old/deep")).expect("a directory");
    fs::create_dir(root.join("place")).expect("a directory");
    fs::write(root.join("old/deep/file"), vec![7; 100_000]).expect("a file");
    copies.copy(true, None).expect("nobody cuts it");
    copies.touch_names(&root);
    copies.touch_names(&root.join("place"));
    fs::rename(root.join("old"), root.join("place/new")).expect("it is free");
    let (moved, made) = copies.copy(false, None).expect("nobody cuts it");
    assert_eq!((moved, made), (0, 0));
    copies.assert_same();
}

/// The other node recorded them before this one took over: nobody here knows where they are.
#[test]
fn what_only_the_other_node_recorded_is_found_by_its_number() {
    let Some(mut copies) = Copies::new(4) else { return };
    let root = copies.root("source");
    fs::create_dir_all(root.join("a/deep")).expect("a directory");
    fs::create_dir(root.join("bare")).expect("a directory");
    let paths = ["a/deep/file", "a/other", "gone"].map(|below| root.join(below));
    paths.iter().for_each(|path| fs::write(path, vec![7; 200_000]).expect("a file"));
    fs::hard_link(&paths[1], root.join("bare/second name")).expect("a free name");
    copies.copy(true, None).expect("nobody cuts it");
    for path in &paths {
        copies.touch(path, |it| contents_touched(it, 70_000, 4));
    }
    copies.touch_names(&root);
    copies.touch(&root.join("bare"), |it| vec![Touch::all(Region::meta(it))]);
    copies.traces.clear();
    // The target has what the other node wrote and this one never got.
    for path in ["a/deep/file", "a/other"] {
        let file = fs::OpenOptions::new().write(true).open(copies.root("target").join(path));
        file.expect("a file").write_all_at(b"lost", 70_000).expect("a file");
    }
    let bare = copies.root("target").join("bare");
    fs::set_permissions(bare, fs::Permissions::from_mode(0o711)).expect("root may");
    fs::remove_file(&paths[2]).expect("it is there");
    let (moved, _) = copies.copy(false, None).expect("nobody cuts it");
    assert_eq!(moved, 2 * 4096, "a block of each");
    copies.assert_same();
}

/// A trace may be older than the inode: what it leads to is another object now, or nothing.
#[test]
fn what_was_made_anew_since_its_trace_is_found() {
    let Some(mut copies) = Copies::new(5) else { return };
    let path = copies.root("source").join("file");
    fs::write(&path, vec![7; 200_000]).expect("a file");
    copies.copy(true, None).expect("nobody cuts it");
    copies.touch(&path, |it| contents_touched(it, 70_000, 4));
    let number = copies.number(&path);
    copies.touch(&copies.root("source"), |it| vec![Touch::all(Region::meta(it))]);
    let beside = copies.root("source").join("beside");
    fs::copy(&path, &beside).expect("there is room");
    fs::rename(&beside, &path).expect("it is there");
    let made = open(&path);
    let inode = rustix::fs::fstat(&made).expect("it is open").st_ino;
    identity::write(made.as_fd(), number.0, inode).expect("it keeps attributes");
    let modified = fs::metadata(copies.root("target").join("file")).and_then(|facts| facts.modified());
    let file = fs::OpenOptions::new().write(true).open(&path).expect("a file");
    file.write_all_at(b"new", 70_000).expect("a file");
    file.set_modified(modified.expect("it is there")).expect("a file");
    copies.copy(false, None).expect("nobody cuts it");
    copies.assert_same();
}

/// Its trace names the directory where it was.
#[test]
fn what_moved_elsewhere_since_its_trace_is_found() {
    let Some(mut copies) = Copies::new(6) else { return };
    let root = copies.root("source");
    fs::create_dir(root.join("old")).expect("a directory");
    fs::create_dir(root.join("new")).expect("a directory");
    fs::write(root.join("old/file"), vec![7; 200_000]).expect("a file");
    copies.copy(true, None).expect("nobody cuts it");
    copies.touch(&root.join("old/file"), |it| contents_touched(it, 70_000, 4));
    // Both copies moved it when they were equal; only the trace did not.
    for side in ["source", "target"] {
        let side = copies.root(side);
        fs::rename(side.join("old/file"), side.join("new/other")).expect("it is free");
    }
    ["old", "new"].iter().for_each(|it| {
        copies.touch(&root.join(it), |it| vec![Touch::all(Region::meta(it))]);
    });
    let file = fs::OpenOptions::new().write(true).open(root.join("new/other")).expect("a file");
    file.write_all_at(b"changed", 70_000).expect("a file");
    let (moved, _) = copies.copy(false, None).expect("nobody cuts it");
    assert_eq!(moved, 4096);
    copies.assert_same();
}

/// Names of this program, and numbers that nobody has, change nothing.
#[test]
fn nonsense_changes_nothing() {
    let Some(mut copies) = Copies::new(3) else { return };
    for _ in 0..30 {
        copies.change();
    }
    copies.copy(true, None).expect("nobody cuts it");
    let before = list(&copies.root("target"));
    let numbering = Arc::clone(&copies.numbering[1]);
    let mut target = Target::open(open(&copies.root("target")), numbering).expect("a directory");
    let unknown = ObjectId(1 << 50);
    target.place(unknown, ObjectId::ROOT, b"1").expect("no error");
    let contents = Copying::Contents { object: unknown, offset: 0 };
    assert_eq!(target.handle(contents, b"x").expect("no error"), None);
    let names = Copying::Names { directory: unknown, entries: Vec::new(), last: true };
    assert!(target.handle(names, b"").expect("no error").is_some());
    let kind = crate::wire::replica::Kind { mode: 0o100_644, device: 0, target: Vec::new() };
    let entry = Entry { name: b".safekit".to_vec(), object: unknown, kind };
    let names = Copying::Names { directory: ObjectId::ROOT, entries: vec![entry], last: false };
    assert!(target.handle(names, b"").is_err());
    let lost = target.handle(Copying::PassEnd { number: 9 }, b"").expect("no error");
    assert_eq!(lost, Some(Copied::PassEnded { number: 9, lost: vec![unknown] }));
    target.sync().expect("a disk with room");
    assert_eq!(list(&copies.root("target")), before);
}
