//! The machine: mostly text in /proc, and two things that only trying can tell.

use std::fs::read_to_string;
use std::path::Path;

use super::super::datapath::{self, Plan};
use super::super::realtime;
use crate::config::Config;
use crate::engine::doctor::facts::{Fastopen, Filter, Machine, MemoryLock};
use crate::engine::doctor::machine::FASTOPEN_SERVER;
use crate::types::NodeId;

/// linux/capability.h
const CAPABILITIES: [(&str, u32); 6] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_IPC_LOCK", 14),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_NICE", 23),
    ("CAP_BPF", 39),
];
/// /proc/net/route, flags: the route is in use.
const ROUTE_UP: u32 = 1;

pub(super) fn gather(config: &Config, me: NodeId) -> Machine {
    let missing = capabilities_missing();
    let may_lock = matches!(&missing, Ok(names) if !names.contains(&"CAP_IPC_LOCK"));
    Machine {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        root: rustix::process::geteuid().is_root(),
        capabilities_missing: missing,
        filter: try_filter(config, me),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        bpffs: read_to_string("/proc/filesystems")
            .ok()
            .map(|text| text.lines().any(|line| line.split_whitespace().last() == Some("bpf"))),
        clocksource: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        real_time: try_real_time(),
        memory_lock: memory_lock(may_lock),
        syncookies: sysctl("net/ipv4/tcp_syncookies"),
        fastopen: fastopen(),
        bridge_netfilter: match sysctl("net/bridge/bridge-nf-call-iptables") {
            None if !Path::new("/proc/sys/net/bridge").exists() => Some(0),
            value => value,
        },
    }
}

fn text(path: &str) -> Option<String> {
    read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// A number under /proc/sys, as the caller's network namespace has it.
pub(super) fn sysctl(key: &str) -> Option<i64> {
    text(&format!("/proc/sys/{key}"))?.parse().ok()
}

/// Whether a default route of IPv4 leaves by this interface; none where there is no default route at all.
pub(super) fn default_route_by(interface: &str) -> Option<bool> {
    let routes = read_to_string("/proc/self/net/route").ok()?;
    let defaults: Vec<&str> = routes.lines().skip(1).filter_map(default_route).collect();
    (!defaults.is_empty()).then(|| defaults.contains(&interface))
}

/// `eth0 00000000 0101A8C0 0003 0 0 100 00000000 …`: interface, destination, gateway, flags, …, mask.
fn default_route(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
    let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
    (is_default && flags & ROUTE_UP != 0).then_some(fields[0])
}

fn capabilities_missing() -> Result<Vec<&'static str>, String> {
    let status = read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).ok_or("no CapEff line")?;
    let effective = u64::from_str_radix(line.trim(), 16).map_err(|error| error.to_string())?;
    let missing = CAPABILITIES.into_iter().filter(|(_, bit)| effective >> bit & 1 == 0);
    Ok(missing.map(|(name, _)| name).collect())
}

/// Loads the filter of this configuration, and lets it go again.
fn try_filter(config: &Config, me: NodeId) -> Result<Filter, String> {
    let told = |error: &dyn std::error::Error| {
        let causes = std::iter::successors(error.source(), |error| error.source());
        causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
    };
    // Any key will do: no packet meets this filter.
    let plan = Plan::of(config, me, [0; 16]).map_err(|error| told(&error))?;
    let trial = datapath::try_loading(&plan).map_err(|error| told(&error))?;
    Ok(Filter { compiled: trial.compiled, clock_ahead_ns: trial.clock_ahead_ns, by_ticks: trial.by_ticks })
}

/// On a thread of its own, so that nothing else of this process becomes urgent.
fn try_real_time() -> Result<(), String> {
    let tried = std::thread::spawn(realtime::raise_priority).join();
    tried
        .unwrap_or_else(|_| Err(std::io::Error::other("the trying thread died")))
        .map_err(|it| it.to_string())
}

fn memory_lock(may_lock: bool) -> MemoryLock {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    match limit {
        Some(bytes) if !may_lock => MemoryLock::Bytes(bytes),
        Some(_) | None => MemoryLock::Unlimited,
    }
}

fn fastopen() -> Fastopen {
    match sysctl("net/ipv4/tcp_fastopen") {
        None => Fastopen::Unknown,
        Some(value) if value & FASTOPEN_SERVER == 0 => Fastopen::Off,
        Some(_) => Fastopen::On { key: text("/proc/sys/net/ipv4/tcp_fastopen_key").and_then(|it| tag(&it)) },
    }
}

/// Tells two keys apart and gives neither away: 32 bits of SHA-256. A key of zeros is one that was not drawn yet.
fn tag(key: &str) -> Option<u32> {
    if key.chars().all(|c| matches!(c, '0' | '-' | ',')) {
        return None;
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    Some(u32::from_be_bytes(digest.as_ref()[..4].try_into().expect("a digest has 32 bytes")))
}

#[cfg(test)]
mod tests {
    use super::{default_route, tag};

    #[test]
    fn a_default_route_has_no_destination_no_mask_and_is_up() {
        let line = |destination, flags, mask| {
            format!("eth0\t{destination}\t0101A8C0\t{flags}\t0\t0\t100\t{mask}\t0\t0\t0")
        };
        assert_eq!(default_route(&line("00000000", "0003", "00000000")), Some("eth0"));
        assert_eq!(default_route(&line("0000A8C0", "0001", "00FFFFFF")), None);
        assert_eq!(default_route(&line("00000000", "0002", "00000000")), None);
        assert_eq!(default_route("eth0 00000000"), None);
    }

    #[test]
    fn keys_that_differ_have_tags_that_differ() {
        let tags = ["0123-4567-89ab-cdef", "0123-4567-89ab-cdee"].map(tag);
        assert_ne!(tags[0], tags[1]);
        assert!(tags.iter().all(Option::is_some));
        assert_eq!(tag("00000000-00000000-00000000-00000000"), None);
    }
}
