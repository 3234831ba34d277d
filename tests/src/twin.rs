//! What the other node of a mirror says, and what the disk says of a copy, under any bytes: what the fuzzer and the tests
//! both ask.
//!
//! ```text
//! 0, piece, bytes    frames as they arrive, in pieces of that length
//! 1, head, bytes     one frame whose length and checksum are right; so many bytes are its head
//! 2, piece, bytes    what a node says first
//! 3, bytes           the bytes of a record
//! 4, bytes           blocks of a record whose checksums are right: length, number, content
//! 5, bytes           what happens to the engine of a node: `engine`
//! ```

mod engine;

use safekit::driver::replica::store;
use safekit::wire::replica::opening::Opening;
use safekit::wire::replica::{Decoder, Frame, Refused, encode};

/// Panics with what does not hold. Whether anything was understood.
pub fn check(bytes: &[u8]) -> bool {
    let Some((kind, bytes)) = bytes.split_first() else { return false };
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    match kind % 6 {
        0 => check_frames(rest, usize::from(*first).max(1)),
        1 => check_frames(&framed(usize::from(*first), rest), 7),
        2 => check_opening(rest, usize::from(*first).max(1)),
        3 => check_record(bytes),
        4 => check_record(&blocks(bytes)),
        _ => engine::check(bytes),
    }
}

/// Pieces make no difference, and what is understood is understood the same way after it was sent again.
fn check_frames(bytes: &[u8], piece: usize) -> bool {
    let (frames, refused) = frames(std::iter::once(bytes));
    assert_eq!(self::frames(bytes.chunks(piece)), (frames.clone(), refused), "in pieces of {piece}");
    for (frame, bulk) in &frames {
        let mut again = Vec::new();
        encode(frame, bulk, &mut again);
        let (sent_again, refused) = self::frames(std::iter::once(&again[..]));
        assert_eq!((sent_again.as_slice(), refused), (&[(frame.clone(), bulk.clone())][..], None));
    }
    !frames.is_empty()
}

type Frames = Vec<(Frame, Vec<u8>)>;

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Frames, Option<Refused>) {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.take() {
                Ok(Some((frame, bulk))) => frames.push((frame, bulk.to_vec())),
                Ok(None) => break,
                Err(refused) => return (frames, Some(refused)),
            }
        }
    }
    (frames, None)
}

fn framed(head: usize, body: &[u8]) -> Vec<u8> {
    let mut rest = (head as u32).to_le_bytes().to_vec();
    rest.extend_from_slice(body);
    let length = (rest.len() + 4) as u32;
    [&length.to_le_bytes()[..], &crc32c::crc32c(&rest).to_le_bytes(), &rest].concat()
}

fn check_opening(bytes: &[u8], piece: usize) -> bool {
    let opening = |piece| {
        let mut decoder = Opening::decoder();
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            match decoder.take::<Opening>() {
                Ok(None) => {}
                Ok(Some(found)) => return Ok(Some(found)),
                Err(refused) => return Err(refused.to_string()),
            }
        }
        Ok(None)
    };
    let found = opening(piece);
    assert_eq!(opening(1), found, "in pieces of {piece}");
    let Ok(Some(theirs)) = found else { return false };
    // Shown to people, whatever is in it.
    let own = Opening::new("shop", "db", "web1", 2, 1);
    let said = own.check(&theirs, "web2", true).map_err(|mismatch| mismatch.to_string());
    assert!(said.is_ok() || !said.unwrap_err().contains(char::is_control), "{theirs:?}");
    true
}

/// Of the same bytes always the same; what has no end that was written says so.
fn check_record(bytes: &[u8]) -> bool {
    let kept = store::read(bytes);
    assert_eq!(store::read(bytes), kept);
    let Ok(kept) = kept else { return false };
    let known: std::collections::BTreeSet<_> = kept.regions.iter().map(|region| region.object).collect();
    assert!(kept.traces.keys().all(|object| known.contains(object)), "nobody asks for others: {kept:?}");
    // The first block is gone: nobody knows what else there was.
    if let Some(behind) = bytes.get(1..) {
        assert!(store::read(behind).is_err() || store::read(behind).is_ok_and(|kept| kept.copy.distrusted));
    }
    !kept.copy.distrusted
}

fn blocks(mut bytes: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    while let [length, number, rest @ ..] = bytes {
        let (content, behind) = rest.split_at(usize::from(*length).min(rest.len()));
        let mut checked = 1_u32.to_le_bytes().to_vec();
        checked.extend((content.len() as u32).to_le_bytes());
        checked.extend(7_u64.to_le_bytes());
        checked.extend(u64::from(*number).to_le_bytes());
        checked.extend_from_slice(content);
        file.extend_from_slice(b"SKrecord");
        file.extend(crc32c::crc32c(&checked).to_le_bytes());
        file.extend(checked);
        bytes = behind;
    }
    file
}

/// What nodes say, one of each kind; what a record says; and the life of an engine.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = engine::seeds();
    for (frame, bulk) in engine::frames() {
        let mut bytes = Vec::new();
        encode(&frame, bulk, &mut bytes);
        seeds.push([&[0, 3][..], &bytes].concat());
        let head = bytes.len() - 12 - bulk.len();
        if let Ok(head) = u8::try_from(head) {
            seeds.push([&[1, head][..], &bytes[12..]].concat());
        }
    }
    let opening = Opening::new("shop", "db", "web2", 2, 1).encode().expect("it is short");
    seeds.push([&[2, 5][..], &opening].concat());
    seeds.extend(engine::records().into_iter().map(|record| [&[4][..], &record].concat()));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: u64 = 30_000;

    #[test]
    fn the_seeds_are_understood() {
        for seed in seeds() {
            assert!(check(&seed), "{seed:?}");
        }
    }

    #[test]
    fn whatever_is_said_is_refused_or_understood() {
        let seeds = seeds();
        let mut random = fastrand::Rng::with_seed(8);
        let (mut understood, mut refused) = (0, 0);
        for _ in 0..ROUNDS {
            let mut bytes = seeds[random.usize(..seeds.len())].clone();
            for _ in 0..random.usize(..4) {
                let place = random.usize(1..bytes.len());
                match random.u8(..4) {
                    0 => bytes[place] = random.u8(..),
                    1 => bytes.insert(place, random.u8(..)),
                    2 => bytes.extend((0..random.usize(..40)).map(|_| random.u8(..))),
                    _ => bytes.truncate(place.max(2)),
                }
            }
            if check(&bytes) { understood += 1 } else { refused += 1 }
        }
        assert!(
            understood > ROUNDS / 10 && refused > ROUNDS / 10,
            "{understood} understood, {refused} refused"
        );
    }

    /// What a fuzzer has found that goes its own ways.
    #[test]
    fn everything_holds_for_the_corpus() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/replica");
        let files = std::fs::read_dir(&folder).expect("the corpus is there");
        let mut count = 0;
        for file in files {
            check(&std::fs::read(file.expect("an entry").path()).expect("a file"));
            count += 1;
        }
        assert!(count >= 20, "the corpus has {count} files");
    }
}
