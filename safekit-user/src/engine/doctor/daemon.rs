//! What the daemon of this node says about itself.

use super::Checks;
use crate::types::Snapshot;
use crate::types::snapshot::{ConsoleInfo, MemberState, Undelivered, Verdict};

/// A heartbeat later than that eats into the lease.
const LATE_PERCENT_MAX: u64 = 50;

pub(super) fn judge(checks: &mut Checks<'_>, daemon: Option<&Snapshot>) {
    let Some(snapshot) = daemon else {
        return checks.unknown("state", "no daemon answers here; with one, more can be checked");
    };
    match snapshot.verdict {
        Verdict::Converged => checks.ok("state", snapshot.summary.clone()),
        Verdict::Converging => checks.ok("state", format!("changing: {}", snapshot.summary)),
        Verdict::Degraded | Verdict::Split => {
            checks.warning("state", snapshot.summary.clone(), "safekit status");
        }
        Verdict::Down if snapshot.state == MemberState::Leaving => {
            checks.ok("state", snapshot.summary.clone());
        }
        Verdict::Down => checks.fault("state", snapshot.summary.clone(), "safekit status"),
    }
    configurations(checks, snapshot);
    delivery(checks, snapshot);
    let heartbeat = &snapshot.heartbeat;
    let late_ms = heartbeat.lateness_max_us / 1000;
    if late_ms * 100 > heartbeat.lease_ms * LATE_PERCENT_MAX {
        checks.warning(
            "punctuality",
            format!("the heartbeat was up to {late_ms} ms late, of a lease of {} ms", heartbeat.lease_ms),
            "choose a slower heartbeat profile, or give this machine more time (steal, CPU limits)",
        );
    } else {
        checks.ok("punctuality", format!("at most {late_ms} ms late in the last minute"));
    }
    match &snapshot.console {
        None => {}
        Some(ConsoleInfo { listen, error: None }) => checks.ok("console", format!("answers on {listen}")),
        Some(ConsoleInfo { listen, error: Some(error) }) => checks.warning(
            "console",
            format!("cannot listen on {listen}: {error}"),
            "free the port, or set another `console: { listen: … }`; the daemon tries again by itself",
        ),
    }
    if heartbeat.rejected > 0 {
        checks.warning(
            "strangers",
            format!("{} datagrams on the heartbeat port were not of this cluster", heartbeat.rejected),
            "safekit config check  (compare key and cluster name of all nodes)",
        );
    } else {
        checks.ok("strangers", "every heartbeat was of this cluster");
    }
}

fn configurations(checks: &mut Checks<'_>, snapshot: &Snapshot) {
    let own = &snapshot.links.config;
    let heard = snapshot.links.nodes.iter().filter_map(|link| Some((&link.node, link.config.as_ref()?)));
    let other: Vec<&str> =
        heard.filter(|(_, config)| *config != own).map(|(node, _)| node.as_str()).collect();
    if other.is_empty() {
        return checks.ok("configuration", "the same on every node that was heard");
    }
    checks.warning(
        "configuration",
        format!("another one on {}: they may not agree about who does what", other.join(", ")),
        "safekit config diff /etc/safekit/safekit.yaml  (then safekit config apply: everywhere, or nowhere)",
    );
}

/// Whether frames to the virtual MACs arrive, by peer and in both directions, as the probes of the last seconds tell.
fn delivery(checks: &mut Checks<'_>, snapshot: &Snapshot) {
    let me = &snapshot.node;
    let probed = snapshot.farms.iter().any(|farm| farm.delivery != "directed");
    for peer in snapshot.nodes.iter().filter(|node| probed && node.member && !node.this) {
        let lost = |from: &String, to: &String| {
            let missing = |it: &&Undelivered| it.to == *to && it.from.contains(from);
            snapshot
                .undelivered
                .iter()
                .filter(missing)
                .map(|it| it.virtual_ip.to_string())
                .collect::<Vec<_>>()
        };
        let name = format!("delivery, {}", peer.name);
        let (there, here) = (lost(me, &peer.name), lost(&peer.name, me));
        if there.is_empty() && here.is_empty() {
            checks.ok(&name, "our frames to the virtual MACs arrive there, and its frames here");
            continue;
        }
        let mut found = Vec::new();
        if !there.is_empty() {
            found.push(format!("our frames to the virtual MAC of {} do not arrive there", there.join(", ")));
        }
        if !here.is_empty() {
            found.push(format!("its frames to the virtual MAC of {} do not arrive here", here.join(", ")));
        }
        checks.fault(
            &name,
            found.join("; "),
            "safekit status  (its WARNING lines name the port and what to set there)",
        );
    }
}
