//! The machine as a whole: kernel, rights, clocks, and the settings that hold for every interface.

use super::Checks;
use super::facts::{Facts, Fastopen, Filter, Machine, MemoryLock};

/// XDP links that outlive their process: Linux 5.9. The oldest that is maintained: 5.10.
const KERNEL_OLDEST: (u32, u32) = (5, 10);
/// Below it the two clocks were read at two moments, above it they are two clocks.
const CLOCK_TOLERANCE_NS: u64 = 1_000_000_000;
/// What the daemon and its maps lock, with room.
const MEMORY_LOCK_MIN: u64 = 256 << 20;
/// A read of these costs a microsecond or more, and every lease and packet time reads one.
const SLOW_CLOCKS: [&str; 5] = ["hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"];
/// `net.ipv4.tcp_fastopen`, bit 1: servers.
pub const FASTOPEN_SERVER: i64 = 2;

pub(super) fn judge(checks: &mut Checks<'_>, facts: &Facts) {
    let machine = &facts.machine;
    kernel(checks, &machine.release);
    rights(checks, machine);
    filter(checks, machine);
    if machine.btf {
        checks.ok("kernel types (BTF)", "the kernel describes its types");
    } else {
        checks.ok("kernel types (BTF)", "absent, and not needed: the filter reads no kernel structure");
    }
    match machine.bpffs {
        Some(true) => checks.ok("bpffs", "the kernel can keep filters and maps by name"),
        Some(false) => checks.fault(
            "bpffs",
            "the kernel knows no file system bpf, so nothing survives the daemon",
            "use a kernel with CONFIG_BPF_SYSCALL",
        ),
        None => checks.unknown("bpffs", "cannot read /proc/filesystems"),
    }
    clocksource(checks, machine.clocksource.as_deref());
    scheduling(checks, machine);
    let bridged = facts.interfaces.iter().any(|it| it.link.as_ref().is_some_and(|link| link.is_bridge));
    tcp(checks, machine, bridged);
}

fn kernel(checks: &mut Checks<'_>, release: &str) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (oldest_major, oldest_minor) = KERNEL_OLDEST;
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < KERNEL_OLDEST => checks.fault(
            "kernel",
            format!("Linux {release} is older than {oldest_major}.{oldest_minor}"),
            format!("install a kernel of {oldest_major}.{oldest_minor} or newer, then restart the machine"),
        ),
        (Some(Ok(_)), Some(Ok(_))) => checks.ok("kernel", format!("Linux {release}")),
        (_, _) => checks.unknown("kernel", format!("cannot read the release {release}")),
    }
}

fn rights(checks: &mut Checks<'_>, machine: &Machine) {
    if !machine.root {
        return checks.fault(
            "rights",
            "not root: the daemon could not start, and some checks cannot be made",
            "sudo safekit doctor",
        );
    }
    match &machine.capabilities_missing {
        Ok(missing) if missing.is_empty() => checks.ok("rights", "root, with all capabilities it needs"),
        Ok(missing) => checks.fault(
            "rights",
            format!("root without {}", missing.join(", ")),
            "give the service or container these capabilities (systemd: CapabilityBoundingSet=; podman: --cap-add)",
        ),
        Err(why) => checks.unknown("rights", format!("cannot read the capabilities: {why}")),
    }
}

fn filter(checks: &mut Checks<'_>, machine: &Machine) {
    let filter = match &machine.filter {
        Ok(filter) => filter,
        Err(why) if !machine.root => {
            return checks.unknown("packet filter", format!("only root can try: {why}"));
        }
        Err(why) => {
            return checks.fault(
                "packet filter",
                format!("the kernel does not take the filter: {why}"),
                "dmesg | tail  (a locked-down kernel or a missing CONFIG_BPF_JIT shows there)",
            );
        }
    };
    let lease = if filter.by_ticks { "ticks" } else { "the exact clock, 30 ns a packet" };
    checks.ok("packet filter", format!("the kernel takes the filter; the lease is measured by {lease}"));
    if filter.compiled {
        checks.ok("compiler (BPF JIT)", "the filter runs as machine code");
    } else {
        checks.warning(
            "compiler (BPF JIT)",
            "the kernel interprets the filter: ten times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        );
    }
    clocks(checks, filter);
}

fn clocks(checks: &mut Checks<'_>, filter: &Filter) {
    let apart = filter.clock_ahead_ns.unsigned_abs();
    if apart < CLOCK_TOLERANCE_NS {
        return checks.ok("boot clock", "the filter and the daemon read the same clock");
    }
    checks.fault(
        "boot clock",
        format!("the daemon's boot clock is {} s off the filter's: a time namespace", apart / 1_000_000_000),
        "run safekit in the machine's own time namespace (nsenter --time=/proc/1/ns/time safekit daemon)",
    );
}

fn clocksource(checks: &mut Checks<'_>, source: Option<&str>) {
    match source {
        Some(slow) if SLOW_CLOCKS.contains(&slow) => checks.warning(
            "clock source",
            format!("{slow}: each read is slow, and the heartbeat reads often"),
            "cat /sys/devices/system/clocksource/clocksource0/available_clocksource  (choose tsc, kvm-clock or hyperv)",
        ),
        Some(source) => checks.ok("clock source", source),
        None => checks.unknown("clock source", "the kernel does not say"),
    }
}

fn scheduling(checks: &mut Checks<'_>, machine: &Machine) {
    match &machine.real_time {
        Ok(()) => checks.ok("real-time priority", "allowed"),
        Err(why) => checks.warning(
            "real-time priority",
            format!("refused ({why}): a busy machine delays heartbeats, and its lease runs out"),
            "give the service CAP_SYS_NICE and a real-time budget (systemd: LimitRTPRIO=99; cgroup v1: cpu.rt_runtime_us)",
        ),
    }
    match machine.memory_lock {
        MemoryLock::Unlimited => checks.ok("locked memory", "unlimited"),
        MemoryLock::Bytes(bytes) if bytes >= MEMORY_LOCK_MIN => {
            checks.ok("locked memory", format!("up to {} MiB", bytes >> 20));
        }
        MemoryLock::Bytes(bytes) => checks.warning(
            "locked memory",
            format!("only {} KiB: a page fault may delay heartbeats", bytes >> 10),
            "ulimit -l unlimited  (systemd: LimitMEMLOCK=infinity)",
        ),
    }
}

fn tcp(checks: &mut Checks<'_>, machine: &Machine, bridged: bool) {
    match machine.syncookies {
        Some(0) => checks.warning(
            "SYN cookies",
            "off: a flood of SYNs shuts out honest clients",
            "sysctl -w net.ipv4.tcp_syncookies=1",
        ),
        Some(_) => checks.ok("SYN cookies", "on"),
        None => checks.unknown("SYN cookies", "cannot read net.ipv4.tcp_syncookies"),
    }
    match machine.fastopen {
        Fastopen::Off => checks.ok("TCP fast open", "off for servers"),
        Fastopen::Unknown => checks.unknown("TCP fast open", "cannot read net.ipv4.tcp_fastopen"),
        Fastopen::On { key: Some(key) } => checks.warning(
            "TCP fast open",
            format!("on, key {key:08x}: a client whose cookie is another node's starts anew each time"),
            "compare this line on all nodes; where it differs, set net.ipv4.tcp_fastopen_key to one value",
        ),
        Fastopen::On { key: None } => checks.warning(
            "TCP fast open",
            "on, with a key that this node draws itself: cookies of other nodes do not hold",
            "set net.ipv4.tcp_fastopen_key to one value on all nodes",
        ),
    }
    match machine.bridge_netfilter {
        Some(0) => checks.ok("bridge filtering", "bridged frames do not pass iptables"),
        Some(_) if !bridged => checks.ok("bridge filtering", "on, and no virtual IP is on a bridge"),
        Some(_) => checks.warning(
            "bridge filtering",
            "bridged frames pass iptables: connection tracking there sees half of each connection",
            "sysctl -w net.bridge.bridge-nf-call-iptables=0",
        ),
        None => checks.unknown("bridge filtering", "cannot read net.bridge.bridge-nf-call-iptables"),
    }
}
