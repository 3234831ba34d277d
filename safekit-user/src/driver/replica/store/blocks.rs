//! The bytes of a record: blocks, one after another. Pure.
//!
//! ```text
//! | magic, 8 | CRC-32C of what follows, 4 | format, 4 | length of the content, 4 | file, 8 | number, 8 | content |
//! ```
//!
//! Little endian. `file` was drawn at random for this file, so that bytes which a former file has left on the disk are
//! never taken for blocks of this one; `number` counts the blocks of the file from 0. The fields before the content are
//! the same in every format. The content is postcard: a [`Kind`], then regions or traces of a piece of the snapshot, or
//! what an append says, as many as there are.
//!
//! The pieces of the snapshot are the first blocks, and were synced before the file got its name.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Batch;
use super::state::State;
use crate::driver::replica::watch::Trace;
use crate::engine::mirror::Entry;
use crate::types::replica::{ObjectId, Region};
use crate::wire::replica::Copy;

const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"SKrecord";
const CHECKED_FROM: usize = 12;
const HEAD_BYTES: usize = 36;
/// A quarter of a mebibyte: what a damaged sector takes with it, and what is checked at once.
const PIECE_REGIONS_MAX: usize = 16 * 1024;
/// As much, with names as they are.
const PIECE_TRACES_MAX: usize = 4 * 1024;

#[derive(Debug, Serialize, Deserialize)]
enum Kind {
    /// Of the snapshot; `left` other pieces follow.
    Regions {
        copy: Copy,
        left: u32,
    },
    /// Of the snapshot, behind all regions.
    Traces {
        copy: Copy,
        left: u32,
    },
    Append,
}

/// What an append says.
#[derive(Debug, Serialize, Deserialize)]
enum Said<E, T> {
    Entry(E),
    Trace(ObjectId, T),
}

/// What a file says.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) state: State,
    pub(super) damage: Option<Damage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Nothing can be read.
    Head,
    /// Something that was once on the disk is not there, at this byte; more may be missing behind.
    At(usize),
}

/// The blocks that begin a file, and how many they are.
pub(super) fn snapshot(file: u64, state: &State) -> (Vec<u8>, u64) {
    let regions: Vec<Region> = state.regions.iter().copied().collect();
    let traces: Vec<(ObjectId, &[u8])> = state.traces.packed().collect();
    let of_regions = regions.len().div_ceil(PIECE_REGIONS_MAX).max(1);
    let pieces = of_regions + traces.len().div_ceil(PIECE_TRACES_MAX);
    let (mut bytes, mut left) = (Vec::new(), pieces as u32);
    let mut piece = |kind: fn(Copy, u32) -> Kind, write: &dyn Fn(&mut Vec<u8>)| {
        left -= 1;
        let number = pieces as u64 - 1 - u64::from(left);
        block(file, number, &kind(state.copy.clone(), left), write, &mut bytes);
    };
    for index in 0..of_regions {
        let end = regions.len().min((index + 1) * PIECE_REGIONS_MAX);
        let some = &regions[index * PIECE_REGIONS_MAX..end];
        piece(|copy, left| Kind::Regions { copy, left }, &|content| {
            some.iter().for_each(|region| say(region, content));
        });
    }
    for some in traces.chunks(PIECE_TRACES_MAX) {
        piece(|copy, left| Kind::Traces { copy, left }, &|content| {
            for (object, packed) in some {
                say(object, content);
                content.extend_from_slice(packed);
            }
        });
    }
    (bytes, pieces as u64)
}

/// One block for all of them: either all count, or none.
pub(super) fn append(file: u64, number: u64, batches: &[Batch]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let write = |content: &mut Vec<u8>| {
        for Batch { entries, traces } in batches {
            entries.iter().for_each(|entry| say(&Said::<_, &Trace>::Entry(entry), content));
            traces.iter().for_each(|(object, trace)| say(&Said::<&Entry, _>::Trace(*object, trace), content));
        }
    };
    block(file, number, &Kind::Append, &write, &mut bytes);
    bytes
}

fn block(file: u64, number: u64, kind: &Kind, write: &dyn Fn(&mut Vec<u8>), bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.resize(start + HEAD_BYTES, 0);
    say(kind, bytes);
    write(bytes);
    let block = &mut bytes[start..];
    let length = u32::try_from(block.len() - HEAD_BYTES).expect("what is in memory is far less");
    block[..8].copy_from_slice(&MAGIC);
    block[12..16].copy_from_slice(&FORMAT.to_le_bytes());
    block[16..20].copy_from_slice(&length.to_le_bytes());
    block[20..28].copy_from_slice(&file.to_le_bytes());
    block[28..36].copy_from_slice(&number.to_le_bytes());
    let checksum = crc32c::crc32c(&block[CHECKED_FROM..]);
    block[8..12].copy_from_slice(&checksum.to_le_bytes());
}

fn say(value: &impl Serialize, bytes: &mut Vec<u8>) {
    *bytes = postcard::to_extend(value, std::mem::take(bytes))
        .expect("plain data, and an allocation ends otherwise");
}

/// Whatever the bytes are. The error is a format that is not ours, in a file in good order.
pub(super) fn read(bytes: &[u8]) -> Result<Found, u32> {
    let Some(first) = Block::at(bytes, 0) else { return Ok(unreadable()) };
    if first.format != FORMAT {
        return Err(first.format);
    }
    let mut reader = Reader { state: State::default(), pieces: Pieces::NoneYet, damage: None };
    let (mut at, mut number) = (0, 0);
    while let Some((found, block)) = next(bytes, at, first.file, number) {
        if found != at || block.number != number {
            reader.damaged(at);
        }
        reader.take(block.content, found);
        at = found + HEAD_BYTES + block.content.len();
        // Numbers that are used up cannot come from this program.
        let Some(following) = block.number.checked_add(1) else { break };
        number = following;
    }
    match reader.pieces {
        Pieces::NoneYet => return Ok(unreadable()),
        Pieces::Missing(_) => reader.damaged(at),
        Pieces::Complete => {}
    }
    reader.state.copy.distrusted |= reader.damage.is_some();
    Ok(Found { state: reader.state, damage: reader.damage })
}

fn unreadable() -> Found {
    let mut state = State::default();
    state.copy.distrusted = true;
    Found { state, damage: Some(Damage::Head) }
}

/// The next good block from `at` on, wherever it begins.
fn next(bytes: &[u8], mut at: usize, file: u64, number: u64) -> Option<(usize, Block<'_>)> {
    loop {
        let good = |block: &Block<'_>| block.format == FORMAT && block.file == file && block.number >= number;
        if let Some(block) = Block::at(bytes, at).filter(good) {
            return Some((at, block));
        }
        let behind = bytes.get(at + 1..)?;
        at += 1 + behind.windows(MAGIC.len()).position(|window| window == MAGIC)?;
    }
}

/// One whose checksum is right.
struct Block<'a> {
    format: u32,
    file: u64,
    number: u64,
    content: &'a [u8],
}

impl<'a> Block<'a> {
    fn at(bytes: &'a [u8], at: usize) -> Option<Self> {
        let bytes = bytes.get(at..)?;
        let head = bytes.first_chunk::<HEAD_BYTES>()?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let end = HEAD_BYTES.checked_add(usize::try_from(word(16)).ok()?)?;
        let checked = bytes.get(CHECKED_FROM..end)?;
        let good = head.starts_with(&MAGIC) && crc32c::crc32c(checked) == word(8);
        good.then(|| Self {
            format: word(12),
            file: long(20),
            number: long(28),
            content: &bytes[HEAD_BYTES..end],
        })
    }
}

enum Pieces {
    NoneYet,
    Missing(u32),
    Complete,
}

struct Reader {
    state: State,
    pieces: Pieces,
    damage: Option<Damage>,
}

impl Reader {
    /// The first place is what people look for.
    fn damaged(&mut self, at: usize) {
        self.damage.get_or_insert(Damage::At(at));
    }

    fn take(&mut self, content: &[u8], at: usize) {
        if self.understand(content, at).is_none() {
            self.damaged(at);
        }
    }

    /// None: the checksum is right, and this is not what is written here.
    fn understand(&mut self, content: &[u8], at: usize) -> Option<()> {
        match postcard::take_from_bytes::<Kind>(content).ok()? {
            (Kind::Regions { copy, left }, regions) => {
                self.piece(copy, left, at);
                each(regions, |region| self.state.add(region))
            }
            (Kind::Traces { copy, left }, traces) => {
                self.piece(copy, left, at);
                each(traces, |(object, trace): (ObjectId, Trace)| self.state.trace(object, &trace))
            }
            (Kind::Append, said) => {
                if !matches!(self.pieces, Pieces::Complete) {
                    self.damaged(at);
                }
                each(said, |said: Said<Entry, Trace>| match said {
                    Said::Entry(entry) => self.state.apply(&entry),
                    Said::Trace(object, trace) => self.state.trace(object, &trace),
                })
            }
        }
    }

    fn piece(&mut self, copy: Copy, left: u32, at: usize) {
        let due = match self.pieces {
            Pieces::NoneYet => true,
            Pieces::Missing(missing) => missing.checked_sub(1) == Some(left),
            Pieces::Complete => false,
        };
        if !due {
            self.damaged(at);
        }
        self.state.copy = copy;
        self.pieces = if left == 0 { Pieces::Complete } else { Pieces::Missing(left) };
    }
}

fn each<T: DeserializeOwned>(mut bytes: &[u8], mut take: impl FnMut(T)) -> Option<()> {
    while !bytes.is_empty() {
        let (item, rest) = postcard::take_from_bytes(bytes).ok()?;
        take(item);
        bytes = rest;
    }
    Some(())
}
