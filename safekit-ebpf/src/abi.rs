//! The contract between the filter and its driver: map names, the shape of what is in them, and how many.
//!
//! Both sides compile this file and travel in one binary, so a shape cannot differ between them; [`ABI_VERSION`] is for
//! whoever opens the pinned maps from outside. Native byte order throughout: the maps never leave the machine.
//!
//! ```text
//! VIPS     address  -> Vip         direct slots: a key has one place, or it is absent (see `vip_slot`)
//! RULES    RuleKey  -> Rule        the same
//! ACTIVE   group    -> 0 | 1       which of the group's two tables counts
//! TABLES   group * 2 + slot        65,536 buckets of two bits: [u64; 2048]
//! LEASE    0        -> Lease       until when this node may accept
//! COUNTERS scope    -> [u64; 32]   per CPU, by Reason; scope 0 = no VIP, then VIPs, then rules
//! PROBES   virtual IP -> [u32; 128] the newest round of each sender (see `probe.rs`)
//! AUDIT    group    -> AuditRow    per CPU, opening packets by cell; only ever counts up
//! ```

/// Changes with every change of a shape in this file or of what a counter means.
pub const ABI_VERSION: u32 = 1;

pub const PROGRAM: &str = "safekit_farm";
/// Reads both clocks in one go, so that the driver can state a lease in ticks.
pub const PROGRAM_CLOCK: &str = "safekit_clock";
/// What a benchmark subtracts: the cheapest program there is.
pub const PROGRAM_EMPTY: &str = "safekit_empty";
/// Gives each repetition of a benchmark another client, then calls the filter (or the empty program).
pub const PROGRAM_FLOWS: &str = "safekit_flows";

pub const MAP_VIPS: &str = "VIPS";
pub const MAP_RULES: &str = "RULES";
pub const MAP_ACTIVE: &str = "ACTIVE";
pub const MAP_TABLES: &str = "TABLES";
pub const MAP_LEASE: &str = "LEASE";
pub const MAP_COUNTERS: &str = "COUNTERS";
pub const MAP_PROBES: &str = "PROBES";
pub const MAP_AUDIT: &str = "AUDIT";
/// Only for benchmarks: the program that [`PROGRAM_FLOWS`] calls.
pub const MAP_NEXT: &str = "NEXT";

/// Constants of one loading, set before it; the verifier then knows them.
pub const GLOBAL_HASH_KEY: &str = "HASH_KEY";
pub const GLOBAL_VIP_SEED: &str = "VIP_SEED";
pub const GLOBAL_RULE_SEED: &str = "RULE_SEED";
pub const GLOBAL_CLOCK: &str = "CLOCK";
pub const GLOBAL_CLUSTER: &str = "CLUSTER";

pub const BUCKETS: usize = 65_536;
pub const BUCKETS_PER_WORD: usize = 32;
pub const TABLE_WORDS: usize = BUCKETS / BUCKETS_PER_WORD;
pub const GROUPS_MAX: usize = 64;
pub const VIPS_MAX: usize = 64;
pub const RULES_MAX: usize = 256;
/// Slots are many more than keys, so that a seed without a collision is found after a few dozen tries.
pub const VIP_SLOTS: usize = 1024;
pub const RULE_SLOTS: usize = 8192;
pub const SCOPES: usize = 1 + VIPS_MAX + RULES_MAX;
/// A power of two above the number of reasons: an index masked with it needs no other check.
pub const REASON_SLOTS: usize = 32;

/// One group's table: two bits a bucket, see [`BucketState`](crate::verdict::BucketState).
pub type Table = [u64; TABLE_WORDS];
pub type CounterRow = [u64; REASON_SLOTS];

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub group: u16,
    /// What ARP answers name.
    pub virtual_mac: [u8; 6],
    /// The network card's own: what the stack accepts, and the only source that frames may have.
    pub own_mac: [u8; 6],
    pub pad: [u8; 4],
}

impl Vip {
    pub const EMPTY: Self = Self {
        address: Address::UNSPECIFIED,
        interface: 0,
        index: 0,
        group: 0,
        virtual_mac: [0; 6],
        own_mac: [0; 6],
        pad: [0; 4],
    };
}

/// Protocol and port of one virtual IP, in one word; never zero, because no rule has port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct RuleKey(pub u64);

impl RuleKey {
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub const fn new(vip: u16, protocol: u8, port: u16) -> Self {
        Self((vip as u64) << 32 | (protocol as u64) << 16 | port as u64)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    pub key: RuleKey,
    /// Its place among the rules, below [`RULES_MAX`].
    pub index: u16,
    pub group: u16,
    pub balance: Balance,
    pub pad: [u8; 3],
}

impl Rule {
    pub const EMPTY: Self =
        Self { key: RuleKey::NONE, index: 0, group: 0, balance: Balance::Connection, pad: [0; 3] };
}

/// What of the client decides its bucket. Only the driver writes the map, so no other byte is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Balance {
    Connection = 0,
    Client = 1,
    ClientNetwork = 2,
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

#[inline(always)]
pub const fn rule_slot(key: RuleKey, seed: u64) -> u32 {
    (key.0.wrapping_mul(seed) >> (64 - RULE_SLOTS.trailing_zeros())) as u32
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
