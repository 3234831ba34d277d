//! Files of the state directory, by an allow list: nothing else of it leaves the machine.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::scripts::{log_dir, module_dir};
use super::ITEM_BYTES_MAX;
use crate::types::bundle::Item;

/// Where the file is in the state directory, and its name in the bundle. The events and the audit log rotate.
/// Configurations are asked of the daemon: as files they hold what scripts are given.
const STATE: [(&str, &str); 9] = [
    ("events.jsonl", "journal/events.jsonl"),
    ("events.jsonl.1", "journal/events.1.jsonl"),
    ("events.jsonl.2", "journal/events.2.jsonl"),
    ("events.jsonl.3", "journal/events.3.jsonl"),
    ("audit.jsonl", "journal/audit.jsonl"),
    ("audit.jsonl.1", "journal/audit.1.jsonl"),
    ("audit.jsonl.2", "journal/audit.2.jsonl"),
    ("audit.jsonl.3", "journal/audit.3.jsonl"),
    ("generation.json", "state/generation.json"),
];
/// The newest runs of each module's scripts: a record and its output each.
const RUNS_MAX: usize = 60;
const RUN_BYTES_MAX: usize = 256 << 10;
/// What the process of a mirror has printed, and the one before it.
const REPLICA: [&str; 2] = ["replica.log", "replica.log.1"];

pub(super) fn state(state_dir: &Path, modules: &[String]) -> Vec<Item> {
    let mut items: Vec<Item> = STATE
        .iter()
        .filter_map(|(file, path)| item(&state_dir.join(file), (*path).to_owned(), ITEM_BYTES_MAX))
        .collect();
    for module in modules {
        let replica = |file: &&str| {
            let path = module_dir(state_dir, module).join(file);
            item(&path, format!("logs/{module}/{file}"), RUN_BYTES_MAX)
        };
        items.extend(REPLICA.iter().filter_map(replica));
        let dir = log_dir(state_dir, module);
        let names = newest(&dir);
        items.extend(
            names
                .iter()
                .filter_map(|name| item(&dir.join(name), format!("logs/{module}/{name}"), RUN_BYTES_MAX)),
        );
    }
    items
}

/// Runs are named so that the newest comes last.
fn newest(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| name.ends_with(".log") || name.ends_with(".json")).collect();
    names.sort_unstable();
    names.split_off(names.len().saturating_sub(2 * RUNS_MAX))
}

/// None where there is no such file.
fn item(file: &Path, path: String, most: usize) -> Option<Item> {
    match end_of(file, most) {
        Ok((text, true)) => Some(Item::whole(path, text)),
        Ok((text, false)) => Some(Item { path, text, note: Some(format!("only its last {most} bytes")) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Item::lacking(path, format!("cannot be read: {error}"))),
    }
}

/// The last `most` bytes, and whether that is all. Follows no link and waits for nobody: what lies in the directory of a
/// script's output may have been put there by the script.
fn end_of(path: &Path, most: usize) -> io::Result<(String, bool)> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut file: File = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::other("no regular file"));
    }
    let before = facts.len().saturating_sub(most as u64);
    file.seek(SeekFrom::Start(before))?;
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), before == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_comes_out_and_links_lead_nowhere() {
        let dir = std::env::temp_dir().join(format!("safekit-bundle-{}", std::process::id()));
        let logs = log_dir(&dir, "www");
        std::fs::create_dir_all(&logs).expect("a directory");
        std::fs::write(dir.join("events.jsonl"), "{}\n").expect("a file");
        std::fs::write(dir.join("cluster.key"), "k").expect("a file");
        std::fs::write(logs.join("1-start.log"), "x".repeat(RUN_BYTES_MAX + 1)).expect("a file");
        std::os::unix::fs::symlink(dir.join("cluster.key"), logs.join("2-start.log")).expect("a link");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            logs.join("3-start.log"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a FIFO");
        let items = state(&dir, &["www".to_owned()]);
        std::fs::remove_dir_all(&dir).expect("removed");
        let paths: Vec<&str> = items.iter().map(|item| item.path.as_str()).collect();
        let expected =
            ["journal/events.jsonl", "logs/www/1-start.log", "logs/www/2-start.log", "logs/www/3-start.log"];
        assert_eq!(paths, expected);
        assert_eq!(items[1].text.len(), RUN_BYTES_MAX);
        assert!(items[1].note.is_some(), "it is cut, and says so");
        assert!(items[2].text.is_empty() && items[2].note.is_some(), "a link is not followed: {items:?}");
        assert!(items[3].text.is_empty() && items[3].note.is_some(), "a FIFO is not waited for: {items:?}");
    }
}
