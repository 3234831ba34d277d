//! Counts the runs of a module's scripts. Pure.

use std::collections::BTreeMap;

use crate::types::Instant;
use crate::types::module::{RunId, Script, ScriptEnd, ScriptTally};

#[derive(Default)]
pub(super) struct Tally {
    /// One script of a module runs at a time.
    running: Option<(RunId, Script, Instant)>,
    ended: BTreeMap<Script, ScriptTally>,
}

impl Tally {
    pub(super) fn begin(&mut self, run: RunId, script: Script, now: Instant) {
        self.running = Some((run, script, now));
    }

    /// Restarts of services alone are no runs of a script, and are not counted.
    pub(super) fn end(&mut self, run: RunId, end: &ScriptEnd, now: Instant) {
        let Some((_, script, began)) = self.running.take_if(|(running, ..)| *running == run) else { return };
        let tally = self.ended.entry(script).or_default();
        tally.runs += 1;
        tally.failed += u64::from(*end != ScriptEnd::Done);
        tally.took_ms_last = u64::try_from(now.since(began).as_millis()).unwrap_or(u64::MAX);
        tally.took_ms = tally.took_ms.saturating_add(tally.took_ms_last);
    }

    pub(super) fn all(&self) -> Vec<ScriptTally> {
        let named = |(script, tally): (&Script, &ScriptTally)| ScriptTally {
            script: script.word().to_owned(),
            ..tally.clone()
        };
        self.ended.iter().map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_failures_and_time_add_up_and_strangers_are_left_out() {
        let at = |millis: u64| Instant(millis * 1_000_000);
        let mut tally = Tally::default();
        tally.end(RunId(9), &ScriptEnd::Done, at(5));
        assert!(tally.all().is_empty(), "a run that never began");
        tally.begin(RunId(1), Script::StartBoth, at(10));
        tally.end(RunId(1), &ScriptEnd::Done, at(30));
        tally.end(RunId(1), &ScriptEnd::Done, at(31));
        tally.begin(RunId(2), Script::StartBoth, at(100));
        tally.end(RunId(2), &ScriptEnd::TimedOut, at(105));
        let expected =
            ScriptTally { script: "start_both".to_owned(), runs: 2, failed: 1, took_ms: 25, took_ms_last: 5 };
        assert_eq!(tally.all(), [expected]);
    }
}
