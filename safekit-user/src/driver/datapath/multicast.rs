//! Multicast delivery: the group that stands for a virtual IP, and its MAC. Pure.
//!
//! ```text
//! IPv4  10.99.0.100      239.255.0.100        01:00:5e:7f:00:64     the last two bytes
//! IPv6  2001:db8::100    ff12::80xx:xxxx      33:33:80:xx:xx:xx     a hash of 30 bits
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::plan::fnv;
use crate::config::{Config, Delivery};

/// The groups of all virtual IPs of a configuration that are delivered by multicast. No two share one: a node would
/// get the frames of a farm that it is not in. Of two that fall on one group, the later in the file moves on; so
/// every node finds the same.
pub(super) fn groups(config: &Config) -> BTreeMap<IpAddr, IpAddr> {
    let mut taken = BTreeSet::new();
    let mut groups = BTreeMap::new();
    for farm in config.farms().filter(|farm| farm.delivery == Delivery::Multicast) {
        for vip in &farm.virtual_ips {
            let free = (0..=u16::MAX).map(|step| group(vip.address, step)).find(|it| taken.insert(*it));
            let free = free.expect("a configuration has fewer virtual IPs than there are groups");
            groups.insert(vip.address, free);
        }
    }
    groups
}

fn group(address: IpAddr, step: u16) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let [_, _, c, d] = v4.octets();
            let [c, d] = u16::from_be_bytes([c, d]).wrapping_add(step).to_be_bytes();
            // RFC 2365 6.1: the part of the administratively scoped space that is local.
            Ipv4Addr::new(239, 255, c, d).into()
        }
        IpAddr::V6(v6) => {
            // RFC 3307 4.3: whoever takes a group without asking sets the highest bit. The next one is clear, so that
            // it is never a solicited-node group's MAC.
            let id = fnv(&v6.octets()).wrapping_add(u32::from(step)) & 0x3fff_ffff | 0x8000_0000;
            // Transient, and not beyond the link (RFC 4291 2.7).
            Ipv6Addr::from_bits(0xff12 << 112 | u128::from(id)).into()
        }
    }
}

/// RFC 1112 6.4, RFC 2464 7.
pub(super) fn mac(group: IpAddr) -> [u8; 6] {
    match group {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// Where questions for an IPv6 address are sent (RFC 4291 2.7.1): the card has to let them in.
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., b, c, d] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(b), u16::from_be_bytes([c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_follow_the_address_and_have_their_macs() {
        let of = |address: &str| group(address.parse().expect("an address"), 0);
        assert_eq!(of("10.99.1.100").to_string(), "239.255.1.100");
        assert_eq!(mac(of("10.99.1.100")), [0x01, 0x00, 0x5e, 0x7f, 1, 100]);
        let v6 = of("2001:db8::100");
        assert_eq!(v6.to_string(), "ff12::8958:8c1e", "pinned: nodes of two releases must agree");
        assert_eq!(mac(v6), [0x33, 0x33, 0x89, 0x58, 0x8c, 0x1e]);
        assert_ne!(group("10.0.255.255".parse().expect("an address"), 1), of("10.0.255.255"));
        let asked = solicited_node("2001:db8::12:3456".parse().expect("an address"));
        assert_eq!(asked.to_string(), "ff02::1:ff12:3456");
    }
}
