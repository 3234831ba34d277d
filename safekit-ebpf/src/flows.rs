//! Evidence by flows, for rules whose sockets the kernel of this namespace does not know (`evidence: flows`) and for UDP.
//!
//! The filter writes down the flows that it lets pass. Where a bucket moves, that record decides in place of a socket:
//!
//! | bucket                | TCP SYN    | other TCP       | UDP                                              |
//! |-----------------------|------------|-----------------|--------------------------------------------------|
//! | foreign               | drop       | drop            | drop, sighted                                    |
//! | mine                  | pass, note | pass, note      | pass, note                                       |
//! | gained (transitional) | pass, note | pass iff noted  | noted: pass; else sighted lately: drop; else pass |
//! | lost (transitional)   | drop       | pass iff noted  | pass iff noted, else drop, sighted               |
//! | past the lease        | drop       | as lost         | drop, sighted                                    |
//!
//! **Never two nodes.** A bucket is stable at one node only, so two can meet over a flow only while it is gained at one
//! and lost at others. TCP: both need a note of their own, and a note counts only if the bucket has not been another
//! node's since (AWAY, stamped by the driver before each table that ends such a time). The flow passed here and has not
//! been anybody else's since, or it is not ours. UDP has no packet that says "new". But every node sees every packet: a
//! flow that a node let pass within its idle time was seen, and left alone, by all others. Each keeps the time of such a
//! sight under the flow's hash, in a table without keys: nothing is evicted, a collision only makes a new flow wait, and
//! what has no sight for longer than a flow's idle time is new. A filter that was just attached counts everything as just
//! sighted. Where packets are sent on instead of flooded, nobody sees enough, and an unknown flow waits until its bucket
//! is stable.
//!
//! **Evicted notes.** Then no node lets the flow pass while its bucket moves (TCP retransmits, UDP is lost), and the
//! bucket's new owner does as soon as the move has ended, which is the sooner for the missing note.
//!
//! **Floods.** The first packet of a flow is noted among the newcomers only, a SYN never elsewhere; the second packet
//! makes it a flow. So packets of random sources push out each other.

use crate::abi::{EvidenceBy, FlowKey, FlowRecord, Limits, Rule};
use crate::flow::{self, Bucket};
use crate::packet::Protocol;
use crate::verdict::{BucketState, Flow, Reason, World};

/// A note is renewed when it is that old: writing costs more than looking.
const RENEW_NS: u64 = 1_000_000_000;
/// Sights are kept in 2^30 ns, a little more than a second.
const SIGHT_SHIFT: u32 = 30;

/// Kept out of line: what it needs of the stack is its own, and the way of all other packets stays short.
#[inline(never)]
pub(crate) fn verdict(
    state: BucketState,
    bucket: Bucket,
    rule: &Rule,
    flow: &Flow,
    world: &impl World,
) -> (bool, Reason) {
    let key = key_of(flow);
    if let Some(reason) = refusal(state, flow, world) {
        left_alone(&key, flow, world);
        return (false, reason);
    }
    let now = world.now();
    let note = find(&key, now, bucket, rule, world);
    let (passes, reason) = match state {
        BucketState::Mine if flow.protocol == Protocol::Udp || world.lease_holds() => (true, Reason::Mine),
        BucketState::Gained if flow.opening => (true, Reason::GainedNew),
        BucketState::Mine | BucketState::Gained | BucketState::Lost if note.place != Place::Nowhere => {
            (true, Reason::KeptFlow)
        }
        BucketState::Gained if is_new(&key, now, rule, flow, world) => (true, Reason::GainedNew),
        BucketState::Foreign | BucketState::Mine | BucketState::Gained | BucketState::Lost => {
            (false, Reason::NoFlow)
        }
    };
    if !passes {
        left_alone(&key, flow, world);
    } else if !flow.quoted {
        write_down(&key, &note, now, flow, world);
    }
    (passes, reason)
}

/// What needs no note to be refused.
#[inline(always)]
fn refusal(state: BucketState, flow: &Flow, world: &impl World) -> Option<Reason> {
    match state {
        BucketState::Foreign => Some(Reason::Foreign),
        BucketState::Lost if flow.opening => Some(Reason::LostNew),
        BucketState::Mine | BucketState::Gained | BucketState::Lost => {
            let keeps = flow.protocol == Protocol::Tcp && !flow.opening;
            (!keeps && !world.lease_holds()).then_some(Reason::Lease)
        }
    }
}

#[inline(always)]
fn key_of(flow: &Flow) -> FlowKey {
    FlowKey {
        client: flow.client,
        client_port: flow.client_port,
        port: flow.port,
        vip: flow.vip,
        protocol: flow.protocol.number(),
        pad: 0,
    }
}

/// What is written down of a flow, and counts. The record is defined in any case: see [`crate::verdict::Decision`].
struct Note {
    place: Place,
    record: FlowRecord,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Flows,
    Newcomers,
    Nowhere,
}

#[inline(always)]
fn find(key: &FlowKey, now: u64, bucket: Bucket, rule: &Rule, world: &impl World) -> Note {
    let limits = world.limits();
    let away = world.away(rule.away, bucket);
    let record = world.flow(key);
    if counts(&record, now, away, limit(key, &record, &limits)) {
        return Note { place: Place::Flows, record };
    }
    let record = world.newcomer(key);
    let is_known = counts(&record, now, away, limit_of_newcomer(key, &limits));
    Note { place: if is_known { Place::Newcomers } else { Place::Nowhere }, record }
}

/// Whether a note still means that the flow is this node's: it has not ended, and its bucket was not another node's
/// since. The driver counts by the same.
#[inline(always)]
pub fn counts(record: &FlowRecord, now: u64, away: u64, limit_ns: u64) -> bool {
    record.seen_ns > away && now.saturating_sub(record.seen_ns) < limit_ns
}

#[inline(always)]
pub fn limit(key: &FlowKey, record: &FlowRecord, limits: &Limits) -> u64 {
    if key.protocol == Protocol::Udp.number() {
        limits.udp_ns
    } else if record.closing != 0 {
        limits.tcp_short_ns
    } else {
        limits.tcp_ns
    }
}

#[inline(always)]
pub fn limit_of_newcomer(key: &FlowKey, limits: &Limits) -> u64 {
    if key.protocol == Protocol::Udp.number() { limits.udp_ns } else { limits.tcp_short_ns }
}

#[inline(always)]
fn write_down(key: &FlowKey, note: &Note, now: u64, flow: &Flow, world: &impl World) {
    let closing = u64::from(flow.closing);
    let is_old = now.saturating_sub(note.record.seen_ns) > RENEW_NS;
    match note.place {
        Place::Flows => {
            // A SYN begins anew what had been closed.
            let closing = if flow.opening { 0 } else { note.record.closing | closing };
            if is_old || closing != note.record.closing {
                world.set_flow(key, &FlowRecord { seen_ns: now, closing });
            }
        }
        Place::Newcomers if !flow.opening => world.set_flow(key, &FlowRecord { seen_ns: now, closing }),
        Place::Newcomers if !is_old => {}
        Place::Newcomers | Place::Nowhere => {
            world.set_newcomer(key, &FlowRecord { seen_ns: now, closing: 0 });
        }
    }
}

/// UDP that goes to another node, as far as this one can tell.
#[inline(always)]
fn left_alone(key: &FlowKey, flow: &Flow, world: &impl World) {
    if flow.protocol != Protocol::Udp || flow.quoted {
        return;
    }
    let (slot, now) = (flow::sight_slot(world.hash_key(), key), sight_time(world.now()));
    if world.sight(slot) != now {
        world.set_sight(slot, now);
    }
}

/// A UDP flow that no node has let pass within its idle time, going by what this node saw of others.
#[inline(always)]
fn is_new(key: &FlowKey, now: u64, rule: &Rule, flow: &Flow, world: &impl World) -> bool {
    if flow.protocol != Protocol::Udp || flow.quoted || rule.evidence != EvidenceBy::Flows {
        return false;
    }
    // One unit for the part of a second that each of the two times has lost, one for clocks that differ.
    let window = sight_time(world.limits().udp_ns) + 2;
    let sight = world.sight(flow::sight_slot(world.hash_key(), key));
    sight_time(now).saturating_sub(sight) > window
}

/// As SIGHTS has it; 32 bits last for 146 years of uptime.
#[inline(always)]
pub const fn sight_time(boot_ns: u64) -> u32 {
    (boot_ns >> SIGHT_SHIFT) as u32
}
