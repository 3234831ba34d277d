//! Ctrl-C and SIGTERM end the demo, but only after it has tidied up: they set a flag that every wait looks at.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::driver::clock;
use tokio::signal::unix::{SignalKind, signal};

/// How long a wait sleeps before it looks again.
const POLL: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

/// Somebody wants the demo to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Interrupt {
    /// From now on the signals that end a program only set the flag.
    pub fn on_signals() -> io::Result<Self> {
        let interrupt = Self::default();
        let flag = interrupt.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<io::Result<Vec<_>>>()?;
        drop(guard);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let [interrupted, terminated, hung_up] = signals.as_mut_slice() else {
                unreachable!("three signals were asked for")
            };
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupted.recv() => {}
                        _ = terminated.recv() => {}
                        _ = hung_up.recv() => {}
                    }
                    flag.set();
                }
            });
        })?;
        Ok(interrupt)
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() { Err(Interrupted) } else { Ok(()) }
    }

    /// A short sleep that says whether there is a reason to wake up for good.
    pub fn nap(&self) -> Result<(), Interrupted> {
        self.check()?;
        std::thread::sleep(POLL);
        self.check()
    }

    /// A long sleep that ends when there is a reason to.
    pub fn pause(&self, span: Duration) -> Result<(), Interrupted> {
        let deadline = clock::now() + span;
        while clock::now() < deadline {
            self.nap()?;
        }
        Ok(())
    }
}
