//! The kernel and its settings, as far as a farm depends on them: an allow list, because some settings are secrets.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use crate::types::bundle::Item;

const FILES: [(&str, &str); 7] = [
    ("/proc/version", "system/version.txt"),
    ("/etc/os-release", "system/os-release.txt"),
    ("/proc/uptime", "system/uptime.txt"),
    ("/proc/loadavg", "system/load.txt"),
    ("/proc/meminfo", "system/memory.txt"),
    ("/proc/softirqs", "system/softirqs.txt"),
    ("/proc/net/softnet_stat", "system/softnet.txt"),
];
/// Below /proc/sys. Not tcp_fastopen_key, stable_secret or the like.
const SETTINGS: [&str; 19] = [
    "kernel/sched_rt_runtime_us",
    "kernel/unprivileged_bpf_disabled",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/netdev_budget",
    "net/core/netdev_max_backlog",
    "net/core/rmem_default",
    "net/core/rmem_max",
    "net/core/somaxconn",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_fastopen",
    "net/ipv4/tcp_keepalive_time",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_mem",
    "net/ipv4/tcp_syncookies",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
];
/// Of every interface.
const OF_INTERFACES: [(&str, &[&str]); 2] = [
    (
        "net/ipv4/conf",
        &["arp_announce", "arp_filter", "arp_ignore", "forwarding", "rp_filter", "send_redirects"],
    ),
    ("net/ipv6/conf", &["accept_dad", "accept_ra", "disable_ipv6", "forwarding"]),
];
const INTERFACES_MAX: usize = 256;

pub(super) fn facts() -> Vec<Item> {
    let mut items: Vec<Item> = FILES.iter().map(|(file, path)| file_item(file, path)).collect();
    items.push(Item::whole("system/settings.txt", settings()));
    let name = rustix::system::uname();
    let text = |word: &std::ffi::CStr| word.to_string_lossy().into_owned();
    let kernel = json!({
        "system": text(name.sysname()),
        "release": text(name.release()),
        "version": text(name.version()),
        "machine": text(name.machine()),
    });
    items.push(Item::whole("system/kernel.json", format!("{kernel:#}\n")));
    items
}

fn file_item(file: &str, path: &str) -> Item {
    match std::fs::read_to_string(file) {
        Ok(text) => Item::whole(path, text),
        Err(error) => Item::lacking(path, format!("{file} cannot be read: {error}")),
    }
}

/// `net.ipv4.ip_forward = 0`, a line each; one that this kernel does not have is left out.
fn settings() -> String {
    let mut text = String::new();
    let mut add = |key: &str| {
        if let Ok(value) = std::fs::read_to_string(Path::new("/proc/sys").join(key)) {
            let _infallible = writeln!(text, "{} = {}", key.replace('/', "."), value.trim());
        }
    };
    SETTINGS.iter().for_each(|key| add(key));
    for (folder, keys) in OF_INTERFACES {
        let entries = std::fs::read_dir(Path::new("/proc/sys").join(folder)).into_iter().flatten().flatten();
        let mut interfaces: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).take(INTERFACES_MAX).collect();
        interfaces.sort_unstable();
        for interface in &interfaces {
            keys.iter().for_each(|key| add(&format!("{folder}/{interface}/{key}")));
        }
    }
    text
}
