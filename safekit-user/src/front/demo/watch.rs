//! Watches one daemon through its control socket, over all its lives, and keeps what it tells.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::front::control_client::{Client, Error};
use crate::types::{Command, Event, Reply, Snapshot};

/// More than a daemon lives through in an evening of demos.
const EVENTS_MAX: usize = 20_000;
/// How soon a wait for news looks at the stop flag.
const PATIENCE: Duration = Duration::from_millis(200);
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// What is known of one node.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// The daemon answers at present.
    pub connected: bool,
    /// The newest, also of a daemon that has died.
    pub snapshot: Option<Snapshot>,
    /// Of all lives, in order.
    pub events: VecDeque<Event>,
}

/// Stops when dropped.
pub struct Watcher {
    sight: Arc<Mutex<Sight>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub fn start(socket: PathBuf) -> std::io::Result<Self> {
        let (sight, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&sight), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("watch".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A daemon that is down is nothing to report here: `connected` says it.
                let _ended = follow(&socket, &seen, &stopped);
                lock(&seen).connected = false;
                std::thread::sleep(RECONNECT_PAUSE);
            }
        })?;
        Ok(Self { sight, stop, thread: Some(thread) })
    }

    pub fn sight(&self) -> MutexGuard<'_, Sight> {
        lock(&self.sight)
    }

    pub fn shared(&self) -> Arc<Mutex<Sight>> {
        Arc::clone(&self.sight)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

/// A sight is whole between its changes.
pub fn lock(sight: &Mutex<Sight>) -> MutexGuard<'_, Sight> {
    sight.lock().unwrap_or_else(PoisonError::into_inner)
}

fn follow(socket: &std::path::Path, sight: &Mutex<Sight>, stopped: &AtomicBool) -> Result<(), Error> {
    let mut client = Client::connect(socket)?;
    client.send(&Command::Watch)?;
    while !stopped.load(Ordering::Relaxed) {
        match client.receive(PATIENCE) {
            Ok(Reply::Status { snapshot }) => lock(sight).learn(*snapshot),
            Ok(_) => return Err(Error::Unexpected),
            Err(Error::Silent { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Sight {
    fn learn(&mut self, snapshot: Snapshot) {
        append_new(&mut self.events, &snapshot.events);
        self.connected = true;
        self.snapshot = Some(snapshot);
    }
}

/// Takes those of `told` that are not `known` yet. A daemon tells its newest events again and again.
fn append_new(known: &mut VecDeque<Event>, told: &[Event]) {
    let newest = known.back().map(|event| event.at);
    let is_known =
        |event: &Event| known.iter().rev().take_while(|it| it.at == event.at).any(|it| it == event);
    let is_new = |event: &&Event| match newest {
        Some(newest) => event.at > newest || (event.at == newest && !is_known(event)),
        None => true,
    };
    let new: Vec<Event> = told.iter().filter(is_new).cloned().collect();
    for event in new {
        if known.len() == EVENTS_MAX {
            known.pop_front();
        }
        known.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EventKind, Instant, NodeId};

    fn joined(at: u64, node: u8) -> Event {
        Event { at: Instant(at), kind: EventKind::Joined { node: NodeId(node) } }
    }

    #[test]
    fn each_event_is_learnt_once_over_snapshots_and_lives() {
        let mut known = VecDeque::new();
        append_new(&mut known, &[joined(1, 1), joined(2, 2)]);
        // The same again, a second event of the same instant, and one more; the oldest has been forgotten.
        append_new(&mut known, &[joined(2, 2), joined(2, 1), joined(5, 0)]);
        // Another life of the daemon starts with an empty list.
        append_new(&mut known, &[]);
        append_new(&mut known, &[joined(9, 1)]);
        assert_eq!(known, [joined(1, 1), joined(2, 2), joined(2, 1), joined(5, 0), joined(9, 1)]);
    }
}
