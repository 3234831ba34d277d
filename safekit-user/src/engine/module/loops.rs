//! How often a module was restarted by itself, and when that is too often.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::upkeep::{AfterMaxLoop, MaxLoop};
use crate::types::Instant;

const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Loops {
    limit: MaxLoop,
    /// The oldest first; as many as count, at most.
    times: VecDeque<Instant>,
    /// The last one.
    pause: Duration,
    until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    Stop,
    /// Try again after the pause.
    BackOff,
}

impl Loops {
    pub(super) fn new(limit: MaxLoop) -> Self {
        Self { limit, times: VecDeque::new(), pause: Duration::ZERO, until: None }
    }

    pub(super) fn restore(&mut self, times: &[Instant], pause: Duration, now: Instant) {
        // Of an earlier life of the machine: as if they had been now.
        self.times = times.iter().map(|time| (*time).min(now)).collect();
        self.trim();
        self.pause = pause.min(PAUSE_MAX);
    }

    fn trim(&mut self) {
        while self.times.len() > self.limit.count as usize + 1 {
            self.times.pop_front();
        }
    }

    pub(super) fn limit_to(&mut self, limit: MaxLoop) {
        self.limit = limit;
        self.trim();
    }

    pub(super) fn count(&self, now: Instant) -> u32 {
        let counts = self.times.iter().filter(|time| now.since(**time) < self.limit.within);
        counts.count() as u32
    }

    /// One more.
    pub(super) fn add(&mut self, now: Instant) -> Verdict {
        if self.limit.count == 0 {
            return Verdict::GoOn;
        }
        if self.count(now) == 0 {
            self.pause = Duration::ZERO;
        }
        self.times.push_back(now);
        self.trim();
        if self.count(now) <= self.limit.count {
            return Verdict::GoOn;
        }
        match self.limit.then {
            AfterMaxLoop::Stop => Verdict::Stop,
            AfterMaxLoop::Backoff => {
                self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                self.until = Some(now + self.pause);
                Verdict::BackOff
            }
        }
    }

    /// Somebody looks after it.
    pub(super) fn forgive(&mut self) {
        self.times.clear();
        self.pause = Duration::ZERO;
        self.until = None;
    }

    pub(super) fn times(&self) -> Vec<Instant> {
        self.times.iter().copied().collect()
    }

    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    pub(super) fn pause_ends(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn is_pausing(&mut self, now: Instant) -> bool {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
        }
        self.until.is_some()
    }

    /// `3 automatic actions in 24 h`.
    pub(super) fn limit(&self) -> String {
        let seconds = self.limit.within.as_secs();
        let span = match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            _ => format!("{} h", seconds / 3600),
        };
        let actions = if self.limit.count == 1 { "action" } else { "actions" };
        format!("{} automatic {actions} in {span}", self.limit.count)
    }
}
