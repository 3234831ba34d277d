//! Everything of two trees that copies have to have in common: names, kinds, contents, modes, owners, times, attributes,
//! and which names are of one object. Not how many blocks a file has.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What the program keeps for itself there.
const HIDDEN: &str = ".safekit";
const OWN_ATTRIBUTES: &[u8] = b"trusted.safekit.";

pub(crate) type Tree = BTreeMap<PathBuf, String>;

/// The first one, in words.
pub(crate) fn difference(one: &Path, other: &Path) -> Result<Option<String>> {
    let (one, other) = (tree(one)?, tree(other)?);
    let differs = |path: &&PathBuf| one.get(*path) != other.get(*path);
    let count =
        one.keys().filter(differs).count() + other.keys().filter(|path| !one.contains_key(*path)).count();
    let first = one.keys().chain(other.keys()).find(differs);
    Ok(first.map(|path| {
        format!(
            "{path:?} of {count} objects:\n  {}\n  {}",
            one.get(path).map_or("missing", String::as_str),
            other.get(path).map_or("missing", String::as_str),
        )
    }))
}

/// The root is the empty path. What is gone while it is looked at is left out.
pub(crate) fn tree(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut first_names = HashMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(place) = left.pop() {
        let path = root.join(&place);
        let facts =
            match if place.as_os_str().is_empty() { fs::metadata(&path) } else { path.symlink_metadata() } {
                Ok(facts) => facts,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| place.display().to_string()),
            };
        if facts.is_dir() {
            let mut names: Vec<PathBuf> = Vec::new();
            for entry in fs::read_dir(&path).into_iter().flatten() {
                names.push(place.join(entry?.file_name()));
            }
            names.retain(|name| name != Path::new(HIDDEN));
            // The last is taken first.
            names.sort_by(|one, other| other.cmp(one));
            left.extend(names);
        }
        let first: &PathBuf = first_names.entry(facts.ino()).or_insert_with(|| place.clone());
        let described = describe(&path, &facts, first)?;
        tree.insert(place, described);
    }
    Ok(tree)
}

fn describe(path: &Path, facts: &fs::Metadata, first_name: &Path) -> Result<String> {
    let is_directory = facts.is_dir();
    Ok(format!(
        "mode {:o} owner {}:{} links {} size {} device {} modified {}.{:09} {} {} as {first_name:?}",
        facts.mode(),
        facts.uid(),
        facts.gid(),
        if is_directory { 0 } else { facts.nlink() },
        if is_directory { 0 } else { facts.size() },
        facts.rdev(),
        facts.mtime(),
        facts.mtime_nsec(),
        contents(path, facts)?,
        attributes(path)?,
    ))
}

fn contents(path: &Path, facts: &fs::Metadata) -> Result<String> {
    if facts.is_symlink() {
        return Ok(format!("-> {:?}", fs::read_link(path)?));
    }
    if !facts.is_file() {
        return Ok(String::new());
    }
    Ok(match fs::read(path) {
        Ok(bytes) => format!("sum {:016x}", sum(&bytes)),
        Err(error) => format!("cannot be read: {error}"),
    })
}

pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn attributes(path: &Path) -> Result<String> {
    let mut names = vec![0_u8; 1 << 16];
    let size = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        Ok(size) => size,
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOENT) => 0,
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let mut all: Vec<String> = Vec::new();
    let mut value = vec![0_u8; 1 << 16];
    for name in names[..size].split(|byte| *byte == 0) {
        if name.is_empty() || name.starts_with(OWN_ATTRIBUTES) {
            continue;
        }
        let read = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice()).unwrap_or(0);
        all.push(format!("{}={}", name.escape_ascii(), value[..read].escape_ascii()));
    }
    all.sort();
    Ok(format!("[{}]", all.join(" ")))
}
