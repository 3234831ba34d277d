//! One check of a module: when to probe, and what probes and events make of its state. Pure.
//!
//! ```text
//!            Activate(true)              rise successes in a row
//!  inactive ────────────────▶ init ──────────────────────────────▶ up
//!     ▲                        │                                  │  ▲
//!     │ Activate(false)        │ fall failures in a row,          │  │
//!     └─ from everywhere       └─ or one event ────────▶ down ◀───┘  │
//!                                                          └─────────┘
//! ```
//!
//! A probe that is not answered in time has failed, and no other begins before that: probes never overlap.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::Instant;
use crate::types::module::ResourceState;

/// Of what a try said, in characters: it goes to screens, events and other nodes.
pub const OUTPUT_MAX: usize = 400;

/// A daemon that is late never probes more often than this.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Activate(bool),
    Timer,
    /// The answer to [`Output::Probe`].
    Probed {
        attempt: u64,
        up: bool,
        output: String,
        took: Duration,
    },
    /// Something happened, and this is what a look found then. A loss needs no `fall`: it was seen, not guessed from
    /// silence. A return counts as one success, so `rise` damps what flaps.
    Event {
        up: bool,
        output: String,
    },
    /// Somebody who knows says so: it needs neither `rise` nor `fall`.
    Certain {
        up: bool,
        output: String,
    },
    /// Counts as a failed probe, though nobody probed.
    Failed {
        output: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Probe { attempt: u64 },
    Changed { state: ResourceState, output: String },
}

#[derive(Clone, Debug)]
pub struct Checker {
    /// None: nothing is probed, others say.
    schedule: Option<Schedule>,
    rise: u32,
    fall: u32,
    active: bool,
    state: ResourceState,
    since: Instant,
    output: String,
    took: Option<Duration>,
    /// In a row; one of the two is zero.
    successes: u32,
    failures: u32,
    /// The last one begun; numbers are never used twice.
    attempt: u64,
    phase: Phase,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug)]
struct Schedule {
    interval: Duration,
    timeout: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Idle,
    Waiting { next: Instant },
    Probing { begun: Instant, until: Instant },
}

impl Checker {
    /// Inactive. A `rise` or `fall` of zero is taken as one.
    pub fn new(interval: Duration, timeout: Duration, rise: u32, fall: u32, now: Instant) -> Self {
        let schedule = Schedule { interval: interval.max(INTERVAL_MIN), timeout };
        Self { schedule: Some(schedule), ..Self::told(rise, fall, now) }
    }

    /// One that never probes: its state is what it is told.
    pub fn told(rise: u32, fall: u32, now: Instant) -> Self {
        Self {
            schedule: None,
            rise: rise.max(1),
            fall: fall.max(1),
            active: false,
            state: ResourceState::Init,
            since: now,
            output: String::new(),
            took: None,
            successes: 0,
            failures: 0,
            attempt: 0,
            phase: Phase::Idle,
            outputs: VecDeque::new(),
        }
    }

    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Activate(true) => self.activate(now),
            Input::Activate(false) => self.deactivate(now),
            Input::Timer => self.handle_timer(now),
            Input::Probed { attempt, up, output, took } => {
                self.handle_probed(attempt, up, &output, took, now);
            }
            Input::Event { up: true, output } => self.note(now, |it| it.tried(true, &output, now)),
            Input::Event { up: false, output } | Input::Certain { up: false, output } => {
                self.note(now, |it| it.settle(ResourceState::Down, &output, now));
            }
            Input::Certain { up: true, output } => {
                self.note(now, |it| it.settle(ResourceState::Up, &output, now));
            }
            Input::Failed { output } => self.note(now, |it| it.tried(false, &output, now)),
        }
        self.check_invariants();
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle => None,
            Phase::Waiting { next } => Some(next),
            Phase::Probing { until, .. } => Some(until),
        }
    }

    pub fn state(&self) -> ResourceState {
        self.state
    }

    /// In this state.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// What the last try or event said; at most [`OUTPUT_MAX`] characters.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// The last probe that was answered.
    pub fn took(&self) -> Option<Duration> {
        self.took
    }

    pub fn is_active(&self) -> bool {
        self.active
    }

    /// The probe whose answer still counts.
    pub fn under_way(&self) -> Option<u64> {
        matches!(self.phase, Phase::Probing { .. }).then_some(self.attempt)
    }

    fn activate(&mut self, now: Instant) {
        if self.active {
            return;
        }
        self.active = true;
        self.begin_probe(now);
    }

    /// What an inactive check knew is not known any more: the application may be down on purpose.
    fn deactivate(&mut self, now: Instant) {
        if !self.active {
            return;
        }
        self.active = false;
        self.phase = Phase::Idle;
        self.took = None;
        self.settle(ResourceState::Init, "", now);
        (self.successes, self.failures) = (0, 0);
    }

    fn handle_timer(&mut self, now: Instant) {
        match self.phase {
            Phase::Waiting { next } if next <= now => self.begin_probe(now),
            Phase::Probing { begun, until } if until <= now => {
                let text = format!("no answer within {} ms", until.since(begun).as_millis());
                self.took = None;
                self.wait_from(begun, now);
                self.tried(false, &text, now);
            }
            Phase::Idle | Phase::Waiting { .. } | Phase::Probing { .. } => {}
        }
    }

    fn handle_probed(&mut self, attempt: u64, up: bool, output: &str, took: Duration, now: Instant) {
        let Phase::Probing { begun, .. } = self.phase else { return };
        if attempt != self.attempt {
            return;
        }
        self.took = Some(took);
        self.wait_from(begun, now);
        self.tried(up, output, now);
    }

    /// What came without being asked for. A probe under way may have looked before it happened, so its answer is void.
    fn note(&mut self, now: Instant, change: impl FnOnce(&mut Self)) {
        if !self.active {
            return;
        }
        self.wait_from(now, now);
        change(self);
    }

    fn begin_probe(&mut self, now: Instant) {
        let Some(schedule) = self.schedule else { return };
        self.attempt += 1;
        self.phase = Phase::Probing { begun: now, until: now + schedule.timeout };
        self.outputs.push_back(Output::Probe { attempt: self.attempt });
    }

    /// The next probe begins an interval after `begun`; one that took longer is followed by the next at once.
    fn wait_from(&mut self, begun: Instant, now: Instant) {
        if let Some(schedule) = self.schedule {
            self.phase = Phase::Waiting { next: (begun + schedule.interval).max(now) };
        }
    }

    fn tried(&mut self, up: bool, output: &str, now: Instant) {
        (self.successes, self.failures) = match up {
            true => (self.successes.saturating_add(1), 0),
            false => (0, self.failures.saturating_add(1)),
        };
        let state = match up {
            true if self.successes >= self.rise => ResourceState::Up,
            false if self.failures >= self.fall => ResourceState::Down,
            true | false => self.state,
        };
        self.enter(state, output, now);
    }

    fn settle(&mut self, state: ResourceState, output: &str, now: Instant) {
        // Certainty counts no tries; what follows begins anew.
        (self.successes, self.failures) = (0, 0);
        self.enter(state, output, now);
    }

    fn enter(&mut self, state: ResourceState, output: &str, now: Instant) {
        self.output = presentable(output);
        if state == self.state {
            return;
        }
        (self.state, self.since) = (state, now);
        self.outputs.push_back(Output::Changed { state, output: self.output.clone() });
    }

    fn check_invariants(&self) {
        debug_assert!(self.successes == 0 || self.failures == 0, "tries in a row are of one sort");
        debug_assert!(
            self.active || matches!((self.phase, self.state), (Phase::Idle, ResourceState::Init)),
            "an inactive check neither probes nor knows"
        );
        debug_assert!(self.output.chars().count() <= OUTPUT_MAX, "what goes to screens is bounded");
    }
}

/// Bounded, on one line, and harmless to a terminal.
fn presentable(text: &str) -> String {
    let harmless = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut kept: String = harmless.skip_while(|c| c.is_whitespace()).take(OUTPUT_MAX).collect();
    kept.truncate(kept.trim_end().len());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);
    const TIMEOUT: Duration = Duration::from_secs(5);

    #[test]
    fn rise_and_fall_are_counted_in_a_row() {
        let mut check = Story::of(2, 3);
        assert_eq!(check.probed(true), ResourceState::Init);
        assert_eq!(check.probed(false), ResourceState::Init);
        assert_eq!(check.probed(true), ResourceState::Init);
        assert_eq!(check.probed(true), ResourceState::Up);
        for up in [false, false, true, false, false] {
            assert_eq!(check.probed(up), ResourceState::Up);
        }
        assert_eq!(check.probed(false), ResourceState::Down);
        assert_eq!(check.changes, [ResourceState::Up, ResourceState::Down]);
    }

    #[test]
    fn the_first_probe_comes_at_once_and_none_overlaps() {
        let mut check = Story::of(1, 1);
        assert_eq!(check.probes, 1);
        check.advance(Duration::from_millis(4999));
        assert_eq!((check.probes, check.checker.state()), (1, ResourceState::Init));
        check.advance(Duration::from_millis(1));
        assert_eq!((check.probes, check.checker.state()), (1, ResourceState::Down));
        assert_eq!(check.checker.output(), "no answer within 5000 ms");
        assert_eq!(check.checker.under_way(), None, "nobody waits for it any more");
        check.advance(Duration::from_secs(5));
        assert_eq!(check.probes, 2, "an interval after the first began");
    }

    #[test]
    fn a_late_answer_is_ignored() {
        let mut check = Story::of(1, 1);
        check.advance(TIMEOUT);
        check.answer(1, true);
        assert_eq!(check.checker.state(), ResourceState::Down);
        check.advance(TIMEOUT);
        check.answer(1, true);
        assert_eq!(
            check.checker.state(),
            ResourceState::Down,
            "the second probe is not answered by the first"
        );
        check.answer(2, true);
        assert_eq!(check.checker.state(), ResourceState::Up);
    }

    #[test]
    fn a_probe_longer_than_the_interval_is_followed_at_once() {
        let mut check = Story::with(Duration::from_secs(1), TIMEOUT, 1, 1);
        check.advance(Duration::from_secs(3));
        check.answer(1, true);
        assert_eq!(check.checker.next_deadline(), Some(check.now));
        check.advance(Duration::ZERO);
        assert_eq!(check.probes, 2);
    }

    #[test]
    fn a_loss_that_was_seen_needs_no_fall_and_a_return_counts_once() {
        let mut check = Story::of(2, 3);
        check.probed(true);
        check.probed(true);
        let attempt = check.probes;
        check.input(Input::Event { up: false, output: "gone".into() });
        assert_eq!(check.checker.state(), ResourceState::Down);
        check.answer(attempt, true);
        assert_eq!(check.checker.state(), ResourceState::Down, "that probe may have looked before");
        check.input(Input::Event { up: true, output: "back".into() });
        assert_eq!(check.checker.state(), ResourceState::Down);
        check.input(Input::Event { up: true, output: "back".into() });
        assert_eq!(check.checker.state(), ResourceState::Up);
    }

    #[test]
    fn an_event_voids_the_probe_under_way_but_not_the_schedule() {
        let mut check = Story::of(1, 1);
        check.input(Input::Event { up: false, output: "gone".into() });
        check.answer(1, true);
        assert_eq!(check.checker.state(), ResourceState::Down);
        check.advance(INTERVAL);
        assert_eq!(check.probes, 2);
    }

    #[test]
    fn certainty_needs_neither_rise_nor_fall() {
        let mut check = Story::of(5, 5);
        check.input(Input::Certain { up: true, output: "said so".into() });
        assert_eq!((check.checker.state(), check.checker.output()), (ResourceState::Up, "said so"));
        check.input(Input::Certain { up: false, output: String::new() });
        assert_eq!(check.checker.state(), ResourceState::Down);
    }

    #[test]
    fn an_inactive_check_knows_and_hears_nothing() {
        let mut check = Story::of(1, 1);
        check.probed(true);
        check.input(Input::Activate(false));
        assert_eq!(check.checker.state(), ResourceState::Init);
        assert_eq!((check.checker.next_deadline(), check.checker.took()), (None, None));
        check.input(Input::Event { up: false, output: "gone".into() });
        check.input(Input::Certain { up: false, output: "gone".into() });
        check.input(Input::Failed { output: "gone".into() });
        assert_eq!(check.checker.state(), ResourceState::Init);
        let before = check.probes;
        check.input(Input::Activate(true));
        assert_eq!(check.probes, before + 1, "at once");
        check.answer(before, false);
        assert_eq!(check.checker.state(), ResourceState::Init, "of the time before");
    }

    #[test]
    fn one_that_is_told_never_probes_and_counts_failures() {
        let mut checker = Checker::told(1, 2, Instant(0));
        checker.handle(Input::Activate(true), Instant(0));
        assert_eq!((checker.poll_output(), checker.next_deadline()), (None, None));
        checker.handle(Input::Certain { up: true, output: String::new() }, Instant(1));
        checker.handle(Input::Failed { output: "it ended".into() }, Instant(2));
        assert_eq!(checker.state(), ResourceState::Up);
        checker.handle(Input::Failed { output: "it ended".into() }, Instant(3));
        assert_eq!((checker.state(), checker.since()), (ResourceState::Down, Instant(3)));
    }

    #[test]
    fn output_is_bounded_and_harmless() {
        let mut check = Story::of(1, 1);
        check.output = format!("\u{1b}[31mred\r\n{}", "é".repeat(1000));
        check.probed(false);
        assert_eq!(check.checker.output().chars().count(), OUTPUT_MAX);
        assert!(check.checker.output().starts_with("[31mred  é"), "{}", check.checker.output());
    }

    struct Story {
        checker: Checker,
        now: Instant,
        probes: u64,
        changes: Vec<ResourceState>,
        output: String,
    }

    impl Story {
        fn of(rise: u32, fall: u32) -> Self {
            Self::with(INTERVAL, TIMEOUT, rise, fall)
        }

        fn with(interval: Duration, timeout: Duration, rise: u32, fall: u32) -> Self {
            let now = Instant(1_000_000_000);
            let checker = Checker::new(interval, timeout, rise, fall, now);
            let mut story = Self { checker, now, probes: 0, changes: Vec::new(), output: "text".into() };
            story.input(Input::Activate(true));
            story
        }

        fn input(&mut self, input: Input) {
            self.checker.handle(input, self.now);
            while let Some(output) = self.checker.poll_output() {
                match output {
                    Output::Probe { attempt } => {
                        assert_eq!(attempt, self.probes + 1, "each attempt has its number");
                        self.probes = attempt;
                    }
                    Output::Changed { state, .. } => self.changes.push(state),
                }
            }
        }

        fn advance(&mut self, span: Duration) {
            self.now = self.now + span;
            self.input(Input::Timer);
        }

        fn answer(&mut self, attempt: u64, up: bool) {
            let output = self.output.clone();
            self.input(Input::Probed { attempt, up, output, took: Duration::from_millis(1) });
        }

        /// Answers the probe under way, and waits for the next.
        fn probed(&mut self, up: bool) -> ResourceState {
            self.answer(self.probes, up);
            self.advance(INTERVAL);
            self.checker.state()
        }
    }
}
