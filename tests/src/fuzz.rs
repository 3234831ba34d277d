//! What a fuzzer's bytes mean, and what must hold of the filter for all of them.
//!
//! ```text
//! input = state (1 byte), then up to four frames: length (2 bytes, the highest bit: the lease has ended), bytes
//! ```
//!
//! Several frames, because fragments and flows follow what has passed before.

use safekit_ebpf::verdict::{BucketState, Reason};

use crate::fixture::{Action, Circumstances, Host, OWN_MAC, Outcome};
use crate::invariant::{about_a_virtual_ip, is_right};
use crate::rows;

const STATES: [BucketState; 4] =
    [BucketState::Foreign, BucketState::Mine, BucketState::Lost, BucketState::Gained];
const FRAMES: usize = 4;
const LEASE_ENDED: u16 = 1 << 15;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input<'a> {
    pub state: BucketState,
    /// Whether the lease holds, and the frame.
    pub frames: Vec<(bool, &'a [u8])>,
}

impl<'a> Input<'a> {
    /// Any bytes mean something; a length beyond their end is the rest.
    pub fn read(bytes: &'a [u8]) -> Self {
        let (first, mut rest) = bytes.split_first().unwrap_or((&0, &[]));
        let mut frames = vec![];
        while let ([high, low, tail @ ..], true) = (rest, frames.len() < FRAMES) {
            let length = u16::from_be_bytes([*high, *low]);
            let (frame, after) = tail.split_at(usize::from(length & !LEASE_ENDED).min(tail.len()));
            frames.push((length & LEASE_ENDED == 0, frame));
            rest = after;
        }
        Self { state: STATES[usize::from(first % 4)], frames }
    }

    pub fn write(&self) -> Vec<u8> {
        let mut bytes = vec![self.state as u8];
        for (lease, frame) in &self.frames {
            let length = u16::try_from(frame.len()).expect("a frame of a test is short");
            let ended = if *lease { 0 } else { LEASE_ENDED };
            bytes.extend((length | ended).to_be_bytes());
            bytes.extend(*frame);
        }
        bytes
    }
}

/// Rows of the table with the row after each, which is often what follows it: in each state, and past the lease.
pub fn seeds() -> Vec<Vec<u8>> {
    let rows = rows::all();
    let circumstances = STATES.into_iter().map(|state| (state, true)).chain([(BucketState::Mine, false)]);
    let pairs = |(state, lease)| {
        rows.windows(2).map(move |pair| {
            Input { state, frames: vec![(true, &pair[0].frame[..]), (lease, &pair[1].frame[..])] }.write()
        })
    };
    circumstances.flat_map(pairs).collect()
}

/// A world for each state, made once: a table takes longer to write than a thousand frames to judge.
pub struct Worlds {
    hosts: [Host; 4],
}

impl Worlds {
    pub fn new() -> Self {
        let hosts = STATES.map(|state| {
            let mut host = Host::new();
            host.set(Circumstances { state, lease: true });
            host
        });
        Self { hosts }
    }

    /// Panics with what does not hold.
    pub fn check(&mut self, bytes: &[u8]) -> Vec<Outcome> {
        let input = Input::read(bytes);
        let host = &mut self.hosts[input.state as usize];
        // An input that fails has to fail on its own.
        host.notes.fragments.borrow_mut().clear();
        host.notes.flows.borrow_mut().clear();
        host.notes.newcomers.borrow_mut().clear();
        host.notes.sights.borrow_mut().clear();
        let judge = |(lease, frame): (bool, &[u8])| {
            host.lease = lease;
            let outcome = host.run(frame);
            check_outcome(Circumstances { state: input.state, lease }, frame, &outcome);
            outcome
        };
        input.frames.into_iter().map(judge).collect()
    }
}

impl Default for Worlds {
    fn default() -> Self {
        Self::new()
    }
}

fn check_outcome(circumstances: Circumstances, frame: &[u8], outcome: &Outcome) {
    let what = || format!("{circumstances:?}: {outcome:?} of {frame:02x?}");
    assert!(is_right(frame, circumstances, outcome), "{}", what());
    assert_eq!(outcome.bytes.len(), frame.len(), "the length stays: {}", what());
    let expected = action_of(outcome.reason);
    assert_eq!(outcome.action, expected, "a reason says what happened: {}", what());
    if about_a_virtual_ip(frame) != Some(true) {
        return;
    }
    // Nothing has passed in a world where all buckets are foreign, so nothing follows there either.
    let foreign = circumstances.state == BucketState::Foreign;
    assert!(!foreign || outcome.action == Action::Drop, "another node's: {}", what());
    match outcome.action {
        Action::Pass => {
            assert_eq!(outcome.bytes[..6], OWN_MAC, "under the card's own address: {}", what());
            assert_eq!(outcome.bytes[6..], frame[6..], "nothing else changes: {}", what());
        }
        Action::Transmit => {
            assert_eq!(outcome.bytes[6..12], OWN_MAC, "no switch learns the virtual MAC: {}", what());
        }
        Action::Drop => {}
    }
}

/// By what the counters promise to operators.
fn action_of(reason: Reason) -> Action {
    use Reason as R;
    match reason {
        R::NotVip
        | R::NotIp
        | R::Mine
        | R::GainedNew
        | R::Kept
        | R::KeptByCookie
        | R::KeptFlow
        | R::FragmentFollows
        | R::IcmpError => Action::Pass,
        R::ArpAnswered | R::NdpAnswered | R::ToOwner | R::ToHolder => Action::Transmit,
        R::Malformed
        | R::Foreign
        | R::LostNew
        | R::NoSocket
        | R::NoFlow
        | R::Lease
        | R::NoRule
        | R::Protocol
        | R::Fragment
        | R::IcmpStray
        | R::IcmpOther
        | R::WrongInterface
        | R::ArpClaim
        | R::NdpClaim
        | R::Probe
        | R::ProbeForeign
        | R::NotAddressed
        | R::NdpProbe => Action::Drop,
    }
}
