//! The socket of the process that keeps a mirror's directories: one question and its answer, or a watch that goes on.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Told;
use crate::types::mirror::{ReplicaReply, ReplicaRequest};

/// A report on 16 directories takes a hundredth of it.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// It is on this machine: whoever does not take a connection at once is stuck.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two tries to reach one that does not listen yet.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("its process does not listen on {}", socket.display())]
    Connect {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the connection to its process broke")]
    Broken(#[source] io::Error),
    #[error("its process does not answer")]
    Silent,
    #[error("its process answers what this version does not understand")]
    Foreign(#[source] serde_json::Error),
}

pub(super) struct Line(BufReader<UnixStream>);

impl Line {
    pub(super) async fn connect(socket: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Connect { socket: socket.to_owned(), source };
        match timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await {
            Ok(Ok(stream)) => Ok(Self(BufReader::new(stream))),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Whoever listens at the other end.
    pub(super) fn process(&self) -> Option<u32> {
        let peer = self.0.get_ref().peer_cred().ok()?;
        peer.pid().and_then(|pid| u32::try_from(pid).ok())
    }

    async fn send(&mut self, request: &ReplicaRequest) -> Result<(), Error> {
        let mut line = serde_json::to_vec(request).map_err(Error::Foreign)?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line).await.map_err(Error::Broken)
    }

    async fn receive(&mut self) -> Result<ReplicaReply, Error> {
        let mut line = Vec::new();
        (&mut self.0).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await.map_err(Error::Broken)?;
        if line.last() != Some(&b'\n') {
            return Err(Error::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(Error::Foreign)
    }
}

pub(super) async fn ask(
    socket: &Path,
    request: &ReplicaRequest,
    within: Duration,
) -> Result<ReplicaReply, Error> {
    let answered = async {
        let mut line = Line::connect(socket).await?;
        line.send(request).await?;
        line.receive().await
    };
    timeout(within, answered).await.unwrap_or(Err(Error::Silent))
}

/// Until somebody has taken the request to end; for ever, where nobody listens: the caller ends it with the process.
pub(super) async fn stop(socket: PathBuf, within: Duration) {
    while let Err(error) = ask(&socket, &ReplicaRequest::Stop, within).await {
        tracing::debug!(%error, "a replica is asked again to end");
        sleep(RETRY_PAUSE).await;
    }
}

/// Tells what it reports, again and again, until the task is ended.
pub(super) async fn watch(socket: PathBuf, told: mpsc::Sender<Told>) {
    loop {
        if let Err(error) = follow(&socket, &told).await {
            tracing::debug!(%error, socket = %socket.display(), "a replica does not report");
        }
        if told.is_closed() {
            return;
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn follow(socket: &Path, told: &mpsc::Sender<Told>) -> Result<(), Error> {
    let mut line = Line::connect(socket).await?;
    line.send(&ReplicaRequest::Watch).await?;
    loop {
        match line.receive().await? {
            ReplicaReply::Copies { copies } => {
                if told.send(Told::Copies(copies)).await.is_err() {
                    return Ok(());
                }
            }
            ReplicaReply::Taken => {}
            ReplicaReply::Refused { error, .. } => {
                tracing::debug!(error, "a replica refuses to report");
                return Ok(());
            }
        }
    }
}
