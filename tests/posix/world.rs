//! One directory in which a row is done, and what is to be seen there after each step.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::identities::Actor;
use crate::steps::Step;

pub(crate) struct World {
    root: PathBuf,
    umask: u32,
    /// When each object was modified and changed, at the last look, by inode number.
    times: BTreeMap<u64, (i128, i128)>,
}

impl World {
    pub(crate) fn make(base: &Path, row: usize) -> anyhow::Result<Self> {
        let root = base.join(format!("row{row}"));
        std::fs::create_dir(&root).with_context(|| root.display().to_string())?;
        rustix::fs::chmod(&root, rustix::fs::Mode::from_raw_mode(0o777))?;
        let mut world = Self { root, umask: 0o022, times: BTreeMap::new() };
        world.look();
        Ok(world)
    }

    /// Does it, and looks around.
    pub(crate) fn take(&mut self, actor: Actor, step: &Step) -> String {
        if let Step::Umask(umask) = step {
            self.umask = *umask;
        }
        let said = actor.does(self.umask, || step.run(&self.root));
        format!("{said}\n{}", self.look())
    }

    fn look(&mut self) -> String {
        let mut lines = Vec::new();
        let mut times = BTreeMap::new();
        let mut first_names = BTreeMap::new();
        let mut left = vec![PathBuf::new()];
        while let Some(place) = left.pop() {
            let path = self.root.join(&place);
            let Ok(facts) = path.symlink_metadata() else {
                lines.push(format!("{}: gone", place.display()));
                continue;
            };
            let known = self.times.get(&facts.ino());
            let now = (
                i128::from(facts.mtime()) * 1_000_000_000 + i128::from(facts.mtime_nsec()),
                i128::from(facts.ctime()) * 1_000_000_000 + i128::from(facts.ctime_nsec()),
            );
            let stamp = known.map_or("new".to_owned(), |known| {
                format!("{}{}", sign(known.0, now.0, 'm'), sign(known.1, now.1, 'c'))
            });
            times.insert(facts.ino(), now);
            // Names of one object: known by the first of them.
            let same = first_names.entry(facts.ino()).or_insert_with(|| place.clone()).clone();
            lines.push(format!(
                "{:?}: mode {:o} links {} owner {}:{} size {} device {} {stamp} {} {} as {:?}",
                place.as_os_str().as_bytes().escape_ascii().to_string(),
                facts.mode(),
                facts.nlink(),
                facts.uid(),
                facts.gid(),
                if facts.is_dir() { 0 } else { facts.size() },
                facts.rdev(),
                contents(&path, &facts),
                attributes(&path),
                same,
            ));
            // A time that somebody has set is the same everywhere; others are of the moment.
            if now.0 < 1_600_000_000_000_000_000 {
                lines.push(format!("  modified {}", now.0));
            }
            if facts.is_dir() {
                let mut names: Vec<_> = std::fs::read_dir(&path)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.file_name())
                    .collect();
                names.sort();
                left.extend(names.into_iter().rev().map(|name| place.join(name)));
            }
        }
        self.times = times;
        lines.join("\n")
    }
}

fn sign(before: i128, after: i128, which: char) -> String {
    match after.cmp(&before) {
        std::cmp::Ordering::Less => format!("{which}-"),
        std::cmp::Ordering::Equal => format!("{which}="),
        std::cmp::Ordering::Greater => format!("{which}+"),
    }
}

fn contents(path: &Path, facts: &std::fs::Metadata) -> String {
    if facts.is_symlink() {
        return format!("-> {:?}", std::fs::read_link(path));
    }
    if !facts.is_file() {
        return String::new();
    }
    match std::fs::read(path) {
        Ok(bytes) => format!("sum {}", sum(&bytes)),
        Err(error) => format!("cannot be read: {error}"),
    }
}

/// As root sees them. Those of this program must not be among them.
fn attributes(path: &Path) -> String {
    let mut names = [0_u8; 4096];
    let Ok(size) = rustix::fs::llistxattr(path, &mut names[..]) else { return "no attributes".to_owned() };
    let mut all: Vec<String> = Vec::new();
    for name in names[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = [0_u8; 4096];
        let read = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap_or(0);
        all.push(format!("{}={}", name.escape_ascii(), value[..read].escape_ascii()));
    }
    all.sort();
    format!("[{}]", all.join(" "))
}

pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
