//! Both copies compared while the application goes on, exactly.
//!
//! ```text
//!   leader: lock of one object ─▶ read a piece of it ─▶ Check into the stream of operations ─▶ lock free
//!   follower: operations before ─▶ Check: its own piece of that moment ─▶ operations after
//!                                     └──▶ Checked { differs }
//! ```
//!
//! Operations of an object are queued under its lock as well, so a check meets the other copy exactly where it was made,
//! and no change has to wait longer than one piece takes to be read. Directories come before what is in them. What moves
//! meanwhile may be met twice, or be left to the next time; nothing is ever compared with what it was at another moment.

mod read;

use crate::types::replica::ObjectId;
use crate::wire::replica::Check;

pub(super) use read::{names, part};

/// Where checks go: the stream of operations.
pub trait Checks {
    /// Where a directory is that later checks name as the place of an object; told once. The one above it was told before,
    /// and all of it stays true until this returns. While a comparison goes on, the other copy forgets no places.
    fn place(&self, directory: ObjectId, parent: ObjectId, name: &[u8]);

    /// Into the stream, at once: the object is locked. False: the comparison is to end.
    fn ask(&self, check: Check) -> bool;

    /// Before each check, with no lock held: waits until there is room for it. False: the comparison is to end.
    fn pause(&self) -> bool;
}

/// What was compared; which of it differs the answers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub objects: u64,
    pub bytes: u64,
    /// They moved or went meanwhile.
    pub skipped: u64,
    /// The disk of this node refused to read them.
    pub unreadable: u64,
    /// Everything was walked through: nobody ended it before.
    pub complete: bool,
}
