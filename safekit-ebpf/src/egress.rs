//! The guard: what the kernel calls for each frame on its way out, and the maps of leaked virtual MACs.

use aya_ebpf::bindings::{TC_ACT_PIPE, TC_ACT_SHOT};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{HashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use safekit_ebpf::abi::VIPS_MAX;
use safekit_ebpf::guard::{self, Leaks};

#[map]
static VIRTUAL_MACS: HashMap<u64, u32> = HashMap::with_max_entries(VIPS_MAX as u32, 0);
#[map]
static LEAKS: PerCpuArray<Leaks> = PerCpuArray::with_max_entries(VIPS_MAX as u32, 0);

const SOURCE: usize = 6;

/// "Pipe" and not "ok": other programs on the same way out have their turn.
#[classifier]
pub(crate) fn safekit_guard(context: TcContext) -> i32 {
    let Ok(source) = context.load::<[u8; 6]>(SOURCE) else { return TC_ACT_PIPE as i32 };
    match leaks_of(source) {
        Some(leaks) => {
            // SAFETY: the row is this CPU's own; a second frame on it waits for the end of this one.
            unsafe { (*leaks).sent += 1 };
            TC_ACT_SHOT as i32
        }
        None => TC_ACT_PIPE as i32,
    }
}

/// Counts a frame from outside whose source is a virtual MAC. It goes on as any other: the harm is done in the switch.
#[inline(always)]
pub(crate) fn note_heard(source: [u8; 6]) {
    if let Some(leaks) = leaks_of(source) {
        // SAFETY: the row is this CPU's own, and XDP does not run inside itself.
        unsafe { (*leaks).heard += 1 };
    }
}

#[inline(always)]
fn leaks_of(source: [u8; 6]) -> Option<*mut Leaks> {
    if !guard::may_be_virtual(source) {
        return None;
    }
    // SAFETY: only the driver writes the map, before the programs run.
    let place = unsafe { VIRTUAL_MACS.get(&guard::key(source)) }?;
    LEAKS.get_ptr_mut(*place)
}
