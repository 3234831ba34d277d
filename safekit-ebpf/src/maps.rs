//! The maps and the load-time constants, behind names: no other file of the kernel side knows how they are laid out.

use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray, ProgramArray};
use safekit_ebpf::abi::{
    self, AUDIT_CELLS, Address, AuditRow, AwayPage, CounterRow, FLOWS_MAX, FRAGMENTS_MAX, FlowKey,
    FlowRecord, FragmentKey, FragmentNote, GROUPS_MAX, Lease, Limits, NEWCOMERS_MAX, PAGE, PROBE_SENDERS,
    PROBE_VIPS, PortRow, ProbeRow, REASON_SLOTS, RULES_MAX, Rule, SCOPES, SightPage, TABLE_WORDS, Table,
    VIP_SLOTS, Vip,
};
use safekit_ebpf::flow::{Bucket, HashKey};
use safekit_ebpf::probe::Probe;
use safekit_ebpf::verdict::{BucketState, Decision, Reason};

#[unsafe(no_mangle)]
static HASH_KEY: Global<HashKey> = Global::new([0; 2]);
#[unsafe(no_mangle)]
static VIP_SEED: Global<u64> = Global::new(1);
#[unsafe(no_mangle)]
static CLOCK: Global<u64> = Global::new(abi::CLOCK_PRECISE);

#[unsafe(no_mangle)]
static LIMITS: Global<Limits> = Global::new(Limits::DEFAULT);

/// The mark that this cluster's probes carry.
#[unsafe(no_mangle)]
static CLUSTER: Global<u64> = Global::new(0);

#[map]
static VIPS: Array<Vip> = Array::with_max_entries(VIP_SLOTS as u32, 0);
#[map]
static PORTS: Array<PortRow> = Array::with_max_entries(1, 0); // as many as the plan has rows, set by the driver
#[map]
static RULES: Array<Rule> = Array::with_max_entries(RULES_MAX as u32, 0);
#[map]
static ACTIVE: Array<u32> = Array::with_max_entries(GROUPS_MAX as u32, 0);
#[map]
static TABLES: Array<Table> = Array::with_max_entries(2 * GROUPS_MAX as u32, 0);
#[map]
static LEASE: Array<Lease> = Array::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<CounterRow> = PerCpuArray::with_max_entries(SCOPES as u32, 0);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentNote> =
    LruHashMap::with_max_entries(FRAGMENTS_MAX as u32, 0);
// Smaller where no rule asks for flows: see the driver.
#[map]
static FLOWS: LruHashMap<FlowKey, FlowRecord> = LruHashMap::with_max_entries(FLOWS_MAX as u32, 0);
#[map]
static NEWCOMERS: LruHashMap<FlowKey, FlowRecord> = LruHashMap::with_max_entries(NEWCOMERS_MAX as u32, 0);
#[map]
static AWAY: Array<AwayPage> = Array::with_max_entries(1, 0);
#[map]
static SIGHTS: Array<SightPage> = Array::with_max_entries(1, 0);
#[map]
static PROBES: Array<ProbeRow> = Array::with_max_entries(PROBE_VIPS as u32, 0);
#[map]
static AUDIT: PerCpuArray<AuditRow> = PerCpuArray::with_max_entries(GROUPS_MAX as u32, 0);
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static FLOW: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub(crate) fn hash_key() -> HashKey {
    HASH_KEY.load()
}

/// Whether the filter reads the clock that is exact to the nanosecond.
#[inline(always)]
pub(crate) fn clock_is_precise() -> bool {
    CLOCK.load() == abi::CLOCK_PRECISE
}

#[inline(always)]
pub(crate) fn vip(address: Address) -> Option<&'static Vip> {
    let vip = VIPS.get(abi::vip_slot(address, VIP_SEED.load()))?;
    // An empty slot has the address `::`, which a frame may name, and no interface.
    (vip.address == address && vip.interface != 0).then_some(vip)
}

#[inline(always)]
pub(crate) fn rule(vip: &Vip, row: u16, port: u16) -> Option<&'static Rule> {
    let place = PORTS.get(u32::from(row))?[usize::from(port)];
    if place == 0 {
        return None;
    }
    RULES.get(u32::from(vip.first_rule) + u32::from(place) - 1)
}

/// The driver fills the idle table and then flips the index, so a reader sees one table or the other. A reader that is
/// overtaken by two writes may see a bucket of the newer one: its two bits lie in one byte, so never half of them.
#[inline(always)]
pub(crate) fn bucket(group: u16, bucket: Bucket) -> BucketState {
    let group = u32::from(group);
    let Some(slot) = ACTIVE.get(group) else { return BucketState::Foreign };
    let Some(table) = TABLES.get(group * 2 + (*slot & 1)) else { return BucketState::Foreign };
    let word = usize::from(bucket) / abi::BUCKETS_PER_WORD;
    BucketState::in_word(table[word & (TABLE_WORDS - 1)], bucket)
}

#[inline(always)]
pub(crate) fn limits() -> Limits {
    LIMITS.load()
}

#[inline(always)]
pub(crate) fn first_fragment(key: &FragmentKey) -> FragmentNote {
    // SAFETY: of a note that is replaced meanwhile, each half is right at one of the two times.
    unsafe { FRAGMENTS.get(key) }.copied().unwrap_or(FragmentNote::NONE)
}

/// No room (an LRU finds some) or a race for it: the other fragments are then dropped, and counted.
#[inline(always)]
pub(crate) fn remember_fragments(key: &FragmentKey, note: &FragmentNote) {
    let _dropped = FRAGMENTS.insert(key, note, 0);
}

#[inline(always)]
pub(crate) fn forget_fragments(key: &FragmentKey) {
    let _unknown = FRAGMENTS.remove(key);
}

#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> FlowRecord {
    // SAFETY: as for fragments; of a record that is replaced meanwhile, each half is right at one of the two times.
    unsafe { FLOWS.get(key) }.copied().unwrap_or(FlowRecord::NONE)
}

/// A note that cannot be written is as one that was evicted.
#[inline(always)]
pub(crate) fn set_flow(key: &FlowKey, record: &FlowRecord) {
    let _evicted = FLOWS.insert(key, record, 0);
}

#[inline(always)]
pub(crate) fn newcomer(key: &FlowKey) -> FlowRecord {
    // SAFETY: as for flows.
    unsafe { NEWCOMERS.get(key) }.copied().unwrap_or(FlowRecord::NONE)
}

#[inline(always)]
pub(crate) fn set_newcomer(key: &FlowKey, record: &FlowRecord) {
    let _evicted = NEWCOMERS.insert(key, record, 0);
}

#[inline(always)]
pub(crate) fn away(row: u8, bucket: Bucket) -> u64 {
    let page = u32::from(row) * abi::AWAY_PAGES as u32 + u32::from(bucket) / PAGE as u32;
    match AWAY.get(page) {
        Some(times) => times[usize::from(bucket) & (PAGE - 1)],
        None => u64::MAX,
    }
}

#[inline(always)]
pub(crate) fn sight(slot: u32) -> u32 {
    match SIGHTS.get(slot / PAGE as u32) {
        Some(times) => times[slot as usize & (PAGE - 1)],
        None => u32::MAX,
    }
}

#[inline(always)]
pub(crate) fn set_sight(slot: u32, time: u32) {
    if let Some(times) = SIGHTS.get_ptr_mut(slot / PAGE as u32) {
        // SAFETY: the place is one aligned word of a page that lives as long as the map; whoever writes it at the same
        // time writes the same second, or the next.
        unsafe { (*times)[slot as usize & (PAGE - 1)] = time };
    }
}

#[inline(always)]
pub(crate) fn lease() -> Lease {
    LEASE.get(0).copied().unwrap_or_default()
}

/// The one place where frames are counted.
#[inline(always)]
pub(crate) fn count(decision: &Decision) {
    count_as(decision.reason, decision.scope);
}

#[inline(always)]
pub(crate) fn count_as(reason: Reason, scope: u32) {
    if let Some(row) = COUNTERS.get_ptr_mut(scope) {
        // The compiler knows that no reason is larger, and leaves the mask out; the verifier knows it only of what is
        // decided in this function.
        let reason = core::hint::black_box(reason as usize) & (REASON_SLOTS - 1);
        // SAFETY: the row is this CPU's own, and XDP does not run inside itself.
        unsafe { (*row)[reason] += 1 };
    }
}

/// Two CPUs may write at once: either round is a new one.
#[inline(always)]
pub(crate) fn hear(probe: &Probe) -> bool {
    if probe.cluster != CLUSTER.load() {
        return false;
    }
    if let Some(row) = PROBES.get_ptr_mut(u32::from(probe.vip)) {
        let sender = usize::from(probe.sender) & (PROBE_SENDERS - 1);
        // SAFETY: the index lies within the row; a reader sees one round or another, each a whole word.
        unsafe { (*row)[sender] = probe.round };
    }
    true
}

#[inline(always)]
pub(crate) fn audit(group: u16, bucket: Bucket, passed: bool) {
    let Some(row) = AUDIT.get_ptr_mut(u32::from(group)) else { return };
    for cell in abi::audit_cells(bucket) {
        // SAFETY: the row is this CPU's own, XDP does not run inside itself, and the index lies within the row.
        unsafe {
            let counts = &mut (*row)[cell & (AUDIT_CELLS - 1)];
            counts[0] = counts[0].wrapping_add(1);
            counts[1] = counts[1].wrapping_add(u32::from(passed));
        }
    }
}

#[inline(always)]
pub(crate) fn next_program() -> &'static ProgramArray {
    &NEXT
}

/// 0, 1, 2 … on each CPU.
#[inline(always)]
pub(crate) fn next_flow() -> u64 {
    let Some(flow) = FLOW.get_ptr_mut(0) else { return 0 };
    // SAFETY: the value is this CPU's own, and XDP does not run inside itself.
    unsafe {
        *flow += 1;
        *flow
    }
}
