//! Lines in files of bounded size: `events.jsonl` is the newest, `events.jsonl.1` the one before it, and so on.
//!
//! A line is one write at the end of the file, so that a daemon that dies leaves it whole; only a machine that dies
//! can tear the last one, and reading leaves torn lines out.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Longer than any line that is written; a longer one in a file is no line of ours.
pub(super) const LINE_BYTES_MAX: usize = 16 * 1024;

/// Where lines are, and how many are kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) file_bytes_max: u64,
    /// With the newest.
    pub(super) files_max: u32,
}

impl Place {
    /// `age` 0 is the newest.
    fn file(&self, age: u32) -> PathBuf {
        match age {
            0 => self.path.clone(),
            _ => {
                let mut path = self.path.clone().into_os_string();
                path.push(format!(".{age}"));
                path.into()
            }
        }
    }

    /// The newest `count` lines that `pick` takes, the oldest first. What is not there or torn is left out.
    pub(super) fn newest<T>(&self, count: usize, pick: impl Fn(&[u8]) -> Option<T>) -> Vec<T> {
        let mut found: Vec<T> = Vec::new();
        for age in 0..self.files_max {
            let missing = count - found.len();
            if missing == 0 {
                break;
            }
            let mut older = newest_of(&self.file(age), missing, &pick);
            older.append(&mut found);
            found = older;
        }
        found
    }
}

fn newest_of<T>(path: &Path, count: usize, pick: &impl Fn(&[u8]) -> Option<T>) -> Vec<T> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let mut kept = std::collections::VecDeque::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line);
        if !read.is_ok_and(|bytes| bytes > 0) {
            return kept.into();
        }
        let Some(picked) = line.strip_suffix(b"\n").and_then(pick) else { continue };
        if kept.len() == count {
            kept.pop_front();
        }
        kept.push_back(picked);
    }
}

/// The one writer of a [`Place`].
#[derive(Debug)]
pub(super) struct Writer {
    place: Place,
    file: File,
    bytes: u64,
}

impl Writer {
    pub(super) fn open(place: Place) -> io::Result<Self> {
        if let Some(directory) = place.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut file = open(&place.path)?;
        let bytes = file.metadata()?.len();
        let mut writer = Self { bytes, place, file: file.try_clone()? };
        if bytes > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(bytes - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // A torn line stays one line, and the next begins its own.
                writer.write(b"\n")?;
            }
        }
        Ok(writer)
    }

    /// `line` without its end.
    pub(super) fn append(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        assert!(line.len() < LINE_BYTES_MAX, "a line of {} bytes could not be read again", line.len());
        line.push(b'\n');
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.place.file_bytes_max {
            self.turn_over()?;
        }
        self.write(&line)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        for age in (0..self.place.files_max - 1).rev() {
            match std::fs::rename(self.place.file(age), self.place.file(age + 1)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = open(&self.place.path)?;
        self.bytes = 0;
        Ok(())
    }
}

/// Group `safekit` reads through the daemon, not the file.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        let directory = std::env::temp_dir().join(format!("safekit-journal-{}-{name}", std::process::id()));
        let _none = std::fs::remove_dir_all(&directory);
        Place { path: directory.join("lines"), file_bytes_max: 100, files_max: 3 }
    }

    fn numbers(place: &Place, count: usize) -> Vec<u64> {
        place.newest(count, |line| std::str::from_utf8(line).ok()?.trim().parse().ok())
    }

    #[test]
    fn the_newest_lines_come_back_from_all_files_and_the_oldest_are_given_up() {
        let place = place("bounded");
        let mut writer = Writer::open(place.clone()).expect("a directory of our own");
        for number in 0..1000_u64 {
            writer.append(format!("{number:9}").into_bytes()).expect("there is room");
        }
        assert_eq!(numbers(&place, 4), [996, 997, 998, 999]);
        assert_eq!(numbers(&place, 15), (985..1000).collect::<Vec<u64>>(), "from two files and more");
        let all = numbers(&place, 1000);
        assert_eq!((all.len(), all[0]), (30, 970), "three files of ten lines");
        let files = std::fs::read_dir(place.path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 3);
        std::fs::remove_dir_all(place.path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_torn_line_costs_itself_only() {
        let place = place("torn");
        let mut writer = Writer::open(place.clone()).expect("a directory of our own");
        writer.append(b"1".to_vec()).unwrap();
        writer.write(b"2 torn by a").unwrap();
        drop(writer);
        assert_eq!(numbers(&place, 9), [1]);
        Writer::open(place.clone()).unwrap().append(b"3".to_vec()).unwrap();
        assert_eq!(numbers(&place, 9), [1, 3]);
        std::fs::remove_dir_all(place.path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_file_without_line_ends_is_read_in_bounded_pieces() {
        let place = place("endless");
        std::fs::create_dir_all(place.path.parent().unwrap()).unwrap();
        std::fs::write(&place.path, vec![b'7'; 5 * LINE_BYTES_MAX]).unwrap();
        assert_eq!(numbers(&place, 9), [0; 0]);
        Writer::open(place.clone()).unwrap().append(b"8".to_vec()).unwrap();
        assert_eq!(numbers(&place, 9), [8]);
        std::fs::remove_dir_all(place.path.parent().unwrap()).unwrap();
    }
}
