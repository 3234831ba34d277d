//! From a client to its bucket: a short keyed hash.
//!
//! It has to be the same on every node, even over clients and over ports, and not aimable: without the cluster's key a
//! client cannot choose addresses or ports that fall on one node. It need not hide the key from someone who sees its
//! output (nobody does: an outsider sees at most which node answered), so two rounds of multiply and shift
//! with a secret before and between them do; SipHash-1-3 would cost as much as the rest of the filter.

use crate::abi::{Address, Balance};

/// 65,536 buckets: the top bits of the hash, which every input bit reaches.
pub type Bucket = u16;

/// The key of one cluster, derived from its secret.
pub type HashKey = [u64; 2];

/// The bucket of a client under a rule. `port` is the client's (for an echo, its identifier).
#[inline(always)]
pub fn bucket(key: HashKey, balance: &Balance, client: Address, port: u16) -> Bucket {
    hash(key, masked(balance, client), port & balance.port)
}

/// The mark of a mapped address stays, whatever the mask.
#[inline(always)]
fn masked(balance: &Balance, client: Address) -> Address {
    if client.is_mapped_v4() {
        Address(0, client.1 & (0xffff << 32 | u64::from(balance.ipv4)))
    } else {
        Address(client.0 & balance.ipv6.0, client.1 & balance.ipv6.1)
    }
}

#[inline(always)]
fn hash(key: HashKey, client: Address, port: u16) -> Bucket {
    // An IPv4 client and its port fill one word; an IPv6 client takes two more rounds.
    let mut state = key[0] ^ (client.1 << 16 | u64::from(port));
    state = round(state) ^ key[1];
    if !client.is_mapped_v4() {
        state = round(state ^ client.0) ^ key[0];
        state = round(state ^ client.1 >> 48) ^ key[1];
    }
    (round(state) >> 48) as Bucket
}

/// A bijection of 64 bits in which each input bit changes half of the output: two odd multipliers (those of
/// Jon Maiga's `xmxmx` and Pelle Evensen's `rrmxmx`, found by search against statistical tests) around shifts.
#[inline(always)]
const fn round(mut x: u64) -> u64 {
    x = (x ^ x >> 32).wrapping_mul(0xe9846af9b1a615d);
    (x ^ x >> 32).wrapping_mul(0x9fb21c651e98df25)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
    const NETWORK: Balance = Balance::network(24, 64);

    #[test]
    fn the_bucket_is_the_same_on_every_build() {
        // Pinned: nodes of two releases must agree, or a bucket has two owners.
        let v4 = Address::v4(0x0a63_0001);
        let v6 = Address(0x2001_0db8_0000_0000, 0x0000_0000_0000_0001);
        let row = [
            bucket(KEY, &Balance::CONNECTION, v4, 40_000),
            bucket(KEY, &Balance::CLIENT, v4, 40_000),
            bucket(KEY, &NETWORK, v4, 40_000),
            bucket(KEY, &Balance::CONNECTION, v6, 40_000),
            bucket(KEY, &Balance::CLIENT, v6, 40_000),
            bucket(KEY, &NETWORK, v6, 40_000),
        ];
        assert_eq!(row, PINNED);
    }

    const PINNED: [u16; 6] = [56_496, 19_892, 63_213, 54_949, 64_400, 53_442];

    #[test]
    fn balance_decides_what_counts() {
        let at = |balance, last: u32, port| bucket(KEY, &balance, Address::v4(0x0a63_0000 | last), port);
        assert_ne!(at(Balance::CONNECTION, 1, 1), at(Balance::CONNECTION, 1, 2));
        assert_eq!(at(Balance::CLIENT, 1, 1), at(Balance::CLIENT, 1, 2));
        assert_ne!(at(Balance::CLIENT, 1, 1), at(Balance::CLIENT, 2, 1));
        assert_eq!(at(NETWORK, 1, 1), at(NETWORK, 2, 2));
        assert_ne!(at(NETWORK, 1, 1), at(NETWORK, 0x101, 1));

        let six = |low, balance| bucket(KEY, &balance, Address(0x2001_0db8_0000_0001, low), 7);
        assert_eq!(six(1, NETWORK), six(2, NETWORK));
        assert_ne!(six(1, Balance::CLIENT), six(2, Balance::CLIENT));
        assert_ne!(six(1, Balance::CLIENT), six(1 | 1 << 63, Balance::CLIENT));
    }

    #[test]
    fn a_network_is_as_long_as_its_prefix() {
        let v4 =
            |balance: Balance, last: u64| bucket(KEY, &balance, Address::v4(0x0a60_0000 | last as u32), 7);
        let v6 =
            |balance: Balance, high: u64| bucket(KEY, &balance, Address(0x2001_0db8_0000_0000 | high, 9), 7);
        for (length, same, other) in [(32, 0, 1), (31, 1, 2), (24, 0xff, 0x100), (16, 0xffff, 0x10000)] {
            let balance = Balance::network(length, length + 32);
            assert_eq!(v4(balance, 0), v4(balance, same), "/{length}");
            assert_ne!(v4(balance, 0), v4(balance, other), "/{length}");
            assert_eq!(v6(balance, 0), v6(balance, same), "/{}", length + 32);
            assert_ne!(v6(balance, 0), v6(balance, other), "/{}", length + 32);
        }
        let all = Balance::network(0, 0);
        assert_eq!(v4(all, 0), bucket(KEY, &all, Address::v4(!0), 9), "everybody is one network");
        assert_eq!(v6(all, 0), bucket(KEY, &all, Address(!0, !0), 9));
        assert_eq!(Balance::network(32, 128), Balance::CLIENT);
    }

    #[test]
    fn ports_of_one_client_and_clients_of_one_net_spread_evenly() {
        let chi_squared = |buckets: &mut dyn Iterator<Item = u16>| {
            let mut cells = [0u32; 256];
            let mut total = 0u32;
            for bucket in buckets {
                cells[usize::from(bucket >> 8)] += 1;
                total += 1;
            }
            let expected = f64::from(total) / 256.0;
            cells.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum::<f64>()
        };
        // 255 degrees of freedom: mean 255, 390 is beyond one in ten million.
        let ports = chi_squared(
            &mut (1024..=65_535)
                .map(|port| bucket(KEY, &Balance::CONNECTION, Address::v4(0x0a63_0001), port)),
        );
        assert!(ports < 390.0, "ports of one client: chi squared {ports}");
        let clients = chi_squared(
            &mut (0..65_536).map(|low| bucket(KEY, &Balance::CLIENT, Address::v4(0x0a63_0000 | low), 0)),
        );
        assert!(clients < 390.0, "clients of one /16: chi squared {clients}");
        let networks = chi_squared(
            &mut (0..65_536).map(|net| bucket(KEY, &NETWORK, Address(0x2001_0db8_0000_0000 | net, 1), 0)),
        );
        assert!(networks < 390.0, "IPv6 networks: chi squared {networks}");
    }

    #[test]
    fn another_key_scatters_what_one_key_put_together() {
        let together = (1..=65_535)
            .filter(|&port| bucket(KEY, &Balance::CONNECTION, Address::v4(0x0a63_0001), port) >> 8 == 0);
        let mut seen = [false; 256];
        for port in together {
            seen[usize::from(bucket([1, 2], &Balance::CONNECTION, Address::v4(0x0a63_0001), port) >> 8)] =
                true;
        }
        // About 256 ports thrown into 256 cells leave about 37 % empty.
        let hit = seen.iter().filter(|&&hit| hit).count();
        assert!((120..=200).contains(&hit), "{hit} of 256 cells");
    }
}
