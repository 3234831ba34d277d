//! R5: until when the kernel may accept, whatever becomes of this process.

use super::{Engine, Output};
use crate::types::Instant;

impl Engine {
    /// Renewed at every tick: `min(now + L, last acknowledged send + D)` over all peers that could act and to which
    /// this node does not yield. A peer acts at the earliest D after it last heard of me, that is D after the
    /// send time of the last heartbeat that it acknowledged. What would be its own without me is not in my table
    /// any more when I yield to it, so then it limits nothing.
    pub(super) fn renew_lease(&mut self, tick: bool) {
        if !self.basis.serve || self.waits_for_answers() {
            self.stop_accepting();
            return;
        }
        if !tick && self.lease > self.now {
            return;
        }
        if !self.setup.rules.lease {
            self.give_lease(Instant(u64::MAX));
            return;
        }
        let own = self.now + self.setup.timing.lease;
        let until = self.missed_from().map_or(own, |missed| own.min(missed));
        self.give_lease(until);
    }

    fn give_lease(&mut self, until: Instant) {
        if until != self.lease {
            self.lease = until;
            self.outputs.push_back(Output::SetLease(until));
        }
    }
}
