//! Whether the heartbeat's port can be had, and who has it.

use std::fs::read_to_string;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

use crate::engine::doctor::facts::PortState;

pub(super) fn try_port(own: IpAddr, port: u16) -> PortState {
    match UdpSocket::bind((own, port)) {
        Ok(_free) => PortState::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => PortState::Taken(holder(port)),
        Err(error) => PortState::Unknown(error.to_string()),
    }
}

/// `name (pid 42)`, of the first process that has a UDP socket on this port.
fn holder(port: u16) -> Option<String> {
    let tables = ["udp", "udp6"].map(|name| read_to_string(format!("/proc/self/net/{name}")));
    let inodes: Vec<u64> = tables.iter().flatten().flat_map(|text| inodes_on(text, port)).collect();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
            inodes.iter().any(|inode| target.as_os_str() == format!("socket:[{inode}]").as_str())
        });
        if holds {
            let name = read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// Of /proc/net/udp: `sl local_address rem_address st queues tr when retrnsmt uid timeout inode …`.
fn inodes_on(table: &str, port: u16) -> Vec<u64> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        (u16::from_str_radix(hex, 16) == Ok(port)).then(|| fields.get(9)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        let own: IpAddr = [127, 0, 0, 1].into();
        let taken = UdpSocket::bind((own, 0)).expect("a free port");
        let port = taken.local_addr().expect("it is bound").port();
        let PortState::Taken(Some(holder)) = try_port(own, port) else { panic!("it is taken") };
        assert!(holder.ends_with(&format!("(pid {})", std::process::id())), "{holder}");
        drop(taken);
        assert_eq!(try_port(own, port), PortState::Free);
        assert!(
            matches!(try_port([192, 0, 2, 1].into(), port), PortState::Unknown(_)),
            "not an address of this host"
        );
    }
}
