//! A virtual IP: where it is configured, and whether somebody else has it.

use super::Checks;
use super::facts::{Claim, VirtualIp};

pub(super) fn judge(checks: &mut Checks<'_>, vip: &VirtualIp) {
    let address = vip.address;
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let misplaced: Vec<&str> =
        vip.configured_on.iter().map(String::as_str).filter(|name| *name != "lo").collect();
    match misplaced.as_slice() {
        [] if vip.configured_on.is_empty() => checks.ok("place", "not configured; the daemon adds it to lo"),
        [] => checks.ok("place", "on lo, where the kernel is silent about it"),
        [interface, ..] => checks.fault(
            "place",
            format!("configured on {interface}: the kernel would claim it with this node's own MAC"),
            format!(
                "ip address del {address} dev {interface}  (a prefix other than /{prefix} has to be named)"
            ),
        ),
    }
    match &vip.claim {
        Claim::NotAsked => checks.ok("owner on the wire", "the filter answers for it"),
        Claim::Nobody => checks.ok("owner on the wire", "nobody else answers for it"),
        Claim::Farm => checks.ok("owner on the wire", "the farm answers for it, with the virtual MAC"),
        Claim::Stranger(mac) => checks.fault(
            "owner on the wire",
            format!("{} answers for it: not a node of this farm", hex(mac)),
            format!("ip neighbour; find the host with {} and take {address} from it", hex(mac)),
        ),
        Claim::Failed(why) => checks.unknown("owner on the wire", format!("cannot ask: {why}")),
    }
}

fn hex(mac: &[u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
