//! What scripts say: a file for each run, the last ones kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::driver::clock;
use crate::types::module::ScriptEnd;

/// Of each module.
const RUNS_MAX: usize = 50;
/// The end of a log that is looked at.
const TAIL_BYTES: u64 = 4096;
const LINE_CHARACTERS_MAX: usize = 300;

pub struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// `2026-11-23T08:00:00.123Z_start_both.log`
    pub fn create(module_dir: &Path, script: &str, force: bool) -> io::Result<Self> {
        let directory = module_dir.join("scripts");
        std::fs::create_dir_all(&directory)?;
        drop_oldest(&directory)?;
        let forced = if force { "_force" } else { "" };
        let stamp = clock::utc();
        for number in 0..100 {
            let more = if number == 0 { String::new() } else { format!(".{number}") };
            let path = directory.join(format!("{stamp}{more}_{script}{forced}.log"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file, path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// For a process.
    pub fn descriptor(&self) -> io::Result<Stdio> {
        Ok(self.file.try_clone()?.into())
    }

    pub fn note(&mut self, text: &str) {
        // A log that cannot be written costs no more than the log.
        let _unwritten = writeln!(self.file, "safekit: {text}");
    }

    pub fn finish(&mut self, end: &ScriptEnd) {
        let text = match end {
            ScriptEnd::Done => "ended well".to_owned(),
            ScriptEnd::Failed { code: Some(code), .. } => format!("failed with exit code {code}"),
            ScriptEnd::Failed { code: None, .. } => "was ended by a signal".to_owned(),
            ScriptEnd::TimedOut => "did not end in time, and was ended by force".to_owned(),
            ScriptEnd::Killed => "was ended by force on demand".to_owned(),
            ScriptEnd::NotStarted { why } => format!("could not be started: {why}"),
        };
        self.note(&text);
    }

    /// The last line that says something.
    pub fn last_line(&self) -> String {
        let text = tail(&self.path).unwrap_or_default();
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let plain = line.chars().filter(|c| !c.is_control());
        plain.take(LINE_CHARACTERS_MAX).collect()
    }
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn drop_oldest(directory: &Path) -> io::Result<()> {
    let runs = runs(directory)?;
    for path in runs.iter().take((runs.len() + 1).saturating_sub(RUNS_MAX)) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// The oldest first: names begin with the time.
pub fn runs(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == "log"))
        .collect();
    paths.sort();
    Ok(paths)
}
