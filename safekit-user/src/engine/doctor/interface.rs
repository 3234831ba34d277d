//! An interface that carries virtual IPs.

use super::Checks;
use super::facts::{Facts, Interface, Link};

/// IPv6 asks for it (RFC 8200 section 5), and a heartbeat of a large farm would be cut into many pieces below.
const MTU_MIN: u32 = 1280;
/// `arp_ignore` that answers for nothing at all.
const ARP_IGNORE_ALL: i64 = 8;
/// What `driver/vip` sets.
const ARP_IGNORE: i64 = 1;
const ARP_ANNOUNCE: i64 = 2;
const RP_STRICT: i64 = 1;

pub(super) fn judge(checks: &mut Checks<'_>, interface: &Interface, facts: &Facts) {
    let name = &interface.name;
    let Some(link) = &interface.link else {
        return checks.fault(
            "link",
            format!("there is no interface {name} on this node"),
            "ip link  (then correct `interface:` of the virtual IP in the configuration)",
        );
    };
    state(checks, name, link);
    if link.mtu < MTU_MIN {
        checks.warning("MTU", format!("only {} bytes", link.mtu), format!("ip link set {name} mtu 1500"));
    } else {
        checks.ok("MTU", format!("{} bytes", link.mtu));
    }
    mode(checks, interface, facts);
    other_programs(checks, interface);
    offloads(checks, interface);
    second_mac(checks, link, facts);
    addresses(checks, interface, facts);
}

fn state(checks: &mut Checks<'_>, name: &str, link: &Link) {
    match (link.up, link.carrier) {
        (false, _) => checks.fault("link", "down", format!("ip link set {name} up")),
        (true, Some(false)) => checks.fault(
            "link",
            "up, without carrier: no cable, or the other end is down",
            format!("ethtool {name}  (then look at the cable and the switch port)"),
        ),
        (true, Some(true)) => checks.ok("link", "up, with carrier"),
        (true, None) => checks.unknown("link", "up; it does not tell its carrier"),
    }
}

/// Which mode the filter has or will have, and why it is not the fast one.
fn mode(checks: &mut Checks<'_>, interface: &Interface, facts: &Facts) {
    let vips = facts.daemon.iter().flat_map(|snapshot| &snapshot.farms).flat_map(|farm| &farm.virtual_ips);
    let running = vips.into_iter().find(|vip| vip.interface == interface.name);
    let driver = interface.driver.as_deref().unwrap_or("unknown");
    match (running, &interface.generic_because) {
        (Some(vip), _) => checks.ok("XDP mode", format!("{}: {}", vip.xdp_mode, vip.xdp_reason)),
        (None, Some(why)) => checks.ok("XDP mode", format!("generic will be used: {why}")),
        (None, None) => {
            checks.ok("XDP mode", format!("native will be tried (driver {driver}), generic is the fallback"));
        }
    }
}

fn other_programs(checks: &mut Checks<'_>, interface: &Interface) {
    let name = &interface.name;
    match interface.xdp.as_slice() {
        [] => checks.ok("other XDP programs", "none attached"),
        [_] if interface.xdp_is_ours => checks.ok("other XDP programs", "only the farm filter of this node"),
        [program, ..] => checks.fault(
            "other XDP programs",
            format!("{} (id {}) is attached in {} mode", program.name, program.id, program.mode),
            format!("ip link set dev {name} xdp off; ip link set dev {name} xdpgeneric off  (a pinned link: bpftool link)"),
        ),
    }
    match &interface.tc {
        Ok(programs) if programs.is_empty() => checks.ok("tc programs", "none attached"),
        Ok(programs) => checks.warning(
            "tc programs",
            format!("{}: they see what the filter passes, and can drop or redirect it", programs.join(", ")),
            format!("tc filter show dev {name} ingress; bpftool net show dev {name}"),
        ),
        Err(why) => checks.unknown("tc programs", format!("cannot list them: {why}")),
    }
}

fn offloads(checks: &mut Checks<'_>, interface: &Interface) {
    let name = &interface.name;
    let Some(offloads) = interface.offloads else {
        return checks.unknown("offloads", "the driver does not list them");
    };
    let merged: Vec<&str> = [(offloads.large_receive, "lro"), (offloads.gro_hardware, "rx-gro-hw")]
        .into_iter()
        .filter_map(|(on, feature)| on.then_some(feature))
        .collect();
    if !merged.is_empty() {
        let off: Vec<String> = merged.iter().map(|feature| format!("{feature} off")).collect();
        return checks.warning(
            "offloads",
            format!("{} joins packets before the filter: native XDP may be refused", merged.join(" and ")),
            format!("ethtool -K {name} {}", off.join(" ")),
        );
    }
    if offloads.vlan_receive && !interface.vlans.is_empty() {
        return checks.warning(
            "offloads",
            format!("frames of {} reach the filter here without their VLAN tag", interface.vlans.join(", ")),
            format!("ethtool -K {name} rxvlan off"),
        );
    }
    checks.ok("offloads", "none that is in the filter's way");
}

/// The kernel falls back to promiscuous mode where a card cannot filter a second address.
fn second_mac(checks: &mut Checks<'_>, link: &Link, facts: &Facts) {
    let found = match (facts.daemon.is_some(), link.promiscuity) {
        (true, 0) => "the card filters by several addresses: it takes the virtual MAC as one more",
        (true, _) => "the card takes every frame (promiscuous), the virtual MAC's with them",
        (false, 0) => "not asked for yet; the daemon adds it, or makes the card promiscuous",
        (false, _) => "promiscuous already, for another program",
    };
    checks.ok("virtual MAC", found);
}

fn addresses(checks: &mut Checks<'_>, interface: &Interface, facts: &Facts) {
    let name = &interface.name;
    match (interface.rp_filter, interface.default_route) {
        (Some(RP_STRICT), Some(false)) => checks.warning(
            "rp_filter",
            "strict, and the default route leaves by another interface: clients beyond the router are dropped",
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
        ),
        (Some(RP_STRICT), _) => checks.ok("rp_filter", "strict; the default route uses this interface"),
        (Some(_), _) => checks.ok("rp_filter", "not strict"),
        (None, _) => checks.unknown("rp_filter", "cannot be read"),
    }
    arp(checks, interface, facts.daemon.is_some());
    let wants_ipv6 = facts.virtual_ips.iter().any(|vip| vip.address.is_ipv6() && vip.interface == *name);
    match interface.ipv6_disabled {
        _ if !wants_ipv6 => checks.ok("IPv6", "not needed: no IPv6 virtual IP here"),
        Some(true) => checks.fault(
            "IPv6",
            "disabled, and a virtual IP needs it",
            format!("sysctl -w net.ipv6.conf.{name}.disable_ipv6=0 net.ipv6.conf.lo.disable_ipv6=0"),
        ),
        Some(false) => checks.ok("IPv6", "enabled"),
        None => checks.fault("IPv6", "the kernel has none, and a virtual IP needs it", "modprobe ipv6"),
    }
}

fn arp(checks: &mut Checks<'_>, interface: &Interface, daemon: bool) {
    let name = &interface.name;
    let (Some(ignore), Some(announce)) = (interface.arp_ignore, interface.arp_announce) else {
        return checks.unknown("ARP settings", "cannot be read");
    };
    if ignore >= ARP_IGNORE_ALL {
        return checks.fault(
            "ARP settings",
            format!("arp_ignore is {ignore}: this node answers for no address, its own included"),
            format!("sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.{name}.arp_ignore=1"),
        );
    }
    if !daemon {
        return checks.ok(
            "ARP settings",
            format!("arp_ignore {ignore}, arp_announce {announce}; the daemon sets {ARP_IGNORE} and {ARP_ANNOUNCE}"),
        );
    }
    if ignore >= ARP_IGNORE && announce == ARP_ANNOUNCE {
        return checks.ok("ARP settings", "the kernel is silent about the virtual IP; the filter answers");
    }
    checks.fault(
        "ARP settings",
        format!("arp_ignore {ignore}, arp_announce {announce}: something has set back what the daemon set"),
        format!("sysctl -w net.ipv4.conf.{name}.arp_ignore=1 net.ipv4.conf.{name}.arp_announce=2"),
    );
}
