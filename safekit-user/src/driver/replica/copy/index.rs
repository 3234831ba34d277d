//! What is looked for by its number alone: an object that the other node recorded, and that this one has no trace of.
//!
//! All names are walked through once, for all that is recorded. Applications rename meanwhile, and what moves from where
//! nobody has been to where somebody was would be missed: directories that have changed since they were listed are listed
//! again. While they go on changing, what is missing is not known to have gone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::compared::Compared;
use super::find::{Inside, walk};
use crate::driver::replica::object::{FileHandle, reopen};
use crate::driver::replica::watch::Trace;
use crate::types::replica::{ObjectId, Touch};

/// Directories that have changed are listed again so often.
const ROUNDS_MAX: u32 = 4;

/// Of all passes of a resynchronisation.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Recorded before this resynchronisation, and not found by a trace since: it may have been made anew, as another
    /// inode, since that was taken.
    unproven: Option<HashSet<ObjectId>>,
    /// In this pass.
    wanted: HashSet<ObjectId>,
    index: Option<Index>,
    /// What is missing and may be there.
    uncertain: BTreeSet<ObjectId>,
    /// Once a pass was over everything: what it has met. What moves meanwhile from where nobody has been to where somebody
    /// was is met for the first time by a later pass, and nothing but its name is recorded.
    compared: Option<Compared>,
}

#[derive(Debug)]
struct Index {
    of: HashSet<ObjectId>,
    found: HashMap<ObjectId, Trace>,
    /// Nothing changed: what is missing has gone.
    exact: bool,
}

/// Directories that were listed: how to find them again, and when they had last changed before.
type Listed = BTreeMap<ObjectId, (FileHandle, Changed)>;
/// Seconds and nanoseconds.
type Changed = (i64, u64);

impl Memory {
    pub(super) fn begin_pass(&mut self, touches: &[Touch], everything: bool) {
        if everything {
            self.compared = Some(Compared::default());
        }
        self.wanted = touches.iter().map(|touch| touch.region.object).collect();
        self.unproven.get_or_insert_with(|| self.wanted.clone());
        self.index.take_if(|index| !index.exact);
        self.uncertain.clear();
    }

    /// It is compared now, with all that is in it.
    pub(super) fn is_compared(&mut self, object: ObjectId) {
        if let Some(compared) = &mut self.compared {
            compared.add(object);
        }
    }

    /// A pass over everything has missed it.
    pub(super) fn was_missed(&self, object: ObjectId) -> bool {
        self.compared.as_ref().is_some_and(|compared| !compared.has(object))
    }

    /// Its trace is right: as long as this node is the source, it stays so.
    pub(super) fn is_found(&mut self, object: ObjectId) {
        if let Some(unproven) = &mut self.unproven {
            unproven.remove(&object);
        }
    }

    /// What its trace does not lead to has gone.
    pub(super) fn is_proven(&self, object: ObjectId) -> bool {
        self.unproven.as_ref().is_some_and(|unproven| !unproven.contains(&object))
    }

    /// As far as somebody had to look.
    pub(super) fn known(&self, object: ObjectId) -> Option<&Trace> {
        self.index.as_ref().and_then(|index| index.found.get(&object))
    }

    pub(super) fn search(
        &mut self,
        object: ObjectId,
        root: BorrowedFd<'_>,
        inside: Inside<'_>,
    ) -> Result<Option<Trace>, Errno> {
        let index = match self.index.take() {
            Some(index) if index.of.contains(&object) => index,
            Some(_) | None => {
                let mut of = self.wanted.clone();
                of.insert(object);
                Index::make(of, root, inside)?
            }
        };
        let index = self.index.insert(index);
        let found = index.found.get(&object).cloned();
        if found.is_none() && !index.exact {
            self.uncertain.insert(object);
        }
        Ok(found)
    }

    pub(super) fn uncertain(&mut self) -> BTreeSet<ObjectId> {
        std::mem::take(&mut self.uncertain)
    }
}

impl Index {
    fn make(of: HashSet<ObjectId>, root: BorrowedFd<'_>, inside: Inside<'_>) -> Result<Self, Errno> {
        let start = reopen(root, OFlags::PATH | OFlags::DIRECTORY)?;
        let mut listed = Listed::from([(ObjectId::ROOT, seen(&start)?)]);
        let mut left = BTreeMap::from([(ObjectId::ROOT, start)]);
        let mut found = HashMap::new();
        for _ in 0..ROUNDS_MAX {
            walk(left, inside, |_, parent, met, name| {
                let handle = || FileHandle::of(met.fd.as_fd());
                if of.contains(&met.object) {
                    let place = Some((FileHandle::of(parent)?, name.to_vec()));
                    found.insert(met.object, Trace { handle: handle()?, place });
                }
                if met.kind() != FileType::Directory || listed.contains_key(&met.object) {
                    return Ok(false);
                }
                listed.insert(met.object, (handle()?, changed(&met.stat)));
                Ok(true)
            })?;
            left = changed_since(&mut listed, root)?;
            if left.is_empty() {
                return Ok(Self { of, found, exact: true });
            }
        }
        Ok(Self { of, found, exact: false })
    }
}

/// Directories to be listed again.
fn changed_since(listed: &mut Listed, root: BorrowedFd<'_>) -> Result<BTreeMap<ObjectId, OwnedFd>, Errno> {
    let mut again = BTreeMap::new();
    for (object, (handle, before)) in listed {
        let fd = match handle.open(root) {
            Ok(fd) => fd,
            Err(Errno::STALE | Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        let now = changed(&rustix::fs::fstat(&fd)?);
        if now != *before {
            *before = now;
            again.insert(*object, fd);
        }
    }
    Ok(again)
}

fn seen(directory: &OwnedFd) -> Result<(FileHandle, Changed), Errno> {
    Ok((FileHandle::of(directory.as_fd())?, changed(&rustix::fs::fstat(directory)?)))
}

fn changed(stat: &Stat) -> Changed {
    (stat.st_ctime, stat.st_ctime_nsec)
}
