//! What goes out: the outbox, whose turn it is to send, and how a connection ends.
//!
//! ```text
//!            kick            the outbox is empty
//!   Nobody ───────▶ Kicker ────────────────────────▶ Nobody
//!                     │ the socket is full, or it has sent for others long enough
//!                     ▼
//!                   Writer ────────────────────────▶ Nobody
//! ```
//!
//! An end that is said goes by the writer: what others have begun to send, the farewell, and then it waits for the other
//! side to close, for a moment at most.
//!
//! Locks, none of which is waited for while a later one is held: `wire` (the sender's alone), `tls`, `outbox`. Nothing is
//! sent or received with `tls` or `outbox` held, so nobody waits for the network by waiting for a lock.

mod parting;

use std::io::Write as _;
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustls::Connection;

use super::{Broken, Ended, Limits};
use crate::driver::clock;
use crate::types::Instant;
use crate::wire::replica::{Frame, encode};

/// Encrypted at a time: some records, and the reading thread does not wait long for the lock.
const PIECE_BYTES: usize = 128 << 10;
/// What one call of `kick` sends at most, so that a thread that changed a file is not kept by what others change.
const KICK_BYTES_MAX: usize = 2 << 20;
/// Whoever queues waits for room long before; full: the connection ends.
const QUEUED_BYTES_MAX: usize = 256 << 20;
/// A buffer that once held a lot does not keep its memory.
const KEPT_BYTES_MAX: usize = 4 << 20;

pub(super) struct Shared {
    pub(super) stream: TcpStream,
    pub(super) tls: Mutex<Connection>,
    limits: Limits,
    outbox: Mutex<Outbox>,
    wire: Mutex<Wire>,
    /// The writer's turn has come, or the end.
    turn: Condvar,
    /// Fewer bytes are queued, or the end.
    room: Condvar,
    /// When the socket took something last, on the boot clock.
    moved: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) received_bytes: AtomicU64,
}

struct Outbox {
    frames: Vec<u8>,
    /// Of frames, whether here or with the sender.
    queued: usize,
    /// TLS itself has something to say.
    tls_speaks: bool,
    sender: Sender,
    /// Threads in `wait_for_room`.
    waiting: usize,
    ended: Option<Broken>,
    /// It has ended, and what is queued is still sent until then: the farewell.
    parts_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Nobody,
    Kicker,
    Writer,
}

/// Of whoever is the sender.
#[derive(Default)]
struct Wire {
    frames: Vec<u8>,
    /// Of `frames`: encrypted.
    encrypted: usize,
    records: Vec<u8>,
    /// Of `records`: the socket has taken it.
    taken: usize,
    /// Bytes of frames that are in `records`.
    piece: usize,
}

enum Sent {
    /// The turn has been given back.
    All,
    Enough,
    Full,
    Ended,
    /// All has been said, the farewell too.
    Parted,
}

impl Shared {
    pub(super) fn new(stream: TcpStream, mut tls: Connection, limits: Limits) -> Self {
        // Pieces are bounded here.
        tls.set_buffer_limit(None);
        let outbox = Outbox {
            frames: Vec::new(),
            queued: 0,
            tls_speaks: tls.wants_write(),
            sender: Sender::Nobody,
            waiting: 0,
            ended: None,
            parts_until: None,
        };
        Self {
            stream,
            tls: Mutex::new(tls),
            limits,
            outbox: Mutex::new(outbox),
            wire: Mutex::default(),
            turn: Condvar::new(),
            room: Condvar::new(),
            moved: AtomicU64::new(clock::now().0),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("nobody panics with it")
    }

    pub(super) fn tls(&self) -> MutexGuard<'_, Connection> {
        self.tls.lock().expect("nobody panics with it")
    }

    pub(super) fn ended(&self) -> Option<Broken> {
        self.outbox().ended.clone()
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.outbox().queued
    }

    pub(super) fn queue(&self, frame: &Frame, bulk: &[u8]) {
        let mut outbox = self.outbox();
        if outbox.ended.is_some() {
            return;
        }
        let before = outbox.frames.len();
        encode(frame, bulk, &mut outbox.frames);
        outbox.queued += outbox.frames.len() - before;
        let queued = outbox.queued;
        drop(outbox);
        if queued > QUEUED_BYTES_MAX {
            self.end(Broken::TooMuch(queued));
        }
    }

    pub(super) fn kick(&self) {
        let mut outbox = self.outbox();
        if outbox.sender != Sender::Nobody || outbox.ended.is_some() || outbox.is_empty() {
            return;
        }
        outbox.sender = Sender::Kicker;
        drop(outbox);
        match self.send(KICK_BYTES_MAX) {
            Sent::All => {}
            Sent::Ended => self.parted(),
            Sent::Full | Sent::Enough | Sent::Parted => self.pass_to_writer(),
        }
    }

    /// TLS has something to send besides frames: the answer to a change of keys.
    pub(super) fn kick_for_tls(&self) {
        self.outbox().tls_speaks = true;
        self.kick();
    }

    fn pass_to_writer(&self) {
        self.outbox().sender = Sender::Writer;
        self.turn.notify_all();
    }

    /// Only for the sender: up to about `bytes_max`, without waiting.
    fn send(&self, bytes_max: usize) -> Sent {
        let mut wire = self.wire.lock().expect("nobody panics with it");
        let mut bytes = 0;
        loop {
            while wire.taken < wire.records.len() {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                match rustix::net::send(&self.stream, &wire.records[wire.taken..], flags) {
                    Ok(taken) => {
                        wire.taken += taken;
                        bytes += taken;
                        self.note_sent(taken);
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Sent::Full,
                    Err(errno) => {
                        self.end(Broken::Network(errno));
                        return Sent::Ended;
                    }
                }
            }
            if let Some(sent) = self.next_frames(&mut wire) {
                return sent;
            }
            if let Err(error) = wire.encrypt(&mut self.tls()) {
                self.end(Broken::Network(error));
                return Sent::Ended;
            }
            if bytes > bytes_max {
                return Sent::Enough;
            }
        }
    }

    fn note_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved.store(clock::now().0, Ordering::Relaxed);
    }

    /// The records are sent. None: there is more to encrypt.
    fn next_frames(&self, wire: &mut Wire) -> Option<Sent> {
        let mut outbox = self.outbox();
        outbox.queued -= mem::take(&mut wire.piece).min(outbox.queued);
        if wire.encrypted == wire.frames.len() {
            wire.frames.clear();
            wire.frames.shrink_to(KEPT_BYTES_MAX);
            wire.encrypted = 0;
            mem::swap(&mut wire.frames, &mut outbox.frames);
        }
        let nothing = wire.frames.is_empty() && !mem::take(&mut outbox.tls_speaks);
        let parts = outbox.parts_until.is_some();
        let sent = if outbox.ended.is_some() && !parts {
            Some(Sent::Ended)
        } else if nothing && parts {
            Some(Sent::Parted)
        } else if nothing {
            // With the same lock that showed that there is nothing: what is queued now finds nobody who sends.
            outbox.sender = Sender::Nobody;
            Some(Sent::All)
        } else {
            None
        };
        let somebody_waits = outbox.waiting > 0;
        drop(outbox);
        if somebody_waits {
            self.room.notify_all();
        }
        sent
    }

    /// The writer's thread.
    pub(super) fn write_when_there_is_room(&self) {
        while self.wait_for_turn() {
            let full = match self.send(usize::MAX) {
                Sent::All => continue,
                Sent::Ended => break,
                Sent::Parted => {
                    self.wait_for_their_end();
                    break;
                }
                Sent::Full | Sent::Enough => self.wait_for_socket(),
            };
            if let Err(broken) = full {
                self.end(broken);
                break;
            }
        }
        self.parted();
    }

    /// False after the end.
    fn wait_for_turn(&self) -> bool {
        let outbox = self.outbox();
        let goes_on = |outbox: &Outbox| outbox.ended.is_none() || outbox.parts_until.is_some();
        let wait = |outbox: &mut Outbox| outbox.sender != Sender::Writer && goes_on(outbox);
        let outbox = self.turn.wait_while(outbox, wait).expect("nobody panics with it");
        goes_on(&outbox)
    }

    fn wait_for_socket(&self) -> Result<(), Broken> {
        let quiet = self.since_moved(Instant(0));
        let left = self.limits.stall.saturating_sub(quiet).min(self.left_to_part());
        if left.is_zero() {
            return Err(Broken::Stalled(self.limits.stall));
        }
        let mut polled = [PollFd::new(&self.stream, PollFlags::OUT)];
        match poll(&mut polled, Some(&timespec(left))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Broken::Network(errno)),
        }
    }

    fn since_moved(&self, at_least: Instant) -> Duration {
        clock::now().since(Instant(self.moved.load(Ordering::Relaxed)).max(at_least))
    }

    pub(super) fn wait_for_room(&self, below: usize, patience: Duration) -> Result<(), Ended> {
        let began = clock::now();
        let mut outbox = self.outbox();
        loop {
            if let Some(broken) = &outbox.ended {
                return Err(broken.clone().into());
            }
            if outbox.queued < below {
                return Ok(());
            }
            let Some(left) = patience.checked_sub(self.since_moved(began)).filter(|left| !left.is_zero())
            else {
                return Err(Ended::NoProgress(patience));
            };
            outbox.waiting += 1;
            outbox = self.room.wait_timeout(outbox, left).expect("nobody panics with it").0;
            outbox.waiting -= 1;
        }
    }

    /// The first reason counts. Wakes everybody who waits for anything here.
    pub(super) fn end(&self, why: Broken) {
        let mut outbox = self.outbox();
        if outbox.ended.is_some() {
            return;
        }
        outbox.ended = Some(why);
        outbox.frames = Vec::new();
        outbox.queued = 0;
        let idle = mem::replace(&mut outbox.sender, Sender::Kicker) == Sender::Nobody;
        drop(outbox);
        if idle {
            self.say_farewell();
        }
        // It may have ended by itself.
        let _ended = self.stream.shutdown(Shutdown::Both);
        self.turn.notify_all();
        self.room.notify_all();
    }

    /// Between two records only: in the middle of one it would be no farewell.
    fn say_farewell(&self) {
        let mut records = Vec::new();
        let mut tls = self.tls();
        tls.send_close_notify();
        let written = write_records(&mut tls, &mut records);
        drop(tls);
        if written.is_ok() {
            // If there is no room for it, the other side finds out by the end of the stream.
            let _unsent =
                rustix::net::send(&self.stream, &records, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && !self.tls_speaks
    }
}

impl Wire {
    fn encrypt(&mut self, tls: &mut Connection) -> Result<(), Errno> {
        let rest = &self.frames[self.encrypted..];
        let piece = &rest[..rest.len().min(PIECE_BYTES)];
        self.records.clear();
        self.taken = 0;
        // Neither fails: one has no limit to its buffer, the other writes to memory.
        tls.writer().write_all(piece).and_then(|()| write_records(tls, &mut self.records)).map_err(
            |error| {
                tracing::warn!(%error, "cannot encrypt for the other node of a mirror");
                Errno::IO
            },
        )?;
        self.piece = piece.len();
        self.encrypted += self.piece;
        Ok(())
    }
}

fn write_records(tls: &mut Connection, records: &mut Vec<u8>) -> std::io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(records)?;
    }
    Ok(())
}

pub(super) fn timespec(span: Duration) -> Timespec {
    Timespec { tv_sec: span.as_secs() as i64, tv_nsec: i64::from(span.subsec_nanos()) }
}
