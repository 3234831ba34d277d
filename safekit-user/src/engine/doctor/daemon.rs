//! What the daemon of this node says about itself.

use super::Checks;
use crate::types::Snapshot;
use crate::types::snapshot::{MemberState, Verdict};

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
