//! Which rule of a virtual IP covers which port: the rows of the kernel's map PORTS. Pure.
//!
//! A byte for each port, so that a range costs the filter what a single port does: one load, and no comparison.

use safekit_ebpf::abi::{NO_ROW, PORTS, PortRow};

use super::{Plan, PlannedRule};
use crate::config::Protocol;

/// The rows, and which are whose.
#[derive(Debug, Default)]
pub(super) struct PortMap {
    /// Each one once: virtual IPs of one module have the same.
    pub(super) rows: Vec<Box<PortRow>>,
    /// By place of the virtual IP.
    pub(super) vips: Vec<VipRows>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VipRows {
    pub(super) first_rule: u16,
    pub(super) tcp: u16,
    pub(super) udp: u16,
}

impl PortMap {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut map = Self::default();
        for place in 0..plan.virtual_ips.len() as u16 {
            // The plan lists the rules of a virtual IP side by side.
            let first = plan.rules.iter().position(|rule| rule.vip == place).unwrap_or_default();
            let rules = plan.rules[first..].iter().take_while(|rule| rule.vip == place);
            let rules: Vec<_> = rules.collect();
            let tcp = map.row(&rules, Protocol::Tcp);
            let udp = map.row(&rules, Protocol::Udp);
            map.vips.push(VipRows { first_rule: first as u16, tcp, udp });
        }
        map
    }

    fn row(&mut self, rules: &[&PlannedRule], protocol: Protocol) -> u16 {
        let mut places: Vec<_> = (1u8..).zip(rules).filter(|(_, rule)| rule.protocol == protocol).collect();
        if places.is_empty() {
            return NO_ROW;
        }
        // The narrower wins; of two of one width, the first.
        places.sort_by_key(|(_, rule)| rule.ports.width());
        let mut row: Box<PortRow> = vec![0; PORTS].try_into().expect("a vector of that length");
        for (place, rule) in places {
            let covered = &mut row[usize::from(rule.ports.first)..=usize::from(rule.ports.last)];
            covered.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = place);
        }
        let known = self.rows.iter().position(|known| *known == row);
        known.unwrap_or_else(|| {
            self.rows.push(row);
            self.rows.len() - 1
        }) as u16
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Balance, Delivery, Evidence, Ports};
    use crate::driver::datapath::{PlannedVip, VirtualMac};
    use crate::types::{GroupId, NodeId};

    fn plan(vips: u16, rules: &[(u16, Protocol, u16, u16)]) -> Plan {
        let address = |place: u16| std::net::IpAddr::from([10, 0, 0, place as u8]);
        let vip = |place| PlannedVip {
            module: "m".into(),
            address: address(place),
            interface: "eth0".into(),
            group: GroupId(0),
            mac: VirtualMac::of(address(place)),
            delivery: Delivery::Flood,
            joins: Vec::new(),
        };
        let rule = |&(vip, protocol, first, last)| PlannedRule {
            vip,
            module: "m".into(),
            group: GroupId(0),
            protocol,
            ports: Ports { first, last },
            balance: Balance::Connection,
            evidence: Evidence::Sockets,
            watched: true,
        };
        Plan {
            node: NodeId(0),
            noted_interfaces: Vec::new(),
            virtual_ips: (0..vips).map(vip).collect(),
            rules: rules.iter().map(rule).collect(),
            groups: 1,
            mark: 0,
            hash_key: [0; 16],
            lease: Duration::from_millis(100),
            limits: safekit_ebpf::abi::Limits::DEFAULT,
        }
    }

    #[test]
    fn the_narrowest_rule_has_the_port() {
        use Protocol::{Tcp, Udp};
        let map = PortMap::of(&plan(
            1,
            &[
                (0, Tcp, 1, 65_535),
                (0, Tcp, 8000, 8999),
                (0, Udp, 53, 53),
                (0, Tcp, 8080, 8080),
                (0, Tcp, 8500, 9499),
            ],
        ));
        let [VipRows { first_rule: 0, tcp, udp }] = map.vips[..] else { panic!("{:?}", map.vips) };
        let tcp = &map.rows[usize::from(tcp)];
        for (port, place) in [
            (0, 0),
            (1, 1),
            (7999, 1),
            (8000, 2),
            (8080, 4),
            (8081, 2),
            (8999, 2),
            (9000, 5),
            (9499, 5),
            (9500, 1),
            (65_535, 1),
        ] {
            assert_eq!(tcp[port], place, "tcp port {port}");
        }
        let udp = &map.rows[usize::from(udp)];
        assert_eq!(udp.iter().filter(|byte| **byte != 0).count(), 1);
        assert_eq!(udp[53], 3);
    }

    #[test]
    fn virtual_ips_with_the_same_rules_share_their_row() {
        use Protocol::Tcp;
        let map = PortMap::of(&plan(
            4,
            &[(0, Tcp, 80, 80), (0, Tcp, 443, 443), (1, Tcp, 80, 80), (1, Tcp, 443, 443), (3, Tcp, 25, 25)],
        ));
        let row = |first_rule, tcp| VipRows { first_rule, tcp, udp: NO_ROW };
        assert_eq!(map.vips, [row(0, 0), row(2, 0), row(0, NO_ROW), row(4, 1)]);
        assert_eq!(map.rows.len(), 2);
    }
}
