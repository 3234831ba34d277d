//! What the filter of one node has to know, out of the configuration. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use safekit_ebpf::abi::{
    Address, Balance, EvidenceBy, GROUPS_MAX, Limits, RULES_MAX, RULES_OF_VIP_MAX, VIPS_MAX,
};
use safekit_ebpf::{guard, packet};

use super::{multicast, roads};
use crate::config::{self, Config, Delivery, Evidence, Ports, Protocol};
use crate::types::{GroupId, NodeId};

/// Everything to load, for this node. A new configuration is a new plan and a new loading.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of the farms that this node is in; the index is the place in the kernel's map.
    pub virtual_ips: Vec<PlannedVip>,
    pub rules: Vec<PlannedRule>,
    /// Whose plan this is.
    pub node: NodeId,
    /// The interfaces whose MACs heartbeats list, in their order.
    pub noted_interfaces: Vec<String>,
    /// How many groups the cluster has; tables of farms that this node is not in stay empty.
    pub groups: u16,
    pub hash_key: [u8; 16],
    /// What probes of this cluster carry.
    pub mark: u64,
    /// The cluster's lease: it decides which clock is exact enough.
    pub lease: Duration,
    /// How long the filter remembers fragments and flows.
    pub limits: Limits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedVip {
    pub module: String,
    pub address: IpAddr,
    pub interface: String,
    pub group: GroupId,
    /// What neighbours learn for it. With directed delivery it is the MAC of the node that answers, and this is unused.
    pub mac: VirtualMac,
    pub delivery: Delivery,
    /// Multicast groups that the interface has to be in.
    pub joins: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRule {
    /// Its virtual IP, by the place in [`Plan::virtual_ips`].
    pub vip: u16,
    pub module: String,
    pub group: GroupId,
    pub protocol: Protocol,
    pub ports: Ports,
    pub balance: config::Balance,
    pub evidence: Evidence,
    /// Every node sees every packet to the virtual IP: not where packets are sent on to their owner.
    pub watched: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("{count} {what} are more than the filter holds ({max}): spread them over more clusters")]
    TooMany { what: &'static str, count: usize, max: usize },
}

impl Plan {
    /// `hash_key` is the cluster's: two nodes with different ones disagree on every bucket.
    pub fn of(config: &Config, node: NodeId, hash_key: [u8; 16]) -> Result<Self, PlanError> {
        let mut virtual_ips = Vec::new();
        let mut rules = Vec::new();
        let multicast = multicast::groups(config);
        for farm in config.farms().filter(|farm| farm.nodes.contains(&node)) {
            for vip in &farm.virtual_ips {
                let place = virtual_ips.len() as u16;
                virtual_ips.push(PlannedVip {
                    module: farm.name.clone(),
                    address: vip.address,
                    interface: vip.interface.clone(),
                    group: farm.group,
                    mac: multicast.get(&vip.address).map_or_else(
                        || VirtualMac::of(vip.address),
                        |group| VirtualMac(multicast::mac(*group)),
                    ),
                    delivery: farm.delivery,
                    joins: joins(vip.address, &multicast),
                });
                rules.extend(farm.rules.iter().map(|rule| PlannedRule {
                    vip: place,
                    module: farm.name.clone(),
                    group: rule.group,
                    protocol: rule.protocol,
                    ports: rule.ports,
                    balance: rule.balance,
                    evidence: rule.evidence,
                    watched: farm.delivery != Delivery::Directed,
                }));
            }
        }
        let of_vip = |place| rules.iter().filter(|rule| rule.vip == place).count();
        let most = (0..virtual_ips.len() as u16).map(of_vip).max().unwrap_or_default();
        within("rules of one virtual IP", most, RULES_OF_VIP_MAX)?;
        let groups = config.groups.len();
        within("ways of sharing", groups, GROUPS_MAX)?;
        within("virtual IPs", virtual_ips.len(), VIPS_MAX)?;
        within("rules (counted once for each virtual IP)", rules.len(), RULES_MAX)?;
        Ok(Self {
            node,
            noted_interfaces: roads::noted_interfaces(config),
            mark: mark_of(hash_key),
            limits: Limits::DEFAULT,
            virtual_ips,
            rules,
            groups: groups as u16,
            hash_key,
            lease: config.cluster.timing.lease,
        })
    }

    /// Each interface once, in the order of the plan.
    pub fn interfaces(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for vip in &self.virtual_ips {
            if !names.contains(&vip.interface.as_str()) {
                names.push(&vip.interface);
            }
        }
        names
    }

    /// The key as the filter takes it. Fixed byte order: nodes of different machines share buckets.
    pub fn hash_words(&self) -> [u64; 2] {
        let key = u128::from_le_bytes(self.hash_key);
        [key as u64, (key >> 64) as u64]
    }
}

fn joins(address: IpAddr, multicast: &BTreeMap<IpAddr, IpAddr>) -> Vec<IpAddr> {
    let questions = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(multicast::solicited_node(v6).into()),
    };
    multicast.get(&address).copied().into_iter().chain(questions).collect()
}

/// Told from the key, and tells nothing about it: the hash key has to stay secret.
fn mark_of(hash_key: [u8; 16]) -> u64 {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(b"safekit probe mark 1");
    context.update(&hash_key);
    u64::from_be_bytes(*context.finish().as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}

fn within(what: &'static str, count: usize, max: usize) -> Result<(), PlanError> {
    if count > max { Err(PlanError::TooMany { what, count, max }) } else { Ok(()) }
}

/// The MAC that neighbours learn for a virtual IP, and that no frame ever has as its source.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VirtualMac(pub [u8; 6]);

impl VirtualMac {
    /// Locally administered unicast, told from the address alone: `02:53` (an S) and the four octets of IPv4, `02:36`
    /// (a 6) and a 32-bit FNV-1a of IPv6.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                let [local, letter] = guard::PREFIXES[0];
                Self([local, letter, a, b, c, d])
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d] = fnv(&v6.octets()).to_be_bytes();
                let [local, digit] = guard::PREFIXES[1];
                Self([local, digit, a, b, c, d])
            }
        }
    }
}

/// FNV-1a, 32 bits.
pub(super) fn fnv(octets: &[u8]) -> u32 {
    octets.iter().fold(0x811c_9dc5, |hash, octet| (hash ^ u32::from(*octet)).wrapping_mul(0x0100_0193))
}

impl fmt::Display for VirtualMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for VirtualMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bucket of a client in this cluster, as the filter computes it: for `farm explain`.
pub fn bucket(
    hash_key: [u8; 16],
    balance: config::Balance,
    client: IpAddr,
    port: u16,
) -> crate::types::Bucket {
    let key = u128::from_le_bytes(hash_key);
    let words = [key as u64, (key >> 64) as u64];
    crate::types::Bucket(safekit_ebpf::flow::bucket(
        words,
        &kernel_balance(balance),
        kernel_address(client),
        port,
    ))
}

pub(super) fn kernel_address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::v4(v4.to_bits()),
        IpAddr::V6(v6) => Address::v6(v6.octets()),
    }
}

pub(super) fn kernel_balance(balance: config::Balance) -> Balance {
    match balance {
        config::Balance::Connection => Balance::CONNECTION,
        config::Balance::Client => Balance::CLIENT,
        config::Balance::ClientNetwork { ipv4, ipv6 } => Balance::network(ipv4, ipv6),
    }
}

pub(super) fn kernel_evidence(rule: &PlannedRule) -> EvidenceBy {
    match (rule.evidence, rule.watched) {
        (Evidence::Sockets, _) => EvidenceBy::Sockets,
        (Evidence::Flows, true) => EvidenceBy::Flows,
        (Evidence::Flows, false) => EvidenceBy::FlowsUnwatched,
    }
}

pub(super) fn kernel_protocol(protocol: Protocol) -> packet::Protocol {
    match protocol {
        Protocol::Tcp => packet::Protocol::Tcp,
        Protocol::Udp => packet::Protocol::Udp,
    }
}

/// The first odd multiplier under which no two keys share a slot. Deterministic: the same plan gives the same seed.
///
/// With 64 keys in 1,024 slots one seed in seven fits; a million tries without one would mean that two keys are equal.
pub(super) fn seed_without_collision<K: Copy>(
    keys: &[K],
    slots: usize,
    slot: impl Fn(K, u64) -> u32,
) -> Option<u64> {
    let mut used = vec![0u32; slots];
    (1..=1_000_000u32).find_map(|attempt| {
        let seed = u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let fits = keys.iter().all(|key| {
            let place = &mut used[slot(*key, seed) as usize];
            std::mem::replace(place, attempt) != attempt
        });
        fits.then_some(seed)
    })
}

#[cfg(test)]
mod tests {
    use safekit_ebpf::abi;

    use super::*;

    #[test]
    fn virtual_macs_are_local_unicast_and_told_apart() {
        let mac = |address: &str| VirtualMac::of(address.parse().expect("an address"));
        assert_eq!(mac("10.99.0.100").to_string(), "02:53:0a:63:00:64");
        // FNV-1a, 32 bits, of the sixteen octets; pinned, because neighbours remember it across releases.
        assert_eq!(mac("2001:db8::100").to_string(), PINNED_V6);
        for address in ["10.99.0.100", "10.99.0.101", "2001:db8::100", "2001:db8::101"] {
            assert_eq!(mac(address).0[0] & 0b11, 0b10, "{address}: local, and not multicast");
        }
        assert_ne!(mac("2001:db8::100"), mac("2001:db8::101"));
    }

    const PINNED_V6: &str = "02:36:49:58:8c:1e";

    #[test]
    fn a_full_plan_finds_its_seeds() {
        let addresses: Vec<_> = (0..VIPS_MAX as u32).map(|low| Address::v4(0x0a63_0000 | low)).collect();
        let seed =
            seed_without_collision(&addresses, abi::VIP_SLOTS, abi::vip_slot).expect("a seed for addresses");
        let mut slots: Vec<_> = addresses.iter().map(|address| abi::vip_slot(*address, seed)).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), VIPS_MAX);
    }

    #[test]
    fn equal_keys_have_no_seed() {
        let twice = [Address::v4(1), Address::v4(1)];
        assert_eq!(seed_without_collision(&twice, abi::VIP_SLOTS, abi::vip_slot), None);
    }
}
