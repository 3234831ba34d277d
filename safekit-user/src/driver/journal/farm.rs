//! Events of the farm, as the heartbeat thread tells them in its snapshots, as notes for people.

use std::sync::Arc;

use tokio::sync::watch;

use super::Journal;
use crate::config::Config;
use crate::driver::clock;
use crate::types::journal::{Level, Note};
use crate::types::snapshot::{MemberState, Verdict};
use crate::types::{Departure, Event, EventKind, GroupId, Snapshot};

/// Writes down every event of the farm until the heartbeat thread ends. A snapshot carries the last ones, so that a
/// reader that is late for some snapshots misses nothing.
pub async fn follow(journal: Journal, config: Arc<Config>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut seen: Option<Event> = None;
    let mut verdict = None;
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
        if snapshots.changed().await.is_err() {
            return;
        }
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
    Note { level, module: None, kind: "verdict", text, cause: Some(snapshot.summary.clone()) }
}

fn note(config: &Config, event: &Event) -> Note {
    let plain = |level, kind, text| Note { level, module: None, kind, text, cause: None };
    match event.kind {
        EventKind::View { view, members } => {
            let names: Vec<&str> = members.iter().map(|node| config.name(node)).collect();
            plain(Level::Info, "view", format!("view {}: the members are {}", view.0, names.join(", ")))
        }
        EventKind::Joined { node } => plain(Level::Info, "joined", format!("{} joined", config.name(node))),
        EventKind::Departed { node, why } => {
            let (level, cause) = departure(why);
            let text = format!("{} is no member any more", config.name(node));
            Note { cause: Some(cause.to_owned()), ..plain(level, "departed", text) }
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
    use crate::types::{Instant, NodeId};

    fn event(at: u64, node: u8) -> Event {
        Event { at: Instant(at), kind: EventKind::Joined { node: NodeId(node) } }
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
