//! What a run prints: a file, so that nobody who prints ever waits or loses his reader, neither the script nor a
//! server that it leaves behind; the daemon looks in often enough to keep it small.
//!
//! ```text
//! while it runs   [ HEAD, the first part │      a hole      │ TAIL, the last part │ appended until the next look ]
//! afterwards      [ HEAD │ "[… N bytes dropped]" │ TAIL ]
//! ```
//!
//! A hole takes no room and moves nothing, so that not one byte is lost of what is printed meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::{FallocateFlags, fallocate};

/// More is cut down to head and tail.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;
const HEAD_BYTES: u64 = 256 * 1024;
const TAIL_BYTES: u64 = 256 * 1024;
/// Between head and tail, before a hole is made.
const ROOM_BYTES: u64 = 256 * 1024;
/// Of every file system that matters, or a multiple of it.
const BLOCK_BYTES: u64 = 4096;
/// In which the last line is looked for.
const LAST_BYTES: u64 = 4096;
/// Of the last line, for causes.
const LINE_CHARS_MAX: usize = 200;

#[derive(Debug)]
pub(super) struct Output {
    /// None where it cannot be written: a script must run on a full disk too.
    file: Option<File>,
    /// Where the hole ends.
    kept_from: u64,
    dropped: u64,
    /// What is in the file of marks, and was not printed by the run.
    marks: u64,
}

impl Output {
    pub(super) fn create(path: &Path) -> Self {
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let options = || OpenOptions::new().create(true).append(true).read(true).open(path);
        let file = match made.and_then(|()| options()) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "what a script prints will be lost");
                None
            }
        };
        Self { file, kept_from: HEAD_BYTES, dropped: 0, marks: 0 }
    }

    /// For one of the script's descriptors.
    pub(super) fn end_for_script(&self) -> Stdio {
        match self.file.as_ref().map(File::try_clone) {
            Some(Ok(file)) => file.into(),
            Some(Err(_)) | None => Stdio::null(),
        }
    }

    /// For somebody who opens it himself.
    pub(super) fn is_there(&self) -> bool {
        self.file.is_some()
    }

    /// A line of our own.
    pub(super) fn say(&self, line: &str) {
        if let Some(mut file) = self.file.as_ref() {
            // A full disk loses a line of a log, and nothing else.
            let _full = writeln!(file, "{line}");
        }
    }

    /// Makes room while the script runs, when it has printed much.
    pub(super) fn look(&mut self) {
        let Some(file) = &self.file else { return };
        let kept_from = self.bytes().saturating_sub(TAIL_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
        if kept_from < self.kept_from + ROOM_BYTES {
            return;
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(file, hole, self.kept_from, kept_from - self.kept_from) {
            Ok(()) => self.kept_from = kept_from,
            // A file system without holes.
            Err(_) => self.close(),
        }
    }

    /// Cuts it down when it is too large: nobody prints any more, or the file system can do no better.
    pub(super) fn close(&mut self) {
        let Some(file) = &self.file else { return };
        match cut(file, self.dropped, self.marks) {
            Ok(Some(cut)) => (self.dropped, self.marks) = (cut.dropped, cut.mark),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot cut the output of a script"),
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn bytes(&self) -> u64 {
        self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |facts| facts.len())
    }

    /// The last line that says something, cleaned for a screen.
    pub(super) fn last_line(&self) -> String {
        let Some(file) = &self.file else { return String::new() };
        let size = self.bytes();
        let bytes = read_at(file, size.saturating_sub(LAST_BYTES), LAST_BYTES).unwrap_or_default();
        last_line(&bytes)
    }
}

/// Cuts the file of a run that has ended, if a server that it left behind has filled it.
pub(super) fn cut_file(path: &Path) {
    let large = std::fs::metadata(path).is_ok_and(|facts| facts.len() > FILE_BYTES_MAX);
    let open = || OpenOptions::new().append(true).read(true).open(path);
    if large && let Ok(file) = open() {
        let _tried_again_later = cut(&file, 0, 0);
    }
}

struct Cut {
    dropped: u64,
    /// Size of the mark.
    mark: u64,
}

/// What is appended between the last two steps is lost uncounted: for an application that has been left behind, that
/// is a moment of its chatter.
fn cut(file: &File, dropped: u64, mark: u64) -> io::Result<Option<Cut>> {
    let size = file.metadata()?.len();
    if size <= FILE_BYTES_MAX {
        return Ok(None);
    }
    let tail = read_at(file, size - TAIL_BYTES, TAIL_BYTES)?;
    let dropped = dropped + (size - HEAD_BYTES - TAIL_BYTES).saturating_sub(mark);
    let text = format!("\n[… {dropped} bytes dropped]\n");
    let mut kept = text.clone().into_bytes();
    kept.extend_from_slice(&tail);
    file.set_len(HEAD_BYTES)?;
    let mut writer = file;
    writer.write_all(&kept)?;
    Ok(Some(Cut { dropped, mark: text.len() as u64 }))
}

fn read_at(file: &File, from: u64, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], from + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The last line that says something, without what would disturb a screen.
pub(super) fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|char| !char.is_control()).take(LINE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::scripts::tests::TempDir;

    #[test]
    fn a_flood_keeps_its_beginning_and_its_end() {
        let dir = TempDir::new("output-flood");
        let path = dir.path().join("a.log");
        let mut output = Output::create(&path);
        let mut printed = 0u64;
        for number in 0..40_000 {
            let line = format!("line {number} of a program that does not stop talking about its work");
            printed += line.len() as u64 + 1;
            output.say(&line);
            if number % 1000 == 0 {
                output.look();
                let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
                assert!(blocks * 512 <= FILE_BYTES_MAX, "{number}: {blocks} blocks");
            }
        }
        output.close();
        assert!(output.bytes() <= FILE_BYTES_MAX);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("line 0 of") && text.ends_with("its work\n"));
        assert_eq!(output.last_line(), "line 39999 of a program that does not stop talking about its work");
        let mark = format!("\n[… {} bytes dropped]\n", output.dropped());
        assert!(text.contains(&mark), "it says how much is missing");
        assert_eq!(text.matches("bytes dropped]").count(), 1);
        assert_eq!(
            output.dropped() + output.bytes() - mark.len() as u64,
            printed,
            "no byte is unaccounted for"
        );
    }

    #[test]
    fn the_last_line_is_one_that_says_something() {
        for (bytes, expected) in [
            (&b""[..], ""),
            (b"one\ntwo", "two"),
            (b"one\ntwo\n\n  \n", "two"),
            (b"\x1b[31mred\x1b[0m\n", "[31mred[0m"),
            (b"bad \xff byte", "bad \u{fffd} byte"),
        ] {
            assert_eq!(last_line(bytes), expected);
        }
        assert_eq!(last_line("ä".repeat(5000).as_bytes()).chars().count(), LINE_CHARS_MAX);
    }
}
