//! Events of the farm and strangers that were refused, as snapshots tell them, as notes for people.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Journal;
use crate::config::Config;
use crate::driver::clock;
use crate::types::cluster::RefusedInfo;
use crate::types::journal::{Level, Note};
use crate::types::snapshot::{MemberState, Verdict};
use crate::types::{Departure, Event, EventKind, GroupId, Instant, Snapshot};

const STRANGERS_PAUSE: Duration = Duration::from_secs(60);

/// Writes down every event of the farm until the heartbeat thread ends. A snapshot carries the last ones, so that a
/// reader that is late for some snapshots misses nothing.
pub async fn follow(journal: Journal, config: Arc<Config>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut seen: Option<Event> = None;
    let mut verdict = None;
    let mut strangers = Strangers::default();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let (now, wall) = (clock::now(), clock::wall());
        for event in after(&snapshot.events, seen.as_ref()) {
            journal.note_at(wall.before(now.since(event.at)), note(&config, event));
        }
        seen = snapshot.events.last().cloned().or(seen);
        if verdict.replace(snapshot.verdict) != Some(snapshot.verdict) {
            journal.note(verdict_note(&snapshot));
        }
        for stranger in strangers.news(&snapshot.links.refused, now) {
            journal.note(stranger);
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Who was refused: said at once, and then once in a while for each reason, however often it comes.
#[derive(Default)]
struct Strangers(BTreeMap<String, (u64, Instant)>);

impl Strangers {
    fn news(&mut self, refused: &[RefusedInfo], now: Instant) -> Vec<Note> {
        let mut news = Vec::new();
        for RefusedInfo { reason, count, last } in refused {
            let told = self.0.get(reason);
            let more = count - told.map_or(0, |(count, _)| *count);
            if more == 0 || told.is_some_and(|(_, at)| now.since(*at) < STRANGERS_PAUSE) {
                continue;
            }
            self.0.insert(reason.clone(), (*count, now));
            let times = if more == 1 { String::new() } else { format!(", {more} times") };
            let text = format!("refused to talk to {last}{times}");
            news.push(Note::of_node(Level::Warning, "refused", text).because(reason));
        }
        news
    }
}

/// Those that came after `seen`; all, when it has been pushed out already.
fn after<'e>(events: &'e [Event], seen: Option<&Event>) -> &'e [Event] {
    let known = seen.and_then(|seen| events.iter().rposition(|event| event == seen));
    known.map_or(events, |known| &events[known + 1..])
}

fn verdict_note(snapshot: &Snapshot) -> Note {
    let (level, word) = match snapshot.verdict {
        Verdict::Converged => (Level::Info, "CONVERGED"),
        Verdict::Converging => (Level::Info, "CONVERGING"),
        Verdict::Degraded => (Level::Warning, "DEGRADED"),
        Verdict::Split => (Level::Error, "SPLIT"),
        Verdict::Down => (Level::Error, "DOWN"),
    };
    let text = format!("the cluster is {word}");
    Note::of_node(level, "verdict", text).because(&snapshot.summary)
}

fn note(config: &Config, event: &Event) -> Note {
    let plain = Note::of_node;
    match event.kind {
        EventKind::View { view, members } => {
            let names: Vec<&str> = members.iter().map(|node| config.name(node)).collect();
            plain(Level::Info, "view", format!("view {}: the members are {}", view.0, names.join(", ")))
        }
        EventKind::Joined { node } => plain(Level::Info, "joined", format!("{} joined", config.name(node))),
        EventKind::Departed { node, why } => {
            let (level, cause) = departure(why);
            let text = format!("{} is no member any more", config.name(node));
            plain(level, "departed", text).because(cause)
        }
        EventKind::Applied { group, owned, transitional } => {
            let text = format!("this node owns {owned} buckets, {transitional} are in transition");
            Note { module: module_of(config, group), ..plain(Level::Debug, "buckets", text) }
        }
        EventKind::Member { state } => {
            plain(Level::Info, "member", format!("this node {}", membership(state)))
        }
        EventKind::WokeLate { late_ms } => Note {
            cause: Some(format!("the heartbeat thread was {late_ms} ms late")),
            ..plain(
                Level::Warning,
                "woke_late",
                "this node accepts nothing until every member has answered".to_owned(),
            )
        },
    }
}

fn departure(why: Departure) -> (Level, &'static str) {
    match why {
        Departure::Silence => (Level::Warning, "nothing was heard of it for the detection time"),
        Departure::Obituary => (Level::Warning, "its daemon died, as its parent process said"),
        Departure::Leave => (Level::Info, "it left"),
        Departure::Deaf => (Level::Warning, "it hears nothing, or is off the virtual IP's network"),
        Departure::Changed => (Level::Warning, "it does not run, or runs with another configuration"),
    }
}

fn membership(state: MemberState) -> &'static str {
    match state {
        MemberState::Joining => "listens before it joins",
        MemberState::Announce => "announces itself",
        MemberState::Active => "is a member and takes its share",
        MemberState::Leaving => "leaves",
    }
}

fn module_of(config: &Config, group: GroupId) -> Option<String> {
    config.groups.get(usize::from(group.0)).map(|group| group.module.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn event(at: u64, node: u8) -> Event {
        Event { at: Instant(at), kind: EventKind::Joined { node: NodeId(node) } }
    }

    #[test]
    fn a_stranger_is_told_at_once_and_then_seldom() {
        let refused = |count| [RefusedInfo { reason: "silent".into(), count, last: "192.0.2.7".into() }];
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        let mut strangers = Strangers::default();
        assert!(strangers.news(&[], at(1)).is_empty());
        let text = |notes: Vec<Note>| notes.first().map(|note| note.text.clone());
        assert_eq!(text(strangers.news(&refused(1), at(1))), Some("refused to talk to 192.0.2.7".into()));
        assert_eq!(text(strangers.news(&refused(5), at(30))), None);
        assert_eq!(
            text(strangers.news(&refused(5), at(62))),
            Some("refused to talk to 192.0.2.7, 4 times".into())
        );
        assert_eq!(text(strangers.news(&refused(5), at(200))), None, "nobody came");
    }

    #[test]
    fn each_event_is_new_once() {
        let events = [event(1, 0), event(2, 0), event(2, 1), event(3, 0)];
        assert_eq!(after(&events, None).len(), 4);
        assert_eq!(
            after(&events, Some(&event(2, 0))),
            &events[2..],
            "of two at one time, only the later one"
        );
        assert_eq!(after(&events, Some(&event(3, 0))), &[]);
        assert_eq!(after(&events, Some(&event(0, 9))).len(), 4, "so many came that it is gone");
    }
}
