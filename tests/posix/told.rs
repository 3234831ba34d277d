//! What a captured directory tells of its changes is all of them: whoever makes them again has the same copy.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use anyhow::{Context as _, ensure};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use safekit::driver::replica::apply::Applier;
use safekit::driver::replica::capture::{Prepared, numbering};
use safekit::driver::replica::watch::{Atlas, Change, FlushReply, Permit, Place, Reply, Watch};
use safekit::types::replica::{ObjectId, Touch};
use safekit::wire::replica::Operation;
use safekit_tests::lab;

use crate::rows;
use crate::{Pair, compare_all};

/// Makes every change again in another directory, at once.
struct Follower {
    applier: Mutex<Applier>,
    atlas: OnceLock<Weak<dyn Atlas>>,
    faults: Mutex<Vec<String>>,
}

impl Follower {
    fn follow(&self, change: &Change<'_>) -> Result<(), String> {
        let mut applier = self.applier.lock().map_err(|_| "a panic before".to_owned())?;
        for object in objects_of(&change.operation) {
            self.place(&mut applier, object);
        }
        applier
            .apply(&change.operation, change.bulk)
            .map_err(|fault| format!("{:?}: {fault:?}", change.operation))
    }

    /// Objects that were there before anybody followed; those that are known stay where they are.
    fn place(&self, applier: &mut Applier, object: ObjectId) {
        let Some(atlas) = self.atlas.get().and_then(Weak::upgrade) else { return };
        if let Some(Place { parent, name }) = atlas.place(object) {
            self.place(applier, parent);
            // The change itself finds out whether it is needed.
            let _not_yet_there = applier.place(object, parent, &name);
        }
    }
}

pub(crate) fn objects_of(operation: &Operation) -> Vec<ObjectId> {
    match operation {
        Operation::Write { object, .. }
        | Operation::Truncate { object, .. }
        | Operation::Allocate { object, .. }
        | Operation::Meta { object, .. }
        | Operation::SetAttribute { object, .. }
        | Operation::RemoveAttribute { object, .. } => vec![*object],
        Operation::Copy { from, to, .. } => vec![*from, *to],
        Operation::Create { parent, .. } => vec![*parent],
        Operation::Link { object, parent, .. } => vec![*object, *parent],
        Operation::Remove { parent, .. } => vec![*parent],
        Operation::Rename { parent, new_parent, .. } => vec![*parent, *new_parent],
    }
}

impl Watch for Follower {
    fn begin(&self, _: &[Touch]) -> Result<Permit, Errno> {
        Ok(Permit(0))
    }

    fn done(&self, _: Permit, changes: &[Change<'_>], reply: Reply) {
        for change in changes {
            if let Err(fault) = self.follow(change) {
                self.faults.lock().expect("nobody panics here").push(fault);
            }
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

fn open(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).with_context(|| path.display().to_string())
}

#[test]
fn whoever_follows_has_the_same() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut follower = None;
    let mut pair = Pair::make_by("told", |dir| {
        let copy = dir.with_file_name("copy");
        fs::create_dir(&copy).expect("nobody else makes that name");
        let copy = open(&copy).expect("it was just made");
        let of_copy = numbering(dir, copy.as_fd())?;
        let applier = Mutex::new(Applier::open(copy, of_copy).expect("a directory"));
        let made = Arc::new(Follower { applier, atlas: OnceLock::new(), faults: Mutex::default() });
        let below = Prepared::open(dir)?;
        let of_dir = numbering(dir, below.as_fd())?;
        let prepared = Prepared::new(dir, below, of_dir, Arc::clone(&made) as Arc<dyn Watch>)?;
        made.atlas.set(Arc::downgrade(&prepared.atlas())).expect("it is set once");
        let captured = prepared.mount()?;
        captured.set_leads(true);
        follower = Some(made);
        Ok(captured)
    })?;
    let follower = follower.context("it was made")?;
    let rows = [
        rows::made(),
        rows::named(),
        rows::met(),
        rows::renamed(),
        rows::written(),
        rows::bits(),
        rows::attributes(),
    ];
    compare_all(&pair, "told", &rows.concat())?;
    pair.captured.take().context("it is mounted")?.unmount()?;
    let faults = follower.faults.lock().expect("nobody panics here");
    ensure!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(12)].join("\n"));
    let (told, copy) = (list(&pair.captured())?, list(&pair.base.join("copy"))?);
    let differing: Vec<_> = told
        .iter()
        .filter(|(path, facts)| copy.get(*path) != Some(*facts))
        .map(|(path, facts)| format!("{}\n  {facts}\n  {:?}", path.display(), copy.get(path)))
        .collect();
    let count = differing.len();
    ensure!(count == 0, "{count} of {} differ:\n{}", told.len(), differing[..count.min(12)].join("\n"));
    ensure!(told.len() == copy.len() && told.len() > 500, "{} and {}", told.len(), copy.len());
    Ok(())
}

/// Everything that two copies have in common, by path.
fn list(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let facts = path.symlink_metadata()?;
        let contents = if facts.is_file() {
            format!(
                "{:?}",
                fs::read(&path)?
                    .iter()
                    .fold(0_u64, |sum, byte| { sum.rotate_left(5).wrapping_mul(31) ^ u64::from(*byte) })
            )
        } else if facts.is_symlink() {
            format!("{:?}", fs::read_link(&path)?)
        } else {
            String::new()
        };
        let (size, links) = if facts.is_dir() { (0, 0) } else { (facts.len(), facts.nlink()) };
        let text = format!(
            "{:o} {}:{} {size} {links} {} {}.{:09} {:?} {contents}",
            facts.mode(),
            facts.uid(),
            facts.gid(),
            facts.rdev(),
            facts.mtime(),
            facts.mtime_nsec(),
            attributes(&path)?,
        );
        found.insert(path.strip_prefix(root)?.to_owned(), text);
        if facts.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
    }
    Ok(found)
}

/// Of the object, but for those of this program.
fn attributes(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0_u8; 65_536];
    let size = rustix::fs::llistxattr(path, names.as_mut_slice())?;
    let mut found = BTreeMap::new();
    for name in names[..size].split(|byte| *byte == 0) {
        if name.is_empty() || name.starts_with(b"trusted.safekit.") {
            continue;
        }
        let mut value = vec![0_u8; 65_536];
        let size = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
        value.truncate(size);
        found.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    Ok(found)
}
