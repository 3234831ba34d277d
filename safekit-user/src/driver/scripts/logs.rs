//! Answers of `safekit logs`: which runs there were, and what they printed, a page at a time.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;

use super::log_dir;
use super::records::{self, Record};
use crate::types::Reply;
use crate::types::logs::{LogPage, ScriptRun};

/// Of one reply: an operator's line, not a file transfer.
pub const PAGE_BYTES_MAX: u64 = 64 * 1024;

/// Runs of a module, the oldest first, only the last `last` of those of `script`.
pub fn runs(state_dir: &Path, module: &str, script: Option<&str>, last: usize) -> Reply {
    let dir = log_dir(state_dir, module);
    let wanted = |record: &Record| script.is_none_or(|script| matches(&record.run.script, script));
    let newest = records::names(&dir).into_iter().rev();
    let mut runs: Vec<ScriptRun> = newest
        .filter_map(|name| records::read(&dir, &name))
        .filter(wanted)
        .take(last)
        .map(|record| with_size(&dir, record.run))
        .collect();
    runs.reverse();
    Reply::Runs { runs }
}

/// From byte `from` on. A run that is not there is refused.
pub fn page(state_dir: &Path, module: &str, run: &str, from: u64) -> Reply {
    let dir = log_dir(state_dir, module);
    // Only names that a listing gives: nobody reads other files through the daemon.
    let known = records::names(&dir).iter().any(|name| name == run);
    match known.then(|| records::read(&dir, run)).flatten() {
        Some(record) => Reply::LogPage { page: read_page(&dir, &record, from) },
        None => Reply::Refused {
            error: format!("{module} has no run {run}"),
            next_step: format!("safekit logs {module}"),
        },
    }
}

/// `start` means whatever starts.
fn matches(script: &str, wanted: &str) -> bool {
    script == wanted || script.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('_'))
}

fn with_size(dir: &Path, run: ScriptRun) -> ScriptRun {
    let size = std::fs::metadata(dir.join(format!("{}.log", run.name))).map(|facts| facts.len());
    ScriptRun { bytes: size.unwrap_or(run.bytes), ..run }
}

fn read_page(dir: &Path, record: &Record, from: u64) -> LogPage {
    let run = &record.run;
    let Ok(file) = File::open(dir.join(format!("{}.log", run.name))) else {
        return LogPage { run: run.name.clone(), text: String::new(), next: from, is_last: true };
    };
    let size = file.metadata().map_or(0, |facts| facts.len());
    // It was cut down meanwhile: the rest of it begins where the cut is.
    let asked = if from > size { size } else { from };
    // A run that prints much has a hole where its middle was.
    let from = rustix::fs::seek(&file, SeekFrom::Data(asked)).unwrap_or(asked);
    let mut bytes = vec![0; PAGE_BYTES_MAX.min(size.saturating_sub(from)) as usize];
    let count = file.read_at(&mut bytes, from).unwrap_or(0);
    bytes.truncate(whole_characters(&bytes[..count]));
    let next = from + bytes.len() as u64;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if from > asked {
        text = format!("\n[… {} bytes dropped]\n{text}", from - asked);
    }
    LogPage { run: run.name.clone(), text, next, is_last: next >= size || bytes.is_empty() }
}

/// A page does not end within a character, unless it is none.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        Ok(_) | Err(_) => bytes.len(),
    }
}
