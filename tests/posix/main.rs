//! POSIX on a captured directory: every row is done there and on a directory of the same file system as it is, and
//! wants the same result, error, contents and metadata after each of its steps.

mod identities;
mod rows;
mod steps;
mod told;
mod verified;
mod world;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use safekit::driver::replica::capture::{self, Captured};
use safekit_tests::lab;

use rows::Row;
use world::World;

/// Two directories of one file system, the first of them captured.
struct Pair {
    base: PathBuf,
    captured: Option<Captured>,
}

impl Pair {
    fn make(name: &str) -> anyhow::Result<Self> {
        Self::make_by(name, Captured::mount)
    }

    fn make_by(
        name: &str,
        mount: impl FnOnce(&Path) -> Result<Captured, capture::Error>,
    ) -> anyhow::Result<Self> {
        // Beside the program: /tmp may be a file system without some features.
        let program = lab::binary()?;
        let base = program.parent().context("the binary is in a directory")?;
        let base = base.join(format!("safekit-posix-{name}-{}", std::process::id()));
        for world in ["captured", "plain"] {
            std::fs::create_dir_all(base.join(world))?;
        }
        let captured = mount(&base.join("captured"))?;
        Ok(Self { base, captured: Some(captured) })
    }

    fn worlds(&self, row: usize) -> anyhow::Result<[World; 2]> {
        Ok([World::make(&self.base.join("plain"), row)?, World::make(&self.base.join("captured"), row)?])
    }

    fn captured(&self) -> PathBuf {
        self.base.join("captured")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Some(captured) = self.captured.take()
            && let Err(error) = captured.unmount()
        {
            eprintln!("cannot unmount: {error}");
        }
        let _left = std::fs::remove_dir_all(&self.base);
    }
}

fn every_row_is_the_same(name: &str, rows: &[Row]) -> anyhow::Result<()> {
    compare_all(&Pair::make(name)?, name, rows)
}

fn compare_all(pair: &Pair, name: &str, rows: &[Row]) -> anyhow::Result<()> {
    let mut different = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let [plain, captured] = pair.worlds(number)?;
        if let Some(difference) = compare(row, plain, captured) {
            different.push(format!("{}\n{difference}", row.name));
        }
    }
    let count = different.len();
    different.truncate(20);
    ensure!(different.is_empty(), "{count} of {} rows differ:\n{}", rows.len(), different.join("\n\n"));
    eprintln!("{}: {} rows", name, rows.len());
    Ok(())
}

fn compare(row: &Row, mut plain: World, mut captured: World) -> Option<String> {
    for (place, (actor, step)) in row.steps.iter().enumerate() {
        let (wanted, found) = (plain.take(*actor, step), captured.take(*actor, step));
        if wanted != found {
            let (wanted, found) = (wanted.lines().collect::<Vec<_>>(), found.lines().collect::<Vec<_>>());
            let lacks = |list: &[&str], line: &str| !list.contains(&line);
            let gone =
                wanted.iter().filter(|line| lacks(&found, line)).map(|line| format!("  wanted {line}"));
            let new = found.iter().filter(|line| lacks(&wanted, line)).map(|line| format!("  found  {line}"));
            let lines: Vec<String> = gone.chain(new).collect();
            return Some(format!(" step {place}, {actor:?}: {step:?}\n{}", lines.join("\n")));
        }
    }
    None
}

macro_rules! rows {
    ($($test:ident: $rows:path;)*) => {
        $(
            #[test]
            fn $test() -> anyhow::Result<()> {
                let Some(_lab) = lab::enter() else { return Ok(()) };
                every_row_is_the_same(stringify!($test), &$rows())
            }
        )*
    };
}

rows! {
    objects_are_made: rows::made;
    names_are_used: rows::named;
    objects_are_met_by_every_call: rows::met;
    names_change_their_places: rows::renamed;
    contents_change: rows::written;
    special_bits_are_cleared: rows::bits;
    attributes_are_kept: rows::attributes;
}

/// More objects than descriptors: those beyond are found again by their handles.
#[test]
fn objects_that_are_not_held_are_the_same() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let pair = Pair::make_by("handles", |dir| Captured::mount_holding(dir, 3))?;
    compare_all(&pair, "handles", &[rows::renamed(), rows::written(), rows::bits()].concat())
}

/// What a row cannot say: pages that two programs share, and files that have no name any more.
#[test]
fn pages_and_nameless_files_stay_true() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let pair = Pair::make("pages")?;
    for dir in [pair.captured(), pair.base.join("plain")] {
        mapped_pages_arrive(&dir)?;
        a_file_without_a_name_lives_on(&dir)?;
    }
    Ok(())
}

fn mapped_pages_arrive(dir: &Path) -> anyhow::Result<()> {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
    const BYTES: usize = 16 * 4096;
    let path = dir.join("pages");
    let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.set_len(BYTES as u64)?;
    // SAFETY: a new mapping of a file that only this test has; it is not used after munmap.
    unsafe {
        let pages = mmap(
            std::ptr::null_mut(),
            BYTES,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &file,
            0,
        )?;
        for at in (0..BYTES).step_by(777) {
            pages.cast::<u8>().add(at).write(at as u8);
        }
        msync(pages, BYTES, MsyncFlags::SYNC)?;
        munmap(pages, BYTES)?;
    }
    let read = std::fs::read(&path)?;
    ensure!(
        read.len() == BYTES && (0..BYTES).step_by(777).all(|at| read[at] == at as u8),
        "{}",
        dir.display()
    );
    Ok(())
}

fn a_file_without_a_name_lives_on(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    let path = dir.join("nameless");
    let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all_at(b"before", 0)?;
    std::fs::remove_file(&path)?;
    file.write_all_at(b" and after", 6)?;
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, 0)?;
    let facts = file.metadata()?;
    ensure!(&bytes == b"before and after" && facts.nlink() == 0 && facts.len() == 16, "{}", dir.display());
    Ok(())
}
