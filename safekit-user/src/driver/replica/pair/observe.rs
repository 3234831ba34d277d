//! What the capture tells: changes begin, are made, are answered; and flushes.

use std::sync::PoisonError;
use std::time::Duration;

use rustix::io::Errno;

use super::desk::{After, Waiting};
use super::shared::Shared;
use crate::driver::clock;
use crate::driver::replica::watch::{Change, FlushReply, Permit, Reply, Watch};
use crate::engine::mirror::{Input, Made, Ticket};
use crate::types::replica::{ObjectId, Touch};

/// Bytes that wait for the network: more, and writers wait before they change anything.
const WINDOW_BYTES: usize = 16 << 20;
/// A mount that is told late that it may be changed.
const OPEN_MAX: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Watch for Shared {
    fn begin(&self, touches: &[Touch]) -> Result<Permit, Errno> {
        let permit = self.begin_somewhere(touches)?;
        let mut objects: Vec<_> = touches.iter().map(|touch| touch.region.object).collect();
        objects.dedup();
        self.look_for_names(&objects);
        Ok(permit)
    }

    fn names(&self, object: ObjectId) {
        self.look_for_names(&[object]);
    }

    fn done(&self, permit: Permit, changes: &[Change<'_>], reply: Reply) {
        self.made(Ticket(permit.0), Made::Operations(changes.len() as u64), changes, reply);
    }

    fn done_unknown(&self, permit: Permit, reply: Reply) {
        self.made(Ticket(permit.0), Made::Unknown, &[], reply);
    }

    fn flush(
        &self,
        object: ObjectId,
        data_only: bool,
        local: &dyn Fn() -> Result<(), Errno>,
        reply: FlushReply,
    ) {
        let mut ticket = None;
        self.work(|desk, after| {
            if !desk.ended && !desk.has_failed() {
                // Until the disk here has answered, nobody is told that all is well.
                let result = Err(Errno::IO);
                let its = desk.ticket(Waiting::Flush { since: clock::now(), reply, result });
                desk.handle(Input::Flush { ticket: its, object, data_only }, &[], &self.parts, after);
                ticket = Some(its);
            }
        });
        // A reply that was dropped has told the application of an error.
        let Some(ticket) = ticket else { return };
        let flushed = local();
        self.work(|desk, after| {
            if let Some(Waiting::Flush { result, .. }) = desk.waits(ticket) {
                *result = flushed;
            }
            desk.handle(Input::FlushedHere { ticket }, &[], &self.parts, after);
        });
    }

    fn reserved(&self, numbers: u64) {
        self.work(|desk, after| desk.handle(Input::Numbers(numbers), &[], &self.parts, after));
    }
}

impl Shared {
    /// Without the lock of anything: what is told of it later calls nothing by its number.
    pub(super) fn begin_somewhere(&self, touches: &[Touch]) -> Result<Permit, Errno> {
        self.wait_for_the_network();
        let mut after = After::default();
        let mut desk = self.lock();
        if desk.ended || desk.has_failed() {
            return Err(Errno::IO);
        }
        let ticket = desk.ticket(Waiting::ToBegin { since: clock::now(), verdict: None });
        desk.handle(Input::Begin { ticket, touches: touches.to_vec() }, &[], &self.parts, &mut after);
        self.finish(desk, after);
        self.wait_to_begin(ticket)?;
        self.wait_until_open(ticket)?;
        Ok(Permit(ticket.0))
    }

    /// An end of the connection, or of its patience, ends this as well.
    fn wait_for_the_network(&self) {
        let link = self.lock().connection.as_ref().map(|connection| connection.link.clone());
        if let Some(link) = link
            && link.queued_bytes() > WINDOW_BYTES
        {
            // What comes of it the engine decides.
            let _ended = link.wait_for_room(WINDOW_BYTES / 2, self.max_stall);
        }
    }

    /// The engine lets it begin at last, or refuses it: it knows no wait without an end but that for the disk here.
    fn wait_to_begin(&self, ticket: Ticket) -> Result<(), Errno> {
        let mut desk = self.lock();
        loop {
            match desk.waits(ticket) {
                Some(Waiting::ToBegin { since, verdict: Some(Ok(())) }) => {
                    let since = *since;
                    if let Some(waiting) = desk.waits(ticket) {
                        *waiting = Waiting::UnderWay { since };
                    }
                    return Ok(());
                }
                Some(Waiting::ToBegin { verdict: Some(Err(error)), .. }) => {
                    let error = *error;
                    desk.forget(ticket);
                    return Err(error);
                }
                Some(_) => {}
                None => return Err(Errno::IO),
            }
            desk = self.changed.wait_timeout(desk, LOOK_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait_until_open(&self, ticket: Ticket) -> Result<(), Errno> {
        let until = clock::now() + OPEN_MAX;
        let mut desk = self.lock();
        while !desk.open && desk.leads() && !desk.ended {
            let left = until.since(clock::now());
            if left.is_zero() {
                break;
            }
            desk = self.changed.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if desk.open {
            return Ok(());
        }
        let mut after = After::default();
        desk.handle(Input::Done { ticket, made: Made::Operations(0) }, &[], &self.parts, &mut after);
        desk.forget(ticket);
        self.finish(desk, after);
        Err(Errno::ROFS)
    }

    /// Of what the other node will be told by its number and has not met over this connection.
    pub(super) fn look_for_names(&self, objects: &[ObjectId]) {
        let unplaced: Vec<_> = {
            let desk = self.lock();
            let Some(connection) = desk.connection.as_ref().filter(|_| desk.is_prim()) else { return };
            objects.iter().filter(|object| !connection.placed.contains(object)).copied().collect()
        };
        unplaced.into_iter().for_each(|object| self.parts.atlas().look_for(object));
    }

    fn made(&self, ticket: Ticket, made: Made, changes: &[Change<'_>], reply: Reply) {
        self.work(|desk, after| {
            // A failure meanwhile has told nobody: the change was made, and dropping the reply says that it is not safe.
            let _not_safe = desk.made(ticket, reply);
            desk.handle(Input::Done { ticket, made }, changes, &self.parts, after);
        });
    }
}
