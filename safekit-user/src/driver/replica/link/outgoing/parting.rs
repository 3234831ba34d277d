//! An end that the other side is told.

use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::{Broken, Sender, Shared, timespec};
use crate::driver::clock;
use crate::wire::replica::{Frame, encode};

/// To send the farewell, and for the other side to close: nobody waits for that but the writer and whoever reads.
const PARTING_MAX: Duration = Duration::from_millis(500);

impl Shared {
    /// As `end`, and the other side is told why. What is queued and not being sent is lost. Never waits.
    pub(in crate::driver::replica::link) fn part(&self, why: &str) {
        let mut outbox = self.outbox();
        if outbox.ended.is_some() {
            return;
        }
        outbox.ended = Some(Broken::Here(why.to_owned()));
        outbox.parts_until = Some(clock::now() + PARTING_MAX);
        // Whole frames, of which nobody has begun to send any.
        outbox.frames = Vec::new();
        outbox.queued = 0;
        encode(&Frame::farewell(why), &[], &mut outbox.frames);
        if outbox.sender == Sender::Nobody {
            outbox.sender = Sender::Writer;
        }
        drop(outbox);
        self.turn.notify_all();
        self.room.notify_all();
    }

    pub(in crate::driver::replica::link) fn parts(&self) -> bool {
        self.outbox().parts_until.is_some()
    }

    /// Forever, unless it parts.
    pub(super) fn left_to_part(&self) -> Duration {
        self.outbox().parts_until.map_or(Duration::MAX, |until| until.since(clock::now()))
    }

    /// A socket that is closed before the other side has read everything may take the farewell back (RFC 1122, 4.2.2.13).
    pub(super) fn wait_for_their_end(&self) {
        let mut polled = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        // Whatever comes of it, it is over.
        let _over = poll(&mut polled, Some(&timespec(self.left_to_part())));
    }

    /// Nothing more is sent; does nothing where nobody has parted.
    pub(super) fn parted(&self) {
        if self.outbox().parts_until.take().is_some() {
            self.moved.store(clock::now().0, Ordering::Relaxed);
            let _ended = self.stream.shutdown(Shutdown::Both);
            self.turn.notify_all();
        }
    }
}
