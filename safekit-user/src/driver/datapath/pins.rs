//! Pinned maps and links: they outlive a daemon that dies, so that live connections do, and its parent can close
//! the lease.

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData};
use rustix::fs::statfs;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use safekit_ebpf::abi;

use super::Error;

/// `BPF_FS_MAGIC` of the kernel's `magic.h`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Makes `dir` and mounts a BPF file system on it, unless it lies on one.
pub fn ensure_bpffs(dir: &Path) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Pin { path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    if is_bpffs(dir).map_err(failed)? {
        return Ok(());
    }
    mount("bpf", dir, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, c"mode=0700")
        .map_err(|error| failed(error.into()))
}

fn is_bpffs(dir: &Path) -> io::Result<bool> {
    Ok(statfs(dir)?.f_type as i64 == BPF_FS_MAGIC)
}

/// First letters of what is ours.
const MAP: &str = "map_";
const LINK: &str = "link_";

pub(super) fn map_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{MAP}{name}"))
}

pub(super) fn link_path(dir: &Path, interface: &str) -> PathBuf {
    // A BPF file system takes no dots in names; interface names may have some.
    dir.join(format!("{LINK}{}", interface.replace('.', "~")))
}

/// Removes what is pinned in `dir`: links are detached by that, maps freed. The mount stays.
pub(super) fn clear(dir: &Path) -> Result<(), Error> {
    let failed = |source| Error::Pin { path: dir.to_owned(), source };
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        // The kernel puts files of its own into a fresh BPF file system, and lets nobody remove them.
        if [MAP, LINK].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            std::fs::remove_file(entry.path()).map_err(|source| Error::Pin { path: entry.path(), source })?;
        }
    }
    Ok(())
}

/// Removes what is pinned in `dir`, and the file system that [`ensure_bpffs`] mounted there. Fine when there is none.
pub fn remove_pins(dir: &Path) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Pin { path: dir.to_owned(), source };
    if !dir.is_dir() {
        return Ok(());
    }
    if is_bpffs(dir).map_err(failed)? {
        clear(dir)?;
        match unmount(dir, UnmountFlags::empty()) {
            // Not a mount point itself: it lies on the system's own BPF file system.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    std::fs::remove_dir(dir).map_err(failed)
}

/// Ends the lease of a daemon that has died: the filter takes no new connection from now on.
pub fn close_lease(dir: &Path) -> Result<(), Error> {
    let path = map_path(dir, abi::maps::LEASE);
    let data = MapData::from_pin(path).map_err(|source| Error::Map { name: abi::maps::LEASE, source })?;
    let map = Map::Array(data);
    let mut lease: Array<_, u64> =
        map.try_into().map_err(|source| Error::Map { name: abi::maps::LEASE, source })?;
    lease.set(0, 0, 0).map_err(|source| Error::Map { name: abi::maps::LEASE, source })
}
