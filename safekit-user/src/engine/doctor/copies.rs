//! Directories that a mirror replicates: whether they can be mounted over and kept identical.

use super::Checks;
use super::facts::{Replicated, ReplicatedState};

pub(super) fn judge(checks: &mut Checks<'_>, replicated: &Replicated) {
    let directory = &replicated.directory;
    let name = format!("directory {directory}");
    match &replicated.state {
        ReplicatedState::Fit => checks.ok(&name, "it can be replicated"),
        ReplicatedState::Mounted => checks.ok(&name, "it is mounted by safekit"),
        ReplicatedState::Missing => checks.fault(
            &name,
            "it does not exist: the mirror cannot start",
            format!("mkdir {directory}  (with the owner and mode that the application wants)"),
        ),
        ReplicatedState::NoDirectory => checks.fault(
            &name,
            "it is no directory: the mirror cannot start",
            format!("ls -ld {directory}, then name a directory under `replicate`"),
        ),
        ReplicatedState::DeadMount => checks.warning(
            &name,
            "a process that kept it has died, and applications get errors; the next start mends that",
            format!("safekit start {}", replicated.module),
        ),
        ReplicatedState::NoGuard(guard) => checks.fault(
            &name,
            format!("the file {guard} that `require` names is not in it: is something not mounted?"),
            format!("mount the disk, or touch {directory}/{guard}"),
        ),
        ReplicatedState::NoFuse(why) => checks.fault(
            &name,
            format!("/dev/fuse cannot be opened ({why}): nothing can be mounted"),
            "modprobe fuse".to_owned(),
        ),
        ReplicatedState::Unfit => checks.fault(
            &name,
            "its file system keeps no trusted extended attributes, or has no file handles",
            "move it to ext4, xfs or btrfs".to_owned(),
        ),
        ReplicatedState::Unknown(why) => checks.unknown(&name, why),
    }
}
