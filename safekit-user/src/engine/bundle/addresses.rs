//! Other addresses for those of this site: the same for the same one, alike for those of one network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// 198.18.0.0/15 is for test networks (RFC 2544): nobody's, and large enough for 512 networks.
const V4_NETWORKS: u32 = 512;

#[derive(Default)]
pub(super) struct Addresses {
    seen_v4: BTreeSet<Ipv4Addr>,
    seen_v6: BTreeSet<Ipv6Addr>,
    seen_macs: BTreeSet<[u8; 6]>,
    v4: BTreeMap<Ipv4Addr, Ipv4Addr>,
    v6: BTreeMap<Ipv6Addr, Ipv6Addr>,
    macs: BTreeMap<[u8; 6], [u8; 6]>,
}

impl Addresses {
    pub(super) fn learn(&mut self, found: Found) {
        match found {
            Found::Ip(IpAddr::V4(address)) => drop(self.seen_v4.insert(address)),
            Found::Ip(IpAddr::V6(address)) => drop(self.seen_v6.insert(address)),
            Found::Mac(address, _) => drop(self.seen_macs.insert(address)),
        }
    }

    /// Gives each its replacement, once all are known: none of them is the original of another.
    pub(super) fn settle(&mut self) {
        let mut free = (0..V4_NETWORKS).map(|index| 0xc612_0000_u32 + (index << 8));
        let taken: BTreeSet<u32> = self.seen_v4.iter().map(|address| network_v4(*address)).collect();
        let mut networks: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for address in self.seen_v4.iter().filter(|address| !is_common_v4(**address)) {
            let (network, host) = networks.entry(network_v4(*address)).or_insert_with(|| {
                // A site of more than 512 networks shares the last one.
                (free.find(|network| !taken.contains(network)).unwrap_or(0xc613_ff00), 0)
            });
            *host = (*host + 1).min(254);
            // Network and broadcast addresses are worth recognising.
            let last = match address.octets()[3] {
                edge @ (0 | 255) => u32::from(edge),
                _ => *host,
            };
            self.v4.insert(*address, Ipv4Addr::from(*network | last));
        }
        self.settle_v6();
        let mut next = 0_u32;
        for mac in self.seen_macs.iter().filter(|mac| !is_common_mac(**mac)) {
            let replacement = loop {
                next += 1;
                let [_, a, b, c] = next.to_be_bytes();
                let candidate = [2, 0, 0, a, b, c];
                if !self.seen_macs.contains(&candidate) {
                    break candidate;
                }
            };
            self.macs.insert(*mac, replacement);
        }
    }

    fn settle_v6(&mut self) {
        let mut networks: BTreeMap<u64, (u16, u16)> = BTreeMap::new();
        let mut linked = 0_u16;
        let mut next = 0_u16;
        for address in self.seen_v6.iter().filter(|address| !is_common_v6(**address)) {
            let [a, b, c, d, ..] = address.segments();
            let prefix = u64::from(a) << 48 | u64::from(b) << 32 | u64::from(c) << 16 | u64::from(d);
            let replacement = loop {
                let candidate = if address.is_unicast_link_local() || address.is_multicast() {
                    linked = linked.wrapping_add(1);
                    Ipv6Addr::new(
                        if address.is_multicast() { 0xff0e } else { 0xfe80 },
                        0,
                        0,
                        0,
                        0,
                        0,
                        0xf,
                        linked,
                    )
                } else {
                    let (network, host) = networks.entry(prefix).or_insert_with(|| {
                        next = next.wrapping_add(1);
                        (next, 0)
                    });
                    *host = host.wrapping_add(1);
                    Ipv6Addr::new(0x2001, 0xdb8, 0, *network, 0, 0, 0xf, *host)
                };
                if !self.seen_v6.contains(&candidate) {
                    break candidate;
                }
            };
            self.v6.insert(*address, replacement);
        }
    }

    /// None: it says nothing about the site.
    pub(super) fn replacement(&self, found: Found) -> Option<String> {
        match found {
            Found::Ip(IpAddr::V4(address)) => self.v4.get(&address).map(Ipv4Addr::to_string),
            Found::Ip(IpAddr::V6(address)) => self.v6.get(&address).map(Ipv6Addr::to_string),
            Found::Mac(address, separator) => self
                .macs
                .get(&address)
                .map(|mac| mac.map(|byte| format!("{byte:02x}")).join(&separator.to_string())),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Ip(IpAddr),
    /// With what stands between its bytes.
    Mac([u8; 6], char),
}

/// The address that `word` is, as a whole.
pub(super) fn parse(word: &str) -> Option<Found> {
    word.parse().ok().map(Found::Ip).or_else(|| mac(word))
}

fn mac(word: &str) -> Option<Found> {
    let separator = word.chars().nth(2).filter(|c| matches!(c, ':' | '-'))?;
    let mut bytes = [0; 6];
    let mut parts = word.split(separator);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Found::Mac(bytes, separator))
}

fn network_v4(address: Ipv4Addr) -> u32 {
    u32::from(address) & 0xffff_ff00
}

/// Loopback, masks, nobody, and the groups that every host is in.
fn is_common_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    matches!(first, 0 | 127 | 255) || (first, second, third) == (224, 0, 0)
}

fn is_common_v6(address: Ipv6Addr) -> bool {
    let [first, .., last] = address.segments();
    let is_small_group = address.is_multicast() && address.segments()[1..7].iter().all(|part| *part == 0);
    // A bare prefix tells nothing: `fe80::`, `ff00::`.
    let is_prefix = address.segments()[1..].iter().all(|part| *part == 0) && matches!(first, 0xfe80 | 0xff00);
    address.is_loopback() || address.is_unspecified() || is_prefix || (is_small_group && last < 0x100)
}

fn is_common_mac(mac: [u8; 6]) -> bool {
    mac == [0; 6] || mac == [0xff; 6]
}
