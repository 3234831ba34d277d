//! The node that takes the changes of the other.

use super::{Closing, Greeting, Mirror, Peer};
use crate::types::Instant;
use crate::types::replica::{MirrorRole, Position};
use crate::wire::replica::Message;

/// Operations that are said to be received with one message while others wait.
const RECEIVED_AT_ONCE: u64 = 64;

impl Mirror {
    pub(super) fn applied(&mut self, position: Position, more: bool) {
        if self.role() != MirrorRole::Second {
            return;
        }
        self.applied = self.applied.max(position);
        if !more || self.applied.0 - self.received_told.0 >= RECEIVED_AT_ONCE {
            self.received_told = self.applied;
            self.send(Message::Received { position: self.applied });
        }
    }

    /// The place in the stream of the operation that has to come next.
    pub fn expects(&self) -> Option<Position> {
        (self.role() == MirrorRole::Second).then(|| self.applied.next())
    }

    /// Both copies are equal, and on their disks.
    pub(super) fn leader_stepped_down(&mut self, now: Instant) {
        if self.role() != MirrorRole::Second {
            return self.give_up(Closing::Unexpected, now);
        }
        self.intact = true;
        self.peer = Peer::Greeting(Greeting::default());
        self.greet();
    }
}
