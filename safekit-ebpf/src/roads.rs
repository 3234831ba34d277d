//! The maps of directed delivery, behind names.

use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use safekit_ebpf::abi::{BUCKETS, GROUPS_MAX, VIPS_MAX, Vip};
use safekit_ebpf::forward::{Asked, HOP_SLOTS, NODES, Road};

#[unsafe(no_mangle)]
static DIRECTED: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static MARK: Global<[u8; 8]> = Global::new([0; 8]);

/// The driver makes as many as there are groups with directed delivery, twice.
#[map]
static ROADS: Array<[Road; BUCKETS]> = Array::with_max_entries(1, 0);
#[map]
static ROADS_ACTIVE: Array<u32> = Array::with_max_entries(GROUPS_MAX as u32, 0);
#[map]
static PEER_MACS: Array<u64> = Array::with_max_entries((VIPS_MAX * NODES) as u32, 0);
#[map]
static FORWARDED: PerCpuArray<[u64; HOP_SLOTS]> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub(crate) fn is_directed(vip: &Vip) -> bool {
    DIRECTED.load() >> (vip.index & 63) & 1 != 0
}

#[inline(always)]
pub(crate) fn mark() -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = MARK.load();
    [a, b, c, d, e, f]
}

/// Written into the idle entry and then switched to, as the tables are.
#[inline(always)]
pub(crate) fn road(asked: &Asked) -> Road {
    let Some(active) = ROADS_ACTIVE.get(u32::from(asked.group)) else { return Road::NONE };
    let Some(roads) = ROADS.get((*active).wrapping_sub(1)) else { return Road::NONE };
    roads[usize::from(asked.bucket)]
}

#[inline(always)]
pub(crate) fn peer_mac(vip: u16, node: u8) -> Option<[u8; 6]> {
    if usize::from(node) >= NODES {
        return None;
    }
    let mac = PEER_MACS.get(u32::from(vip) * NODES as u32 + u32::from(node))?;
    let [_, _, a, b, c, d, e, f] = mac.to_be_bytes();
    (*mac != 0).then_some([a, b, c, d, e, f])
}

#[inline(always)]
pub(crate) fn count(hop: u8) {
    if let Some(row) = FORWARDED.get_ptr_mut(0) {
        // SAFETY: the row is this CPU's own, and XDP does not run inside itself.
        unsafe { (*row)[usize::from(hop) & (HOP_SLOTS - 1)] += 1 };
    }
}
