//! The process that keeps the directories of one mirror, as its daemon sees it: requests and answers over a socket, one
//! JSON object a line (`types/mirror`). It outlives the daemon, as applications do.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::pair::Pair;
use crate::driver::clock;
use crate::engine::mirror::Order;
use crate::types::mirror::{CopyInfo, MirrorOrder, ReplicaReply, ReplicaRequest};
use crate::types::replica::MirrorRole;

/// The daemon, and whoever looks by hand.
const CLIENTS_MAX: usize = 16;
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// A client that takes no answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// A watching client hears at least so often,
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// and of a change after so long at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(200);

/// The directories; none once it stops.
type Pairs = Arc<RwLock<Option<Vec<Pair>>>>;

/// Takes requests until one of them, or whoever else has a `stop`, ends it; then everything is unmounted in order.
pub fn serve(
    socket: &Path,
    pairs: Vec<Pair>,
    (stop, stopped): (SyncSender<()>, Receiver<()>),
) -> io::Result<()> {
    let listener = bind(socket)?;
    let pairs: Pairs = Arc::new(RwLock::new(Some(pairs)));
    let accepting = Accepting { pairs: Arc::clone(&pairs), stop, clients: Arc::default() };
    // It ends with the process: what it may still accept finds no directories.
    std::thread::Builder::new().name("mirror-door".into()).spawn(move || accepting.run(&listener))?;
    // Whoever could send holds the other end as long as this runs.
    let _asked = stopped.recv();
    let taken = pairs.write().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let ended: Vec<io::Result<()>> = taken.into_iter().flatten().map(Pair::stop).collect();
    let _gone = std::fs::remove_file(socket);
    ended.into_iter().collect()
}

/// How somebody else asks it to stop, a signal for one.
pub fn stopper() -> (SyncSender<()>, Receiver<()>) {
    sync_channel(1)
}

pub fn socket_path(run_dir: &Path, module: &str) -> PathBuf {
    run_dir.join(format!("replica-{module}.sock"))
}

/// Only root may ask: whoever is somebody else asks the daemon.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

struct Accepting {
    pairs: Pairs,
    stop: SyncSender<()>,
    clients: Arc<AtomicUsize>,
}

impl Accepting {
    fn run(&self, listener: &UnixListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                std::thread::sleep(PAUSE);
                continue;
            };
            if self.clients.fetch_add(1, Ordering::AcqRel) >= CLIENTS_MAX {
                self.clients.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let client = Client { pairs: Arc::clone(&self.pairs), stop: self.stop.clone() };
            let clients = Arc::clone(&self.clients);
            let spawned = std::thread::Builder::new().name("mirror-client".into()).spawn(move || {
                if let Err(error) = client.converse(&stream) {
                    tracing::debug!(%error, "a client of a mirror's directories is gone");
                }
                clients.fetch_sub(1, Ordering::AcqRel);
            });
            if spawned.is_err() {
                self.clients.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

struct Client {
    pairs: Pairs,
    stop: SyncSender<()>,
}

impl Client {
    fn converse(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if (&mut reader).take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
                return Ok(());
            }
            match serde_json::from_str::<ReplicaRequest>(&line) {
                Ok(ReplicaRequest::Watch) => return self.watch(stream),
                Ok(ReplicaRequest::Order { order }) => say(stream, &self.order(order))?,
                Ok(ReplicaRequest::Stop) => {
                    say(stream, &ReplicaReply::Taken)?;
                    // Full: it stops already.
                    let _stops = self.stop.try_send(());
                }
                Err(error) => {
                    let error = format!("the request is not understood: {error}");
                    say(stream, &refused(error, "use the daemon of the same version"))?;
                }
            }
        }
    }

    fn with_pairs<R>(&self, look: impl FnOnce(&[Pair]) -> R) -> Option<R> {
        let pairs = self.pairs.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        pairs.as_ref().map(|pairs| look(pairs))
    }

    /// Until the client closes, or nothing is there any longer.
    fn watch(&self, stream: &UnixStream) -> io::Result<()> {
        let (closed, client) = sync_channel::<()>(0);
        let mut reading = stream.try_clone()?;
        std::thread::Builder::new().name("mirror-client".into()).spawn(move || {
            let mut rest = [0; 64];
            while matches!(reading.read(&mut rest), Ok(read) if read > 0) {}
            drop(closed);
        })?;
        let mut last: Option<Vec<CopyInfo>> = None;
        let mut said = clock::now();
        loop {
            let Some(copies) = self.with_pairs(|pairs| pairs.iter().map(Pair::info).collect::<Vec<_>>())
            else {
                return Ok(());
            };
            let is_news =
                last.as_ref().is_none_or(|last| !last.iter().zip(&copies).all(|(a, b)| is_same(a, b)));
            if is_news || clock::now().since(said) >= WATCH_INTERVAL {
                said = clock::now();
                say(stream, &ReplicaReply::Copies { copies: copies.clone() })?;
                last = Some(copies);
            }
            if client.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                return Ok(());
            }
        }
    }

    fn order(&self, order: MirrorOrder) -> ReplicaReply {
        let taken = self.with_pairs(|pairs| {
            let roles: Vec<MirrorRole> = pairs.iter().map(Pair::role).collect();
            match order {
                MirrorOrder::Prim { force } => all(pairs, Order::Lead { force }),
                MirrorOrder::Second { full_sync: false } => all(pairs, Order::Follow),
                MirrorOrder::Second { full_sync: true } if roles.iter().any(|role| role.leads()) => refused(
                    "this copy is the one that serves: it is not given up".into(),
                    "run `safekit second` without --full-sync first",
                ),
                MirrorOrder::Second { full_sync: true } => all(pairs, Order::Discard),
                MirrorOrder::Verify => verify(pairs, &roles),
            }
        });
        taken.unwrap_or_else(|| refused("it is stopping".into(), "start the module again"))
    }
}

/// Figures that move all the time are no news.
fn is_same(one: &CopyInfo, other: &CopyInfo) -> bool {
    (one.role, one.sync, one.connected, one.frozen, &one.why, &one.cannot_lead)
        == (other.role, other.sync, other.connected, other.frozen, &other.why, &other.cannot_lead)
}

fn all(pairs: &[Pair], order: Order) -> ReplicaReply {
    pairs.iter().for_each(|pair| pair.order(order));
    ReplicaReply::Taken
}

fn verify(pairs: &[Pair], roles: &[MirrorRole]) -> ReplicaReply {
    if roles.iter().any(|role| *role != MirrorRole::Prim) {
        let error = "only the node that is PRIM, with the other one in sync, can compare the copies";
        return refused(error.into(), "ask the node that serves, with `--node NAME`");
    }
    pairs.iter().for_each(Pair::verify);
    ReplicaReply::Taken
}

fn refused(error: String, next_step: &str) -> ReplicaReply {
    ReplicaReply::Refused { error, next_step: next_step.to_owned() }
}

fn say(mut stream: &UnixStream, reply: &ReplicaReply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line)
}
