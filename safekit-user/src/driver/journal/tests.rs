//! Notes in, entries out, over restarts and crowds.

use std::path::PathBuf;

use super::*;
use crate::types::journal::Actor;

const PATIENCE: Duration = Duration::from_secs(10);

fn state_dir(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("safekit-journal-mod-{}-{name}", std::process::id()));
    let _none = std::fs::remove_dir_all(&directory);
    directory
}

fn note(module: Option<&str>, level: Level, text: &str) -> Note {
    Note { level, module: module.map(str::to_owned), kind: "test", text: text.to_owned(), cause: None }
}

fn all() -> Wanted {
    Wanted { module: None, level: Level::Debug, since: None, count: ENTRIES_MAX }
}

#[test]
fn numbers_go_on_after_a_restart() {
    let directory = state_dir("restart");
    for life in 0..3 {
        let journal = Journal::open(&directory, "web1").expect("a directory of our own");
        for step in 0..5 {
            journal.note(note(None, Level::Info, &format!("life {life} step {step}")));
        }
        journal.flush(PATIENCE);
    }
    let entries = Files::of(&directory).events(&all(), None);
    let numbers: Vec<u64> = entries.iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, (1..=15).collect::<Vec<u64>>());
    assert_eq!((entries[14].text.as_str(), entries[14].node.as_str()), ("life 2 step 4", "web1"));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn wanted_entries_are_told_from_others() {
    let directory = state_dir("wanted");
    let journal = Journal::open(&directory, "web1").expect("a directory of our own");
    journal.note_at(WallTime::default(), note(Some("www"), Level::Error, "long ago"));
    journal.note(note(Some("www"), Level::Warning, "lately"));
    journal.note(note(Some("db"), Level::Warning, "another"));
    journal.note(note(Some("www"), Level::Debug, "small"));
    journal.flush(PATIENCE);
    let texts = |wanted: Wanted, after| -> Vec<String> {
        Files::of(&directory).events(&wanted, after).into_iter().map(|entry| entry.text).collect()
    };
    let www = Wanted { module: Some("www".into()), ..all() };
    assert_eq!(texts(www.clone(), None), ["long ago", "lately", "small"]);
    let warnings = Wanted { level: Level::Warning, ..www.clone() };
    assert_eq!(texts(warnings.clone(), None), ["long ago", "lately"]);
    let hour_ago = clock::wall().before(Duration::from_secs(3600));
    assert_eq!(texts(Wanted { since: Some(hour_ago), ..warnings }, None), ["lately"]);
    assert_eq!(texts(Wanted { count: 1, ..www.clone() }, None), ["small"]);
    assert_eq!(texts(www, Some(2)), ["small"]);
    std::fs::remove_dir_all(directory).unwrap();
}

/// Text of any length and of any characters makes a line that comes back.
#[test]
fn no_text_is_too_long_or_too_strange() {
    let directory = state_dir("strange");
    let journal = Journal::open(&directory, "web1").expect("a directory of our own");
    for text in ["\"\\".repeat(9000), "\u{1}\n\u{7f}".repeat(9000), "ä…🚀".repeat(9000), String::new()] {
        let strange = note(Some(&text), Level::Info, &text);
        journal.note(Note { cause: Some(text), ..strange });
    }
    journal.flush(PATIENCE);
    assert_eq!(Files::of(&directory).events(&all(), None).len(), 4);
    std::fs::remove_dir_all(directory).unwrap();
}

/// More at once than the queue takes: what is missing is said, with its number.
#[test]
fn what_is_lost_is_counted() {
    let directory = state_dir("lost");
    let journal = Journal::open(&directory, "web1").expect("a directory of our own");
    let noted = 20_000;
    for _ in 0..noted {
        journal.note(note(None, Level::Debug, "crowd"));
    }
    // A queue that is full takes no request to flush either.
    std::thread::sleep(Duration::from_millis(500));
    journal.note(note(None, Level::Debug, "crowd"));
    journal.flush(PATIENCE);
    let lines = |kind: &str| -> Vec<String> {
        Place { file_bytes_max: 0, ..Files::of(&directory).events }
            .newest(usize::MAX, |line| serde_json::from_slice::<Entry>(line).ok())
            .into_iter()
            .filter(|entry| entry.kind == kind)
            .map(|entry| entry.text)
            .collect()
    };
    let lost: u64 = lines("lost").iter().filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum();
    assert_eq!(lines("test").len() as u64 + lost, noted + 1);
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn who_follows_hears_at_once_and_is_not_kept_waiting() {
    let directory = state_dir("follow");
    let journal = Journal::open(&directory, "web1").expect("a directory of our own");
    let (none, last) = journal.events(all(), Some(0)).await;
    assert_eq!((none.len(), last), (0, 0), "no news within the wait");
    let writer = journal.clone();
    let (heard, ()) = tokio::join!(journal.events(all(), Some(0)), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        writer.note(note(None, Level::Info, "news"));
    });
    assert_eq!((heard.0[0].text.as_str(), heard.1), ("news", 1));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn acts_come_back() {
    let directory = state_dir("acts");
    let journal = Journal::open(&directory, "web1").expect("a directory of our own");
    let who = Actor { uid: Some(0), user: Some("root".into()), from: "control socket".into() };
    let (began, ended) = (clock::wall(), clock::wall());
    for what in ["drain web2", "reload"] {
        let result = ActResult::Refused { error: "no\nsuch node".into() };
        journal.audit(Act { began, ended, node: String::new(), who: who.clone(), what: what.into(), result });
    }
    journal.flush(PATIENCE);
    let acts = Files::of(&directory).acts(1);
    assert_eq!((acts.len(), acts[0].what.as_str(), acts[0].node.as_str()), (1, "reload", "web1"));
    assert_eq!(acts[0].result.to_string(), "refused: no such node");
    std::fs::remove_dir_all(directory).unwrap();
}
