//! Capabilities: the daemon keeps what its work needs and gives the rest back before its first thread starts.
//!
//! Where scripts are units of systemd, nothing that this process starts may have more either, so the bounding set
//! shrinks with it. Where they are children, that set stays: what root executes has all of it again (capabilities(7),
//! "Capabilities and execution of programs by root"), and scripts need what their administrator has.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::scripts::Way;

/// What the work of a daemon needs, in either way.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::KILL);
/// To start a child in a folder that belongs to another user, and to give the control socket to its group. What a unit
/// sets otherwise: room for the filter's maps, on kernels before 5.11 a limit.
const FOR_CHILDREN: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::SYS_RESOURCE);

/// The kernel has room for so many.
const CAPABILITIES_MAX: u32 = 64;

/// For the calling thread, and so for all threads and processes that it starts.
pub fn keep_what_is_needed(way: Way) -> io::Result<()> {
    let kept = match way {
        Way::Units => NEEDED,
        Way::Children => NEEDED.union(FOR_CHILDREN),
    };
    let now = capabilities(None)?;
    if way == Way::Units {
        for number in 0..CAPABILITIES_MAX {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            // One that this kernel does not know is in no set.
            let is_there = capability_is_in_bounding_set(capability).unwrap_or(false);
            if is_there && !kept.contains(capability) {
                remove_capability_from_bounding_set(capability)?;
            }
        }
        set_no_new_privs(true)?;
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: now.effective.intersection(kept),
            permitted: now.permitted.intersection(kept),
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}
