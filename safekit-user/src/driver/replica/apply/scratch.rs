//! Directories of tests.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, Mode, OFlags};

/// Removed with what is in it.
#[derive(Debug)]
pub(in crate::driver::replica) struct Scratch(PathBuf);

impl Scratch {
    /// None, said aloud: this user may not keep trusted attributes. With SAFEKIT_LAB=1 that is a failure.
    pub(in crate::driver::replica) fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            let demanded = std::env::var_os("SAFEKIT_LAB").is_some_and(|value| value == "1");
            assert!(!demanded, "SAFEKIT_LAB=1 and not root: trusted attributes need root");
            eprintln!("skipped: trusted attributes need root (SAFEKIT_LAB=1 makes this a failure)");
            return None;
        }
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("safekit-copy-{}-{next}", std::process::id()));
        std::fs::create_dir(&path).expect("nobody else makes that name");
        Some(Self(path))
    }

    pub(in crate::driver::replica) fn path(&self) -> &Path {
        &self.0
    }

    /// A directory below, made if need be.
    pub(in crate::driver::replica) fn root(&self, name: &str) -> OwnedFd {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).expect("it can be made");
        open(&path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = std::fs::remove_dir_all(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

/// As a place: of any kind, and no link is followed.
pub(in crate::driver::replica) fn open(path: &Path) -> OwnedFd {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .expect("it is there")
}
