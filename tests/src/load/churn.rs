//! Random changes from a seed: ten that overlap, or minutes of single ones.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use safekit::driver::clock;
use safekit::front::demo::topology::node_name;
use safekit::types::NodeId;

use super::stage::{SETTLE_TIMEOUT, Stage, What};

const CHANGES: usize = 10;
const BETWEEN_MS: std::ops::Range<u64> = 100..1_500;
/// A farm of fewer is not asked to lose another one.
const SERVING_MIN: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving,
    /// Asked to stop; it may still hold connections.
    Leaving,
    /// Its daemon has left.
    Stopped,
    Off,
    Drained,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Leave,
    Start,
    PowerOff,
    PowerOn,
    Crash,
    Drain,
    Undrain,
    Weight(u32),
    Restart,
}

impl Stage<'_> {
    /// The next change comes before the farm has come to rest from the last.
    pub(super) fn churn(&mut self) -> anyhow::Result<()> {
        let mut random = fastrand::Rng::with_seed(self.options.seed);
        let mut states = vec![State::Serving; usize::from(self.options.nodes)];
        for _ in 0..CHANGES {
            self.see_who_has_left(&mut states)?;
            let (node, change) = self.choice(&states, &mut random);
            self.change(node, change, &mut states)?;
            self.pause(Duration::from_millis(random.u64(BETWEEN_MS)))?;
        }
        self.restore(&mut states)
    }

    /// Each event to its end, a rest, the next.
    pub(super) fn soak(&mut self) -> anyhow::Result<()> {
        let mut random = fastrand::Rng::with_seed(self.options.seed);
        let end = clock::now() + Duration::from_secs(60) * self.options.minutes;
        while clock::now() < end {
            let mut states = vec![State::Serving; usize::from(self.options.nodes)];
            if random.u8(..8) == 0 {
                let node = NodeId(random.u8(..self.options.nodes));
                self.pause_daemon(node)?;
            } else {
                let (node, change) = self.choice(&states, &mut random);
                self.change(node, change, &mut states)?;
                self.pause(Duration::from_millis(random.u64(BETWEEN_MS)))?;
                self.restore(&mut states)?;
            }
            self.pause(Duration::from_secs(random.u64(1..5)))?;
        }
        Ok(())
    }

    fn choice(&self, states: &[State], random: &mut fastrand::Rng) -> (NodeId, Change) {
        let serving = states.iter().filter(|state| **state == State::Serving).count();
        let mut all = Vec::new();
        for (index, state) in states.iter().enumerate() {
            let possible: &[Change] = match state {
                State::Serving if serving > SERVING_MIN => &[
                    Change::Leave,
                    Change::PowerOff,
                    Change::Crash,
                    Change::Drain,
                    Change::Weight(3),
                    Change::Weight(1),
                    Change::Restart,
                ],
                State::Serving => &[Change::Weight(2), Change::Weight(1), Change::Restart],
                State::Leaving => &[],
                State::Stopped => &[Change::Start],
                State::Off => &[Change::PowerOn],
                State::Drained => &[Change::Undrain],
            };
            all.extend(
                possible
                    .iter()
                    .filter(|change| self.can(**change))
                    .map(|change| (NodeId(index as u8), *change)),
            );
        }
        // With none there is one that waits: a leaving daemon ends, and then it can start.
        random.choice(all).unwrap_or((NodeId(0), Change::Start))
    }

    /// Whether this safekit does what the change needs; the report says it when not.
    fn can(&self, change: Change) -> bool {
        match change {
            Change::Drain | Change::Undrain | Change::Weight(_) => self.changes_are_taken,
            Change::Leave
            | Change::Start
            | Change::PowerOff
            | Change::PowerOn
            | Change::Crash
            | Change::Restart => true,
        }
    }

    fn change(&mut self, node: NodeId, change: Change, states: &mut [State]) -> anyhow::Result<()> {
        let state = &mut states[usize::from(node.0)];
        match change {
            Change::Leave => {
                self.act(format!("{} is asked to leave", node_name(node)));
                self.farm.stop(node)?;
                *state = State::Leaving;
                self.wait_until_it_owns_nothing(node)?;
                self.client.end_connections_of(node, Duration::from_millis(400));
            }
            Change::Start if *state != State::Stopped => {}
            Change::Start => {
                self.act(format!("{} starts again", node_name(node)));
                self.farm.start(node)?;
                self.fate_ends(node, What::Stopped);
                *state = State::Serving;
            }
            Change::PowerOff => {
                self.power_off(node)?;
                *state = State::Off;
            }
            Change::PowerOn => {
                self.act(format!("{} gets its power back", node_name(node)));
                self.farm.revive(node)?;
                self.fate_ends(node, What::Died);
                *state = State::Serving;
            }
            Change::Crash => self.crash(node)?,
            Change::Drain => {
                self.tell("drain", node, &["--no-wait"])?;
                *state = State::Drained;
            }
            Change::Undrain => {
                self.tell("undrain", node, &[])?;
                *state = State::Serving;
            }
            Change::Weight(weight) => self.weigh(node, weight)?,
            Change::Restart => {
                self.act(format!("the daemon of {} is restarted by SIGHUP to its parent", node_name(node)));
                self.farm.reload(node)?;
            }
        }
        Ok(())
    }

    /// The daemon's process alone; its parent lives, and so does the server.
    fn crash(&mut self, node: NodeId) -> anyhow::Result<()> {
        // Between two lives there is none to kill.
        if let Ok(daemon) = self.farm.daemon_pid(node) {
            self.act(format!("the daemon of {} crashes", node_name(node)));
            let _gone = kill_process(daemon, Signal::KILL);
        }
        Ok(())
    }

    fn tell(&mut self, verb: &str, node: NodeId, more: &[&str]) -> anyhow::Result<()> {
        let name = node_name(node);
        self.act(format!("safekit {verb} {name}"));
        let mut words = vec![verb, &name];
        words.extend(more);
        let asked = self.somebody_to_ask()?;
        self.verbs.run(&self.farm, asked, &words).map(drop)
    }

    fn wait_until_it_owns_nothing(&mut self, node: NodeId) -> anyhow::Result<()> {
        self.wait("a node that leaves owns nothing", SETTLE_TIMEOUT, |stage| {
            Ok(stage.farm.timeline().owned(node) == 0 || stage.farm.has_left(node)?)
        })
    }

    fn see_who_has_left(&mut self, states: &mut [State]) -> anyhow::Result<()> {
        for (index, state) in states.iter_mut().enumerate() {
            let node = NodeId(index as u8);
            if *state == State::Leaving && self.farm.has_left(node)? {
                self.farm.finish_leave(node)?;
                let at = self.act(format!("the daemon of {} has ended", node_name(node)));
                self.fate(node, What::Stopped, at);
                *state = State::Stopped;
            }
        }
        Ok(())
    }

    /// Everything as it was, and at rest.
    fn restore(&mut self, states: &mut [State]) -> anyhow::Result<()> {
        self.wait("who was asked to leave has left", SETTLE_TIMEOUT, |stage| {
            stage.see_who_has_left(states)?;
            Ok(!states.contains(&State::Leaving))
        })?;
        for node in self.nodes() {
            let back = match states[usize::from(node.0)] {
                State::Stopped => Change::Start,
                State::Off => Change::PowerOn,
                State::Drained => Change::Undrain,
                State::Serving | State::Leaving => continue,
            };
            self.change(node, back, states)?;
        }
        let all = self.nodes();
        self.settle(&all)
    }
}
