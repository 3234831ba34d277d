//! One number for everything that decides who answers for which packet.
//!
//! Nodes compare it in heartbeats, and nodes that differ share no view (R2). The timing is part of it: the argument
//! that a lease ends before peers act needs one timeout for all. Addresses, interfaces and the key file are not: they
//! say how a node is reached, and a node that is reached wrongly is not heard.

use std::net::IpAddr;

use ring::digest::{Context, SHA256};

use super::{Balance, Config, Delivery, Evidence, Farm, Protocol, Rule, Share};

/// Buckets of a rule group.
pub const BUCKETS: u32 = 65_536;

/// Changes whenever the same file would lead to other owners or other verdicts.
const ALGORITHM: &str = "safekit ownership 2";

pub fn ownership_hash(config: &Config) -> u64 {
    let mut hasher = Hasher(Context::new(&SHA256));
    hasher.text(ALGORITHM);
    hasher.number(BUCKETS.into());
    let timing = config.cluster.timing;
    for span in [timing.interval, timing.timeout, timing.lease] {
        hasher.number(u64::try_from(span.as_nanos()).expect("the loader refuses spans above a day"));
    }
    hasher.list(&config.cluster.nodes, |hasher, node| hasher.text(&node.name));
    let farms: Vec<&Farm> = config.farms().collect();
    hasher.list(&farms, |hasher, farm| hasher.farm(farm));
    hasher.list(&config.groups, |hasher, group| hasher.share(&group.share));
    hasher.finish()
}

/// Numbers have a fixed width, texts and lists their length before them: no two configurations read alike.
struct Hasher(Context);

impl Hasher {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| each(self, item));
    }

    fn farm(&mut self, farm: &Farm) {
        self.text("farm");
        self.text(&farm.name);
        self.list(&farm.nodes, |hasher, node| hasher.number(node.0.into()));
        self.number(farm.group.0.into());
        self.list(&farm.virtual_ips, |hasher, vip| match vip.address {
            IpAddr::V4(address) => hasher.bytes(&address.octets()),
            IpAddr::V6(address) => hasher.bytes(&address.octets()),
        });
        self.number(match farm.delivery {
            Delivery::Flood => 1,
            Delivery::Multicast => 2,
            Delivery::Directed => 3,
        });
        self.list(&farm.rules, Self::rule);
    }

    fn rule(&mut self, rule: &Rule) {
        self.number(match rule.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        });
        self.number(rule.ports.first.into());
        self.number(rule.ports.last.into());
        let (balance, ipv4, ipv6) = match rule.balance {
            Balance::Connection => (1, 0, 0),
            Balance::Client => (2, 0, 0),
            Balance::ClientNetwork { ipv4, ipv6 } => (3, ipv4, ipv6),
        };
        [balance, ipv4, ipv6].into_iter().for_each(|number| self.number(number.into()));
        self.number(match rule.evidence {
            Evidence::Sockets => 1,
            Evidence::Flows => 2,
        });
        self.number(rule.group.0.into());
    }

    fn share(&mut self, share: &Share) {
        match share {
            Share::Weighted(weights) => {
                self.number(1);
                self.list(weights, |hasher, weight| hasher.number((*weight).into()));
            }
            Share::Cascade(line) => {
                self.number(2);
                self.list(line, |hasher, node| hasher.number(node.0.into()));
            }
        }
    }

    fn finish(self) -> u64 {
        let digest = self.0.finish();
        let head = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        u64::from_be_bytes(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{FARM, parsed};
    use super::*;

    /// A rolling upgrade keeps nodes in one view only while this number stays: change [`ALGORITHM`] with it.
    #[test]
    fn the_number_of_a_known_file_is_pinned() {
        assert_eq!(ownership_hash(&parsed(FARM)), 17_624_914_195_825_915_153);
    }

    #[test]
    fn whatever_decides_ownership_changes_it() {
        let base = ownership_hash(&parsed(FARM));
        for (from, to) in [
            ("web1", "web9"),
            ("profile: fast", "profile: tolerant"),
            ("name: www", "name: shop"),
            ("10.99.0.100", "10.99.0.101"),
            ("port: 80,", "port: 81,"),
            ("protocol: tcp, port: 80", "protocol: udp, port: 80"),
            ("balance: client ", "balance: client_network "),
            ("kind: farm", "kind: farm\n    nodes: [web1]"),
            ("kind: farm", "kind: farm\n    weights: { web2: 2 }"),
            ("kind: farm", "kind: farm\n    delivery: directed"),
            ("balance: client ", "balance: client, evidence: flows "),
            ("balance: client ", "balance: client, nodes: [web2] "),
            ("balance: client ", "balance: client, cascade: [web2, web1] "),
            ("port: 80,", "port: 80-89,"),
        ] {
            let changed = FARM.replace(from, to);
            assert_ne!(changed, FARM, "{from} is in the file");
            assert_ne!(ownership_hash(&parsed(&changed)), base, "{from} -> {to}");
        }
    }

    #[test]
    fn how_a_node_is_reached_does_not() {
        let base = ownership_hash(&parsed(FARM));
        for (from, to) in
            [("10.99.0.1,", "10.99.0.9,"), ("eth0", "eth1"), ("cluster.key", "other.key"), ("4801", "4900")]
        {
            let changed = FARM.replace(from, to);
            assert_ne!(changed, FARM, "{from} is in the file");
            assert_eq!(ownership_hash(&parsed(&changed)), base, "{from} -> {to}");
        }
    }
}
