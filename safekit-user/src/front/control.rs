//! The control socket: one JSON [`Command`] a line in, [`Reply`]s a line out.
//!
//! ```text
//! client ── Status ──▶          snapshot receiver
//!        ── Watch ───▶          snapshot receiver, one reply a change, at most ten a second
//!        ── others ──▶ questions (bounded) ──▶ the heartbeat thread, which owns the engine
//! ```

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::types::{Command, Reply, Snapshot};

/// Longer than any command: the longest carries a configuration.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// Full: further clients wait in the kernel's backlog.
const CLIENTS_MAX: usize = 64;
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

/// A command, and who asks.
pub type Question = (Command, String, oneshot::Sender<Reply>);

/// Binds the socket, replacing one that a former life left behind. Group `safekit` may use it.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    if let Some(group) = group_id("safekit") {
        // Below a folder with the group's bit the socket is the group's already, and nobody may have to change it.
        if let Err(error) = std::os::unix::fs::chown(path, None, Some(group)) {
            tracing::warn!(%error, "only root can use the control socket: group safekit does not get it");
        }
    }
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o660))?;
    Ok(listener)
}

fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// As the password file has it; else the number.
fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("user {uid}"))
}

/// Serves clients until the task is dropped.
pub async fn serve(
    listener: UnixListener,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    questions: mpsc::Sender<Question>,
) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(WATCH_INTERVAL_MIN).await;
                continue;
            }
        };
        let (snapshots, questions) = (snapshots.clone(), questions.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, snapshots, questions).await {
                tracing::debug!(%error, "a client of the control socket went away");
            }
            drop(place);
        });
    }
}

async fn converse(
    stream: UnixStream,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    questions: mpsc::Sender<Question>,
) -> io::Result<()> {
    let user = stream.peer_cred().map_or_else(|_| "somebody".to_owned(), |peer| user_name(peer.uid()));
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        match serde_json::from_slice::<Command>(&line) {
            Ok(Command::Status) => {
                let reply = status(&snapshots.borrow_and_update());
                send(&mut writer, &reply).await?;
            }
            Ok(Command::Watch) => return stream_snapshots(&mut writer, snapshots).await,
            Ok(Command::On { nodes, each, .. }) => {
                let command = Command::On { nodes, each, by: user.clone() };
                send(&mut writer, &ask(&questions, command, &user, OTHERS_TIMEOUT).await).await?;
            }
            Ok(Command::ConfigApply { text, dry_run, .. }) => {
                let command = Command::ConfigApply { text, dry_run, by: user.clone() };
                send(&mut writer, &ask(&questions, command, &user, APPLY_TIMEOUT).await).await?;
            }
            Ok(Command::KeyRotate) => {
                let reply = ask(&questions, Command::KeyRotate, &user, ROTATE_TIMEOUT).await;
                send(&mut writer, &reply).await?;
            }
            Ok(command) => {
                let reply = ask(&questions, command, &user, ANSWER_TIMEOUT).await;
                send(&mut writer, &reply).await?;
            }
            Err(error) => {
                let reply =
                    refused(&format!("not a command: {error}"), "use a safekit of the daemon's version");
                return send(&mut writer, &reply).await;
            }
        }
    }
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
