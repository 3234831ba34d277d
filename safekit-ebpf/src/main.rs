//! The XDP entry: hands the frame to [`safekit_ebpf::decide`], carries out its verdict, counts its reason.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2, xdp_action,
};
use aya_ebpf::helpers::generated::{
    bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_ktime_get_ns, bpf_sk_release, bpf_skc_lookup_tcp,
    bpf_tcp_check_syncookie,
};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use safekit_ebpf::abi::{self, Address, Rule, RuleKey, VirtualIp};
use safekit_ebpf::decide::arp_answer;
use safekit_ebpf::packet::{Frame, Ip, Ports, Version};
use safekit_ebpf::{Decision, Reason, Verdict, World, decide};

/// Filled in by the loader; the verifier then knows them as constants.
#[unsafe(no_mangle)]
static HASH_KEY: [u64; 2] = [0; 2];
#[unsafe(no_mangle)]
static LEASE_CLOCK: u32 = abi::LEASE_CLOCK_JIFFIES;

#[xdp]
pub fn safekit_filter(context: XdpContext) -> u32 {
    let decision = decide(&Packet(&context), &Kernel(&context));
    let (action, decision) = carry_out(&context, decision);
    maps::count(&decision);
    action
}

/// The verdict as the kernel wants it. An interface that the filter does not know has no own MAC to write.
#[inline(always)]
fn carry_out(context: &XdpContext, decision: Decision) -> (u32, Decision) {
    match decision.verdict {
        Verdict::Untouched => (xdp_action::XDP_PASS, decision),
        Verdict::Drop => (xdp_action::XDP_DROP, decision),
        Verdict::Accept => match accept(context) {
            Some(()) => (xdp_action::XDP_PASS, decision),
            None => unknown_interface(decision),
        },
        Verdict::Answer => match answer(context, &decision) {
            Some(()) => (xdp_action::XDP_TX, decision),
            None => unknown_interface(decision),
        },
    }
}

#[inline(always)]
fn unknown_interface(decision: Decision) -> (u32, Decision) {
    (xdp_action::XDP_DROP, Decision { verdict: Verdict::Drop, reason: Reason::Interface, ..decision })
}

/// Addresses the frame to this node: the stack drops what was sent to another MAC.
#[inline(always)]
fn accept(context: &XdpContext) -> Option<()> {
    let own = maps::interface(context.ingress_ifindex() as u32)?;
    write(context, 0, own.mac)
}

#[inline(always)]
fn answer(context: &XdpContext, decision: &Decision) -> Option<()> {
    let own = maps::interface(context.ingress_ifindex() as u32)?;
    let packet = Packet(context);
    let offset = decision.answer.offset;
    let (header, arp) =
        arp_answer(packet.bytes::<12>(0)?, packet.bytes::<28>(offset)?, own.mac, decision.answer.mac);
    write(context, 0, header)?;
    write(context, offset, arp)
}

/// The frame's bytes, each read checked against its end as the verifier wants it.
struct Packet<'a>(&'a XdpContext);

impl Frame for Packet<'_> {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = at::<[u8; N]>(self.0, offset)?;
        // SAFETY: checked against the frame's end.
        Some(unsafe { *start })
    }
}

/// Longer than any header chain that we follow: gives the verifier a bound.
const OFFSET_MASK: usize = 0x3fff;

#[inline(always)]
fn at<T>(context: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = context.data() + (offset & OFFSET_MASK);
    if start + size_of::<T>() > context.data_end() {
        return None;
    }
    Some(start as *mut T)
}

#[inline(always)]
fn write<const N: usize>(context: &XdpContext, offset: usize, bytes: [u8; N]) -> Option<()> {
    let start = at::<[u8; N]>(context, offset)?;
    // SAFETY: checked against the frame's end.
    unsafe { *start = bytes };
    Some(())
}

struct Kernel<'a>(&'a XdpContext);

impl World for Kernel<'_> {
    #[inline(always)]
    fn hash_key(&self) -> [u64; 2] {
        // SAFETY: the loader writes it before the program exists; volatile, or the compiler would fold the zeros in.
        unsafe { core::ptr::read_volatile(&raw const HASH_KEY) }
    }

    #[inline(always)]
    fn virtual_ip(&self, address: &Address) -> Option<VirtualIp> {
        maps::virtual_ip(address)
    }

    #[inline(always)]
    fn rule(&self, key: &RuleKey) -> Option<Rule> {
        maps::rule(key)
    }

    #[inline(always)]
    fn table_word(&self, group: u16, bucket: u16) -> u64 {
        maps::table_word(group, bucket)
    }

    #[inline(always)]
    fn lease_live(&self) -> bool {
        // SAFETY: as for the hash key; the helpers only read clocks.
        let now = unsafe {
            if core::ptr::read_volatile(&raw const LEASE_CLOCK) == abi::LEASE_CLOCK_JIFFIES {
                bpf_jiffies64()
            } else {
                bpf_ktime_get_boot_ns()
            }
        };
        now < maps::lease()
    }

    #[inline(always)]
    fn has_socket(&self, ip: &Ip, ports: Ports, transport: usize) -> bool {
        has_socket(self.0, ip, ports, transport)
    }
}

/// The kernel's `TCP_LISTEN`.
const LISTEN: u32 = 10;

/// A socket that has the connection; or a listener, when the segment completes a handshake that it answered with a
/// cookie.
#[inline(always)]
fn has_socket(context: &XdpContext, ip: &Ip, ports: Ports, transport: usize) -> bool {
    // SAFETY: all zero is a valid tuple.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = match ip.version {
        Version::V4 => {
            tuple.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: ip.source.0[3],
                daddr: ip.target.0[3],
                sport: ports.source,
                dport: ports.target,
            };
            size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>()
        }
        Version::V6 => {
            tuple.__bindgen_anon_1.ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: ip.source.0,
                daddr: ip.target.0,
                sport: ports.source,
                dport: ports.target,
            };
            size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>()
        }
    };
    // SAFETY: the tuple lives through the call; the reference is released below, on the only path out.
    unsafe {
        let socket = bpf_skc_lookup_tcp(
            context.ctx.cast(),
            &raw mut tuple,
            size as u32,
            BPF_F_CURRENT_NETNS as u64,
            0,
        );
        if socket.is_null() {
            return false;
        }
        let found = (*socket).state != LISTEN || answered_by_cookie(context, socket.cast(), ip, transport);
        bpf_sk_release(socket.cast());
        found
    }
}

#[inline(always)]
unsafe fn answered_by_cookie(
    context: &XdpContext,
    listener: *mut core::ffi::c_void,
    ip: &Ip,
    transport: usize,
) -> bool {
    let Some(tcp) = at::<[u8; 20]>(context, transport) else { return false };
    // SAFETY: both headers are inside the frame, and the caller holds the listener.
    unsafe {
        match ip.version {
            Version::V4 => {
                let Some(header) = at::<[u8; 20]>(context, ip.offset) else { return false };
                bpf_tcp_check_syncookie(listener.cast(), header.cast(), 20, tcp.cast(), 20) == 0
            }
            Version::V6 => {
                let Some(header) = at::<[u8; 40]>(context, ip.offset) else { return false };
                bpf_tcp_check_syncookie(listener.cast(), header.cast(), 40, tcp.cast(), 20) == 0
            }
        }
    }
}

/// Writes both clocks into the frame, so that the daemon can tell one from the other: jiffies, then nanoseconds of
/// `CLOCK_MONOTONIC`. Only ever run by hand.
#[xdp]
pub fn safekit_clocks(context: XdpContext) -> u32 {
    // SAFETY: the helpers only read clocks.
    let clocks = unsafe { [bpf_jiffies64(), bpf_ktime_get_ns()] };
    match at::<[u64; 2]>(&context, 0) {
        Some(start) => {
            // SAFETY: checked against the frame's end; frames are not aligned.
            unsafe { start.write_unaligned(clocks) };
            xdp_action::XDP_PASS
        }
        None => xdp_action::XDP_ABORTED,
    }
}

/// Does nothing: what the benchmark subtracts.
#[xdp]
pub fn safekit_empty(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Gives the frame of a benchmark another client each time, then calls what [`maps::SCATTERED`] holds. A single flow
/// in a loop would find everything in the processor's caches.
#[xdp]
pub fn safekit_scatter(context: XdpContext) -> u32 {
    let (address, port) = abi::scattered_client(maps::scatter_step());
    let written = write(&context, 26, address).and_then(|()| write(&context, 34, port));
    if written.is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: a call that fails comes back.
    let _missing = unsafe { maps::SCATTERED.tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier admits no program that could come here.
    unsafe { core::hint::unreachable_unchecked() }
}
