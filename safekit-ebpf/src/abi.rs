//! The kernel boundary: maps, their keys and values. Both sides are built from this file.

/// Raised when anything here changes meaning: pinned maps of another version are not taken over.
pub const ABI_VERSION: u32 = 1;

/// Buckets of a rule group.
pub const BUCKETS: usize = 65_536;
/// Buckets to a word: two bits each.
pub const BUCKETS_PER_WORD: usize = 32;
/// Words of a table: 16 KiB.
pub const TABLE_WORDS: usize = BUCKETS / BUCKETS_PER_WORD;
/// Rule groups of a node.
pub const GROUPS_MAX: u32 = 64;
/// Two tables for each group: one is read while the other is written.
pub const SLOTS: u32 = GROUPS_MAX * 2;
pub const VIRTUAL_IPS_MAX: u32 = 256;
pub const RULES_MAX: u32 = 1024;
pub const INTERFACES_MAX: u32 = 64;
/// A counter for each scope (0: no rule; then the rules by number) and reason.
pub const SCOPES_MAX: u32 = 256;
/// Rounded up to a power of two, so that an index is a shift.
pub const REASONS_MAX: u32 = 32;
pub const COUNTERS: u32 = SCOPES_MAX * REASONS_MAX;

/// Names of the maps, as the object file has them.
pub mod maps {
    pub const VIRTUAL_IPS: &str = "VIRTUAL_IPS";
    pub const RULES: &str = "RULES";
    pub const TABLES: &str = "TABLES";
    pub const ACTIVE: &str = "ACTIVE";
    pub const LEASE: &str = "LEASE";
    pub const INTERFACES: &str = "INTERFACES";
    pub const COUNTERS: &str = "COUNTERS";
    pub const SCATTERED: &str = "SCATTERED";
}

/// Names of the programs and of the values that the loader fills in.
pub mod symbols {
    pub const FILTER: &str = "safekit_filter";
    pub const CLOCKS: &str = "safekit_clocks";
    pub const EMPTY: &str = "safekit_empty";
    pub const SCATTER: &str = "safekit_scatter";
    pub const HASH_KEY: &str = "HASH_KEY";
    pub const LEASE_CLOCK: &str = "LEASE_CLOCK";
}

/// What [`maps::LEASE`] holds is a point on this clock.
pub const LEASE_CLOCK_JIFFIES: u32 = 0;
pub const LEASE_CLOCK_BOOT_NS: u32 = 1;

/// An address of either family; IPv4 as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u32; 4]);

impl Address {
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(octets)])
    }

    pub const fn v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == u32::from_ne_bytes([0, 0, 0xff, 0xff])
    }
}

/// A virtual IP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualIp {
    /// Number in [`RuleKey::virtual_ip`].
    pub index: u16,
    /// Decides who answers ARP and echo requests.
    pub group: u16,
    /// Scope of its own counters.
    pub scope: u16,
    /// The virtual MAC that ARP answers name.
    pub mac: [u8; 6],
    pub padding: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    pub virtual_ip: u16,
    /// In network byte order, as it stands in the packet.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub group: u16,
    pub scope: u16,
    /// [`crate::flow::Balance`] as a number.
    pub balance: u32,
}

/// A node's own MAC on an interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    pub mac: [u8; 6],
    pub padding: [u8; 2],
}

/// The two bits of every bucket, [`BUCKETS_PER_WORD`] to a word: `mine` is the even bit, `transitional` the odd one.
pub type Table = [u64; TABLE_WORDS];

/// Packs one bit a bucket from each of two sets, 64 buckets to a word, into a table.
pub fn pack(mine: &[u64], transitional: &[u64], table: &mut Table) {
    assert!(mine.len() == BUCKETS / 64 && transitional.len() == mine.len(), "one bit a bucket");
    for (index, (mine, transitional)) in mine.iter().zip(transitional).enumerate() {
        for half in 0..2 {
            let bits = |word: &u64| spread((word >> (32 * half)) as u32);
            table[index * 2 + half] = bits(mine) | bits(transitional) << 1;
        }
    }
}

/// Puts bit n at bit 2n.
const fn spread(bits: u32) -> u64 {
    let mut x = bits as u64;
    x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    x = (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    x = (x | x << 2) & 0x3333_3333_3333_3333;
    (x | x << 1) & 0x5555_5555_5555_5555
}

/// Clients of the benchmark, and where their numbers begin.
pub const SCATTERED_CLIENTS: u32 = 65_536;
const SCATTERED_NETWORK: [u8; 3] = [10, 98, 0];
const SCATTERED_PORTS: u32 = 16_384;
const SCATTERED_PORT_FIRST: u32 = 20_000;

/// Address and port (as they stand in a packet) of the benchmark's client `step`: all 65,536 in turn, far apart.
#[inline(always)]
pub const fn scattered_client(step: u32) -> ([u8; 4], [u8; 2]) {
    // An odd factor permutes the numbers below a power of two.
    let client = step.wrapping_mul(0x9e3b) % SCATTERED_CLIENTS;
    let [a, b, c] = SCATTERED_NETWORK;
    let port = SCATTERED_PORT_FIRST + client % SCATTERED_PORTS;
    ([a, b, c, 1 + (client / SCATTERED_PORTS) as u8], (port as u16).to_be_bytes())
}

/// The two bits of `bucket` in its word of a table.
#[inline(always)]
pub const fn bucket_bits(word: u64, bucket: u16) -> u64 {
    (word >> ((bucket as usize % BUCKETS_PER_WORD) * 2)) & 3
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn packing_keeps_each_bucket_apart() {
        let mut table = [0; TABLE_WORDS];
        let (mut mine, mut transitional) = ([0; BUCKETS / 64], [0; BUCKETS / 64]);
        let buckets = [0_u16, 1, 31, 32, 63, 64, 1000, 65_535];
        for (index, bucket) in buckets.iter().enumerate() {
            let bit = 1 << (bucket % 64);
            mine[usize::from(*bucket) / 64] |= if index % 2 == 0 { bit } else { 0 };
            transitional[usize::from(*bucket) / 64] |= if index % 3 == 0 { bit } else { 0 };
        }
        pack(&mine, &transitional, &mut table);
        for bucket in 0..=u16::MAX {
            let index = buckets.iter().position(|known| *known == bucket);
            let expected =
                index.map_or(0, |index| u64::from(index % 2 == 0) | u64::from(index % 3 == 0) << 1);
            let word = table[usize::from(bucket) / BUCKETS_PER_WORD];
            assert_eq!(bucket_bits(word, bucket), expected, "bucket {bucket}");
        }
    }

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<Address>(), 16);
        assert_eq!(size_of::<VirtualIp>(), 2 + 2 + 2 + 6 + 4);
        assert_eq!(size_of::<RuleKey>(), 8);
        assert_eq!(size_of::<Rule>(), 8);
        assert_eq!(size_of::<Interface>(), 8);
    }
}
