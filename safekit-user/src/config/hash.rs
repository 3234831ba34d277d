//! The hash of everything that decides who owns what: nodes that differ in it are in no common view.

use ring::digest::{Context, SHA256};

use super::{Balance, Config, Delivery, Module, Protocol};

/// Raised when ranks, buckets or the packet hash change meaning.
const ALGORITHM: u64 = 1;

/// Nodes, farms, rules and timing. Not: the key (a wrong one is noticed at once), addresses (a node may be renumbered).
pub fn ownership_hash(config: &Config) -> u64 {
    let mut hash = Hash(Context::new(&SHA256));
    hash.number(ALGORITHM);
    let timing = config.cluster.timing;
    for span in [timing.interval, timing.timeout, timing.lease] {
        hash.number(span.as_nanos() as u64);
    }
    hash.number(config.cluster.nodes.len() as u64);
    for node in &config.cluster.nodes {
        hash.text(&node.name);
    }
    for module in &config.modules {
        match module {
            Module::Farm(farm) => hash.farm(farm),
        }
    }
    hash.finish()
}

struct Hash(Context);

impl Hash {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    /// With its length, so that no two lists of texts look alike.
    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn farm(&mut self, farm: &super::Farm) {
        self.text(&farm.name);
        self.number(farm.nodes.len() as u64);
        for node in &farm.nodes {
            self.number(u64::from(node.0));
        }
        self.number(match farm.delivery {
            Delivery::Flood => 0,
        });
        self.number(farm.virtual_ips.len() as u64);
        for vip in &farm.virtual_ips {
            // The interface may have another name on each node's hardware; the address may not.
            self.text(&vip.address.to_string());
        }
        self.number(farm.rules.len() as u64);
        for rule in &farm.rules {
            self.number(match rule.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            });
            self.number(u64::from(rule.port));
            self.number(match rule.balance {
                Balance::Connection => 0,
                Balance::Client => 1,
                Balance::ClientNetwork => 2,
            });
        }
    }

    fn finish(self) -> u64 {
        let digest = self.0.finish();
        u64::from_be_bytes(digest.as_ref()[..8].try_into().expect("a digest is longer than eight bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const SAMPLE: &str = include_str!("../../../configs/farm.yaml");

    fn hash(text: &str) -> u64 {
        ownership_hash(&parse(text, "farm.yaml").expect("the sample is valid"))
    }

    #[test]
    fn what_decides_ownership_is_in_it_and_the_rest_is_not() {
        let sample = hash(SAMPLE);
        let decides = [
            ("web2", "web9"),
            ("port: 443", "port: 444"),
            ("balance: client }", "balance: connection }"),
            ("10.99.0.100", "10.99.0.101"),
            ("profile: default", "profile: fast"),
            ("[web1, web2, web3]", "[web1, web3]"),
        ];
        for (part, change) in decides {
            assert!(SAMPLE.contains(part), "{part}");
            assert_ne!(hash(&SAMPLE.replace(part, change)), sample, "{part}");
        }
        for (part, change) in [
            ("cluster.key", "other.key"),
            ("10.98.0.2", "10.98.0.22"),
            ("interface: eth0", "interface: eth7"),
        ] {
            assert!(SAMPLE.contains(part), "{part}");
            assert_eq!(hash(&SAMPLE.replace(part, change)), sample, "{part}");
        }
    }

    /// A change of this vector parts nodes of different versions: raise `ALGORITHM` knowingly.
    #[test]
    fn the_hash_is_pinned() {
        assert_eq!(hash(SAMPLE), 11_075_376_625_900_366_874);
    }
}
