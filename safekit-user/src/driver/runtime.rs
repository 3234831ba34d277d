//! The heartbeat thread: receive, decide, write the kernel's maps, send. It owns the engine and does nothing else.
//!
//! ```text
//!   sockets ──datagrams, frames────┐
//!   inbox (bounded) ───requests────┤──▶ engine ──outputs, in order──▶ maps, lease, datagrams, announcements
//!   deadline of the engine ────────┘                               └─▶ snapshots (watch, the newest wins)
//!                                                                  └─▶ counting thread (bounded, a hint)
//! ```
//!
//! It runs on a thread of its own with real-time priority: the lease of this node, and so its traffic, hangs on it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::watch;

use super::announce::{Announcement, Announcer};
use super::census::Census;
use super::clock;
use super::datapath::{self, Datapath};
use super::frames::Frames;
use super::heartbeat::{DATAGRAM_BYTES_MAX, Received, Sockets, Way};
use super::inbox::{Request, Requests};
use super::notes::Noter;
use super::report::Reporter;
use super::roads::Roads;
use crate::engine::farm::{Engine, Input, Output};
use crate::engine::reach::{Admission, Reach};
use crate::types::{Command, Event, EventKind, Generation, Instant, NodeId, Reply, Snapshot, Timing, Wish};
use crate::wire::heartbeat::{self, Body, Heartbeat};
use crate::wire::seal::{Opener, Sealer};

/// Datagrams taken in one turn; more wait in the sockets while the maps and the lease get their turn.
const DATAGRAMS_PER_TURN_MAX: usize = 256;
/// A screen is never older than this.
const PUBLISH_INTERVAL_MAX: Duration = Duration::from_millis(250);
/// Changes closer together than this are shown together.
const PUBLISH_INTERVAL_MIN: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write to the filter's maps")]
    Datapath(#[from] datapath::Error),
    #[error("cannot wait for heartbeats")]
    Poll(#[source] rustix::io::Errno),
}

pub struct Runtime {
    pub engine: Engine,
    pub timing: Timing,
    pub sockets: Sockets,
    pub frames: Frames,
    pub datapath: Datapath,
    pub sealer: Sealer,
    pub opener: Opener,
    pub announcer: Announcer,
    pub announcements: Vec<Announcement>,
    pub roads: Roads,
    pub requests: Requests,
    pub census: SyncSender<Census>,
    pub reporter: Reporter,
    pub reach: Reach,
    pub noter: Noter,
    /// By heartbeat network: it is the virtual IPs' own.
    pub on_virtual_ip: Vec<bool>,
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// To be kept for a restart of the whole cluster.
    pub generations: watch::Sender<Generation>,
}

#[derive(PartialEq, Eq)]
enum Turn {
    GoOn,
    Left,
}

impl Runtime {
    /// Runs until the engine has left the farm. The filter stays, and accepts nothing new: whoever started this thread
    /// takes the addresses away first.
    pub fn run(mut self) -> Result<(), Error> {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut sealed = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        let mut published = Instant::default();
        // The engine wants to know within half of L_y that frames arrive (R12).
        let mut frames = FrameWatch::every(self.timing.yield_after() / 3);
        let mut dirty = true;
        let mut ready = Ready { requests: true, datagrams: true };
        loop {
            let now = clock::now();
            if ready.requests {
                self.take_requests(now);
            }
            if ready.datagrams {
                self.take_datagrams(&mut buffer, now);
                self.take_frames(&mut buffer, now);
            }
            if frames.due(now) && frames.moved(self.datapath.frames_seen()?) {
                self.engine.handle(Input::FramesSeen, now);
            }
            let deadline = self.engine.next_deadline();
            if deadline <= now {
                self.reporter.note_lateness(now, now.since(deadline));
                self.engine.handle(Input::Timer, now);
                self.roads.follow(&self.engine, &mut self.datapath)?;
            }
            self.noter.turn(&mut self.engine, &self.datapath, now)?;
            match self.carry_out(&mut sealed, now, &mut dirty)? {
                Turn::GoOn => {}
                Turn::Left => break,
            }
            let publish_at = published + if dirty { PUBLISH_INTERVAL_MIN } else { PUBLISH_INTERVAL_MAX };
            if publish_at <= now {
                self.publish(now);
                published = now;
                dirty = false;
            }
            ready =
                self.wait(self.engine.next_deadline().min(publish_at.max(published + PUBLISH_INTERVAL_MIN)))?;
        }
        self.publish(clock::now());
        Ok(self.datapath.leave_pinned()?)
    }

    fn take_requests(&mut self, now: Instant) {
        self.requests.clear();
        while let Some(request) = self.requests.next() {
            match request {
                Request::Engine(input) => self.engine.handle(input, now),
                Request::Counted { group, buckets, since, connections } => {
                    self.reporter.note_held(group, connections);
                    self.engine.handle(
                        Input::Held {
                            group,
                            buckets,
                            since,
                            connections: u32::try_from(connections).unwrap_or(u32::MAX),
                        },
                        now,
                    );
                }
                Request::Live(groups) => {
                    for (group, connections) in groups {
                        self.engine.handle(Input::Live { group, connections }, now);
                    }
                }
                Request::Question(Command::Adjust { wish, dry_run }, answer) => {
                    // A client that no longer waits needs no answer.
                    let _gone = answer.send(self.adjust(&wish, dry_run, now));
                }
                Request::Keys(keys) => {
                    if let Some(sending) = keys.first() {
                        self.opener.accept(&keys);
                        self.sealer.switch(sending);
                    }
                }
                Request::HandOver => {
                    self.engine.handle(Input::Leave { drain_max: Duration::ZERO }, now);
                }
                Request::Question(command, answer) => {
                    // A client that no longer waits needs no answer.
                    let _gone = answer.send(self.reporter.answer(&command, &self.engine));
                }
            }
        }
    }

    fn adjust(&mut self, wish: &Wish, dry_run: bool, now: Instant) -> Reply {
        let changes = match self.reporter.resolve(wish) {
            Ok(changes) => changes,
            Err(refusal) => return refusal.into(),
        };
        if !self.engine.has_room_for(&changes) {
            return Reply::Refused {
                error: "too many weights differ from the configuration".to_owned(),
                next_step: "write them into the configuration, and `safekit reload` on every node".to_owned(),
            };
        }
        if dry_run {
            let moved = self.engine.preview(&changes).unwrap_or_default();
            return Reply::Preview { preview: self.reporter.preview(&self.engine, &moved) };
        }
        self.engine.handle(Input::Change(changes), now);
        Reply::Accepted { at: now }
    }

    fn take_datagrams(&mut self, buffer: &mut [u8], now: Instant) {
        for _ in 0..DATAGRAMS_PER_TURN_MAX {
            let Some(Received { network, length, way }) = self.sockets.receive(buffer) else { return };
            let on_virtual_ip = self.on_virtual_ip[usize::from(network.0)];
            let sender = self.open(&mut buffer[..length], on_virtual_ip, false, now);
            if let (Some(sender), Way::Multicast) = (sender, way) {
                self.sockets.note_multicast(network, sender, now);
            }
        }
    }

    /// What came on the clients' own path came on the virtual IP's network.
    fn take_frames(&mut self, buffer: &mut [u8], now: Instant) {
        for _ in 0..DATAGRAMS_PER_TURN_MAX {
            let Some(length) = self.frames.receive(buffer) else { return };
            self.open(&mut buffer[..length], true, true, now);
        }
    }

    /// The sender, where the datagram is authentic.
    fn open(
        &mut self,
        sealed: &mut [u8],
        on_virtual_ip: bool,
        as_frame: bool,
        now: Instant,
    ) -> Option<NodeId> {
        let heartbeat = self.opener.open(sealed).ok().and_then(|(header, plaintext)| {
            let body = heartbeat::decode(plaintext).ok()?;
            Some(Heartbeat { sender: header.sender, boot: header.boot, seq: header.seq, body })
        });
        let Some(heartbeat) = heartbeat else {
            self.reporter.note_rejected(now);
            return None;
        };
        let sender = heartbeat.sender;
        self.reporter.note_heard(sender, as_frame, now);
        self.hear(heartbeat, on_virtual_ip, now);
        Some(sender)
    }

    fn hear(&mut self, heartbeat: Heartbeat, on_virtual_ip: bool, now: Instant) {
        let sender = heartbeat.sender;
        // The death of a daemon is true whichever way the news comes.
        let admission = match heartbeat.body {
            Body::Obituary => Admission::Counts,
            Body::Beat(_) => self.reach.admit(sender, on_virtual_ip, now),
        };
        match admission {
            Admission::Counts => self.engine.handle(Input::Heartbeat(heartbeat), now),
            Admission::Absent { news: true } => {
                tracing::warn!(
                    node = sender.0,
                    "heard, but not on the virtual IP's network: cut off from clients"
                );
            }
            Admission::Absent { news: false } => {}
        }
    }

    /// Carries out what the engine decided, in its order: that order is rule R6.
    fn carry_out(&mut self, sealed: &mut Vec<u8>, now: Instant, dirty: &mut bool) -> Result<Turn, Error> {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::WriteTable { group, table } => {
                    self.datapath.write_table(group, &table)?;
                    let applied = clock::now();
                    self.reporter.note_applied(group, &table, applied, applied.since(now));
                    *dirty = true;
                }
                Output::SetLease(until) => self.datapath.set_lease(until)?,
                Output::Send(heartbeat) => {
                    let plaintext = heartbeat::encode(&heartbeat.body);
                    self.sealer.seal(heartbeat.seq, &plaintext, sealed);
                    let answers = |node| self.engine.answers(node);
                    self.reporter.note_unsent(self.sockets.send(sealed, answers, now));
                    if self.engine.is_unanswered() {
                        self.reporter.note_unsent(self.frames.send_to_all(sealed));
                    }
                }
                Output::Announce => self.announce(),
                Output::CountHeld { group } => {
                    let table = self.engine.table(group);
                    // A full queue means a count is under way: the engine asks again.
                    let _busy = self.census.try_send(Census { group, table });
                }
                Output::Generation(generation) => {
                    tracing::info!(counter = generation.counter, "weights and drains are in force");
                    self.generations.send_replace(generation);
                    *dirty = true;
                }
                Output::Event(event) => {
                    log(&event);
                    if let EventKind::View { members, .. } = &event.kind {
                        self.roads.note_members(*members);
                        self.roads.follow(&self.engine, &mut self.datapath)?;
                    }
                    self.reporter.note_event(event);
                    *dirty = true;
                }
                Output::Left => return Ok(Turn::Left),
            }
        }
        Ok(Turn::GoOn)
    }

    fn announce(&self) {
        let due = |it: &&Announcement| it.mac != it.interface_mac || self.roads.announces();
        for announcement in self.announcements.iter().filter(due) {
            if let Err(error) = self.announcer.announce(announcement) {
                tracing::warn!(address = %announcement.address, %error, "cannot announce a virtual IP");
            }
        }
    }

    fn publish(&mut self, now: Instant) {
        self.reporter.note_findings(self.noter.findings());
        let snapshot = self.reporter.snapshot(&self.engine, &self.datapath, now);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Waits until something is there to read, or `until`; a time that has passed only looks.
    fn wait(&self, until: Instant) -> Result<Ready, Error> {
        let span = until.since(clock::now());
        let timeout = Timespec { tv_sec: span.as_secs() as i64, tv_nsec: i64::from(span.subsec_nanos()) };
        let wake = self.requests.descriptor();
        let mut polled: Vec<PollFd<'_>> = vec![PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN)];
        let sockets = self.sockets.descriptors().chain(self.frames.descriptors());
        polled.extend(sockets.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::Poll(error)),
        }
        let is_ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
        Ok(Ready { requests: is_ready(&polled[0]), datagrams: polled[1..].iter().any(is_ready) })
    }
}

/// What waits to be read.
struct Ready {
    requests: bool,
    datagrams: bool,
}

/// Whether frames arrive on the virtual IP's network, looked at now and then.
struct FrameWatch {
    interval: Duration,
    looked: Instant,
    count: u64,
}

impl FrameWatch {
    fn every(interval: Duration) -> Self {
        Self { interval, looked: Instant::default(), count: 0 }
    }

    fn due(&mut self, now: Instant) -> bool {
        let due = self.looked + self.interval <= now;
        if due {
            self.looked = now;
        }
        due
    }

    fn moved(&mut self, count: u64) -> bool {
        std::mem::replace(&mut self.count, count) != count
    }
}

/// For who looks into the heartbeat thread; the journal has the same in words for people.
fn log(event: &Event) {
    match &event.kind {
        EventKind::View { view, members } => tracing::debug!(view = view.0, ?members, "view changes"),
        EventKind::Joined { node } => tracing::debug!(node = node.0, "a node joined"),
        EventKind::Departed { node, why } => tracing::debug!(node = node.0, ?why, "a node departed"),
        EventKind::Applied { group, owned, transitional } => {
            tracing::debug!(group = group.0, owned, transitional, "table decided");
        }
        EventKind::Member { state } => tracing::debug!(?state, "membership of this node changes"),
        EventKind::WokeLate { late_ms } => {
            tracing::debug!(late_ms, "woke late: accepts nothing until peers answer");
        }
    }
}
