//! What a thread of the file system is, for the time of one call.

use std::cell::Cell;

use rustix::fd::BorrowedFd;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, UnshareFlags};

thread_local! {
    /// The umask of a thread is that of its process until it is set apart (unshare(2), CLONE_FS).
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// With the umask of the caller: the file system underneath knows whether a default access control list replaces it.
pub(super) fn with_umask<T>(umask: u32, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    APART.with(|apart| {
        if !apart.get() {
            // SAFETY: only the umask, the working directory and the root of this thread are set apart; descriptors stay
            // shared with the other threads.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
            apart.set(true);
        }
        Ok(())
    })?;
    let before = rustix::process::umask(Mode::from_raw_mode(umask));
    let made = make();
    rustix::process::umask(before);
    made
}

/// Who asks, and with which umask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
    pub(super) umask: u32,
}

impl Caller {
    /// Changes the contents of `file` as the caller would: who has no privilege clears its set-user-id bit, and its
    /// set-group-id bit too unless that marks no program and the group is one of the caller's.
    ///
    /// Whoever is not root has to be assumed to lack the privilege: the request does not say.
    pub(super) fn changes<T>(
        self,
        file: BorrowedFd<'_>,
        change: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if self.uid == 0 {
            return change();
        }
        let stat = rustix::fs::fstat(file)?;
        if stat.st_mode & (Mode::SUID | Mode::SGID).bits() == 0 {
            return change();
        }
        let marks_no_program = stat.st_mode & (Mode::SGID | Mode::XGRP).bits() == Mode::SGID.bits();
        let own_group = (marks_no_program && self.is_member(stat.st_gid)).then_some(stat.st_gid);
        without_fsetid(own_group, change)
    }

    /// Of the group of the request, or of the process that made it.
    fn is_member(self, group: u32) -> bool {
        let status = || std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        self.gid == group
            || status()
                .lines()
                .filter_map(|line| line.strip_prefix("Groups:"))
                .any(|groups| groups.split_whitespace().any(|known| known.parse() == Ok(group)))
    }
}

/// Without the right to keep set-user-id and set-group-id bits, as a member of `group`.
fn without_fsetid<T>(group: Option<u32>, change: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let before = rustix::thread::capabilities(None)?;
    let mut fewer = before;
    fewer.effective.remove(CapabilitySet::FSETID);
    rustix::thread::set_capabilities(None, fewer)?;
    let former = group.map(set_file_system_group);
    let changed = change();
    former.map(set_file_system_group);
    rustix::thread::set_capabilities(None, before)?;
    changed
}

/// For this thread; gives back what it was.
fn set_file_system_group(group: u32) -> u32 {
    // SAFETY: a call with a number; the C library does not carry it to other threads.
    let former = unsafe { libc::syscall(libc::SYS_setfsgid, group) };
    u32::try_from(former).unwrap_or(0)
}
