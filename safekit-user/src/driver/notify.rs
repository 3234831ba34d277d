//! What the service manager is told: `sd_notify(3)`, datagrams to a socket that it named in the environment.
//!
//! ```text
//! daemon ── READY, STATUS=CONVERGED, WATCHDOG=1 ──▶ its pulse ──▶ parent ──▶ service manager
//! parent ── RELOADING, STOPPING, EXTEND_TIMEOUT_USEC while stop scripts run ─▲
//! ```
//!
//! The heartbeat thread publishes a snapshot four times a second, a task of the runtime waits for it, and the parent
//! passes its word on: a word to the watchdog proves all three. Without a service manager nothing here does anything.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::clock;
use super::supervise::Beating;
use crate::types::{Instant, Snapshot};

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG: &str = "WATCHDOG_USEC";
/// Between looks at the state that is shown, where no watchdog sets the pace.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often a stop that goes on asks for more time.
const EXTEND_INTERVAL: Duration = Duration::from_secs(5);
/// What it asks for.
const EXTEND_BY: Duration = Duration::from_secs(15);

/// The way to the service manager.
#[derive(Clone, Debug, Default)]
pub struct Manager(Option<Arc<Socket>>);

#[derive(Debug)]
struct Socket {
    descriptor: OwnedFd,
    address: SocketAddrUnix,
}

impl Manager {
    /// The one that started this process, if it wants to be told.
    pub fn of_environment() -> Self {
        let Some(name) = std::env::var_os(SOCKET) else { return Self::default() };
        match Socket::open(name.as_encoded_bytes()) {
            Ok(socket) => Self(Some(Arc::new(socket))),
            Err(error) => {
                tracing::warn!(%error, "cannot tell the service manager anything");
                Self::default()
            }
        }
    }

    /// Ends with the READY of the life that takes over.
    pub fn reloading(&self) {
        // As Type=notify-reload wants it (systemd 253); older ones overlook the second line.
        let now = clock::now().since(Instant::default()).as_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=taking over a configuration"));
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=leaving: stop scripts and connections");
    }

    /// For a while in which there is no daemon, on purpose.
    pub fn waiting(&self) {
        self.tell("WATCHDOG=1\nSTATUS=DOWN: the daemon died and is started again");
    }

    pub(super) fn pass_on(&self, word: &[u8]) {
        self.send(word);
    }

    fn tell(&self, text: &str) {
        self.send(text.as_bytes());
    }

    fn send(&self, text: &[u8]) {
        if let Some(socket) = &self.0 {
            // A manager that does not listen must not hold anybody up.
            let _unheard =
                sendto(&socket.descriptor, text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &socket.address);
        }
    }

    /// Asks for more time again and again; drop it when the work is done.
    pub async fn keep_extending(&self) {
        let mut turns = interval(EXTEND_INTERVAL);
        loop {
            turns.tick().await;
            self.tell(&format!("EXTEND_TIMEOUT_USEC={}", EXTEND_BY.as_micros()));
        }
    }
}

/// Tells that the daemon is ready, that it lives and how its cluster is, until the heartbeat thread has gone.
pub async fn follow(
    pulse: Arc<Beating>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    word: fn(&Snapshot) -> &'static str,
) {
    let watchdog = watchdog_interval();
    let mut turns = interval(watchdog.map_or(LOOK_INTERVAL, |interval| interval.min(LOOK_INTERVAL)));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = word(&snapshots.borrow_and_update());
    pulse.say(&format!("READY=1\nSTATUS={said}"));
    loop {
        turns.tick().await;
        match snapshots.has_changed() {
            Err(_) => return,
            // The heartbeat thread has been silent for a whole turn.
            Ok(false) => continue,
            Ok(true) => {}
        }
        let status = word(&snapshots.borrow_and_update());
        if status != said {
            pulse.say(&format!("STATUS={status}"));
            said = status;
        }
        if watchdog.is_some() {
            pulse.say("WATCHDOG=1");
        }
    }
}

impl Socket {
    fn open(name: &[u8]) -> rustix::io::Result<Self> {
        let address = match name {
            [b'@', rest @ ..] => SocketAddrUnix::new_abstract_name(rest)?,
            path => SocketAddrUnix::new(path)?,
        };
        let descriptor = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { descriptor, address })
    }
}

/// Half of what the manager waits, as sd_watchdog_enabled(3) advises. `WATCHDOG_PID` is the parent's: it is passed over,
/// because the parent has its child speak for both.
fn watchdog_interval() -> Option<Duration> {
    let micros: u64 = std::env::var(WATCHDOG).ok()?.parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn pair(dir: &std::path::Path) -> (UnixDatagram, Manager) {
        let path = dir.join("notify");
        let ears = UnixDatagram::bind(&path).unwrap();
        ears.set_nonblocking(true).unwrap();
        let socket = Socket::open(path.as_os_str().as_encoded_bytes()).unwrap();
        (ears, Manager(Some(Arc::new(socket))))
    }

    fn heard(ears: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 512];
        let length = ears.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    #[test]
    fn what_is_told_is_heard() {
        let dir = crate::driver::scripts::tests::TempDir::new("notify");
        let (ears, manager) = pair(dir.path());
        manager.pass_on(b"READY=1\nSTATUS=CONVERGED");
        assert_eq!(heard(&ears).unwrap(), "READY=1\nSTATUS=CONVERGED");
        manager.reloading();
        assert!(heard(&ears).unwrap().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        manager.stopping();
        assert!(heard(&ears).unwrap().starts_with("STOPPING=1\n"));
        assert_eq!(heard(&ears), None);
    }

    #[test]
    fn a_manager_that_does_not_listen_holds_nobody_up() {
        let dir = crate::driver::scripts::tests::TempDir::new("notify-deaf");
        let (ears, manager) = pair(dir.path());
        for _ in 0..100_000 {
            manager.waiting();
        }
        assert!(heard(&ears).is_some());
        drop(ears);
        manager.waiting();
        Manager::default().waiting();
    }
}
