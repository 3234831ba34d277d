//! Which buckets are transitional: packets other than SYN are told apart by local sockets there.
//!
//! ```text
//! gained  not mine -> mine: for HOLD at least, and while a peer reports live connections in it
//! lost    mine -> not mine: until a count that began later finds none of mine left
//! ```
//!
//! The same for every cause, even for the first activation of a node that is alone. A node that fell silent may only be
//! paused; one whose daemon died still has its connections in the kernel, and so has this one: its own daemon may
//! have died a moment ago. So a daemon starts with everything lost, and what it gets first is gained. The price is a
//! socket lookup a packet, and for clients of a dead node that their reset comes HOLD later.

use std::time::Duration;

use crate::types::{Bucket, BucketBits, Instant};
use crate::wire::heartbeat::HELD_RUN;

/// Sets of buckets, each with a moment.
#[derive(Debug, Default)]
struct Batches(Vec<(Instant, BucketBits)>);

/// More changes than this within HOLD are merged, at the later moment.
const BATCHES_MAX: usize = 8;

impl Batches {
    fn push(&mut self, at: Instant, bits: BucketBits) {
        if self.0.len() >= BATCHES_MAX {
            let (_, oldest) = self.0.remove(0);
            let (_, next) = &mut self.0[0];
            insert_all(next, &oldest);
        }
        self.0.push((at, bits));
    }

    fn add_to(&self, bits: &mut BucketBits) {
        self.0.iter().for_each(|(_, batch)| insert_all(bits, batch));
    }

    fn remove(&mut self, bits: &BucketBits) {
        self.0.iter_mut().for_each(|(_, batch)| remove_all(batch, bits));
        self.0.retain(|(_, batch)| !batch.is_empty());
    }
}

/// Buckets that became mine within the last HOLD.
#[derive(Debug, Default)]
pub(super) struct Gained(Batches);

impl Gained {
    pub(super) fn add(&mut self, now: Instant, bits: BucketBits) {
        self.0.push(now, bits);
    }

    /// Whether something expired.
    pub(super) fn expire(&mut self, now: Instant, hold: Duration) -> bool {
        let before = self.0.0.len();
        self.0.0.retain(|(at, _)| now.since(*at) < hold);
        self.0.0.len() != before
    }

    pub(super) fn add_to(&self, bits: &mut BucketBits) {
        self.0.add_to(bits);
    }
}

/// Buckets that stopped to be mine, and in which this node may have live connections.
#[derive(Debug)]
pub(super) struct Lost {
    /// Since the moment that goes with them no count has begun.
    uncounted: Batches,
    /// As of the last count.
    held: BucketBits,
    /// The next question to the driver, while there is one.
    ask_at: Instant,
}

/// A SYN that was accepted just before the map changed is a socket a moment later.
const SETTLE: Duration = Duration::from_millis(20);
/// How often connections are counted while there are any.
const ASK_EVERY: Duration = Duration::from_millis(250);

impl Lost {
    pub(super) fn all(buckets: usize, now: Instant) -> Self {
        let mut lost = Self { uncounted: Batches::default(), held: BucketBits::none(buckets), ask_at: now };
        lost.add(now, BucketBits::from_fn(buckets, |_| true));
        lost
    }

    pub(super) fn add(&mut self, now: Instant, bits: BucketBits) {
        self.uncounted.push(now, bits);
        self.ask_at = self.ask_at.min(now + SETTLE);
    }

    /// A bucket that is mine again is not lost.
    pub(super) fn remove(&mut self, bits: &BucketBits) {
        self.uncounted.remove(bits);
        remove_all(&mut self.held, bits);
    }

    /// `held`: buckets with live connections that are not mine.
    pub(super) fn counted(&mut self, held: BucketBits, since: Instant) {
        self.uncounted.0.retain(|(at, _)| since < *at + SETTLE);
        self.held = held;
    }

    pub(super) fn wants_count(&mut self, now: Instant) -> bool {
        let wants = now >= self.ask_at && !self.is_empty();
        if wants {
            self.ask_at = now + ASK_EVERY;
        }
        wants
    }

    pub(super) fn is_empty(&self) -> bool {
        self.uncounted.0.is_empty() && self.held.is_empty()
    }

    pub(super) fn is_uncounted(&self) -> bool {
        !self.uncounted.0.is_empty()
    }

    pub(super) fn add_to(&self, bits: &mut BucketBits) {
        self.uncounted.add_to(bits);
        insert_all(bits, &self.held);
    }
}

/// One bit for each run that has a bit set.
pub(super) fn coarse(bits: &BucketBits) -> BucketBits {
    let mut runs = BucketBits::none(bits.capacity() / HELD_RUN);
    for (place, word) in bits.words().iter().enumerate() {
        for run in 0..64 / HELD_RUN {
            if (word >> (run * HELD_RUN)) & RUN != 0 {
                runs.insert(Bucket((place * (64 / HELD_RUN) + run) as u16));
            }
        }
    }
    runs
}

/// All buckets of the runs.
pub(super) fn fine(runs: &BucketBits) -> BucketBits {
    let mut bits = BucketBits::none(runs.capacity() * HELD_RUN);
    for (place, word) in bits.words_mut().iter_mut().enumerate() {
        for run in 0..64 / HELD_RUN {
            if runs.contains(Bucket((place * (64 / HELD_RUN) + run) as u16)) {
                *word |= RUN << (run * HELD_RUN);
            }
        }
    }
    bits
}

const RUN: u64 = (1 << HELD_RUN) - 1;

pub(super) fn insert_all(bits: &mut BucketBits, more: &BucketBits) {
    bits.words_mut().iter_mut().zip(more.words()).for_each(|(word, more)| *word |= more);
}

pub(super) fn remove_all(bits: &mut BucketBits, less: &BucketBits) {
    bits.words_mut().iter_mut().zip(less.words()).for_each(|(word, less)| *word &= !less);
}

pub(super) fn keep_only(bits: &mut BucketBits, these: &BucketBits) {
    bits.words_mut().iter_mut().zip(these.words()).for_each(|(word, these)| *word &= these);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(buckets: &[u16]) -> BucketBits {
        BucketBits::from_fn(1024, |bucket| buckets.contains(&bucket.0))
    }

    fn lost(lost: &Lost) -> Vec<u16> {
        let mut all = bits(&[]);
        lost.add_to(&mut all);
        all.iter().map(|bucket| bucket.0).collect()
    }

    #[test]
    fn a_lost_bucket_stays_until_a_later_count_finds_nothing() {
        let at = |ms: u64| Instant(ms * 1_000_000);
        let mut state = Lost::all(1024, at(0));
        assert!(state.wants_count(at(0)), "at once: the daemon before may have left connections");
        state.counted(bits(&[7]), at(30));
        assert_eq!(lost(&state), [7]);

        state.add(at(1000), bits(&[8, 9]));
        state.counted(bits(&[]), at(1010));
        assert_eq!(lost(&state), [8, 9], "the count began before a last SYN can have become a socket");
        assert!(state.wants_count(at(1020)));
        assert!(!state.wants_count(at(1030)), "asked already");
        state.counted(bits(&[9]), at(1020));
        assert_eq!(lost(&state), [9]);
        assert!(state.wants_count(at(1270)), "again while there are any");
        state.counted(bits(&[]), at(1271));
        assert!(state.is_empty() && !state.wants_count(at(9999)));
    }

    #[test]
    fn gained_buckets_are_let_go_after_hold_and_changes_are_bounded() {
        let at = |ms: u64| Instant(ms * 1_000_000);
        let mut gained = Gained::default();
        for change in 0..100_u16 {
            gained.add(at(u64::from(change)), bits(&[change]));
        }
        assert_eq!(gained.0.0.len(), BATCHES_MAX);
        let mut all = bits(&[]);
        gained.add_to(&mut all);
        assert_eq!(all.len(), 100, "merged, not forgotten");
        assert!(
            !gained.expire(at(3091), Duration::from_secs(3)),
            "the merged ones stay as long as the youngest"
        );
        assert!(gained.expire(at(3100), Duration::from_secs(3)));
    }

    #[test]
    fn runs_cover_their_buckets() {
        let runs = coarse(&bits(&[0, 17, 1023]));
        assert_eq!(runs.iter().map(|run| run.0).collect::<Vec<_>>(), [0, 1, 63]);
        let all = fine(&runs);
        assert_eq!(all.len(), 3 * HELD_RUN);
        assert!(all.contains(Bucket(31)) && all.contains(Bucket(1008)) && !all.contains(Bucket(32)));
    }
}
