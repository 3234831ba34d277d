//! Many small files: made, filled and closed one by one, then deleted. Runs as a program of its own, on a machine.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use safekit::driver::clock;
use serde::{Deserialize, Serialize};

use super::machine::{DATA, Machine};

const CONTENT: [u8; 4096] = [0x5a; 4096];
const FOLDER: &str = "small";

/// What such a program prints.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Done {
    pub files: u64,
    pub seconds: f64,
}

/// Makes files of 4 KiB in a new folder below `directory`, until there are `most` or the time is over.
pub fn create(directory: &Path, most: u64, within: Duration) -> Result<Done> {
    let folder = directory.join(FOLDER);
    std::fs::create_dir(&folder)?;
    let (start, mut files) = (clock::now(), 0);
    while files < most && clock::now().since(start) < within {
        File::create_new(file(&folder, files))?.write_all(&CONTENT)?;
        files += 1;
    }
    Ok(Done { files, seconds: clock::now().since(start).as_secs_f64() })
}

/// Deletes what [`create`] has made.
pub fn delete(directory: &Path) -> Result<Done> {
    let folder = directory.join(FOLDER);
    let (start, mut files) = (clock::now(), 0);
    while std::fs::remove_file(file(&folder, files)).is_ok() {
        files += 1;
    }
    std::fs::remove_dir(&folder).context("not all files were deleted")?;
    Ok(Done { files, seconds: clock::now().since(start).as_secs_f64() })
}

fn file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("f{number:06}"))
}

/// Writes `pieces` of 64 KiB into a file, far apart and where no block begins, and waits for the disks.
pub fn change(path: &Path, pieces: u64) -> Result<Done> {
    ensure!(pieces > 0, "nothing to change");
    let file = File::options().write(true).open(path)?;
    let (start, distance) = (clock::now(), file.metadata()?.len() / pieces);
    let mut piece = vec![0; PIECE];
    for number in 0..pieces {
        fastrand::fill(&mut piece);
        file.write_all_at(&piece, number * distance + 1000)?;
    }
    file.sync_all()?;
    Ok(Done { files: pieces, seconds: clock::now().since(start).as_secs_f64() })
}

pub const PIECE: usize = 64 * 1024;

/// Runs this program's own verb on a machine.
pub fn run(machine: &Machine<'_>, words: &[String], within: Duration) -> Result<Done> {
    let mut command = machine.command(std::env::current_exe()?)?;
    command.arg("files").args(words);
    let said = machine.run("files", command, within)?;
    let done: Done = serde_json::from_str(said.trim()).with_context(|| format!("files said: {said}"))?;
    ensure!(done.files > 0 && done.seconds > 0.0, "no file within the time");
    Ok(done)
}

pub fn create_words(most: u64, within: Duration) -> [String; 4] {
    ["create".to_owned(), DATA.to_owned(), most.to_string(), within.as_secs_f64().to_string()]
}

pub fn delete_words() -> [String; 2] {
    ["delete".to_owned(), DATA.to_owned()]
}

/// Random contents: nothing can be guessed from them or be told by a hole.
pub fn fill(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut piece = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(PIECE as u64);
        fastrand::fill(&mut piece);
        file.write_all(&piece[..usize::try_from(length)?])?;
        left -= length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_go_as_came_and_a_change_is_as_large_as_it_says() {
        let dir = std::env::temp_dir().join(format!("safekit-bench-files-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let created = create(&dir, 30, Duration::from_secs(60)).unwrap();
        assert_eq!((created.files, delete(&dir).unwrap().files), (30, 30));

        let (old, new) = (dir.join("old"), dir.join("new"));
        fill(&old, 4 << 20).unwrap();
        std::fs::copy(&old, &new).unwrap();
        change(&new, 16).unwrap();
        let (old, new) = (std::fs::read(old).unwrap(), std::fs::read(new).unwrap());
        assert_eq!(old.len(), new.len());
        let differing = old.iter().zip(&new).filter(|(old, new)| old != new).count();
        // One byte in 256 is the same by chance.
        let changed = 16 * PIECE;
        assert!(differing <= changed && differing > changed * 98 / 100, "{differing} of {changed}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
