//! One copy made from the other: what is recorded as different, or everything, is compared and carried over.
//!
//! ```text
//!  source                                              target
//!  Place (a directory), Names piece by piece ────────▶ what does not belong there goes to limbo, what is elsewhere
//!                                                      is placed, the rest is made
//!        ◀──────────────── Placed { missing } ───────
//!  Digests of zones ─────────────────────────────────▶ its own
//!        ◀──────────────── Differing ────────────────
//!  Digests of the blocks of those ───────────────────▶
//!        ◀──────────────── Differing ────────────────
//!  Contents of those, Finish (size, owner, mode, ...) ▶
//!  ... directories are finished last, deepest first
//!  PassEnd ──────────────────────────────────────────▶
//!        ◀──────────────── PassEnded { lost } ───────
//! ```
//!
//! Answers come in the order of the questions, so many questions are under way at once. The source reads while
//! applications write: what it reads torn is marked again by that write, and is part of the next pass.

mod compared;
mod find;
mod index;
mod source;
mod target;
#[cfg(test)]
mod tests;

use rustix::io::Errno;

use crate::wire::replica::{Copied, Digest, Frame};

pub use source::{Counted, Progress, Source, Work};
pub use target::Target;

/// The connection, for whoever copies.
pub trait Wire {
    /// Error: the connection has ended.
    fn send(&mut self, frame: &Frame, bulk: &[u8]) -> Result<(), Ended>;
    /// The next answer.
    fn answer(&mut self) -> Result<Copied, Ended>;
}

/// The connection has ended; whoever keeps it knows why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the connection has ended")]
    Ended,
    #[error("the other node answered what nobody asked")]
    Unexpected,
    #[error("cannot {doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: Errno,
    },
}

impl From<Ended> for Failure {
    fn from(Ended: Ended) -> Self {
        Self::Ended
    }
}

/// Contents may come from somebody who would like two of them to look the same.
fn digest(contents: &[u8]) -> Digest {
    let mut digest = Digest::default();
    let length = digest.len();
    digest.copy_from_slice(&blake3::hash(contents).as_bytes()[..length]);
    digest
}
