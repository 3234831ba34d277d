//! The maps behind named functions: the only place that knows how they are kept.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, ProgramArray};
use safekit_ebpf::abi::{
    self, Address, BUCKETS_PER_WORD, Interface, Rule, RuleKey, TABLE_WORDS, Table, VirtualIp,
};
use safekit_ebpf::{Decision, Reason};

#[map]
static VIRTUAL_IPS: HashMap<Address, VirtualIp> = HashMap::with_max_entries(abi::VIRTUAL_IPS_MAX, 0);
#[map]
static RULES: HashMap<RuleKey, Rule> = HashMap::with_max_entries(abi::RULES_MAX, 0);
#[map]
static TABLES: Array<Table> = Array::with_max_entries(abi::SLOTS, 0);
#[map]
static ACTIVE: Array<u32> = Array::with_max_entries(abi::GROUPS_MAX, 0);
#[map]
static LEASE: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static INTERFACES: HashMap<u32, Interface> = HashMap::with_max_entries(abi::INTERFACES_MAX, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::COUNTERS, 0);

#[inline(always)]
pub fn virtual_ip(address: &Address) -> Option<VirtualIp> {
    // SAFETY: the daemon writes virtual IPs before it attaches the program and not after: no value changes under us.
    unsafe { VIRTUAL_IPS.get(address) }.copied()
}

#[inline(always)]
pub fn rule(key: &RuleKey) -> Option<Rule> {
    // SAFETY: as for virtual IPs.
    unsafe { RULES.get(key) }.copied()
}

#[inline(always)]
pub fn interface(index: u32) -> Option<Interface> {
    // SAFETY: as for virtual IPs.
    unsafe { INTERFACES.get(index) }.copied()
}

/// The word of a bucket in its group's active table. One word is one load: a reader sees a whole decision even while
/// the daemon fills the other slot.
#[inline(always)]
pub fn table_word(group: u16, bucket: u16) -> u64 {
    let group = u32::from(group);
    let Some(active) = ACTIVE.get(group) else { return 0 };
    // SAFETY: an aligned word that the daemon stores at once.
    let active = unsafe { core::ptr::read_volatile(active) } & 1;
    let Some(table) = TABLES.get_ptr(group * 2 + active) else { return 0 };
    let word = usize::from(bucket) / BUCKETS_PER_WORD % TABLE_WORDS;
    // SAFETY: the index lies inside the table by the line above.
    unsafe { core::ptr::read_volatile((&raw const (*table)[0]).add(word)) }
}

#[inline(always)]
pub fn lease() -> u64 {
    // SAFETY: an aligned word that the daemon stores at once.
    LEASE.get(0).map_or(0, |lease| unsafe { core::ptr::read_volatile(lease) })
}

#[inline(always)]
pub fn count(decision: &Decision) {
    count_reason(decision.scope, decision.reason);
}

#[inline(always)]
pub fn count_reason(scope: u16, reason: Reason) {
    let index = u32::from(scope) * abi::REASONS_MAX + reason as u32;
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: this processor's own counter, and a program is not interrupted by itself.
        unsafe { *counter += 1 };
    }
}

/// What the scatterer calls: the filter, or nothing.
#[map]
pub static SCATTERED: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static SCATTER_STEP: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Counts up, for the benchmark.
#[inline(always)]
pub fn scatter_step() -> u32 {
    let Some(step) = SCATTER_STEP.get_ptr_mut(0) else { return 0 };
    // SAFETY: this processor's own, and a program is not interrupted by itself.
    unsafe {
        *step += 1;
        *step
    }
}
