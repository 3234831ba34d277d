//! The connection between the two nodes of a mirror, one for each replicated directory.
//!
//! ```text
//!   threads that change files:  queue(frame) ──▶ outbox ──▶ kick(): encrypt, send(2) without waiting
//!                                                  │            │ the socket is full
//!                                                  │            ▼
//!                                                  └──────▶ writer thread: waits for room, sends the rest
//!   the thread that applies:    Incoming::frame() ◀── decrypt ◀── recv(2)
//! ```
//!
//! One thread at a time is the sender, whoever comes first. What others queue meanwhile it sends along, so many small
//! frames make one record and one system call, and in the good case no frame changes threads. Nobody who queues or kicks
//! ever waits for the network; whoever wants that has [`Link::wait_for_room`].

mod incoming;
mod meet;
mod outgoing;
mod port;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustls::Connection;
use thiserror::Error;

pub use incoming::Incoming;
use outgoing::Shared;
pub use port::{IdentitySource, NotConnected, Port, Refusals, Setup};

use crate::wire::replica::{Frame, Refused};

/// Why a connection has ended.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Broken {
    #[error("closed by the other side")]
    Closed,
    #[error("cut off: the other side ended without a farewell")]
    Cut,
    #[error("silent for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("the other side takes no data since {} s", .0.as_secs_f32())]
    Stalled(Duration),
    #[error("its frame was refused: {0}")]
    Refused(#[from] Refused),
    #[error("its bytes were changed on their way, or are none of TLS: {0}")]
    Tls(rustls::Error),
    #[error("the network failed: {0}")]
    Network(Errno),
    #[error("{0} bytes wait to be sent, more than memory is there for")]
    TooMuch(usize),
    #[error("closed here: {0}")]
    Here(String),
}

/// Why there is no room.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Ended {
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The connection is still there.
    #[error("nothing was taken within {} s", .0.as_secs_f32())]
    NoProgress(Duration),
}

/// How long the other side may be quiet.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// While bytes wait for it.
    stall: Duration,
    /// Whatever is done.
    silence: Duration,
}

/// The sending end. It is closed when the last of it, or [`Incoming`], is dropped.
#[derive(Clone)]
pub struct Link(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl Link {
    /// After the handshake and the openings; `arrived` is what came behind them.
    fn start(met: Met, limits: Limits, refused: Arc<AtomicU64>, name: &str) -> io::Result<(Self, Incoming)> {
        let Met { stream, tls, arrived } = met;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(limits.silence))?;
        let shared = Arc::new(Shared::new(stream, tls, limits));
        let waiting = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(format!("link-{name}"));
        let writer = thread.spawn(move || waiting.write_when_there_is_room())?;
        let link = Self(Arc::new(Handle { shared, writer: Some(writer) }));
        let incoming = Incoming::new(link.clone(), arrived, refused);
        Ok((link, incoming))
    }

    /// In the order of the calls; [`Link::kick`] sends it. Never waits, and does nothing after the end.
    pub fn queue(&self, frame: &Frame, bulk: &[u8]) {
        self.0.shared.queue(frame, bulk);
    }

    /// Sends what is queued as far as the socket takes it without waiting; or leaves it to whoever sends already.
    pub fn kick(&self) {
        self.0.shared.kick();
    }

    /// What the socket has not taken yet.
    pub fn queued_bytes(&self) -> usize {
        self.0.shared.queued_bytes()
    }

    /// Until fewer than `below` bytes are queued. `patience`: how long the socket may take nothing at all.
    pub fn wait_for_room(&self, below: usize, patience: Duration) -> Result<(), Ended> {
        self.0.shared.wait_for_room(below, patience)
    }

    /// What is queued and not sent is lost; the other side has what was sent, up to the end of a frame or not.
    pub fn close(&self, why: &str) {
        self.0.shared.end(Broken::Here(why.to_owned()));
    }

    /// As `close`, and the other side is told why, if it can be told within a moment. Never waits, but for whoever reads:
    /// it hears of the end when the other side does.
    pub fn part(&self, why: &str) {
        self.0.shared.part(why);
    }

    pub fn is_closed(&self) -> bool {
        self.end().is_some()
    }

    /// None: it goes on.
    pub fn end(&self) -> Option<Broken> {
        self.0.shared.ended()
    }

    /// Over the network, what encryption adds included.
    pub fn sent_bytes(&self) -> u64 {
        self.0.shared.sent_bytes.load(Ordering::Relaxed)
    }

    pub fn received_bytes(&self) -> u64 {
        self.0.shared.received_bytes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("end", &self.end()).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end(Broken::Here("nobody uses it any longer".to_owned()));
        let Some(writer) = self.writer.take().filter(|_| !self.shared.parts()) else { return };
        // It has nothing to wait for after the end. A panic there has been reported by its own thread.
        let _panicked = writer.join();
    }
}

/// Two nodes that know each other, and a connection that has told nothing else yet.
struct Met {
    stream: TcpStream,
    tls: Connection,
    arrived: Vec<u8>,
}
