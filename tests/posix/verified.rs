//! Both copies are compared while applications change one of them: no false alarm, and every difference is found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::fs::{CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use safekit::driver::clock;
use safekit::driver::replica::apply::Applier;
use safekit::driver::replica::capture::{Prepared, numbering};
use safekit::driver::replica::verify::Checks;
use safekit::driver::replica::watch::{Atlas, Change, FlushReply, Permit, Place, Reply, Watch};
use safekit::types::replica::{ObjectId, Touch};
use safekit::wire::replica::{Check, Operation, Piece};
use safekit_tests::lab;

use crate::Pair;
use crate::told::objects_of;

/// What is on its way to the other copy: the writers wait when it is full.
const QUEUE_MAX: usize = 4096;
const WRITERS: u64 = 4;

enum Sent {
    Place(ObjectId, ObjectId, Vec<u8>),
    ForgetPlaces,
    Operation(Operation, Vec<u8>),
    Check(Check),
    /// Everything before has been done.
    Reached(SyncSender<()>),
}

/// The stream of operations, in the order in which they were told.
struct Stream {
    queue: SyncSender<Sent>,
    atlas: OnceLock<Weak<dyn Atlas>>,
    faults: Arc<Mutex<Vec<String>>>,
    differing: Arc<Mutex<Vec<Check>>>,
    checks: AtomicU64,
}

impl Stream {
    fn send(&self, sent: Sent) {
        self.queue.send(sent).expect("the other copy follows to the end");
    }

    fn place_known(&self, object: ObjectId) {
        let Some(atlas) = self.atlas.get().and_then(Weak::upgrade) else { return };
        if let Some(Place { parent, name }) = atlas.place(object) {
            self.place_known(parent);
            self.send(Sent::Place(object, parent, name));
        }
    }

    /// Until all that was sent is done.
    fn settle(&self) {
        let (done, reached) = sync_channel(1);
        self.send(Sent::Reached(done));
        reached.recv().expect("the other copy follows to the end");
    }
}

impl Watch for Stream {
    fn begin(&self, _: &[Touch]) -> Result<Permit, Errno> {
        Ok(Permit(0))
    }

    fn done(&self, _: Permit, changes: &[Change<'_>], reply: Reply) {
        for change in changes {
            objects_of(&change.operation).into_iter().for_each(|object| self.place_known(object));
            self.send(Sent::Operation(change.operation.clone(), change.bulk.to_vec()));
        }
        reply();
    }

    fn done_unknown(&self, _: Permit, reply: Reply) {
        self.faults.lock().expect("nobody panics here").push("a change that cannot be said".to_owned());
        reply();
    }

    fn flush(&self, _: ObjectId, _: bool, local: &dyn Fn() -> Result<(), Errno>, reply: FlushReply) {
        reply(local());
    }

    fn reserved(&self, _: u64) {}
}

impl Checks for Stream {
    fn place(&self, directory: ObjectId, parent: ObjectId, name: &[u8]) {
        self.send(Sent::Place(directory, parent, name.to_vec()));
    }

    fn ask(&self, check: Check) -> bool {
        self.checks.fetch_add(1, Ordering::Relaxed);
        self.send(Sent::Check(check));
        true
    }

    fn pause(&self) -> bool {
        true
    }
}

/// The other copy, in a thread of its own.
fn follow(
    mut applier: Applier,
    queued: Receiver<Sent>,
    faults: Arc<Mutex<Vec<String>>>,
    differing: Arc<Mutex<Vec<Check>>>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let fault = |what: String| faults.lock().expect("nobody panics here").push(what);
        for sent in queued {
            match sent {
                Sent::Place(object, parent, name) => {
                    // Whoever needs it finds out.
                    let _not_there = applier.place(object, parent, &name);
                }
                Sent::ForgetPlaces => applier.forget_places(),
                Sent::Operation(operation, bulk) => {
                    if let Err(error) = applier.apply(&operation, &bulk) {
                        fault(format!("{operation:?}: {error:?}"));
                    }
                }
                Sent::Check(check) => match applier.check(&check) {
                    Ok(false) => {}
                    Ok(true) => differing.lock().expect("nobody panics here").push(check),
                    Err(error) => fault(format!("{check:?}: {error:?}")),
                },
                Sent::Reached(done) => drop(done.send(())),
            }
        }
    })
}

/// A captured directory, and its copy.
struct Verified {
    pair: Pair,
    stream: Arc<Stream>,
}

impl Verified {
    fn make() -> anyhow::Result<Self> {
        let mut stream = None;
        let pair = Pair::make_by("verified", |dir| {
            let copy = dir.with_file_name("copy");
            fs::create_dir(&copy).expect("nobody else makes that name");
            let copy = open(&copy).expect("it was just made");
            let of_copy = numbering(dir, copy.as_fd())?;
            let applier = Applier::open(copy, of_copy).expect("a directory");
            let (queue, queued) = sync_channel(QUEUE_MAX);
            let (faults, differing) = (Arc::default(), Arc::default());
            // It ends with the queue, when the last who can send has gone.
            let _ends_by_itself = follow(applier, queued, Arc::clone(&faults), Arc::clone(&differing));
            let made = Stream { queue, atlas: OnceLock::new(), faults, differing, checks: AtomicU64::new(0) };
            let made = Arc::new(made);
            let below = Prepared::open(dir)?;
            let of_dir = numbering(dir, below.as_fd())?;
            let prepared = Prepared::new(dir, below, of_dir, Arc::clone(&made) as Arc<dyn Watch>)?;
            made.atlas.set(Arc::downgrade(&prepared.atlas())).expect("it is set once");
            let captured = prepared.mount()?;
            captured.set_leads(true);
            stream = Some(made);
            Ok(captured)
        })?;
        Ok(Self { pair, stream: stream.context("it was made")? })
    }

    fn path(&self, below: &str) -> PathBuf {
        self.pair.captured().join(below)
    }

    fn copy(&self, below: &str) -> PathBuf {
        self.pair.base.join("copy").join(below)
    }

    /// Objects that were compared, and what differs.
    fn verify(&self) -> anyhow::Result<(u64, Vec<Check>)> {
        let captured = self.pair.captured.as_ref().context("it is mounted")?;
        let verified = captured.verify(&*self.stream);
        self.stream.settle();
        ensure!(verified.complete && verified.unreadable == 0, "{verified:?}");
        let faults = self.stream.faults.lock().expect("nobody panics here");
        ensure!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(9)].join("\n"));
        let differing = std::mem::take(&mut *self.stream.differing.lock().expect("nobody panics here"));
        Ok((verified.objects, differing))
    }

    fn fill(&self) -> anyhow::Result<()> {
        fs::create_dir(self.path("quiet"))?;
        fs::write(self.path("quiet/large"), vec![7; 9 << 20])?;
        for name in ["mode", "attribute", "name"] {
            fs::write(self.path("quiet").join(name), name)?;
        }
        std::os::unix::fs::symlink("nowhere", self.path("quiet/link"))?;
        fs::create_dir_all(self.path("quiet/deep/deeper"))?;
        fs::write(self.path("quiet/deep/deeper/file"), "deep")?;
        Ok(())
    }
}

fn open(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).with_context(|| path.display().to_string())
}

/// What an application does with its files, all the time: also what another one is refused.
fn write(home: &Path, seed: u64, ended: &AtomicBool) -> u64 {
    fs::create_dir_all(home.join("a/b")).expect("a new directory");
    fs::create_dir(home.join("c")).expect("a new directory");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut done = 0;
    while !ended.load(Ordering::Relaxed) {
        let name = |random: &mut fastrand::Rng| {
            home.join(["a", "a/b", "c"][random.usize(..3)]).join(random.u32(..20).to_string())
        };
        let (path, other) = (name(&mut random), name(&mut random));
        let existing = fs::OpenOptions::new().write(true).open(&path);
        let result = match random.u32(..9) {
            0 => fs::write(&path, vec![random.u8(..); random.usize(..100_000)]),
            1 | 2 => {
                existing.and_then(|file| file.write_all_at(&[random.u8(..); 5000], random.u64(..6_000_000)))
            }
            3 => existing.and_then(|file| file.set_len(random.u64(..5_000_000))),
            4 => fs::rename(&path, &other),
            5 => fs::remove_file(&path),
            6 => fs::set_permissions(&path, fs::Permissions::from_mode(random.u32(..0o1000))),
            7 => fs::hard_link(&path, &other),
            _ => {
                let (value, flags) = ([random.u8(..)], XattrFlags::empty());
                rustix::fs::setxattr(&path, "user.colour", &value, flags).map_err(Into::into)
            }
        };
        done += u64::from(result.is_ok());
        if random.u32(..50) == 0 {
            let _there = fs::rename(home.join("c"), home.join("a/b/c"));
            let _back = fs::rename(home.join("a/b/c"), home.join("c"));
        }
    }
    done
}

#[test]
fn copies_are_compared_while_they_change() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let verified = Verified::make()?;
    verified.fill()?;
    // The other copy has to be told where everything is.
    verified.stream.settle();
    verified.stream.send(Sent::ForgetPlaces);
    let (objects, differing) = verified.verify()?;
    ensure!(objects == 1 + 6 + 3 && differing.is_empty(), "{objects}: {differing:?}");

    let ended = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (home, ended) = (verified.path(&format!("writer {writer}")), Arc::clone(&ended));
            std::thread::spawn(move || write(&home, writer, &ended))
        })
        .collect();
    let (until, mut rounds, mut compared) = (clock::now() + Duration::from_secs(12), 0, 0);
    let mut alarms = Vec::new();
    while clock::now() < until {
        let (objects, differing) = verified.verify()?;
        (rounds, compared) = (rounds + 1, compared + objects);
        alarms.extend(differing);
    }
    ended.store(true, Ordering::Relaxed);
    let done: u64 = writers.into_iter().map(|writer| writer.join().expect("no panic")).sum();
    let checks = verified.stream.checks.load(Ordering::Relaxed);
    eprintln!("{done} changes, {rounds} comparisons of {compared} objects, {checks} checks");
    ensure!(alarms.is_empty(), "{} false alarms: {:?}", alarms.len(), &alarms[..alarms.len().min(3)]);
    ensure!(rounds >= 3 && done > 1000, "{rounds} rounds, {done} changes");
    damage_is_found(&verified)
}

/// Each kind of damage underneath, and nothing else.
fn damage_is_found(verified: &Verified) -> anyhow::Result<()> {
    let (_, differing) = verified.verify()?;
    ensure!(differing.is_empty(), "{differing:?}");
    let numbers: BTreeMap<&str, u64> = ["large", "mode", "attribute", "name", ""]
        .into_iter()
        .map(|name| Ok((name, number_of(&verified.path("quiet").join(name))?)))
        .collect::<anyhow::Result<_>>()?;
    let quiet = verified.copy("quiet");
    let large = quiet.join("large");
    let modified = fs::metadata(&large)?.modified()?;
    let file = fs::OpenOptions::new().write(true).open(&large)?;
    file.write_all_at(&[7 ^ 1], (5 << 20) + 11)?;
    file.set_modified(modified)?;
    fs::set_permissions(quiet.join("mode"), fs::Permissions::from_mode(0o601))?;
    rustix::fs::setxattr(quiet.join("attribute"), "user.more", b"x", XattrFlags::empty())?;
    fs::remove_file(quiet.join("name"))?;
    let (_, differing) = verified.verify()?;
    let found: BTreeSet<(u64, &str, u64)> = differing
        .iter()
        .map(|check| match &check.piece {
            Piece::Names { .. } => (check.object.0, "names", 0),
            Piece::Contents { offset, .. } => (check.object.0, "contents", *offset),
            Piece::Facts { .. } => (check.object.0, "facts", 0),
        })
        .collect();
    let expected = BTreeSet::from([
        (numbers["large"], "contents", 4 << 20),
        (numbers["mode"], "facts", 0),
        (numbers["attribute"], "facts", 0),
        (numbers["name"], "contents", 0),
        (numbers["name"], "facts", 0),
        (numbers[""], "names", 0),
        // Its time of modification.
        (numbers[""], "facts", 0),
    ]);
    ensure!(found == expected, "found {found:?}\nwanted {expected:?}");
    Ok(())
}

/// As both copies have it: the captured directory shows it as the number of the inode.
fn number_of(path: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(path.symlink_metadata()?.ino())
}
