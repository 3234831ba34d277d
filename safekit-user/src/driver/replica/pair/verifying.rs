//! Both copies compared while the application goes on: checks go into the stream of operations, and what differs is
//! brought up to date at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::desk::Desk;
use super::shared::Shared;
use crate::driver::clock;
use crate::driver::replica::capture::Captured;
use crate::driver::replica::link::Link;
use crate::driver::replica::verify::Checks;
use crate::driver::replica::watch::Watch as _;
use crate::types::Instant;
use crate::types::mirror::VerificationInfo;
use crate::types::replica::{MirrorRole, ObjectId, Region, Touch};
use crate::wire::replica::{Check, Checked, Frame, Piece};

/// Checks that the other node has not answered.
const OPEN_MAX: usize = 64;
/// Bytes that wait for the network: changes of applications come first.
const QUEUED_BYTES: usize = 1 << 20;
/// The other node has a disk to read.
const PATIENCE: Duration = Duration::from_secs(60);
/// More objects that differ, and all of the copy is compared anyway.
const DIFFERING_MAX: usize = 10_000;

/// A comparison that is under way.
pub(super) struct Verification {
    connection: u64,
    since: Instant,
    open: BTreeMap<u64, Check>,
    differing: BTreeSet<ObjectId>,
    touches: Vec<Touch>,
    objects: BTreeSet<ObjectId>,
    bytes: u64,
}

impl Desk {
    /// False: it is not PRIM, or compares already.
    fn begin_to_verify(&mut self) -> bool {
        let Some(connection) = &self.connection else { return false };
        if self.engine.role() != MirrorRole::Prim || self.verification.is_some() {
            return false;
        }
        self.verification = Some(Verification {
            connection: connection.number,
            since: clock::now(),
            open: BTreeMap::new(),
            differing: BTreeSet::new(),
            touches: Vec::new(),
            objects: BTreeSet::new(),
            bytes: 0,
        });
        true
    }

    /// None: the copies are not connected as they were when it began.
    fn verifying(&mut self) -> Option<(&mut Verification, Link)> {
        let is_prim = self.engine.role() == MirrorRole::Prim;
        let connection = self.connection.as_ref()?;
        let number = connection.number;
        let verification = self.verification.as_mut()?;
        (is_prim && verification.connection == number).then(|| (verification, connection.link.clone()))
    }

    /// False: nobody asked.
    pub(super) fn checked(&mut self, checked: Checked) -> bool {
        // It ended before the answer came.
        let Some(verification) = &mut self.verification else { return true };
        let Some(check) = verification.open.remove(&checked.number) else { return false };
        verification.objects.insert(check.object);
        if let Piece::Contents { offset, size, digests } = &check.piece {
            let piece = digests.len() as u64 * crate::types::replica::ZONE_BYTES;
            verification.bytes += piece.min(size.saturating_sub(*offset));
        }
        if checked.differs {
            tracing::warn!(object = check.object.0, piece = ?kind(&check.piece), "the copies are not equal");
            if verification.differing.insert(check.object) && verification.differing.len() <= DIFFERING_MAX {
                verification.touches.extend(touched(&check));
            }
        }
        true
    }

    fn verification_info(&self, ended: Option<Instant>, complete: bool) -> Option<VerificationInfo> {
        self.verification.as_ref().map(|verification| VerificationInfo {
            since: verification.since,
            ended,
            complete,
            objects: verification.objects.len() as u64,
            bytes: verification.bytes,
            differing: verification.differing.len() as u64,
        })
    }

    /// The one under way, or the last.
    pub(super) fn shown_verification(&self) -> Option<VerificationInfo> {
        self.verification_info(None, false).or_else(|| self.figures.verification.clone())
    }
}

fn kind(piece: &Piece) -> &'static str {
    match piece {
        Piece::Names { .. } => "names",
        Piece::Contents { .. } => "contents",
        Piece::Facts { .. } => "owner, mode, times or attributes",
    }
}

/// What a resynchronisation has to look at.
fn touched(check: &Check) -> Vec<Touch> {
    match check.piece {
        Piece::Names { .. } => {
            vec![Touch::all(Region::names(check.object)), Touch::all(Region::meta(check.object))]
        }
        Piece::Contents { .. } | Piece::Facts { .. } => {
            // Its name may be what is missing there.
            let parent = check.place.as_ref().map(|(parent, _)| Touch::all(Region::names(*parent)));
            let own = [Region::whole(check.object), Region::meta(check.object)].map(Touch::all);
            own.into_iter().chain(parent).collect()
        }
    }
}

impl Shared {
    /// In a thread of its own, as long as it takes.
    pub(super) fn verify(self: &Arc<Self>, captured: &Arc<Captured>) {
        if !self.lock().begin_to_verify() {
            return;
        }
        let (shared, captured) = (Arc::clone(self), Arc::clone(captured));
        let spawned = std::thread::Builder::new().name("mirror-verify".into()).spawn(move || {
            let verified = captured.verify(&*shared);
            drop(captured);
            shared.end_verification(verified.complete);
        });
        if spawned.is_err() {
            self.lock().verification = None;
        }
    }

    fn end_verification(&self, walked: bool) {
        let answered = walked && self.wait_for_answers(1);
        let mut desk = self.lock();
        let ended = Some(clock::now());
        desk.figures.verification = desk.verification_info(ended, answered);
        let Some(verification) = desk.verification.take() else { return };
        drop(desk);
        tracing::info!(
            complete = answered,
            differing = verification.differing.len(),
            "a comparison of the copies ends"
        );
        if verification.touches.is_empty() {
            return;
        }
        // As a change that no operation says: the copies start over, and what is named is compared.
        if let Ok(permit) = self.begin_somewhere(&verification.touches) {
            self.done_unknown(permit, Box::new(|| ()));
        }
    }

    /// Until fewer are open. False: they are not connected any longer, or the other node does not answer.
    fn wait_for_answers(&self, below: usize) -> bool {
        let until = clock::now() + PATIENCE;
        let mut desk = self.lock();
        loop {
            if desk.ended {
                return false;
            }
            match desk.verifying() {
                None => return false,
                Some((verification, _)) if verification.open.len() < below => return true,
                Some(_) => {}
            }
            let left = until.since(clock::now());
            if left.is_zero() {
                return false;
            }
            let pause = left.min(Duration::from_secs(1));
            desk = self.changed.wait_timeout(desk, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Checks for Shared {
    fn place(&self, directory: ObjectId, parent: ObjectId, name: &[u8]) {
        self.work(|desk, _| {
            if let Some(connection) = &mut desk.connection
                && connection.placed.insert(directory)
            {
                let place = Frame::Place { object: directory, parent, name: name.to_vec() };
                connection.link.queue(&place, &[]);
            }
        });
    }

    fn ask(&self, check: Check) -> bool {
        let mut asked = None;
        self.work(|desk, _| {
            if let Some((verification, link)) = desk.verifying() {
                link.queue(&Frame::Check(check.clone()), &[]);
                verification.open.insert(check.number, check);
                asked = Some(link);
            }
        });
        if let Some(link) = &asked {
            link.kick();
        }
        asked.is_some()
    }

    fn pause(&self) -> bool {
        let link = self.lock().verifying().map(|(_, link)| link);
        let Some(link) = link else { return false };
        if link.queued_bytes() > QUEUED_BYTES && link.wait_for_room(QUEUED_BYTES, PATIENCE).is_err() {
            return false;
        }
        self.wait_for_answers(OPEN_MAX)
    }
}
