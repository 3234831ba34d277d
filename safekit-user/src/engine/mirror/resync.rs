//! A resynchronisation, from both sides.
//!
//! ```text
//!  source                                          target
//!  union of both records, to the disk
//!         ───────────── Overwrite ──────────────▶  "half copied", to the disk
//!         ◀─────────────── Ready ────────────────
//!  pass 1, 2, ... while the application goes on
//!  gate closed, no change under way: last pass
//!         ────────────── Finish ────────────────▶  flushed; then generation of the source, record empty, to the disk
//!         ◀───────────── Finished ───────────────
//!  "both equal", to the disk; gate open            SECOND
//!  PRIM
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::lead::Marked;
use super::marks::Entry;
use super::{Closing, Greeting, Judgement, Mirror, Output, Peer};
use crate::types::Instant;
use crate::types::replica::{DataGeneration, ObjectId, Position, Region, Touch};
use crate::wire::replica::{Copy, Message};

/// Writers wait no longer than this for the last pass; it is tried again.
const GATE_MAX: Duration = Duration::from_millis(200);
/// After so many passes they wait longer, or it might never end.
const PATIENT_PASSES: u32 = 8;
/// What cannot be found on the other side in so many passes makes it compare everything.
const LOST_MAX: u32 = 2;

#[derive(Debug)]
pub(super) struct Source {
    stage: Stage,
    passes: u32,
    everything: bool,
    /// All that was taken for passes, until the other side has it on its disk.
    taken: BTreeMap<Region, u64>,
    /// Objects from here on are compared wherever their names are met.
    fresh_from: u64,
    /// This copy's record was of no use: objects from here on were made since.
    fresh_since: Option<u64>,
    /// What has to be on the disk here before this copy's record counts again.
    sync: Option<u64>,
    lost: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Recording {
        batch: u64,
    },
    Asked,
    Passing {
        number: u64,
        regions: usize,
        since: Instant,
        last: bool,
    },
    /// The last pass begins when no change is under way.
    Gating,
    /// The next pass waits for the disk.
    Syncing,
    Finishing,
    Forgetting {
        batch: u64,
    },
}

impl Source {
    pub(super) fn progress(&self) -> (u32, usize) {
        let regions = if let Stage::Passing { regions, .. } = self.stage { regions } else { 0 };
        (self.passes, regions)
    }

    pub(super) fn fresh_from(&self, recorded: u64) -> u64 {
        self.fresh_since.unwrap_or(recorded)
    }
}

#[derive(Debug)]
pub(super) struct Target {
    stage: TargetStage,
}

#[derive(Debug)]
enum TargetStage {
    Marking { batch: u64 },
    Copying,
    Syncing { generation: DataGeneration, history: Vec<DataGeneration>, fresh_from: u64 },
    Recording { batch: u64 },
}

impl Mirror {
    fn source(&mut self) -> Option<&mut Source> {
        if let Peer::Source(source) = &mut self.peer { Some(source) } else { None }
    }

    pub(super) fn become_source(&mut self, now: Instant) {
        let Some(Judgement::Ours { everything }) = self.judgement() else { return };
        let Peer::Greeting(Greeting { hello: Some((theirs, _)), regions, .. }) =
            std::mem::replace(&mut self.peer, Peer::Absent)
        else {
            unreachable!("there is a judgement of a greeting only");
        };
        let mut entries = Vec::new();
        if self.rules.union_of_records {
            let unknown = regions.iter().filter(|touch| !self.record.contains_key(&touch.region));
            entries.extend(unknown.map(|touch| Entry::Add(touch.region)));
            self.marks.merge(regions);
        }
        let everything = everything || self.copy.distrusted;
        let batch = if entries.is_empty() { 0 } else { self.record(entries) };
        let sync = self.copy.distrusted.then(|| self.number());
        if let Some(number) = sync {
            self.outputs.push_back(Output::SyncHere { number });
        }
        self.peer = Peer::Source(Box::new(Source {
            stage: Stage::Recording { batch },
            passes: 0,
            everything,
            taken: BTreeMap::new(),
            fresh_from: if theirs.led || theirs.half_copied {
                self.copy.fresh_from.min(theirs.fresh_from)
            } else {
                // It has only followed since both were equal: what it may lack of new objects is marked here.
                self.copy.fresh_from
            },
            fresh_since: self.copy.distrusted.then_some(self.numbers),
            sync,
            lost: 0,
        }));
        self.source_recorded(now);
    }

    pub(super) fn source_recorded(&mut self, now: Instant) {
        let recorded = self.recorded;
        let Some(source) = self.source() else { return };
        match source.stage {
            Stage::Recording { batch } if batch <= recorded => {
                source.stage = Stage::Asked;
                let everything = source.everything;
                self.send(Message::Overwrite { everything });
            }
            Stage::Forgetting { batch } if batch <= recorded => self.become_prim(now),
            Stage::Recording { .. }
            | Stage::Asked
            | Stage::Passing { .. }
            | Stage::Gating
            | Stage::Syncing
            | Stage::Finishing
            | Stage::Forgetting { .. } => {}
        }
    }

    pub(super) fn target_ready(&mut self, now: Instant) {
        match self.source().map(|source| source.stage) {
            Some(Stage::Asked) => self.start_pass(false, now),
            _ => self.give_up(Closing::Unexpected, now),
        }
    }

    /// Takes all marks; those of changes that are under way stay as well.
    fn start_pass(&mut self, last: bool, now: Instant) {
        let number = self.number();
        let work = self.marks.take_for_pass();
        let Some(source) = self.source() else { return };
        for touch in &work {
            *source.taken.entry(touch.region).or_default() |= touch.zones;
        }
        source.passes += 1;
        let everything =
            source.everything && source.lost == 0 && source.passes == 1 || source.lost > LOST_MAX;
        let fresh_from = if source.passes == 1 { source.fresh_from } else { u64::MAX };
        source.stage = Stage::Passing { number, regions: work.len(), since: now, last };
        self.outputs.push_back(Output::StartPass { number, everything, fresh_from, work });
    }

    pub(super) fn pass_done(&mut self, number: u64, lost: &[ObjectId], now: Instant) {
        let gated_pass = self.rules.gated_pass;
        let Some(source) = self.source() else { return };
        let Stage::Passing { number: ours, regions, since, last } = source.stage else { return };
        if ours != number {
            return;
        }
        source.lost = if lost.is_empty() { 0 } else { source.lost + 1 };
        let complete = lost.is_empty() && source.sync.is_none();
        let took = now.since(since);
        self.marks.merge(
            lost.iter()
                .flat_map(|object| [Touch::all(Region::whole(*object)), Touch::all(Region::names(*object))]),
        );
        if (last || !gated_pass) && complete {
            return self.finish_source();
        }
        let left = self.marks.len();
        let expected = took.mul_f64((left as f64 / regions.max(1) as f64).min(1.0));
        let Some(source) = self.source() else { return };
        if source.sync.is_some() {
            source.stage = Stage::Syncing;
            self.open_gate();
        } else if complete && (left == 0 || expected <= source.gate_max()) {
            source.stage = Stage::Gating;
            self.close_gate(now);
        } else {
            self.open_gate();
            self.start_pass(false, now);
        }
    }

    /// Nothing is under way and the gate is closed.
    pub(super) fn gated(&mut self, now: Instant) {
        if matches!(self.source().map(|source| source.stage), Some(Stage::Gating)) {
            self.start_pass(true, now);
        }
    }

    pub(super) fn gate_deadline(&self) -> Option<Instant> {
        let Peer::Source(source) = &self.peer else { return None };
        let Stage::Passing { last: true, .. } = source.stage else { return None };
        self.leading.gate_closed.map(|closed| closed + source.gate_max() * 2)
    }

    /// The last pass takes too long: it counts as one of the others.
    pub(super) fn reopen_gate(&mut self) {
        if let Some(source) = self.source()
            && let Stage::Passing { last, .. } = &mut source.stage
        {
            *last = false;
            self.open_gate();
        }
    }

    pub(super) fn source_synced(&mut self, number: u64, now: Instant) {
        let Some(source) = self.source() else { return };
        if source.sync == Some(number) {
            source.sync = None;
            if source.stage == Stage::Syncing {
                self.start_pass(false, now);
            }
        }
    }

    fn finish_source(&mut self) {
        let (generation, history) = (self.copy.generation, self.copy.history.clone());
        let fresh_from = self.numbers.max(self.copy.fresh_from);
        let Some(source) = self.source() else { return };
        source.stage = Stage::Finishing;
        let generation = generation.expect("who serves has a generation");
        self.send(Message::Finish { generation, history, fresh_from });
    }

    pub(super) fn target_finished(&mut self, now: Instant) {
        let fresh_from = match self.source() {
            Some(source) if source.stage == Stage::Finishing => source.fresh_since,
            _ => return self.give_up(Closing::Unexpected, now),
        };
        let copy = equal_to_both(&self.copy, fresh_from);
        let batch = self.record(vec![Entry::Copy(copy)]);
        if let Some(source) = self.source() {
            source.stage = Stage::Forgetting { batch };
        }
    }

    /// What was copied may not be on the disk here yet: it stays in the record until the first checkpoint.
    fn become_prim(&mut self, now: Instant) {
        let Peer::Source(source) = std::mem::replace(&mut self.peer, Peer::Equal) else { return };
        self.copy = equal_to_both(&self.copy, source.fresh_since);
        self.marks.merge(source.taken.into_iter().map(|(region, zones)| Touch { region, zones }));
        let recorded: Vec<_> = self.record.keys().copied().collect();
        self.marks.merge(recorded.into_iter().map(Touch::all));
        self.marks.forget_positions();
        self.leading.start_stream(now);
        self.open_gate();
    }

    /// Everything that was copied may be lost there.
    pub(super) fn abort_source(&mut self, source: Source, now: Instant) {
        if self.rules.abort_remembers {
            self.marks.merge(source.taken.into_iter().map(|(region, zones)| Touch { region, zones }));
        }
        match source.stage {
            // The other side may count itself as equal.
            Stage::Finishing | Stage::Forgetting { .. } => {
                self.claim(Marked::Recorded, now);
                self.leading.gate_closed = None;
            }
            Stage::Recording { .. }
            | Stage::Asked
            | Stage::Passing { .. }
            | Stage::Gating
            | Stage::Syncing => self.open_gate(),
        }
    }

    pub(super) fn overwrite(&mut self, now: Instant) {
        let agrees = matches!(self.judgement(), Some(Judgement::Theirs { .. }));
        if !agrees || self.leading.serves() || self.leading.claims() {
            return self.give_up(Closing::Unexpected, now);
        }
        self.intact = false;
        let mut batch = 0;
        if self.rules.mark_target {
            (self.copy.half_copied, self.copy.led) = (true, false);
            batch = self.record(vec![Entry::Copy(self.copy.clone())]);
        }
        self.peer = Peer::Target(Target { stage: TargetStage::Marking { batch } });
        self.target_recorded();
    }

    pub(super) fn target_recorded(&mut self) {
        let recorded = self.recorded;
        let Peer::Target(target) = &mut self.peer else { return };
        match target.stage {
            TargetStage::Marking { batch } if batch <= recorded => {
                target.stage = TargetStage::Copying;
                self.outputs.push_back(Output::BeginTarget);
                self.send(Message::Ready);
            }
            TargetStage::Recording { batch } if batch <= recorded => {
                self.peer = Peer::Equal;
                (self.applied, self.received_told) = (Position::default(), Position::default());
                self.outputs.push_back(Output::EndTarget);
                self.send(Message::Finished);
            }
            TargetStage::Marking { .. }
            | TargetStage::Copying
            | TargetStage::Syncing { .. }
            | TargetStage::Recording { .. } => {}
        }
    }

    pub(super) fn finish_target(
        &mut self,
        generation: DataGeneration,
        history: Vec<DataGeneration>,
        fresh_from: u64,
        now: Instant,
    ) {
        let flush_target = self.rules.flush_target;
        match &mut self.peer {
            Peer::Target(target) if matches!(target.stage, TargetStage::Copying) => {
                target.stage = TargetStage::Syncing { generation, history, fresh_from };
            }
            Peer::Absent | Peer::Greeting(_) | Peer::Source(_) | Peer::Target(_) | Peer::Equal => {
                return self.give_up(Closing::Unexpected, now);
            }
        }
        if flush_target {
            self.outputs.push_back(Output::SyncTarget);
        } else {
            self.target_synced();
        }
    }

    pub(super) fn target_synced(&mut self) {
        let Peer::Target(target) = &mut self.peer else { return };
        let TargetStage::Syncing { generation, history, fresh_from } = &target.stage else { return };
        self.copy.generation = Some(*generation);
        self.copy.history = history.clone();
        self.copy.parent = None;
        self.copy.fresh_from = *fresh_from;
        (self.copy.half_copied, self.copy.peer_out) = (false, false);
        (self.copy.led, self.copy.distrusted) = (false, false);
        self.marks.clear();
        let batch = self.record(vec![Entry::Copy(self.copy.clone()), Entry::Clear]);
        self.peer = Peer::Target(Target { stage: TargetStage::Recording { batch } });
    }
}

/// What a source says of itself when the other copy is as good. `fresh_since`: its record was of no use before.
fn equal_to_both(copy: &Copy, fresh_since: Option<u64>) -> Copy {
    Copy {
        parent: None,
        peer_out: false,
        led: true,
        distrusted: false,
        fresh_from: fresh_since.unwrap_or(copy.fresh_from),
        ..copy.clone()
    }
}

impl Source {
    fn gate_max(&self) -> Duration {
        if self.passes > PATIENT_PASSES { GATE_MAX * 4 } else { GATE_MAX }
    }
}
