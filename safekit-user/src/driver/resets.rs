//! Ends the connections of a farm whose application is down on this node, where its module wants that.

use std::io;

use super::connections;
use crate::config::{Farm, Protocol};

/// How many were reset. Blocks for the dump of the kernel's sockets.
pub fn reset(farm: &Farm) -> io::Result<usize> {
    connections::destroy(|connection| {
        let to_virtual_ip = farm.virtual_ips.iter().any(|vip| vip.address == connection.local);
        let ruled = |rule: &crate::config::Rule| {
            rule.protocol == Protocol::Tcp && rule.ports.contains(connection.local_port)
        };
        to_virtual_ip && farm.rules.iter().any(ruled)
    })
}
