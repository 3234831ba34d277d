//! What people see of a pair: figures since it was started, and sentences that say why.

use std::path::Path;
use std::time::Duration;

use super::desk::Desk;
use super::shared::Shared;
use crate::driver::clock;
use crate::driver::replica::copy::{Progress, Work};
use crate::driver::replica::link::Link;
use crate::engine::mirror::{Judgement, View};
use crate::types::Instant;
use crate::types::mirror::{CopyInfo, LatencyInfo, ResyncInfo, SyncState, VerificationInfo};
use crate::types::replica::MirrorRole;

/// Waits that are remembered of each kind.
const WAITS_MAX: usize = 4096;

/// The last waits of one kind, in microseconds.
#[derive(Default)]
pub(super) struct Waits {
    last: Vec<u32>,
    count: u64,
}

impl Waits {
    pub(super) fn add(&mut self, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let place = (self.count % WAITS_MAX as u64) as usize;
        match self.last.get_mut(place) {
            Some(old) => *old = took,
            None => self.last.push(took),
        }
        self.count += 1;
    }

    fn info(&self) -> LatencyInfo {
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        let part = |percent: usize| sorted.get(sorted.len() * percent / 100).copied().map_or(0, u64::from);
        LatencyInfo { count: self.count, p50_us: part(50), p99_us: part(99) }
    }
}

struct Resync {
    since: Instant,
    ended: Option<Instant>,
    everything: bool,
    passes: u32,
    before: Progress,
    /// At its end.
    last: Option<Progress>,
    /// Of the present pass: when it began, what had been carried over then, and how many regions it has.
    pass: (Instant, Progress, u64),
}

impl Resync {
    /// Of the present pass, as fast as it has been; none where nobody knows how much there is.
    fn left_ms(&self, progress: Progress) -> Option<u64> {
        let (since, before, regions) = self.pass;
        let done = (progress.files - before.files).min(regions);
        if self.everything || done == 0 {
            return None;
        }
        let took = clock::now().since(since).as_secs_f64();
        Some((took / done as f64 * (regions - done) as f64 * 1000.0) as u64)
    }
}

#[derive(Default)]
pub(super) struct Figures {
    pub(super) writes: Waits,
    pub(super) flushes: Waits,
    pub(super) stalls: u64,
    pub(super) not_connected: Option<String>,
    pub(super) disk_failure: Option<String>,
    /// What the other node said when it ended a connection last; until both copies are equal.
    gave_up: Option<String>,
    pub(super) verification: Option<VerificationInfo>,
    sent_bytes: u64,
    received_bytes: u64,
    resync: Option<Resync>,
}

impl Figures {
    pub(super) fn connected(&mut self) {
        self.not_connected = None;
        self.disk_failure = None;
    }

    pub(super) fn other_gave_up(&mut self, why: Option<String>) {
        if why.is_some() {
            self.gave_up = why;
        }
    }

    /// `progress`: of all resynchronisations so far.
    pub(super) fn connection_ended(&mut self, link: &Link, progress: Progress) {
        self.sent_bytes += link.sent_bytes();
        self.received_bytes += link.received_bytes();
        self.resync_ends(progress);
    }

    pub(super) fn pass_begins(&mut self, work: &Work, progress: Progress) {
        let now = clock::now();
        match self.resync.as_mut().filter(|resync| resync.ended.is_none()) {
            Some(resync) => {
                resync.passes += 1;
                resync.everything |= work.everything;
                resync.pass = (now, progress, work.touches.len() as u64);
            }
            None => {
                self.resync = Some(Resync {
                    since: now,
                    ended: None,
                    everything: work.everything,
                    passes: 1,
                    before: progress,
                    last: None,
                    pass: (now, progress, work.touches.len() as u64),
                });
            }
        }
    }

    pub(super) fn target_began(&mut self) {
        self.resync = None;
    }

    pub(super) fn note_role(&mut self, view: &View, progress: Progress) {
        if matches!(view.role, MirrorRole::Prim | MirrorRole::Second) {
            self.gave_up = None;
        }
        if view.role == MirrorRole::Prim {
            self.resync_ends(progress);
        }
    }

    fn resync_ends(&mut self, progress: Progress) {
        if let Some(resync) = &mut self.resync {
            resync.ended.get_or_insert_with(clock::now);
            resync.last.get_or_insert(progress);
        }
    }

    fn resync_info(&self, view: &View, progress: Progress) -> Option<ResyncInfo> {
        let resync = self.resync.as_ref()?;
        let (before, last) = (resync.before, resync.last.unwrap_or(progress));
        let (files, bytes) = (last.files - before.files, last.bytes_sent - before.bytes_sent);
        let took = resync.ended.unwrap_or_else(clock::now).since(resync.since);
        Some(ResyncInfo {
            since: resync.since,
            ended: resync.ended,
            everything: resync.everything,
            passes: resync.passes,
            files,
            bytes,
            bytes_per_second: (bytes as f64 / took.as_secs_f64().max(0.001)) as u64,
            regions: view.resync.map_or(0, |(_, regions)| regions as u64),
            left_ms: resync.ended.is_none().then(|| resync.left_ms(progress)).flatten(),
        })
    }
}

impl Shared {
    pub(super) fn info(&self, directory: &Path, refused: u64) -> CopyInfo {
        let progress = self.parts.copier().counted.now();
        let desk = self.lock();
        let view = desk.engine.view();
        let resync = desk.figures.resync_info(&view, progress);
        let (sync, why) = (sync_state(&view), why(&desk, &view));
        let mut info = CopyInfo {
            directory: directory.display().to_string(),
            role: view.role,
            generation: view.generation,
            sync,
            why,
            cannot_lead: view.cannot_lead.map(|it| it.to_string()),
            connected: view.connected,
            frozen: view.frozen,
            behind_operations: if view.role == MirrorRole::Prim { view.sent.0 - view.received.0 } else { 0 },
            behind_bytes: 0,
            recorded_regions: view.recorded as u64,
            write_latency: desk.figures.writes.info(),
            flush_latency: desk.figures.flushes.info(),
            stalls: desk.figures.stalls,
            refused,
            sent_bytes: desk.figures.sent_bytes,
            received_bytes: desk.figures.received_bytes,
            resync,
            verification: desk.shown_verification(),
        };
        if let Some(connection) = &desk.connection {
            info.behind_bytes = connection.link.queued_bytes() as u64;
            info.sent_bytes += connection.link.sent_bytes();
            info.received_bytes += connection.link.received_bytes();
        }
        info
    }
}

fn sync_state(view: &View) -> SyncState {
    match (view.role, view.overwritten, view.resync) {
        (MirrorRole::Prim | MirrorRole::Second, ..) => SyncState::InSync,
        (_, true, _) => SyncState::BeingOverwritten,
        (_, _, Some(_)) => SyncState::Resynchronising,
        (MirrorRole::Alone, ..) => SyncState::OutOfDate,
        (MirrorRole::Wait, ..) if view.judgement == Some(Judgement::Either) => SyncState::InSync,
        (MirrorRole::Wait, ..) => SyncState::Unknown,
    }
}

/// What the other node said last belongs to it, unless that is all.
fn why(desk: &Desk, view: &View) -> String {
    let own = own_why(desk, view);
    match &desk.figures.gave_up {
        Some(theirs) if !own.contains(theirs.as_str()) => format!("{own}; the other node gave up: {theirs}"),
        Some(_) | None => own,
    }
}

fn own_why(desk: &Desk, view: &View) -> String {
    if let Some(failure) = desk.failure() {
        return failure.to_owned();
    }
    if let Some(failure) = &desk.figures.disk_failure {
        return failure.clone();
    }
    if view.frozen {
        return "it is being recorded that the other copy is out of date; applications wait for the disk"
            .into();
    }
    let not_connected = || {
        let why = desk.figures.not_connected.as_deref().unwrap_or("no connection yet");
        format!("the other node is not connected: {why}")
    };
    match view.role {
        MirrorRole::Prim => "this node serves, and the copy of the other node is equal".into(),
        MirrorRole::Second => "this node follows the other one".into(),
        MirrorRole::Alone if view.resync.is_some() => {
            "this node serves, and brings the copy of the other node up to date".into()
        }
        MirrorRole::Alone | MirrorRole::Wait if !view.connected => not_connected(),
        MirrorRole::Wait if view.overwritten => {
            "this copy is being brought up to date by the other node".into()
        }
        MirrorRole::Alone | MirrorRole::Wait => judged(view).into(),
    }
}

fn judged(view: &View) -> &'static str {
    match view.judgement {
        None => "the nodes are telling each other what they have",
        Some(Judgement::BothNew) => "neither node has ever had a copy, and none was told to serve",
        Some(Judgement::Either) => "both copies are equal, and no node was told to serve",
        Some(Judgement::Ours { .. }) if view.role.leads() => "the copy of the other node is out of date",
        Some(Judgement::Ours { .. }) => "this copy is the newer one, and this node was not told to serve",
        Some(Judgement::Theirs { .. }) => {
            "the copy of the other node is the newer one, and it was not told to serve"
        }
        Some(Judgement::SplitBrain) => {
            "each copy has gone on without the other: one of them has to be given up"
        }
        Some(Judgement::BothLead) => "both nodes serve: one of them has to follow",
        Some(Judgement::BothHalf) => "both copies are half of something: one of them has to serve by force",
        Some(Judgement::Unrelated) => "the copies have nothing in common: one of them has to be given up",
    }
}
