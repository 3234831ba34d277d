//! What comes in: bytes, decrypted, cut into frames.

use std::io::BufRead as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustls::{Connection, IoState};

use super::outgoing::Shared;
use super::{Broken, Link};
use crate::wire::replica::{Decoder, Frame};

const READ_BYTES: usize = 256 << 10;
/// Decrypted with the lock held, so that a sender does not wait for all that has arrived.
const PIECE_BYTES: usize = 64 << 10;

/// The receiving end, for one thread. Dropping it closes the connection.
pub struct Incoming {
    link: Link,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// Nothing more comes; what has arrived before is given out first.
    last: Option<Broken>,
    /// Of all connections of the port.
    refused: Arc<AtomicU64>,
}

impl Incoming {
    pub(super) fn new(link: Link, arrived: Vec<u8>, refused: Arc<AtomicU64>) -> Self {
        let mut decoder = Decoder::default();
        *decoder.buffer() = arrived;
        Self { link, decoder, buffer: vec![0; READ_BYTES], last: None, refused }
    }

    /// Waits for the next frame, and its bulk. After an end by the other side or the network, what had arrived completely
    /// comes first; after one from here nothing does.
    pub fn frame(&mut self) -> Result<(Frame, &[u8]), Broken> {
        while self.decoder.is_empty() {
            if let Some(why) = self.link.end().or_else(|| self.last.take()) {
                return Err(end(&self.link.0.shared, why));
            }
            if let Err(why) = self.read() {
                self.last = Some(why);
            }
        }
        if let Some(here @ Broken::Here(_)) = self.link.end() {
            return Err(here);
        }
        match self.decoder.take() {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => unreachable!("the decoder is not empty"),
            Err(refused) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(end(&self.link.0.shared, refused.into()))
            }
        }
    }

    /// `next` would not wait.
    pub fn has_more(&self) -> bool {
        !self.decoder.is_empty()
    }

    fn read(&mut self) -> Result<(), Broken> {
        let shared = &self.link.0.shared;
        let length = match rustix::net::recv(&shared.stream, &mut self.buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return Err(Broken::Cut),
            Ok((length, _)) => length,
            Err(Errno::INTR) => return Ok(()),
            // The socket has a timeout, and this is how it says so.
            Err(Errno::AGAIN) => return Err(Broken::Silent(shared.limits().silence)),
            Err(errno) => return Err(Broken::Network(errno)),
        };
        shared.received_bytes.fetch_add(length as u64, Ordering::Relaxed);
        let mut wants_write = false;
        for piece in self.buffer[..length].chunks(PIECE_BYTES) {
            wants_write |= decrypt(shared, piece, self.decoder.buffer())?;
        }
        if wants_write {
            shared.kick_for_tls();
        }
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.link.close("nobody reads it any longer");
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("link", &self.link).finish_non_exhaustive()
    }
}

/// Whatever came first is the reason.
fn end(shared: &Shared, why: Broken) -> Broken {
    shared.end(why.clone());
    shared.ended().unwrap_or(why)
}

/// True: TLS has something to send.
fn decrypt(shared: &Shared, mut piece: &[u8], frames: &mut Vec<u8>) -> Result<bool, Broken> {
    let mut tls = shared.tls();
    while !piece.is_empty() {
        // It reads from memory and takes a part at a time, unless a record is longer than any.
        let read = tls.read_tls(&mut piece).unwrap_or(0);
        let state = tls.process_new_packets().map_err(Broken::Tls)?;
        take_plaintext(&mut tls, &state, frames);
        if state.peer_has_closed() {
            return Err(Broken::Closed);
        }
        if read == 0 {
            return Err(Broken::Tls(rustls::Error::General("a record is too long".to_owned())));
        }
    }
    Ok(tls.wants_write())
}

/// All that has been decrypted.
pub(super) fn take_plaintext(tls: &mut Connection, state: &IoState, into: &mut Vec<u8>) {
    let mut left = state.plaintext_bytes_to_read();
    while left > 0 {
        let mut reader = tls.reader();
        let chunk = reader.fill_buf().expect("so many bytes are there");
        let length = chunk.len();
        into.extend_from_slice(chunk);
        reader.consume(length);
        left -= length;
    }
}
