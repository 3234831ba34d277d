//! Users that do things: each for the time of one step, in a thread of its own.

/// Who takes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    Root,
    /// 1000, group 1000.
    Ann,
    /// 1001, group 1001.
    Bob,
    /// 1002, group 1002, and also of Ann's group.
    Cid,
}

pub(crate) const ANN: u32 = 1000;

impl Actor {
    pub(crate) const ALL: [Self; 4] = [Self::Root, Self::Ann, Self::Bob, Self::Cid];

    fn numbers(self) -> (u32, &'static [u32]) {
        match self {
            Self::Root => (0, &[0]),
            Self::Ann => (ANN, &[ANN]),
            Self::Bob => (1001, &[1001]),
            Self::Cid => (1002, &[1002, ANN]),
        }
    }

    /// What `work` comes to when this user does it.
    pub(crate) fn does<T: Send>(self, umask: u32, work: impl FnOnce() -> T + Send) -> T {
        let thread = || {
            self.become_it(umask);
            work()
        };
        std::thread::scope(|scope| scope.spawn(thread).join().expect("a step does not panic"))
    }

    /// The raw calls: the C library's change all threads of a process.
    fn become_it(self, umask: u32) {
        let (user, groups) = self.numbers();
        // SAFETY: the thread's own umask from here on; descriptors stay shared.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }.expect("root may");
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        // SAFETY: plain calls with numbers, and a list that outlives its call.
        let done = unsafe {
            [
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                libc::syscall(libc::SYS_setresgid, groups[0], groups[0], groups[0]),
                libc::syscall(libc::SYS_setresuid, user, user, user),
            ]
        };
        assert_eq!(done, [0, 0, 0], "root may become everybody");
    }
}
