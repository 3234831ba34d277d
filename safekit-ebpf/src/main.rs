//! The XDP entry: what the kernel calls for each frame.
#![no_std]
#![no_main]

mod egress;
mod maps;
mod roads;

use core::cell::Cell;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_sock_tuple, xdp_action};
use aya_ebpf::helpers::{
    bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie,
};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use safekit_ebpf::abi::{Address, FlowKey, FlowRecord, FragmentKey, FragmentNote, Limits, Rule, Vip};
use safekit_ebpf::flow::{Bucket, HashKey};
use safekit_ebpf::forward::{About, Asked, Detour, Road, Roads, Trail, detour};
use safekit_ebpf::guard;
use safekit_ebpf::packet::{Ethernet, Frame, FrameMut, Ip, OFFSET_MAX, Plain, Protocol, Version};
use safekit_ebpf::probe::Probe;
use safekit_ebpf::verdict::{BucketState, Evidence, Flow, Verdict, World, apply, decide, note_of};

#[xdp]
pub(crate) fn safekit_farm(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::of(&context);
    if let Some(ethernet) = frame.read::<Ethernet>(0) {
        egress::note_heard(ethernet.source);
    }
    let kernel = Kernel::of(&context);
    let decision = decide(&frame, &kernel);
    let passes = matches!(decision.verdict, Verdict::Ours);
    if let Some(detour) = detour(&frame, &kernel, decision.reason, passes) {
        return follow(&mut frame, &detour, decision.scope);
    }
    maps::count(&decision);
    // The frame is as long as it was when it was read, so this cannot fail; if it did, it would not be ours to pass.
    if apply(&mut frame, &decision).is_none() {
        return xdp_action::XDP_DROP;
    }
    match decision.verdict {
        Verdict::NotFarm | Verdict::Ours => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Answer | Verdict::Advertise => xdp_action::XDP_TX,
    }
}

#[inline(always)]
fn follow(frame: &mut XdpFrame, detour: &Detour, scope: u32) -> u32 {
    match detour {
        Detour::Drop(reason) => {
            maps::count_as(*reason, scope);
            xdp_action::XDP_DROP
        }
        Detour::Forward(reason, forward) => {
            maps::count_as(*reason, scope);
            roads::count(forward.hop);
            match forward.write(frame) {
                Some(()) => xdp_action::XDP_TX,
                None => xdp_action::XDP_DROP,
            }
        }
    }
}

/// Both clocks, read together: `[jiffies64, boot ns]` in the first sixteen bytes. Boot time is read last, so the tick
/// that it is paired with had already begun.
#[xdp]
pub(crate) fn safekit_clock(context: XdpContext) -> u32 {
    // SAFETY: both helpers only return a number.
    let reading = unsafe { Clocks([bpf_jiffies64(), bpf_ktime_get_boot_ns()]) };
    match XdpFrame::of(&context).write(0, reading) {
        Some(()) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// The floor of a measurement.
#[xdp]
pub(crate) fn safekit_empty(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Gives a frame (Ethernet, IPv4 without options, TCP) another of 65,536 clients, scattered, and calls the program
/// under measurement: 256 addresses with 256 ports each.
#[xdp]
pub(crate) fn safekit_flows(context: XdpContext) -> u32 {
    const SOURCE_LAST_BYTE: usize = 29;
    const SOURCE_PORT: usize = 34;
    let flow = maps::next_flow().wrapping_mul(40_503);
    let mut frame = XdpFrame::of(&context);
    let port = [0x80, (flow >> 8) as u8];
    if frame.write(SOURCE_LAST_BYTE, [flow as u8]).is_none() || frame.write(SOURCE_PORT, port).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the verifier checks the target; when there is none, control comes back.
    unsafe { maps::next_program().tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}

/// The frame between `data` and `data_end`.
struct XdpFrame {
    data: usize,
    end: usize,
}

impl XdpFrame {
    #[inline(always)]
    fn of(context: &XdpContext) -> Self {
        Self { data: context.data(), end: context.data_end() }
    }

    /// Where a `T` lies at `offset`. The verifier follows both comparisons.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<usize> {
        if offset > OFFSET_MAX {
            return None;
        }
        let place = self.data + offset;
        (place + size_of::<T>() <= self.end).then_some(place)
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let place = self.at::<T>(offset)?;
        // SAFETY: `at` has checked that T lies within the frame; any bytes are a T; the read may be misaligned.
        Some(unsafe { (place as *const T).read_unaligned() })
    }

    /// A byte of the frame more, and the same byte less: to the verifier any number.
    #[inline(always)]
    fn forget_way(&self, number: usize) -> usize {
        match self.read::<[u8; 1]>(0) {
            Some([byte]) => {
                let byte = usize::from(byte);
                number.wrapping_add(byte).wrapping_sub(core::hint::black_box(byte)) & 0xffff
            }
            None => number,
        }
    }
}

impl FrameMut for XdpFrame {
    #[inline(always)]
    fn write<T: Plain>(&mut self, offset: usize, value: T) -> Option<()> {
        let place = self.at::<T>(offset)?;
        // SAFETY: `at` has checked that T lies within the frame, which is ours while the program runs.
        unsafe { (place as *mut T).write_unaligned(value) };
        Some(())
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Clocks([u64; 2]);
// SAFETY: two integers have neither padding nor invalid bit patterns.
unsafe impl Plain for Clocks {}

/// The world as the kernel sees it.
struct Kernel<'a> {
    context: &'a XdpContext,
    /// For [`detour`]: the verdict is about this bucket, and this virtual IP. In one word each, 0 = none: the compiler
    /// would keep parts of an absent value uninitialised, which the verifier refuses.
    asked: Cell<u64>,
    about: Cell<u64>,
    /// [`Trail`] of the first fragment, where the frame is a later one of a datagram that was sent on.
    followed: Cell<u64>,
    /// Where the frame is a first fragment that does not pass: of which datagram.
    is_first: Cell<u64>,
    first: Cell<FragmentKey>,
}

impl<'a> Kernel<'a> {
    #[inline(always)]
    fn of(context: &'a XdpContext) -> Self {
        Self {
            context,
            asked: Cell::new(0),
            about: Cell::new(0),
            followed: Cell::new(0),
            is_first: Cell::new(0),
            first: Cell::new(FragmentKey::NONE),
        }
    }
}

impl World for Kernel<'_> {
    #[inline(always)]
    fn hash_key(&self) -> HashKey {
        maps::hash_key()
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn vip(&self, address: Address) -> Option<&Vip> {
        let vip = maps::vip(address);
        if let Some(vip) = vip.filter(|vip| roads::is_directed(vip)) {
            self.about.set(guard::key(vip.own_mac) | u64::from(vip.index) << 48 | 1 << 63);
        }
        vip
    }

    #[inline(always)]
    fn rule(&self, vip: &Vip, protocol: Protocol, port: u16) -> Option<&Rule> {
        let row = match protocol {
            Protocol::Tcp => vip.tcp_row,
            Protocol::Udp => vip.udp_row,
        };
        maps::rule(vip, row, port)
    }

    #[inline(always)]
    fn bucket(&self, group: u16, bucket: Bucket) -> BucketState {
        let state = maps::bucket(group, bucket);
        self.asked.set(u64::from(group) << 32 | u64::from(bucket) << 16 | (state as u64) << 8 | 1);
        state
    }

    #[inline(always)]
    fn asks_me_alone(&self, vip: &Vip) -> bool {
        let named = XdpFrame::of(self.context).read::<Ethernet>(0).map(|ethernet| ethernet.destination);
        roads::is_directed(vip) && named == Some(vip.own_mac)
    }

    /// Ticks cost one load; the exact clock costs about 30 ns. The driver states the lease so that ticks are safe, and
    /// chooses the exact clock where they would shorten the lease too much (see `driver/datapath/lease.rs`).
    #[inline(always)]
    fn lease_holds(&self) -> bool {
        let lease = maps::lease();
        if maps::clock_is_precise() {
            // SAFETY: the helper only returns a number.
            unsafe { bpf_ktime_get_boot_ns() < lease.boot_ns }
        } else {
            // SAFETY: the helper only returns a number.
            unsafe { bpf_jiffies64() < lease.jiffies }
        }
    }

    #[inline(always)]
    fn hear(&self, probe: &Probe) -> bool {
        maps::hear(probe)
    }

    #[inline(always)]
    fn audit(&self, group: u16, bucket: Bucket, passed: bool) {
        maps::audit(group, bucket, passed);
    }

    #[inline(always)]
    fn evidence(&self, ip: &Ip, flow: &Flow) -> Evidence {
        let (mut tuple, length) = socket_tuple(ip, flow);
        // SAFETY: context and tuple live; the reference that comes back is released below, on the only path.
        let socket =
            unsafe { bpf_skc_lookup_tcp(self.context.as_ptr(), &raw mut tuple, length, CURRENT_NETNS, 0) };
        if socket.is_null() {
            return Evidence::None;
        }
        // SAFETY: not null, and we hold a reference; `state` is readable for every kind of socket (Linux 5.2).
        let listens = unsafe { (*socket).state } == TCP_LISTEN;
        let evidence = if !listens {
            Evidence::Connection
        } else if flow.header != 0 && self.acknowledges_cookie(socket.cast(), ip, flow.header) {
            Evidence::Cookie
        } else {
            Evidence::None
        };
        // SAFETY: the reference from above, released once.
        unsafe { bpf_sk_release(socket.cast()) };
        evidence
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: the helper only returns a number.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    #[inline(always)]
    fn limits(&self) -> Limits {
        maps::limits()
    }

    #[inline(always)]
    fn first_fragment(&self, key: &FragmentKey) -> FragmentNote {
        maps::first_fragment(key)
    }

    #[inline(always)]
    fn remember_fragments(&self, key: &FragmentKey, note: &FragmentNote) {
        maps::remember_fragments(key, note);
    }

    #[inline(always)]
    fn forget_fragments(&self, key: &FragmentKey) {
        maps::forget_fragments(key);
        self.first.set(*key);
        self.is_first.set(1);
    }

    #[inline(always)]
    fn follow_trail(&self, trail: Trail) {
        self.followed.set(trail.0);
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> FlowRecord {
        maps::flow(key)
    }

    #[inline(always)]
    fn set_flow(&self, key: &FlowKey, record: &FlowRecord) {
        maps::set_flow(key, record);
    }

    #[inline(always)]
    fn newcomer(&self, key: &FlowKey) -> FlowRecord {
        maps::newcomer(key)
    }

    #[inline(always)]
    fn set_newcomer(&self, key: &FlowKey, record: &FlowRecord) {
        maps::set_newcomer(key, record);
    }

    #[inline(always)]
    fn away(&self, row: u8, bucket: Bucket) -> u64 {
        maps::away(row, bucket)
    }

    #[inline(always)]
    fn sight(&self, slot: u32) -> u32 {
        maps::sight(slot)
    }

    #[inline(always)]
    fn set_sight(&self, slot: u32, time: u32) {
        maps::set_sight(slot, time);
    }
}

impl Roads for Kernel<'_> {
    #[inline(always)]
    fn directed(&self) -> Option<About> {
        let about = self.about.get();
        let [_, _, a, b, c, d, e, f] = about.to_be_bytes();
        (about != 0).then_some(About { index: (about >> 48) as u16 & 0x7fff, own_mac: [a, b, c, d, e, f] })
    }

    #[inline(always)]
    fn asked(&self) -> Option<Asked> {
        let asked = self.asked.get();
        let state = BucketState::in_word(asked >> 8 & 0b11, 0);
        let (group, bucket) = ((asked >> 32) as u16, (asked >> 16) as Bucket);
        (asked != 0).then_some(Asked { group, bucket, state })
    }

    #[inline(always)]
    fn road(&self, asked: &Asked) -> Road {
        roads::road(asked)
    }

    #[inline(always)]
    fn peer_mac(&self, vip: u16, node: u8) -> Option<[u8; 6]> {
        roads::peer_mac(vip, node)
    }

    #[inline(always)]
    fn mark(&self) -> [u8; 6] {
        roads::mark()
    }

    #[inline(always)]
    fn followed(&self) -> Trail {
        Trail(self.followed.get())
    }

    #[inline(always)]
    fn leave_trail(&self, trail: Trail) {
        if self.is_first.get() != 0 {
            maps::remember_fragments(&self.first.get(), &note_of(trail, self));
        }
    }
}

const TCP_LISTEN: u32 = 10;
/// The network namespace of the device that the frame came in by.
const CURRENT_NETNS: u64 = u64::MAX;

impl Kernel<'_> {
    /// The kernel reads no further than the fixed headers, although options may follow (`bpf_tcp_check_syncookie`,
    /// Linux 5.2 to 6.18).
    #[inline(always)]
    fn acknowledges_cookie(&self, listener: *mut core::ffi::c_void, ip: &Ip, tcp: usize) -> bool {
        let frame = XdpFrame::of(self.context);
        let Some(tcp_header) = frame.at::<[u8; TCP_HEADER]>(tcp) else { return false };
        match ip.version {
            Version::V4 => {
                let Some(header) = frame.at::<[u8; IPV4_HEADER]>(ip.offset) else { return false };
                check_cookie(listener, header, IPV4_HEADER, tcp_header)
            }
            Version::V6 => {
                let Some(header) = frame.at::<[u8; IPV6_HEADER]>(ip.offset) else { return false };
                check_cookie(listener, header, IPV6_HEADER, tcp_header)
            }
        }
    }
}

const TCP_HEADER: usize = 20;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

#[inline(always)]
fn check_cookie(listener: *mut core::ffi::c_void, ip: usize, ip_length: usize, tcp: usize) -> bool {
    // SAFETY: both headers lie within the frame for the lengths given, and the listener is held by the caller.
    let answer = unsafe {
        bpf_tcp_check_syncookie(
            listener,
            ip as *mut core::ffi::c_void,
            ip_length as u32,
            tcp as *mut _,
            TCP_HEADER as u32,
        )
    };
    answer == 0
}

/// The connection as a socket of this node would have it, in network order; the length tells the family.
#[inline(always)]
fn socket_tuple(ip: &Ip, flow: &Flow) -> (bpf_sock_tuple, u32) {
    // SAFETY: integers only.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let (sport, dport) = (flow.client_port.to_be(), flow.port.to_be());
    match ip.version {
        Version::V4 => {
            let v4 = aya_ebpf::bindings::bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: (flow.client.1 as u32).to_be(),
                daddr: (ip.destination.1 as u32).to_be(),
                sport,
                dport,
            };
            tuple.__bindgen_anon_1.ipv4 = v4;
            (tuple, size_of_val(&v4) as u32)
        }
        Version::V6 => {
            let v6 = aya_ebpf::bindings::bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: words(flow.client),
                daddr: words(ip.destination),
                sport,
                dport,
            };
            tuple.__bindgen_anon_1.ipv6 = v6;
            (tuple, size_of_val(&v6) as u32)
        }
    }
}

#[inline(always)]
fn words(address: Address) -> [u32; 4] {
    [
        ((address.0 >> 32) as u32).to_be(),
        (address.0 as u32).to_be(),
        ((address.1 >> 32) as u32).to_be(),
        (address.1 as u32).to_be(),
    ]
}

/// GPL-compatible, as the clock and cookie helpers ask.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program from which this can be reached; nothing in it panics.
    loop {}
}
