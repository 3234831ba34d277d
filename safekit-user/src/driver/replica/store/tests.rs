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
        let batches: Vec<_> = batches.iter().cloned().map(untraced).collect();
        self.append_batches(&batches);
    }

    fn append_batches(&mut self, batches: &[Batch]) {
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

    fn batch(&mut self) -> Batch {
        let entries = (0..self.random.usize(0..12)).map(|_| self.entry()).collect();
        let traces = (0..self.random.usize(0..6))
            .map(|_| {
                (ObjectId(self.random.u64(1..7)), trace(self.random.u32(1..1 << 20), self.random.bool()))
            })
            .collect();
        Batch { entries, traces }
    }
}

/// The model: a plain set, and traces of what is in it.
fn tell(kept: &mut Kept, batches: &[Batch]) {
    let mut regions: BTreeSet<_> = kept.regions.drain(..).collect();
    let known = |regions: &BTreeSet<Region>, object| regions.iter().any(|region| region.object == object);
    for Batch { entries, traces } in batches {
        for entry in entries {
            match entry {
                Entry::Copy(copy) => kept.copy = copy.clone(),
                Entry::Add(region) => drop(regions.insert(*region)),
                Entry::Remove(region) => drop(regions.remove(region)),
                Entry::Clear => regions.clear(),
            }
            kept.traces.retain(|object, _| known(&regions, *object));
        }
        let wanted = traces.iter().filter(|(object, _)| known(&regions, *object));
        kept.traces.extend(wanted.cloned());
    }
    kept.regions = regions.into_iter().collect();
}

fn untraced(entries: Vec<Entry>) -> Batch {
    Batch { entries, traces: Vec::new() }
}

/// As a file system could have called it.
fn trace(inode: u32, named: bool) -> Trace {
    let handle = |inode: u32| (1, inode.to_le_bytes().map(|byte| byte | 1).to_vec());
    let place = named.then(|| (handle(inode / 2), format!("file {inode}").into_bytes()));
    let bytes = postcard::to_allocvec(&(handle(inode), place)).expect("plain data");
    postcard::from_bytes(&bytes).expect("a handle and a place")
}

/// An object, and where it is.
fn traced(numbers: std::ops::Range<u64>) -> Batch {
    let entries = numbers.clone().map(|number| Entry::Add(Region::meta(ObjectId(number)))).collect();
    let traces = numbers.map(|number| (ObjectId(number), trace(number as u32, true))).collect();
    Batch { entries, traces }
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
        let batches = [bench.batch(), untraced(vec![bench.entry()]), bench.batch()];
        batches.iter().for_each(|batch| state.take(batch));
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
            bench.append_batches(&batches);
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
    state.take(&traced(100..5100));
    let (mut bytes, pieces) = blocks::snapshot(9, &state);
    assert_eq!(pieces, 3 + 2);
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
    let starts: Vec<_> = (1..bytes.len()).filter(|at| bytes[*at..].starts_with(b"SKrecord")).collect();
    assert_eq!(starts.len(), 4);
    for start in starts {
        bytes[start + 50] ^= 1;
        let found = read(&bytes);
        assert_eq!((found.damage, found.state.copy.distrusted), (Some(Damage::At(start)), true));
        bytes[start + 50] ^= 1;
    }
}

#[test]
fn a_trace_is_kept_as_long_as_its_object_is_recorded() {
    let mut bench = Bench::new(15);
    bench.append_batches(&[traced(20..23)]);
    let meta = |number| Region::meta(ObjectId(number));
    let known = |bench: &mut Bench| -> Vec<u64> {
        bench.reopen();
        bench.expected.traces.keys().map(|object| object.0).collect()
    };
    assert_eq!(known(&mut bench), [20, 21, 22]);
    bench.append(&[vec![Entry::Add(Region::whole(ObjectId(20))), Entry::Remove(meta(20))]]);
    assert_eq!(known(&mut bench), [20, 21, 22], "another region of it");
    bench.append(&[vec![Entry::Remove(Region::whole(ObjectId(20))), Entry::Remove(meta(21))]]);
    assert_eq!(known(&mut bench), [22]);
    let newer = trace(77, true);
    let of_nothing = (ObjectId(20), trace(78, true));
    bench.append_batches(&[Batch {
        entries: vec![],
        traces: vec![(ObjectId(22), newer.clone()), of_nothing],
    }]);
    assert_eq!(known(&mut bench), [22], "the other one has no region");
    assert_eq!(bench.expected.traces[&ObjectId(22)], newer);
    bench.append(&[vec![Entry::Clear, Entry::Add(meta(22))]]);
    assert_eq!(known(&mut bench), [0; 0]);
}

#[test]
fn there_is_room_for_so_many_traces() {
    let mut state = State::default();
    let long = |inode: u32| {
        let mut trace = trace(inode, true);
        trace.place.as_mut().expect("it has one").1 = vec![b'n'; 255];
        trace
    };
    let room = (1..u64::MAX)
        .find(|number| {
            state.add(Region::meta(ObjectId(*number)));
            state.trace(ObjectId(*number), &long(*number as u32));
            state.traces.packed().len() < *number as usize
        })
        .expect("memory ends");
    let written: usize = state.traces.packed().map(|(_, packed)| packed.len() + 10).sum();
    let (bytes, _) = blocks::snapshot(1, &state);
    assert!((traces::BYTES_MAX - 300..=traces::BYTES_MAX).contains(&written), "{written} bytes");
    assert!(bytes.len() <= traces::BYTES_MAX + 16 * room as usize, "{} bytes", bytes.len());
    assert!(read(&bytes).state == state, "nothing of it is lost");
    // What leaves makes room.
    state.apply(&Entry::Remove(Region::meta(ObjectId(5))));
    state.trace(ObjectId(room), &long(room as u32));
    let kept = state.kept();
    assert!(kept.traces.contains_key(&ObjectId(room)) && !kept.traces.contains_key(&ObjectId(5)));
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
    bench.append_batches(&[untraced(vec![named(8)]), traced(30..3000)]);
    bench.store = None;
    let old = bench.bytes();
    bench.reopen();
    let new = bench.bytes();
    assert_ne!(old, new);
    for written in [0, 1, 36, 4000, last_block(&new), last_block(&new) + 99, new.len() - 1, new.len()] {
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
    let batch = [untraced(vec![named(8)])];
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
    state.trace(ObjectId(20), &trace(7, true));
    assert_eq!(state.traces.packed().len(), 1);
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
        state.trace(ObjectId(9), &trace(8, true));
        assert_eq!(everything(&state), (true, true), "{entry:?}");
        assert_eq!(state.traces.packed().len(), 0, "{entry:?}");
        assert_eq!(everything(&read(&blocks::snapshot(1, &state).0).state), (true, true));
    }
    state.apply(&Entry::Clear);
    assert_eq!((everything(&state), state.regions.len()), ((false, false), 0));
}
