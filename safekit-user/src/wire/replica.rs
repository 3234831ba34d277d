//! Frames between the two nodes of a mirror.
//!
//! ```text
//! | length of the rest, 4 | CRC-32C of what follows, 4 | length of the head, 4 | head: postcard | bulk: file contents |
//! ```
//!
//! Lengths are little endian. TLS keeps strangers out; the checksum finds what a node's own memory changed. Nothing that
//! arrives is trusted: a frame is refused or complete, and numbers and names in it are checked where they are used.

pub mod opening;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::replica::{
    Acknowledge, DataGeneration, EXTENT_BYTES, ObjectId, Position, Touch, ZONE_BYTES,
};

/// Both nodes must speak the same.
pub const VERSION: u32 = 1;
/// A write() of one mebibyte, and what is said about it.
pub const FRAME_BYTES_MAX: usize = (1 << 20) + (256 << 10);
/// Entries of a directory, digests, regions: what is longer goes in several frames.
pub const ITEMS_MAX: usize = 4096;
/// NAME_MAX of Linux.
pub const NAME_BYTES_MAX: usize = 255;
/// A sentence.
pub const WHY_BYTES_MAX: usize = 512;
const LENGTH_BYTES: usize = 4;
const PREFIX_BYTES: usize = 12;

/// What a node knows of its own copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// None: it has never been the copy of anything.
    pub generation: Option<DataGeneration>,
    /// What it was before the other copy was last left behind.
    pub parent: Option<DataGeneration>,
    /// Newest last.
    pub history: Vec<DataGeneration>,
    /// A resynchronisation has begun to overwrite it and has not ended.
    pub half_copied: bool,
    /// The other copy is known to be out of date.
    pub peer_out: bool,
    /// This node was the one that served.
    pub led: bool,
    /// Its record of what may differ is of no use: compare everything.
    pub distrusted: bool,
    /// Objects from this number on are all in the record.
    pub fresh_from: u64,
}

/// Of the engines of the two nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first of each side.
    Hello {
        version: u32,
        copy: Copy,
        leads: bool,
        wants_to_lead: bool,
    },
    /// After it: what the record names.
    Regions {
        touches: Vec<Touch>,
        last: bool,
    },
    /// To the copy that will be overwritten; it says `Ready` when that is on its disk.
    Overwrite {
        everything: bool,
    },
    Ready,
    /// The copies are equal now: on your disk, as this generation?
    Finish {
        generation: DataGeneration,
        history: Vec<DataGeneration>,
        fresh_from: u64,
    },
    Finished,
    /// Everything up to here is applied and in memory.
    Received {
        position: Position,
    },
    /// On the disk? What it is about: everything that came before.
    Flush {
        number: u64,
        object: ObjectId,
        data_only: bool,
    },
    Flushed {
        number: u64,
    },
    /// All of the file system on the disk?
    Checkpoint {
        position: Position,
    },
    Checkpointed {
        position: Position,
    },
    /// This node serves no longer; everything has been sent before.
    SteppedDown,
    /// So that silence means something.
    Alive,
}

/// A time as stat(2) has it: nanoseconds count forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// `mode` has the kind of object in its upper bits, as in stat(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Time,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attribute {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// What is needed to make an object; contents and attributes follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// Of `mode` in stat(2).
    pub mode: u32,
    /// Of a character or block device.
    pub device: u64,
    /// Of a symbolic link.
    pub target: Vec<u8>,
}

/// One name of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: Vec<u8>,
    pub object: ObjectId,
    pub kind: Kind,
}

/// A change that an application made, as it came out. Bulk: the contents of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    Write {
        object: ObjectId,
        offset: u64,
    },
    Truncate {
        object: ObjectId,
        size: u64,
    },
    /// fallocate(2).
    Allocate {
        object: ObjectId,
        mode: u32,
        offset: u64,
        length: u64,
    },
    /// copy_file_range(2), with the length that was copied.
    Copy {
        from: ObjectId,
        at: u64,
        to: ObjectId,
        new_at: u64,
        length: u64,
    },
    Create {
        parent: ObjectId,
        entry: Entry,
        meta: Meta,
        attributes: Vec<Attribute>,
    },
    Link {
        object: ObjectId,
        parent: ObjectId,
        name: Vec<u8>,
    },
    Remove {
        parent: ObjectId,
        name: Vec<u8>,
        object: ObjectId,
        directory: bool,
    },
    /// `exchanged`: what had the new name goes to the old one, instead of going away.
    Rename {
        object: ObjectId,
        parent: ObjectId,
        name: Vec<u8>,
        new_parent: ObjectId,
        new_name: Vec<u8>,
        replaced: Option<ObjectId>,
        exchanged: bool,
    },
    Meta {
        object: ObjectId,
        meta: Meta,
    },
    SetAttribute {
        object: ObjectId,
        attribute: Attribute,
    },
    RemoveAttribute {
        object: ObjectId,
        name: Vec<u8>,
    },
}

/// How large the pieces are that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Unit {
    Zone,
    Block,
}

impl Unit {
    pub fn bytes(self) -> u64 {
        match self {
            Self::Zone => ZONE_BYTES,
            Self::Block => 4096,
        }
    }
}

pub type Digest = [u8; 16];

/// From the copy that is right to the one that is overwritten. Each but the last three is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Copying {
    /// What a directory has, in pieces; each is answered by `Placed`.
    Names { directory: ObjectId, entries: Vec<Entry>, last: bool },
    /// Contents from `offset` on, piece by piece, of a file of `size`; answered by `Differing`.
    Digests { object: ObjectId, unit: Unit, offset: u64, size: u64, digests: Vec<Digest> },
    /// A pass has ended; answered by `PassEnded`.
    PassEnd { number: u64 },
    /// Bulk: contents.
    Contents { object: ObjectId, offset: u64 },
    /// Nothing but zeros, for which no room is needed.
    Hole { object: ObjectId, offset: u64, length: u64 },
    /// After the contents: what else an object is.
    Finish { object: ObjectId, size: Option<u64>, meta: Meta, attributes: Vec<Attribute> },
}

/// From the copy that is overwritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Copied {
    /// `missing`: made anew, contents and all must follow.
    Placed { directory: ObjectId, missing: Vec<ObjectId> },
    /// Bit n: the piece n is another one there.
    Differing { object: ObjectId, unit: Unit, offset: u64, which: Vec<u64> },
    /// `lost`: what could not be found there.
    PassEnded { number: u64, lost: Vec<ObjectId> },
}

/// Zones that one check covers: what is read while the object is locked.
pub const CHECK_ZONES_MAX: usize = (EXTENT_BYTES / ZONE_BYTES) as usize;

/// What the copy that leads has at this place of the stream; answered by `Checked`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub number: u64,
    pub object: ObjectId,
    /// Where it is now: a directory that is known, and a name there. None: the replicated directory itself.
    pub place: Option<(ObjectId, Vec<u8>)>,
    pub piece: Piece,
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// Of a directory: over all names, sorted, and the numbers of what has them.
    Names { digest: Digest },
    /// Contents from `offset` on, zone by zone, of a file of `size`.
    Contents { offset: u64, size: u64, digests: Vec<Digest> },
    /// `others`: over a device's number, the target of a symbolic link, and attributes.
    Facts { meta: Meta, others: Digest },
}

/// From the copy that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub number: u64,
    /// It has another piece there, or no such object.
    pub differs: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    Message(Message),
    /// Where an object is that later frames only call by its number.
    Place {
        object: ObjectId,
        parent: ObjectId,
        name: Vec<u8>,
    },
    /// Every place that was named is to be forgotten.
    ForgetPlaces,
    Operation {
        position: Position,
        acknowledge: Acknowledge,
        operation: Operation,
    },
    Copying(Copying),
    Copied(Copied),
    Check(Check),
    Checked(Checked),
    /// The last of a connection: why this node ends it.
    Farewell {
        why: String,
    },
}

impl Frame {
    /// As much of it as is sent.
    pub fn farewell(why: &str) -> Self {
        let mut end = why.len().min(WHY_BYTES_MAX);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        Self::Farewell { why: why[..end].to_owned() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("a frame of {0} bytes is longer than any that is sent")]
    TooLong(usize),
    #[error("a frame has lost its order: its checksum is another one")]
    Checksum,
    #[error("a frame is not understood")]
    Malformed,
    #[error("a name is not one that a file can have")]
    Name,
    #[error("a frame lists more than {ITEMS_MAX} things")]
    TooMany,
}

/// Adds a frame to what goes over the wire.
pub fn encode(frame: &Frame, bulk: &[u8], wire: &mut Vec<u8>) {
    let start = wire.len();
    wire.resize(start + PREFIX_BYTES, 0);
    let mut out =
        postcard::to_extend(frame, std::mem::take(wire)).expect("a frame is plain data and memory is there");
    let head = out.len() - start - PREFIX_BYTES;
    out.extend_from_slice(bulk);
    let length = out.len() - start - LENGTH_BYTES;
    assert!(length <= FRAME_BYTES_MAX, "what is longer is sent in several frames");
    out[start + 8..start + 12].copy_from_slice(&(head as u32).to_le_bytes());
    let checksum = crc32c::crc32c(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    out[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    *wire = out;
}

/// Cuts what arrives into frames. After a refusal nobody knows where the next one begins.
#[derive(Debug, Default)]
pub struct Decoder {
    arrived: Vec<u8>,
    /// Of `arrived`: given out already.
    taken: usize,
}

impl Decoder {
    /// Where to read to: append only.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.taken > 0 && (self.taken == self.arrived.len() || self.taken >= FRAME_BYTES_MAX) {
            self.arrived.drain(..self.taken);
            self.taken = 0;
        }
        &mut self.arrived
    }

    /// The next frame and its bulk; none until more has arrived.
    pub fn take(&mut self) -> Result<Option<(Frame, &[u8])>, Refused> {
        let arrived = &self.arrived[self.taken..];
        let Some(length) = number(arrived, 0) else { return Ok(None) };
        if length > FRAME_BYTES_MAX {
            return Err(Refused::TooLong(length));
        }
        if length < PREFIX_BYTES - LENGTH_BYTES {
            return Err(Refused::Malformed);
        }
        let Some(rest) = arrived.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(None) };
        if number(rest, 0) != Some(crc32c::crc32c(&rest[4..]) as usize) {
            return Err(Refused::Checksum);
        }
        let head = number(rest, 4).ok_or(Refused::Malformed)?;
        let body = &rest[8..];
        let (head, bulk) = body.split_at_checked(head).ok_or(Refused::Malformed)?;
        let (frame, more) = postcard::take_from_bytes::<Frame>(head).map_err(|_| Refused::Malformed)?;
        if !more.is_empty() {
            return Err(Refused::Malformed);
        }
        check(&frame, bulk)?;
        let end = self.taken + LENGTH_BYTES + length;
        let bulk_at = end - bulk.len();
        self.taken = end;
        Ok(Some((frame, &self.arrived[bulk_at..end])))
    }

    /// Nothing more of what has arrived is complete. A length that will be refused is not waited for.
    pub fn is_empty(&self) -> bool {
        let arrived = &self.arrived[self.taken..];
        number(arrived, 0)
            .is_none_or(|length| length <= FRAME_BYTES_MAX && arrived.len() < LENGTH_BYTES + length)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize)
}

/// No way out of a directory, no empty name, no zero byte.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// What every reader of a frame may rely on.
fn check(frame: &Frame, bulk: &[u8]) -> Result<(), Refused> {
    let names = |names: &[&[u8]]| {
        if names.iter().all(|name| is_name(name)) { Ok(()) } else { Err(Refused::Name) }
    };
    let few = |count: usize| if count <= ITEMS_MAX { Ok(()) } else { Err(Refused::TooMany) };
    let takes_bulk = matches!(
        frame,
        Frame::Operation { operation: Operation::Write { .. }, .. }
            | Frame::Copying(Copying::Contents { .. })
    );
    if !takes_bulk && !bulk.is_empty() {
        return Err(Refused::Malformed);
    }
    match frame {
        Frame::Message(Message::Regions { touches, .. }) => few(touches.len()),
        Frame::Message(Message::Hello { copy, .. }) => few(copy.history.len()),
        Frame::Message(Message::Finish { history, .. }) => few(history.len()),
        Frame::Message(_) | Frame::ForgetPlaces => Ok(()),
        Frame::Place { name, .. } => names(&[name]),
        Frame::Operation { operation, .. } => match operation {
            Operation::Create { entry, attributes, .. } => few(attributes.len()).and(names(&[&entry.name])),
            Operation::Link { name, .. } | Operation::Remove { name, .. } => names(&[name]),
            Operation::Rename { name, new_name, .. } => names(&[name, new_name]),
            Operation::Write { .. }
            | Operation::Truncate { .. }
            | Operation::Allocate { .. }
            | Operation::Copy { .. }
            | Operation::Meta { .. }
            | Operation::SetAttribute { .. }
            | Operation::RemoveAttribute { .. } => Ok(()),
        },
        Frame::Copying(Copying::Names { entries, .. }) => {
            few(entries.len())?;
            entries.iter().try_for_each(|entry| names(&[&entry.name]))
        }
        Frame::Copying(Copying::Digests { digests, .. }) => few(digests.len()),
        Frame::Copying(Copying::Finish { attributes, .. }) => few(attributes.len()),
        Frame::Check(check) => check_of_a_check(check),
        Frame::Farewell { why } if why.len() > WHY_BYTES_MAX => Err(Refused::Malformed),
        Frame::Copying(_) | Frame::Copied(_) | Frame::Checked(_) | Frame::Farewell { .. } => Ok(()),
    }
}

/// Zones begin at multiples of their length, and are as many as the file has from there on, up to the bound.
fn check_of_a_check(check: &Check) -> Result<(), Refused> {
    if let Some((_, name)) = &check.place
        && !is_name(name)
    {
        return Err(Refused::Name);
    }
    let Piece::Contents { offset, size, digests } = &check.piece else { return Ok(()) };
    if digests.len() > CHECK_ZONES_MAX {
        return Err(Refused::TooMany);
    }
    let zones = size.saturating_sub(*offset).div_ceil(ZONE_BYTES).min(CHECK_ZONES_MAX as u64);
    let fits = offset.is_multiple_of(ZONE_BYTES) && digests.len() as u64 == zones;
    if fits { Ok(()) } else { Err(Refused::Malformed) }
}

#[cfg(test)]
mod tests;
