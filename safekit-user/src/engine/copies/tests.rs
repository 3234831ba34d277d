//! Copies and the process that keeps them, as stories.

use std::time::Duration;

use super::keeping::{
    FIRST_WORD_TIMEOUT, FORCED_STOP_TIMEOUT, Input, Keeping, Output, SILENCE_MAX, STOP_TIMEOUT, Saved, Setup,
};
use super::{causes, news, next_step, state};
use crate::config::upkeep::Boot;
use crate::types::Instant;
use crate::types::mirror::{CopyInfo, LatencyInfo, ResyncInfo, SyncState, VerificationInfo};
use crate::types::module::{ModuleState, Role, Status, Verb};
use crate::types::replica::MirrorRole::{self, Alone, Prim, Second, Wait};

fn copy(directory: &str, role: MirrorRole, sync: SyncState) -> CopyInfo {
    CopyInfo {
        directory: directory.to_owned(),
        role,
        generation: None,
        sync,
        why: format!("it is {}", super::role_word(role)),
        cannot_lead: None,
        connected: true,
        frozen: false,
        behind_operations: 0,
        behind_bytes: 0,
        recorded_regions: 0,
        write_latency: LatencyInfo::default(),
        flush_latency: LatencyInfo::default(),
        stalls: 0,
        refused: 0,
        sent_bytes: 0,
        received_bytes: 0,
        resync: None,
        verification: None,
    }
}

#[test]
fn a_module_is_what_the_least_of_its_copies_is() {
    use SyncState::{BeingOverwritten, InSync, OutOfDate, Resynchronising, Unknown};
    for (copies, expected) in [
        (vec![], "WAIT (NotReady)"),
        (vec![(Prim, InSync)], "PRIM (Ready)"),
        (vec![(Prim, InSync), (Prim, InSync)], "PRIM (Ready)"),
        (vec![(Prim, InSync), (Alone, OutOfDate)], "ALONE (Ready)"),
        (vec![(Alone, Unknown)], "ALONE (Ready)"),
        (vec![(Alone, Resynchronising)], "ALONE (Transient)"),
        (vec![(Prim, InSync), (Alone, Resynchronising)], "ALONE (Transient)"),
        (vec![(Second, InSync)], "SECOND (Ready)"),
        (vec![(Second, BeingOverwritten)], "SECOND (Transient)"),
        (vec![(Second, OutOfDate)], "SECOND (NotReady)"),
        (vec![(Wait, InSync)], "WAIT (NotReady)"),
        (vec![(Wait, Unknown), (Prim, InSync)], "WAIT (NotReady)"),
        // It can neither be written as a whole, nor does it follow as a whole.
        (vec![(Second, InSync), (Prim, InSync)], "SECOND (NotReady)"),
        (vec![(Second, BeingOverwritten), (Alone, OutOfDate)], "SECOND (NotReady)"),
    ] {
        let copies: Vec<CopyInfo> = copies.into_iter().map(|(role, sync)| copy("/a", role, sync)).collect();
        assert_eq!(state(&copies).to_string(), expected, "{copies:?}");
    }
    let frozen = CopyInfo { frozen: true, ..copy("/a", Prim, InSync) };
    assert_eq!(state(&[frozen]).to_string(), "PRIM (Transient)");
}

#[test]
fn causes_name_directories_where_they_differ() {
    let (one, other) = (copy("/a", Prim, SyncState::InSync), copy("/b", Prim, SyncState::InSync));
    assert_eq!(causes(&[one.clone(), other.clone()]), ["it is PRIM"]);
    let lost = CopyInfo { why: "web2 is silent".into(), ..copy("/b", Alone, SyncState::OutOfDate) };
    assert_eq!(causes(&[one.clone(), lost]), ["/a: it is PRIM", "/b: web2 is silent"]);
    let refused =
        CopyInfo { cannot_lead: Some("web2 may be newer".into()), ..copy("/b", Wait, SyncState::Unknown) };
    assert_eq!(causes(&[one, refused])[0], "/b: cannot serve: web2 may be newer");
}

#[test]
fn every_state_that_needs_somebody_says_what_to_type() {
    use SyncState::{InSync, OutOfDate, Unknown};
    let lonely = |role, sync| CopyInfo { connected: false, ..copy("/a", role, sync) };
    let step = |copy: CopyInfo| next_step("db", "web2", &[copy]).unwrap_or_default();
    for (copy, expected) in [
        (copy("/a", Prim, InSync), ""),
        (copy("/a", Second, InSync), ""),
        (copy("/a", Alone, Unknown), "`safekit second db --node web2`"),
        (lonely(Alone, OutOfDate), "bring web2 back: `safekit start db --node web2`"),
        (lonely(Second, OutOfDate), "or serve here: `safekit prim db`"),
        (lonely(Wait, Unknown), "`safekit prim db` on the node that is to serve"),
        (
            CopyInfo { cannot_lead: Some("old".into()), ..copy("/a", Wait, Unknown) },
            "`safekit prim db --force`",
        ),
    ] {
        let said = step(copy);
        assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
    }
}

#[test]
fn what_happens_between_two_reports_is_told_once() {
    let at = |seconds: u64| Instant(seconds * 1_000_000_000);
    let before = copy("/a", Alone, SyncState::OutOfDate);
    let resync = ResyncInfo {
        since: at(1),
        ended: None,
        everything: false,
        passes: 1,
        files: 2,
        bytes: 3,
        bytes_per_second: 4,
        regions: 5,
        left_ms: None,
    };
    let under_way =
        CopyInfo { sync: SyncState::Resynchronising, resync: Some(resync.clone()), ..before.clone() };
    let checked = VerificationInfo {
        since: at(8),
        ended: Some(at(9)),
        complete: true,
        objects: 7,
        bytes: 1,
        differing: 2,
    };
    let done = CopyInfo {
        role: Prim,
        sync: SyncState::InSync,
        resync: Some(ResyncInfo { ended: Some(at(3)), ..resync }),
        verification: Some(checked),
        stalls: 1,
        ..before.clone()
    };
    let kinds = |old: &CopyInfo, new: &CopyInfo| -> Vec<String> {
        let all = news(std::slice::from_ref(old), std::slice::from_ref(new));
        all.into_iter().map(|it| format!("{} {}", it.kind, it.text)).collect()
    };
    assert_eq!(
        kinds(&before, &under_way),
        [
            "sync /a: out of date -> resynchronising",
            "resync /a: a resynchronisation begins, what is recorded is copied"
        ]
    );
    assert_eq!(
        kinds(&under_way, &done),
        [
            "role /a: ALONE -> PRIM",
            "sync /a: resynchronising -> in sync",
            "stall /a: the other node is given up, because it did not answer",
            "resync /a: the resynchronisation has ended after 2.0 s, 2 objects, 3 bytes",
            "verify /a: a verification begins",
            "verify /a: the verification has ended, 7 objects: 2 objects differed",
        ]
    );
    assert_eq!(kinds(&done, &done), Vec::<String>::new());
    assert_eq!(news(&[], &[done]), [], "a copy that was not there before");
}

/// A keeper's automaton, and what it asked for.
struct Story {
    keeping: Keeping,
    now: Instant,
    saved: Option<Saved>,
    seen: Vec<String>,
}

impl Story {
    fn new(boot: Boot, saved: Option<Saved>, same_machine_boot: bool) -> Self {
        let setup = Setup {
            name: "db".into(),
            boot,
            boot_delay: Duration::ZERO,
            other: "web2".into(),
            log: "/log".into(),
        };
        let now = Instant(1_000_000_000);
        let mut story =
            Self { keeping: Keeping::new(setup, now), now, saved: saved.clone(), seen: Vec::new() };
        story.tell(Input::Begin { saved, same_machine_boot });
        story
    }

    fn tell(&mut self, input: Input) {
        self.keeping.handle(input, self.now);
        while let Some(output) = self.keeping.poll_output() {
            match output {
                Output::Start => self.seen.push("start".into()),
                Output::Stop => self.seen.push("stop".into()),
                Output::Kill => self.seen.push("kill".into()),
                Output::Ended => self.seen.push("down".into()),
                Output::Save(saved) => self.saved = Some(saved),
                Output::News(news) => self.seen.push(news.kind.into()),
                Output::Changed { to, .. } => self.seen.push(to.to_string()),
            }
        }
    }

    fn verb(&mut self, verb: Verb) {
        self.tell(Input::Verb { verb, by: "root".into() });
    }

    fn hear(&mut self, role: MirrorRole) {
        self.tell(Input::Copies(vec![copy("/a", role, SyncState::InSync)]));
    }

    fn gone(&mut self) {
        self.tell(Input::Ended { how: "signal 9".into() });
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        self.tell(Input::Timer);
    }

    fn expect(&mut self, expected: &[&str]) {
        assert_eq!(std::mem::take(&mut self.seen), expected);
    }

    fn kept() -> Self {
        let mut story = Self::new(Boot::On, None, false);
        story.tell(Input::Started(Ok(77)));
        story.hear(Wait);
        story.expect(&["start", "WAIT (Transient)", "WAIT (NotReady)"]);
        story
    }
}

#[test]
fn started_it_follows_its_copies_and_stopped_it_is_gone() {
    let mut story = Story::kept();
    story.hear(Prim);
    story.expect(&["role", "PRIM (Ready)"]);
    story.verb(Verb::Stop);
    story.expect(&["stop", "WAIT (Transient)"]);
    story.hear(Prim);
    story.gone();
    story.expect(&["STOP (NotReady)"]);
    assert_eq!(story.saved.map(|saved| (saved.wanted, saved.starts)), Some((false, 1)));
}

#[test]
fn one_that_does_not_end_is_ended() {
    let mut story = Story::kept();
    story.verb(Verb::Stop);
    story.pass(STOP_TIMEOUT - Duration::from_millis(1));
    story.expect(&["stop", "WAIT (Transient)"]);
    story.verb(Verb::Forcestop);
    story.pass(FORCED_STOP_TIMEOUT);
    story.expect(&["kill"]);
    story.pass(FORCED_STOP_TIMEOUT);
    story.expect(&["kill"]);
    story.gone();
    story.expect(&["STOP (NotReady)"]);
}

#[test]
fn one_that_dies_is_started_again_later_and_later() {
    let mut story = Story::kept();
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        story.gone();
        story.seen.clear();
        assert!(story.keeping.causes()[0].ends_with("is gone: signal 9"), "{:?}", story.keeping.causes());
        assert_eq!(story.keeping.state(), ModuleState::new(Role::Wait, Status::NotReady));
        story.pass(Duration::from_secs(seconds) - Duration::from_millis(1));
        story.expect(&[]);
        story.pass(Duration::from_millis(1));
        story.expect(&["start", "WAIT (Transient)"]);
    }
    story.verb(Verb::Start);
    story.gone();
    story.verb(Verb::Start);
    assert_eq!(story.seen.iter().filter(|it| *it == "start").count(), 1, "an operator does not wait");
}

#[test]
fn one_that_cannot_be_started_or_says_nothing_is_no_module_that_serves() {
    let mut story = Story::new(Boot::On, None, false);
    story.tell(Input::Started(Err("no such file".into())));
    story.expect(&["start", "WAIT (Transient)", "process", "WAIT (NotReady)"]);
    let mut story = Story::new(Boot::On, None, false);
    story.pass(FIRST_WORD_TIMEOUT - Duration::from_millis(1));
    // It is still looking through its directories.
    story.tell(Input::Copies(Vec::new()));
    story.pass(Duration::from_millis(1));
    story.expect(&["start", "WAIT (Transient)"]);
    story.pass(FIRST_WORD_TIMEOUT);
    story.expect(&["stop"]);
    story.pass(FORCED_STOP_TIMEOUT);
    story.gone();
    story.expect(&["kill", "start"]);
}

#[test]
fn silence_is_never_shown_as_well() {
    let mut story = Story::kept();
    story.hear(Prim);
    story.seen.clear();
    story.pass(SILENCE_MAX);
    story.expect(&["process", "WAIT (NotReady)"]);
    assert!(story.keeping.copies().is_empty());
    assert_eq!(story.keeping.next_deadline(), None, "told once");
    story.hear(Prim);
    story.expect(&["PRIM (Ready)"]);
}

#[test]
fn it_outlives_the_daemon_and_not_its_end() {
    let mut story = Story::kept();
    let before = story.saved.clone();
    let mut next = Story::new(Boot::Off, before.clone(), true);
    next.expect(&["start", "WAIT (Transient)"]);
    assert_eq!(next.keeping.starts(), 1, "the one that is there is found");

    story.tell(Input::Shutdown { by: "the daemon is stopped".into() });
    story.verb(Verb::Start);
    story.gone();
    story.expect(&["stop", "WAIT (Transient)", "down", "STOP (NotReady)"]);
    for (boot, is_started) in [(Boot::Auto, true), (Boot::On, true), (Boot::Off, false)] {
        let begun = Story::new(boot, story.saved.clone(), true);
        assert_eq!(begun.seen.contains(&"start".to_owned()), is_started, "{boot:?}");
    }
    let mut stopped = Story::new(Boot::Auto, Some(Saved::default()), false);
    stopped.expect(&["stop"]);
    stopped.gone();
    stopped.expect(&[]);
}

#[test]
fn a_stop_in_the_middle_of_a_restart_wins_and_a_start_in_the_middle_of_a_stop_too() {
    let mut story = Story::kept();
    story.verb(Verb::Restart);
    story.verb(Verb::Stop);
    story.gone();
    story.expect(&["stop", "WAIT (Transient)", "STOP (NotReady)"]);
    story.verb(Verb::Start);
    story.hear(Wait);
    story.verb(Verb::Stop);
    story.verb(Verb::Start);
    story.gone();
    assert_eq!(story.seen.last().map(String::as_str), Some("start"));
}
