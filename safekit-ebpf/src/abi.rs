//! The contract between the filter and its driver: map names, the shape of what is in them, and how many.
//!
//! Both sides compile this file and travel in one binary, so a shape cannot differ between them; [`ABI_VERSION`] is for
//! whoever opens the pinned maps from outside. Native byte order throughout: the maps never leave the machine.
//!
//! ```text
//! VIPS      address   -> Vip        direct slots: a key has one place, or it is absent (see `vip_slot`)
//! PORTS     row, port -> u8         place of the rule among its virtual IP's, from 1; 0 = no rule
//! RULES     place     -> Rule       each virtual IP's rules side by side
//! ACTIVE    group     -> 0 | 1      which of the group's two tables counts
//! TABLES    group * 2 + slot        65,536 buckets of two bits: [u64; 2048]
//! LEASE     0         -> Lease      until when this node may accept
//! COUNTERS  scope     -> [u64; 32]  per CPU, by Reason; scope 0 = no VIP, then VIPs, then rules
//! FRAGMENTS FragmentKey -> FragmentNote   datagrams whose first fragment passed, or was sent on; LRU
//!
//! for rules with `evidence: flows` only (see `flows.rs`):
//! FLOWS     FlowKey -> FlowRecord   flows that this node accepted, from their second packet on; LRU
//! NEWCOMERS FlowKey -> FlowRecord   the same before it: what a flood fills, and nothing else; LRU
//! AWAY      row * 64 + bucket / 1024   when each bucket was last another node's (boot clock, ns)
//! SIGHTS    slot / 1024             when a UDP packet that hashes here was last left to another node
//! PROBES    virtual IP -> [u32; 128]   the newest round of each sender (see `probe.rs`)
//! AUDIT     group     -> AuditRow   per CPU, opening packets by cell; only ever counts up
//! ```

/// Changes with every change of a shape in this file or of what a counter means.
pub const ABI_VERSION: u32 = 4;

pub const PROGRAM: &str = "safekit_farm";
/// Reads both clocks in one go, so that the driver can state a lease in ticks.
pub const PROGRAM_CLOCK: &str = "safekit_clock";
/// What a benchmark subtracts: the cheapest program there is.
pub const PROGRAM_EMPTY: &str = "safekit_empty";
/// Gives each repetition of a benchmark another client, then calls the filter (or the empty program).
pub const PROGRAM_FLOWS: &str = "safekit_flows";

pub const MAP_VIPS: &str = "VIPS";
pub const MAP_PORTS: &str = "PORTS";
pub const MAP_RULES: &str = "RULES";
pub const MAP_ACTIVE: &str = "ACTIVE";
pub const MAP_TABLES: &str = "TABLES";
pub const MAP_LEASE: &str = "LEASE";
pub const MAP_COUNTERS: &str = "COUNTERS";
pub const MAP_FRAGMENTS: &str = "FRAGMENTS";
pub const MAP_FLOWS: &str = "FLOWS";
pub const MAP_NEWCOMERS: &str = "NEWCOMERS";
pub const MAP_AWAY: &str = "AWAY";
pub const MAP_SIGHTS: &str = "SIGHTS";
pub const MAP_PROBES: &str = "PROBES";
pub const MAP_AUDIT: &str = "AUDIT";
/// Only for benchmarks: the program that [`PROGRAM_FLOWS`] calls.
pub const MAP_NEXT: &str = "NEXT";

/// Constants of one loading, set before it; the verifier then knows them.
pub const GLOBAL_HASH_KEY: &str = "HASH_KEY";
pub const GLOBAL_VIP_SEED: &str = "VIP_SEED";
pub const GLOBAL_CLOCK: &str = "CLOCK";
pub const GLOBAL_LIMITS: &str = "LIMITS";
pub const GLOBAL_CLUSTER: &str = "CLUSTER";

pub const BUCKETS: usize = 65_536;
pub const BUCKETS_PER_WORD: usize = 32;
pub const TABLE_WORDS: usize = BUCKETS / BUCKETS_PER_WORD;
pub const GROUPS_MAX: usize = 64;
pub const VIPS_MAX: usize = 64;
pub const RULES_MAX: usize = 256;
/// A row of PORTS has one byte for the place, and 0 is taken.
pub const RULES_OF_VIP_MAX: usize = 255;
/// Slots are many more than keys, so that a seed without a collision is found after a few dozen tries.
pub const VIP_SLOTS: usize = 1024;
pub const PORTS: usize = 65_536;
/// Datagrams under way in fragments, at the most.
pub const FRAGMENTS_MAX: usize = 8192;
pub const FLOWS_MAX: usize = 65_536;
pub const NEWCOMERS_MAX: usize = 16_384;
/// AWAY and SIGHTS come in pages, so that a plan without such rules has one page of each and not half a megabyte.
pub const PAGE: usize = 1024;
pub const AWAY_PAGES: usize = BUCKETS / PAGE;
pub const SIGHT_PAGES: usize = 256;
pub const SIGHTS: usize = PAGE * SIGHT_PAGES;
pub const SCOPES: usize = 1 + VIPS_MAX + RULES_MAX;
/// A power of two above the number of reasons: an index masked with it needs no other check.
pub const REASON_SLOTS: usize = 32;

/// One group's table: two bits a bucket, see [`BucketState`](crate::verdict::BucketState).
pub type Table = [u64; TABLE_WORDS];
pub type CounterRow = [u64; REASON_SLOTS];
/// All ports of one virtual IP and protocol; virtual IPs with the same rules share a row.
pub type PortRow = [u8; PORTS];
pub type AwayPage = [u64; PAGE];
pub type SightPage = [u32; PAGE];

/// Virtual IPs that can be probed, by their place in the configuration.
pub const PROBE_VIPS: usize = 256;
pub const PROBE_SENDERS: usize = 128;
/// The newest round of each sender of probes to one virtual IP; zero: none.
pub type ProbeRow = [u32; PROBE_SENDERS];

/// Half of a group's cells: the buckets whose upper ten bits are one number, then those whose lower ten bits are.
pub const AUDIT_HALF: usize = 1024;
pub const AUDIT_CELLS: usize = 2 * AUDIT_HALF;

/// The two cells of a bucket. Together they tell it from every other.
#[inline(always)]
pub const fn audit_cells(bucket: u16) -> [usize; 2] {
    [(bucket >> 6) as usize & (AUDIT_HALF - 1), AUDIT_HALF + (bucket as usize & (AUDIT_HALF - 1))]
}

/// Opening packets that this node has seen and passed: by cell, wrapping.
pub type AuditRow = [[u32; 2]; AUDIT_CELLS];

/// An address as two words, most significant first. IPv4 is mapped (`::ffff:a.b.c.d`), as in RFC 4291 2.5.5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Address(pub u64, pub u64);

impl Address {
    #[inline(always)]
    pub const fn v4(address: u32) -> Self {
        Self(0, 0xffff_0000_0000 | address as u64)
    }

    /// The network byte order's sixteen bytes.
    pub const fn v6(octets: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(octets);
        Self((bits >> 64) as u64, bits as u64)
    }

    #[inline(always)]
    pub const fn is_mapped_v4(self) -> bool {
        self.0 == 0 && self.1 >> 32 == 0xffff
    }

    /// No host has it: the mark of an empty slot.
    pub const UNSPECIFIED: Self = Self(0, 0);
}

/// A virtual IP of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Vip {
    pub address: Address,
    pub interface: u32,
    /// Its place among the virtual IPs, below [`VIPS_MAX`].
    pub index: u16,
    /// Whose table decides about ARP, neighbour discovery and echo.
    pub group: u16,
    /// What ARP answers name.
    pub virtual_mac: [u8; 6],
    /// The network card's own: what the stack accepts, and the only source that frames may have.
    pub own_mac: [u8; 6],
    /// The place of its first rule; the others follow.
    pub first_rule: u16,
    /// Its rows of PORTS, or [`NO_ROW`].
    pub tcp_row: u16,
    pub udp_row: u16,
    pub pad: [u8; 6],
}

pub const NO_ROW: u16 = u16::MAX;

impl Vip {
    pub const EMPTY: Self = Self {
        address: Address::UNSPECIFIED,
        interface: 0,
        index: 0,
        group: 0,
        virtual_mac: [0; 6],
        own_mac: [0; 6],
        first_rule: 0,
        tcp_row: NO_ROW,
        udp_row: NO_ROW,
        pad: [0; 6],
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    pub balance: Balance,
    /// Its place among the rules, below [`RULES_MAX`].
    pub index: u16,
    pub group: u16,
    pub evidence: EvidenceBy,
    /// The rows of AWAY that are its group's; only for rules with flows.
    pub away: u8,
    pub pad: [u8; 2],
}

/// What of the client decides its bucket: one mask for each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Balance {
    pub ipv6: Address,
    pub ipv4: u32,
    pub port: u16,
    pub pad: [u8; 2],
}

impl Balance {
    pub const CONNECTION: Self = Self { port: u16::MAX, ..Self::CLIENT };
    pub const CLIENT: Self = Self::network(32, 128);

    /// By the client's network, of these prefix lengths (at most 32 and 128).
    pub const fn network(ipv4: u8, ipv6: u8) -> Self {
        let v4 = (u32::MAX as u64) << (32 - ipv4);
        let v6 = match ipv6 {
            0 => 0,
            _ => u128::MAX << (128 - ipv6),
        };
        Self { ipv6: Address((v6 >> 64) as u64, v6 as u64), ipv4: v4 as u32, port: 0, pad: [0; 2] }
    }
}

/// What tells a connection of this node in a bucket on the move. Only the driver writes the map, so no other byte is in
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EvidenceBy {
    /// The kernel's own sockets.
    Sockets = 0,
    /// FLOWS, where every node sees every packet.
    Flows = 1,
    /// FLOWS, where a node sees only what is sent on to it: it cannot know that a flow is new.
    FlowsUnwatched = 2,
}

/// A datagram in fragments (RFC 791 3.2; RFC 8200 4.5, which leaves the protocol out: it is 0 there).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    pub source: Address,
    pub id: u32,
    /// The virtual IP that it goes to, by its place.
    pub vip: u16,
    pub protocol: u8,
    pub pad: u8,
}

impl FragmentKey {
    /// Of no datagram.
    pub const NONE: Self = Self { source: Address::UNSPECIFIED, id: 0, vip: 0, protocol: 0, pad: 0 };
}

/// What became of a datagram's first fragment: the others follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentNote {
    /// On the boot clock.
    pub until_ns: u64,
    /// Where it was sent, as [`Trail`](crate::forward::Trail) has it; 0: it passed here.
    pub trail: u64,
}

impl FragmentNote {
    /// Of a datagram that is not known: it is over.
    pub const NONE: Self = Self { until_ns: 0, trail: 0 };
}

/// A client's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    pub client: Address,
    pub client_port: u16,
    pub port: u16,
    /// The virtual IP, by its place.
    pub vip: u16,
    pub protocol: u8,
    pub pad: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowRecord {
    /// When a packet of it last passed here, to a second or so.
    pub seen_ns: u64,
    /// 1 once its client has said FIN or RST.
    pub closing: u64,
}

impl FlowRecord {
    /// Of a flow that is not noted: it never counts.
    pub const NONE: Self = Self { seen_ns: 0, closing: 0 };
}

/// How long something is remembered, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Limits {
    /// From a datagram's first fragment on.
    pub fragment_ns: u64,
    /// From a flow's last packet on.
    pub udp_ns: u64,
    pub tcp_ns: u64,
    /// TCP, after FIN or RST, and before the second packet.
    pub tcp_short_ns: u64,
}

impl Limits {
    /// Linux gives up a datagram after 30 s (`ipfrag_time`); RFC 4787 REQ-5 and RFC 5382 REQ-5 bound flows from below
    /// where nothing else tells that they have ended.
    pub const DEFAULT: Self = Self {
        fragment_ns: 30_000_000_000,
        udp_ns: 30_000_000_000,
        tcp_ns: 7_440_000_000_000,
        tcp_short_ns: 60_000_000_000,
    };
}

/// Until when the filter may accept. The driver writes both clocks; [`GLOBAL_CLOCK`] says which one is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Lease {
    /// The first tick (`jiffies64`) at which it has ended.
    pub jiffies: u64,
    /// The first nanosecond of the boot clock at which it has ended.
    pub boot_ns: u64,
}

pub const CLOCK_JIFFIES: u64 = 0;
pub const CLOCK_PRECISE: u64 = 1;

/// Where an address has its place. A multiplication by an odd seed: the driver tries seeds until none collide.
#[inline(always)]
pub const fn vip_slot(address: Address, seed: u64) -> u32 {
    ((address.0.rotate_left(32) ^ address.1).wrapping_mul(seed) >> (64 - VIP_SLOTS.trailing_zeros())) as u32
}

/// The counters of packets that are about no virtual IP.
pub const SCOPE_NONE: u32 = 0;

#[inline(always)]
pub const fn scope_of_vip(index: u16) -> u32 {
    1 + index as u32
}

#[inline(always)]
pub const fn scope_of_rule(index: u16) -> u32 {
    1 + VIPS_MAX as u32 + index as u32
}
