//! What the filter of this node is told: virtual IPs, rules and groups, numbered for the maps.

use std::net::IpAddr;

use safekit_ebpf::abi::{self, Address, RuleKey};
use safekit_ebpf::flow;

use crate::config::{Balance, Config, Farm, Protocol};
use crate::types::{Bucket, GroupId, NodeId};

#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) virtual_ips: Vec<PlannedVip>,
    pub(super) rules: Vec<(RuleKey, abi::Rule)>,
    /// Name of the module that each scope of counters belongs to; the first is none's.
    pub(super) scopes: Vec<Option<String>>,
    pub(super) groups: Vec<GroupId>,
    pub(super) hash_key: [u64; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedVip {
    pub address: IpAddr,
    pub interface: String,
    /// The virtual MAC.
    pub mac: [u8; 6],
    pub group: GroupId,
    pub(super) scope: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the farms of this node have {what}, and the filter holds {max}; put fewer farms on one node")]
pub struct TooMuch {
    what: String,
    max: usize,
}

impl Plan {
    /// The farms that `me` takes part in.
    pub fn new(config: &Config, me: NodeId, hash_key: [u8; 16]) -> Result<Self, TooMuch> {
        let (low, high) = hash_key.split_at(8);
        let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("half of sixteen bytes"));
        let mut plan = Self {
            virtual_ips: Vec::new(),
            rules: Vec::new(),
            scopes: vec![None],
            groups: Vec::new(),
            hash_key: [half(low), half(high)],
        };
        for (group, farm) in config.farm_groups().filter(|(_, farm)| farm.nodes.contains(&me)) {
            plan.add(group, farm);
        }
        plan.fits()
    }

    fn add(&mut self, group: GroupId, farm: &Farm) {
        self.groups.push(group);
        let scope = self.scopes.len() as u16;
        self.scopes.push(Some(farm.name.clone()));
        for vip in &farm.virtual_ips {
            let index = self.virtual_ips.len() as u16;
            self.virtual_ips.push(PlannedVip {
                address: vip.address,
                interface: vip.interface.clone(),
                mac: virtual_mac(vip.address),
                group,
                scope,
            });
            for rule in &farm.rules {
                let key = RuleKey {
                    virtual_ip: index,
                    port: rule.port.to_be(),
                    protocol: u32::from(protocol_number(rule.protocol)),
                };
                let value = abi::Rule { group: group.0, scope, balance: balance(rule.balance) as u32 };
                self.rules.push((key, value));
            }
        }
    }

    fn fits(self) -> Result<Self, TooMuch> {
        let bounds = [
            (self.virtual_ips.len(), abi::VIRTUAL_IPS_MAX, "virtual IPs"),
            (self.rules.len(), abi::RULES_MAX, "rules (times virtual IPs)"),
            (self.scopes.len(), abi::SCOPES_MAX, "farms"),
            (
                self.groups.iter().map(|group| usize::from(group.0) + 1).max().unwrap_or(0),
                abi::GROUPS_MAX,
                "groups",
            ),
        ];
        match bounds.into_iter().find(|(count, max, _)| *count > *max as usize) {
            Some((count, max, what)) => Err(TooMuch { what: format!("{count} {what}"), max: max as usize }),
            None => Ok(self),
        }
    }

    /// As the filter's map has them.
    pub fn filter_virtual_ips(&self) -> impl Iterator<Item = (Address, abi::VirtualIp)> {
        self.virtual_ips.iter().enumerate().map(|(index, vip)| {
            let value = abi::VirtualIp {
                index: index as u16,
                group: vip.group.0,
                scope: vip.scope,
                mac: vip.mac,
                padding: [0; 4],
            };
            (address(vip.address), value)
        })
    }

    /// As the filter's map has them.
    pub fn filter_rules(&self) -> impl Iterator<Item = (RuleKey, abi::Rule)> {
        self.rules.iter().copied()
    }

    pub fn hash_key(&self) -> [u64; 2] {
        self.hash_key
    }

    pub fn virtual_ips(&self) -> &[PlannedVip] {
        &self.virtual_ips
    }

    /// Where a client's session falls. `port` as people write it.
    pub fn bucket(&self, by: Balance, client: IpAddr, port: u16) -> Bucket {
        Bucket(flow::bucket(self.hash_key, balance(by), &address(client), port.to_be()))
    }
}

fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::v4(v4.octets()),
        IpAddr::V6(v6) => Address::v6(v6.octets()),
    }
}

/// A locally administered unicast MAC, made of the address: the same on every node without being agreed.
fn virtual_mac(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0x02, 0x5f, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x02, 0x60, a, b, c, d]
        }
    }
}

const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => safekit_ebpf::packet::TCP,
        Protocol::Udp => safekit_ebpf::packet::UDP,
    }
}

const fn balance(balance: Balance) -> flow::Balance {
    match balance {
        Balance::Connection => flow::Balance::Connection,
        Balance::Client => flow::Balance::Client,
        Balance::ClientNetwork => flow::Balance::ClientNetwork,
    }
}
