//! Histories against a model, and what crashes and bad disks leave behind.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use super::blocks::Found;
use super::state::REGIONS_MAX;
use super::*;
use crate::driver::scripts::tests::TempDir;
use crate::types::replica::{DataGeneration, ObjectId, Part};

/// A store and what it ought to say.
struct Bench {
    dir: TempDir,
    random: fastrand::Rng,
    store: Option<Store>,
    expected: Kept,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let dir = TempDir::new("store");
        let (store, kept) = open(dir.path()).expect("a directory of our own");
        assert_eq!(kept, State::default().kept(), "a new store is empty");
        Self { dir, random: fastrand::Rng::with_seed(seed), store: Some(store), expected: kept }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.file(log::NAME)).expect("the record is there")
    }

    fn append(&mut self, batches: &[Vec<Entry>]) {
        self.store.as_mut().expect("it is open").append(batches).expect("the disk works");
        tell(&mut self.expected, batches);
    }

    fn reopen(&mut self) {
        self.store = None;
        let (store, kept) = open(self.dir.path()).expect("nobody else has it");
        assert_eq!(kept, self.expected);
        self.store = Some(store);
    }

    fn entry(&mut self) -> Entry {
        let region = self.region();
        match self.random.u32(0..40) {
            0 => Entry::Clear,
            1..4 => Entry::Copy(self.copy()),
            4..16 => Entry::Remove(region),
            _ => Entry::Add(region),
        }
    }

    fn region(&mut self) -> Region {
        let object = ObjectId(self.random.u64(1..6));
        match self.random.u32(0..4) {
            0 => Region::names(object),
            1 => Region::meta(object),
            2 => Region::whole(object),
            _ => Region { object, part: Part::Data(self.random.u32(0..4)) },
        }
    }

    fn copy(&mut self) -> Copy {
        let random = &mut self.random;
        Copy {
            generation: Some(DataGeneration(random.u64(..))),
            parent: random.bool().then_some(DataGeneration(7)),
            history: (0..random.u64(0..4)).map(DataGeneration).collect(),
            half_copied: random.bool(),
            peer_out: random.bool(),
            led: random.bool(),
            distrusted: false,
            fresh_from: random.u64(0..1 << 40),
        }
    }

    fn batch(&mut self) -> Vec<Entry> {
        (0..self.random.usize(0..12)).map(|_| self.entry()).collect()
    }
}

/// The model: a plain set.
fn tell(kept: &mut Kept, batches: &[Vec<Entry>]) {
    let mut regions: BTreeSet<_> = kept.regions.drain(..).collect();
    for entry in batches.iter().flatten() {
        match entry {
            Entry::Copy(copy) => kept.copy = copy.clone(),
            Entry::Add(region) => drop(regions.insert(*region)),
            Entry::Remove(region) => drop(regions.remove(region)),
            Entry::Clear => regions.clear(),
        }
    }
    kept.regions = regions.into_iter().collect();
}

fn open(path: &Path) -> Result<(Store, Kept), Error> {
    Store::open(&File::open(path).expect("it is there").into())
}

/// A copy with a name, which a reader must not lose unnoticed.
fn named(generation: u64) -> Entry {
    let generation = Some(DataGeneration(generation));
    Entry::Copy(Copy { generation, ..State::default().copy })
}

fn extents(numbers: std::ops::Range<u32>) -> impl Iterator<Item = Region> {
    numbers.map(|number| Region { object: ObjectId(20), part: Part::Data(number) })
}

fn last_block(bytes: &[u8]) -> usize {
    bytes.windows(8).rposition(|window| window == b"SKrecord").expect("a block")
}

fn read(bytes: &[u8]) -> Found {
    blocks::read(bytes).expect("of our format, or of none")
}

/// A snapshot in one block and `appends` behind it; and the state after each.
fn history(appends: usize, seed: u64) -> (Vec<u8>, Vec<usize>, Vec<Kept>) {
    let mut bench = Bench::new(seed);
    let mut state = State::default();
    state.apply(&named(1));
    let (mut bytes, mut number) = blocks::snapshot(5, &state);
    let (mut ends, mut states) = (vec![bytes.len()], vec![state.kept()]);
    for _ in 0..appends {
        let batches = [bench.batch(), vec![bench.entry()]];
        batches.iter().flatten().for_each(|entry| state.apply(entry));
        bytes.extend(blocks::append(5, number, &batches));
        number += 1;
        ends.push(bytes.len());
        states.push(state.kept());
    }
    bytes.resize(bytes.len() + 64, 0);
    (bytes, ends, states)
}

#[test]
fn what_was_appended_is_there_again() {
    for seed in 0..12 {
        let mut bench = Bench::new(seed);
        for _ in 0..20 {
            let batches: Vec<_> = (0..bench.random.usize(0..4)).map(|_| bench.batch()).collect();
            bench.append(&batches);
            if bench.random.u32(0..5) == 0 {
                bench.reopen();
            }
        }
        bench.reopen();
        assert_eq!(std::fs::metadata(bench.file(log::NAME)).unwrap().mode() & 0o7777, 0o600);
    }
}

#[test]
fn a_torn_append_was_not_made() {
    for seed in 0..20 {
        let (bytes, ends, states) = history(4, seed);
        let (start, end) = (ends[3], ends[4]);
        for torn in start..end {
            let mut zeros = bytes.clone();
            zeros[torn..].fill(0);
            for bytes in [&bytes[..torn], &zeros] {
                let found = read(bytes);
                assert_eq!(found.damage, None, "at {torn} of {start}..{end}");
                let kept = found.state.kept();
                // The bytes that are missing may be zeros.
                assert!(kept == states[3] || kept == states[4] && torn + 4 > end, "{kept:?}");
            }
        }
        assert_eq!(read(&bytes).state.kept(), states[4]);
    }
}

#[test]
fn after_a_torn_append_others_follow() {
    let mut bench = Bench::new(1);
    bench.append(&[vec![named(3), Entry::Add(Region::meta(ObjectId(9)))]]);
    let before = bench.expected.clone();
    bench.append(&[extents(0..500).map(Entry::Add).collect()]);
    bench.store = None;
    let mut bytes = bench.bytes();
    // The head of it never came to the disk, the rest did.
    let start = last_block(&bytes);
    bytes[start..start + 512].fill(0);
    std::fs::write(bench.file(log::NAME), &bytes).unwrap();
    bench.expected = before;
    bench.reopen();
    bench.append(&[vec![Entry::Add(Region::names(ObjectId(9)))]]);
    bench.reopen();
}

#[test]
fn no_flipped_bit_goes_unnoticed_but_in_the_last_append() {
    let (bytes, ends, states) = history(6, 3);
    let mut bad = bytes.clone();
    for bit in 0..bytes.len() * 8 {
        bad[bit / 8] ^= 1 << (bit % 8);
        let found = read(&bad);
        let kept = found.state.kept();
        match ends.iter().position(|end| bit / 8 < *end) {
            Some(0) => assert_eq!((found.damage, kept.copy.distrusted), (Some(Damage::Head), true)),
            Some(6) => assert_eq!((found.damage, &kept), (None, &states[5])),
            Some(block) => {
                assert_eq!((found.damage, kept.copy.distrusted), (Some(Damage::At(ends[block - 1])), true));
            }
            None => assert_eq!((found.damage, &kept), (None, &states[6])),
        }
        bad[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut random = fastrand::Rng::with_seed(4);
    let (bytes, ends, _) = history(6, 5);
    for _ in 0..20_000 {
        let mut bad = bytes.clone();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(..bad.len());
            bad[at] = random.u8(..);
        }
        bad.rotate_left(if random.bool() { 0 } else { ends[random.usize(..ends.len())] });
        // As if it had been written so: contents are read behind a right checksum only.
        for start in ends.iter().copied().chain([0]) {
            let Some(length) = bad.get(start + 16..start + 20) else { continue };
            let end = start + 36 + u32::from_le_bytes(length.try_into().unwrap()) as usize;
            let Some(checked) = bad.get(start + 12..end) else { continue };
            let checksum = crc32c::crc32c(checked).to_le_bytes();
            bad[start + 8..start + 12].copy_from_slice(&checksum);
        }
        let _any = blocks::read(&bad);
    }
}

#[test]
fn a_damaged_record_names_its_generations_and_is_not_trusted() {
    let mut bench = Bench::new(6);
    bench.append(&[vec![Entry::Add(Region::meta(ObjectId(9)))]]);
    let start = last_block(&bench.bytes());
    bench.append(&[vec![named(8), Entry::Add(Region::names(ObjectId(9)))]]);
    bench.store = None;
    let mut bytes = bench.bytes();
    bytes[start + 38] ^= 1;
    std::fs::write(bench.file(log::NAME), &bytes).unwrap();
    bench.expected.copy.distrusted = true;
    bench.expected.regions.retain(|region| region.part == Part::Names);
    bench.reopen();
    // And it stays so until the engine says otherwise.
    bench.reopen();
    bench.append(&[vec![named(8), Entry::Clear]]);
    bench.reopen();
    assert!(!bench.expected.copy.distrusted);
}

#[test]
fn a_record_that_cannot_be_read_is_not_trusted() {
    for bytes in [vec![], vec![0; 5000], b"SKrecord".repeat(100)] {
        let mut bench = Bench::new(7);
        bench.append(&[vec![named(8), Entry::Add(Region::names(ObjectId(9)))]]);
        bench.store = None;
        std::fs::write(bench.file(log::NAME), &bytes).unwrap();
        bench.expected = State::default().kept();
        bench.expected.copy.distrusted = true;
        bench.reopen();
    }
}

#[test]
fn a_record_of_a_later_version_is_left_alone() {
    let mut bench = Bench::new(8);
    bench.store = None;
    let (mut bytes, _) = blocks::snapshot(1, &State::default());
    bytes[12] = 2;
    let checksum = crc32c::crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(bench.file(log::NAME), &bytes).unwrap();
    assert!(matches!(open(bench.dir.path()), Err(Error::Format(2))));
    assert_eq!(bench.bytes(), bytes);
}

#[test]
fn a_snapshot_counts_with_all_of_its_pieces() {
    let mut state = State::default();
    state.apply(&named(4));
    extents(0..40_000).for_each(|region| state.add(region));
    let (mut bytes, pieces) = blocks::snapshot(9, &state);
    assert_eq!(pieces, 3);
    assert_eq!(read(&bytes).state, state);
    let second = (1..).find(|at| bytes[*at..].starts_with(b"SKrecord")).unwrap();
    for length in [bytes.len() - 1, second, second + 100] {
        let found = read(&bytes[..length]);
        assert_eq!(
            found.damage,
            Some(Damage::At(if length > second + 100 { last_block(&bytes) } else { second }))
        );
        let copy = found.state.kept().copy;
        assert_eq!((copy.generation, copy.distrusted), (Some(DataGeneration(4)), true));
    }
    bytes[second + 50] ^= 1;
    assert_eq!(read(&bytes).damage, Some(Damage::At(second)));
}

#[test]
fn a_long_record_is_written_anew() {
    let mut bench = Bench::new(10);
    let mut files = BTreeSet::new();
    for round in 0..40 {
        let start = round * 1000;
        let removed = extents(start.max(1000) - 1000..start).map(Entry::Remove).collect();
        bench.append(&[extents(start..start + 1000).map(Entry::Add).collect(), removed]);
        let file = std::fs::metadata(bench.file(log::NAME)).unwrap();
        assert!(file.len() <= log::LENGTH_MIN, "{} bytes for a thousand regions", file.len());
        files.insert(file.ino());
    }
    assert!(files.len() > 1, "forty thousand additions do not fit into one");
    bench.reopen();
    // More than the file may be long, at once.
    bench.append(&[extents(0..200_000).map(Entry::Add).collect()]);
    bench.append(&[vec![Entry::Remove(Region { object: ObjectId(20), part: Part::Data(77) })]]);
    bench.reopen();
}

#[test]
fn a_crash_while_it_is_written_anew_is_harmless() {
    let mut bench = Bench::new(11);
    bench.append(&[vec![named(8)], extents(0..3000).map(Entry::Add).collect()]);
    bench.store = None;
    let old = bench.bytes();
    bench.reopen();
    let new = bench.bytes();
    assert_ne!(old, new);
    for written in [0, 1, 36, 4000, new.len() - 1, new.len()] {
        bench.store = None;
        std::fs::write(bench.file(log::NAME), &old).unwrap();
        std::fs::write(bench.file(log::NEW), &new[..written]).unwrap();
        bench.reopen();
        assert!(!bench.file(log::NEW).exists());
    }
    bench.store = None;
    symlink(bench.file("elsewhere"), bench.file(log::NEW)).unwrap();
    bench.reopen();
    assert!(!bench.file("elsewhere").exists());
}

#[test]
fn the_first_record_may_not_get_its_name() {
    let dir = TempDir::new("store");
    std::fs::write(dir.path().join(log::NEW), b"SKrec").unwrap();
    let (_store, kept) = open(dir.path()).unwrap();
    assert_eq!(kept, State::default().kept());
}

#[test]
fn links_are_not_followed() {
    let bench = Bench::new(12);
    let dir = TempDir::new("store");
    symlink(bench.file(log::NAME), dir.path().join(log::NAME)).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Io { .. })));
}

#[test]
fn a_second_opener_is_refused() {
    let mut bench = Bench::new(13);
    bench.append(&[vec![named(8)]]);
    assert!(matches!(open(bench.dir.path()), Err(Error::InUse)));
    bench.append(&[vec![Entry::Add(Region::names(ObjectId(9)))]]);
    bench.reopen();
}

#[test]
fn a_directory_that_is_open_as_a_place_will_do() {
    let dir = TempDir::new("store");
    let place = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert!(Store::open(&place).is_ok());
}

#[test]
fn after_an_error_nothing_is_appended() {
    let mut bench = Bench::new(14);
    let store = bench.store.as_mut().unwrap();
    // Not open for writing.
    store.log.file = File::open(bench.dir.path().join(log::NAME)).unwrap();
    let batch = [vec![named(8)]];
    assert!(matches!(store.append(&batch), Err(Error::Io { .. })));
    assert!(matches!(store.append(&batch), Err(Error::Failed)));
    bench.reopen();
}

#[test]
fn too_many_regions_are_everything_until_all_are_forgotten() {
    let everything = |state: &State| {
        let kept = state.kept();
        (kept.regions == [Region::EVERYTHING], kept.copy.distrusted)
    };
    let mut state = State::default();
    extents(0..REGIONS_MAX as u32).for_each(|region| state.add(region));
    assert_eq!((everything(&state), state.regions.len()), ((false, false), REGIONS_MAX));
    let (bytes, _) = blocks::snapshot(1, &state);
    assert!(bytes.len() as u64 * 4 < 128 << 20, "{} bytes", bytes.len());

    for entry in [
        Entry::Add(Region::names(ObjectId(9))),
        Entry::Add(Region::meta(ObjectId(9))),
        Entry::Remove(Region::EVERYTHING),
        named(5),
    ] {
        state.apply(&entry);
        assert_eq!(everything(&state), (true, true), "{entry:?}");
        assert_eq!(everything(&read(&blocks::snapshot(1, &state).0).state), (true, true));
    }
    state.apply(&Entry::Clear);
    assert_eq!((everything(&state), state.regions.len()), ((false, false), 0));
}
