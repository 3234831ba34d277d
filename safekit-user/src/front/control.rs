//! The control socket: one JSON [`Command`] a line in, [`Reply`]s a line out.
//!
//! Who connects is known from the kernel, and may what the groups of that user may; see [`crate::types::Access`].
//!
//! ```text
//! client ── Status ──▶          snapshot receiver
//!        ── Watch ───▶          snapshot receiver, one reply a change, at most ten a second
//!        ── others ──▶ questions (bounded) ──▶ the heartbeat thread, which owns the engine
//! ```

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::peer::Peer;
use crate::driver::clock;
use crate::types::journal::{Act, ActResult};
use crate::types::{Command, Instant, Reply, Snapshot, WallTime};

/// Longer than any command: the longest carries a configuration.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// Of root at once.
const ROOTS_MAX: usize = 64;
/// Of all other users at once: whatever they do, root gets through.
const OTHERS_MAX: usize = 64;
/// Denied commands of one user that are written down within an hour: they must not push out what was done.
const DENIALS_MAX: u32 = 60;
const DENIALS_WITHIN: Duration = Duration::from_secs(3600);
/// Users whose denials are counted apart.
const DENIED_USERS_MAX: usize = 256;
/// A client that takes no answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The daemon answers from memory; only a stuck one is slower.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Other nodes answer within a deadline of their own, which is shorter.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(4);
/// All nodes are asked twice.
const APPLY_TIMEOUT: Duration = Duration::from_secs(7);
/// All nodes are asked four times, each time with a deadline of its own.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(14);
/// A watching screen needs no more.
const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Somebody without a role has so long to hear why.
const STRANGER_TIMEOUT: Duration = Duration::from_millis(500);

/// A command that somebody else answers, and who gave it: `root`.
pub type Question = (Command, String, oneshot::Sender<Reply>);

/// Takes what is to be remembered of a command that changed something.
pub type Auditor = Arc<dyn Fn(Act) + Send + Sync>;

/// What every conversation needs.
#[derive(Clone)]
pub struct Service {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub questions: mpsc::Sender<Question>,
    pub auditor: Auditor,
}

/// Binds the socket, replacing one that a former life left behind. Everybody may connect, and the kernel says who it
/// is: a person without a role hears what is missing, instead of "permission denied".
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    Ok(listener)
}

/// Serves clients until the task is dropped.
pub async fn serve(listener: UnixListener, service: Service) {
    let roots = Arc::new(Semaphore::new(ROOTS_MAX));
    let others = Arc::new(Semaphore::new(OTHERS_MAX));
    let denials = Arc::new(Denials::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(WATCH_INTERVAL_MIN).await;
                continue;
            }
        };
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::debug!(%error, "a client of the control socket went away");
                continue;
            }
        };
        let place = if peer.is_root() { Arc::clone(&roots) } else { Arc::clone(&others) };
        let Ok(place) = place.try_acquire_owned() else {
            let reply =
                refused("too many clients are connected", "end some of them, for example `status --watch`");
            tokio::spawn(async move { send(&mut { stream }, &reply).await });
            continue;
        };
        let (service, denials) = (service.clone(), Arc::clone(&denials));
        tokio::spawn(async move {
            if let Err(error) = converse(stream, peer, service, &denials).await {
                tracing::debug!(%error, "a client of the control socket went away");
            }
            drop(place);
        });
    }
}

async fn converse(stream: UnixStream, peer: Peer, mut service: Service, denials: &Denials) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut reader).take(LINE_BYTES_MAX);
        let reading = bounded.read_until(b'\n', &mut line);
        match peer.access {
            Some(_) => reading.await?,
            None => timeout(STRANGER_TIMEOUT, reading).await.map_err(|_| io::ErrorKind::TimedOut)??,
        };
        if line.is_empty() {
            return Ok(());
        }
        let command = match serde_json::from_slice::<Command>(&line) {
            Ok(command) => command,
            Err(error) => {
                let reply =
                    refused(&format!("not a command: {error}"), "use a safekit of the daemon's version");
                return send(&mut writer, &reply).await;
            }
        };
        if peer.access >= Some(command.needs()) {
            match command {
                Command::Watch => return stream_snapshots(&mut writer, service.snapshots).await,
                command => send(&mut writer, &answer(&mut service, &peer, command).await).await?,
            }
        } else {
            send(&mut writer, &deny(&service, &peer, &command, denials)).await?;
            if peer.access.is_none() {
                return Ok(());
            }
        }
    }
}

async fn answer(service: &mut Service, peer: &Peer, command: Command) -> Reply {
    let by = peer.actor.to_string();
    let (command, within) = match command {
        Command::Status => return status(&service.snapshots.borrow_and_update()),
        Command::On { nodes, each, .. } => (Command::On { nodes, each, by: by.clone() }, OTHERS_TIMEOUT),
        Command::ConfigApply { text, dry_run, .. } => {
            (Command::ConfigApply { text, dry_run, by: by.clone() }, APPLY_TIMEOUT)
        }
        Command::KeyRotate => (Command::KeyRotate, ROTATE_TIMEOUT),
        command => (command, ANSWER_TIMEOUT),
    };
    let Some(what) = command.audited() else { return ask(&service.questions, command, &by, within).await };
    let began = clock::wall();
    let reply = ask(&service.questions, command, &by, within).await;
    let result = ActResult::of(&reply);
    (service.auditor)(act(peer, began, what, result));
    reply
}

/// How many denied commands of each user were written down, and since when.
#[derive(Default)]
struct Denials(Mutex<HashMap<Option<u32>, (Instant, u32)>>);

impl Denials {
    /// None: enough of this user's are there.
    fn count(&self, uid: Option<u32>, now: Instant) -> Option<u32> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= DENIED_USERS_MAX && !users.contains_key(&uid) {
            users.retain(|_, (since, _)| now.since(*since) < DENIALS_WITHIN);
            if users.len() >= DENIED_USERS_MAX {
                return None;
            }
        }
        let (since, count) = users.entry(uid).or_insert((now, 0));
        if now.since(*since) >= DENIALS_WITHIN {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        (*count <= DENIALS_MAX).then_some(*count)
    }
}

fn deny(service: &Service, peer: &Peer, command: &Command, denials: &Denials) -> Reply {
    let needs = command.needs();
    if let Some(what) = command.audited()
        && let Some(count) = denials.count(peer.actor.uid, clock::now())
    {
        let rest = if count == DENIALS_MAX { " (more of this hour are not written down)" } else { "" };
        (service.auditor)(act(peer, clock::wall(), what + rest, ActResult::Denied { needs }));
    }
    let has = peer.access.map_or_else(|| "no role".to_owned(), |access| format!("the role {access}"));
    refused(
        &format!("this needs the role {needs}, and {} has {has}", peer.actor),
        &format!("use sudo, or have somebody add you to the group {} and log in again", needs.group()),
    )
}

fn act(peer: &Peer, began: WallTime, what: String, result: ActResult) -> Act {
    let (who, ended) = (peer.actor.clone(), clock::wall());
    // The journal knows its node.
    Act { began, ended, node: String::new(), who, what, result }
}

async fn stream_snapshots(
    writer: &mut (impl AsyncWriteExt + Unpin),
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) -> io::Result<()> {
    loop {
        let reply = status(&snapshots.borrow_and_update());
        send(writer, &reply).await?;
        tokio::time::sleep(WATCH_INTERVAL_MIN).await;
        if snapshots.changed().await.is_err() {
            return Ok(());
        }
    }
}

async fn ask(questions: &mpsc::Sender<Question>, command: Command, by: &str, within: Duration) -> Reply {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        questions.send((command, by.to_owned(), answer)).await.ok()?;
        answered.await.ok()
    };
    match timeout(within, asked).await {
        Ok(Some(reply)) => reply,
        Ok(None) | Err(_) => refused("the daemon is stopping or stuck", "look at its log, then try again"),
    }
}

fn status(snapshot: &Arc<Snapshot>) -> Reply {
    Reply::Status { snapshot: Box::new(Snapshot::clone(snapshot)) }
}

fn refused(error: &str, next_step: &str) -> Reply {
    Reply::Refused { error: error.to_owned(), next_step: next_step.to_owned() }
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    timeout(WRITE_TIMEOUT, writer.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_of_one_user_leave_room_for_others() {
        let (denials, at) = (Denials::default(), |seconds: u64| Instant(seconds * 1_000_000_000));
        let written = (0..1000).filter(|_| denials.count(Some(7), at(1)).is_some()).count();
        assert_eq!(written, DENIALS_MAX as usize);
        assert_eq!(denials.count(Some(8), at(2)), Some(1));
        assert_eq!(denials.count(Some(7), at(3602)), Some(1), "another hour");
        for uid in 0..10_000 {
            denials.count(Some(uid), at(3603));
        }
        assert!(denials.0.lock().unwrap().len() <= DENIED_USERS_MAX);
    }
}
