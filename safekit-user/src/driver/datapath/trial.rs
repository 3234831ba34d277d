//! What `safekit doctor` asks of the kernel: whether it takes the filter, and what is on an interface already.

use std::io;
use std::path::Path;

use safekit_ebpf::abi;

use super::attach::GENERIC_DRIVERS;
use super::lease::Reading;
use super::pins::What;
use super::{Datapath, Error, LeaseClock, Mode, Plan, sys};
use crate::driver::clock;

/// A filter that was loaded for a moment.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// To machine code.
    pub compiled: bool,
    /// This process's boot clock less the filter's, in nanoseconds.
    pub clock_ahead_ns: i64,
    pub by_ticks: bool,
}

/// Loads the filter of a plan, hangs it nowhere, and lets it go.
pub fn try_loading(plan: &Plan) -> Result<Trial, Error> {
    let datapath = Datapath::load_for_test(plan, |_| (u32::MAX, [0; 6]))?;
    let program = datapath.object.program(abi::PROGRAM)?;
    let info = program.info().map_err(|source| Error::Verify { program: abi::PROGRAM, source })?;
    let clock_program = datapath.object.program(abi::PROGRAM_CLOCK)?;
    let reading = Reading::take(clock_program).map_err(Error::Clock)?;
    Ok(Trial {
        compiled: info.size_jitted() > 0,
        clock_ahead_ns: clock::now().0.wrapping_sub(reading.boot_ns()) as i64,
        by_ticks: matches!(datapath.clock, LeaseClock::Ticks { .. }),
    })
}

/// Why the filter will be attached in generic mode on an interface with this driver; none where native mode is tried.
pub fn generic_because(driver: Option<&str>) -> Option<String> {
    let driver = driver.filter(|driver| GENERIC_DRIVERS.contains(driver))?;
    Some(format!("{driver} interfaces need it"))
}

/// The interface's driver, by its own account.
pub fn driver(interface: &str) -> Option<String> {
    sys::Interface::find(interface).ok()?.driver
}

/// Number and MAC of an interface.
pub fn index_and_mac(interface: &str) -> io::Result<(u32, [u8; 6])> {
    let found = sys::Interface::find(interface)?;
    Ok((found.index, found.mac))
}

/// Whether a daemon of this directory has its filter on the interface.
pub fn is_pinned(pin_dir: &Path, interface: &str) -> bool {
    [Mode::Native, Mode::Generic].iter().any(|mode| What::Filter(*mode).pin(pin_dir, interface).exists())
}

/// linux/bpf.h
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// More programs on one place than anybody runs; the kernel says when there are more.
const PROGRAMS_MAX: usize = 64;

/// Fields of `union bpf_attr` for BPF_PROG_QUERY.
#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    interface: u32,
    place: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    pad: u32,
}

/// Ids of the programs that hang on an interface by TCX; none on kernels before 6.6, which have no such place.
pub fn tcx_programs(interface: u32, ingress: bool) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; PROGRAMS_MAX];
    let mut attributes = QueryAttributes {
        interface,
        place: if ingress { BPF_TCX_INGRESS } else { BPF_TCX_EGRESS },
        ids: ids.as_mut_ptr() as u64,
        count: PROGRAMS_MAX as u32,
        ..Default::default()
    };
    // SAFETY: the kernel reads the attributes and writes `count` of them, and at most as many ids as `count` said;
    // both live until the call returns.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attributes, size_of::<QueryAttributes>())
    };
    if answer == 0 {
        return Ok(ids[..(attributes.count as usize).min(PROGRAMS_MAX)].to_vec());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOENT | libc::ENODEV) => Ok(Vec::new()),
        Some(libc::ENOSPC) => Ok(ids.to_vec()),
        Some(_) | None => Err(error),
    }
}
