//! What the daemon keeps: its key, its state, and the time of day.

use super::Checks;
use super::facts::Keeping;

/// Logs of scripts and the journal take up to this much of a busy node.
const STATE_BYTES_WANTED: u64 = 512 << 20;
/// State that cannot be written is state that a restart forgets.
const STATE_BYTES_NEEDED: u64 = 16 << 20;

pub(super) fn judge(checks: &mut Checks<'_>, keeping: &Keeping) {
    match &keeping.key {
        Ok(()) => checks.ok("cluster key", "there, and readable by its owner alone"),
        Err((what, remedy)) => {
            checks.fault("cluster key", format!("{what}: the daemon does not start"), remedy);
        }
    }
    match keeping.clock_is_synchronised {
        Some(true) => checks.ok("time of day", "kept right by a time service"),
        Some(false) => checks.warning(
            "time of day",
            "no time service keeps it right: the farm works, but logs of several nodes cannot be compared",
            "timedatectl set-ntp true  (or install chrony)",
        ),
        None => checks.unknown("time of day", "the kernel does not say"),
    }
    let dir = &keeping.state_dir;
    match keeping.state_bytes_free {
        None => checks.unknown("state directory", format!("cannot ask about {dir}")),
        Some(free) if free < STATE_BYTES_NEEDED => checks.fault(
            "state directory",
            format!("{dir} has {} MiB left: what the daemon must remember is lost", free >> 20),
            format!("df -h {dir}  (make room)"),
        ),
        Some(free) if free < STATE_BYTES_WANTED => checks.warning(
            "state directory",
            format!("{dir} has {} MiB left: logs of scripts will fill it", free >> 20),
            format!("df -h {dir}  (make room)"),
        ),
        Some(free) => checks.ok("state directory", format!("{dir} has {} MiB left", free >> 20)),
    }
}
