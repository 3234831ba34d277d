//! What of the filter outlives the daemon, and how the next life takes it over.
//!
//! ```text
//! <pin directory>/VIPS … LEAKS                 maps, one pin each
//! <pin directory>/link-<mode>-<interface>      the filter's attachment; while this is there, the filter runs
//! <pin directory>/guard-<interface>            the guard's
//! <pin directory>/ABI                          symbolic link: the version of the maps' shapes
//! ```
//!
//! A new life loads maps and programs of its own, puts the new program into each old attachment (the kernel swaps them
//! between two frames), and then lets the names of the maps point at the new ones. It reads nothing of the old maps, so
//! their shape does not matter.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use safekit_ebpf::{abi, forward, guard};

use super::sys::{self, detach_pinned_link};
use super::{Error, Mode};

pub(super) const PINNED_MAPS: [&str; 18] = [
    abi::MAP_VIPS,
    abi::MAP_PORTS,
    abi::MAP_RULES,
    abi::MAP_ACTIVE,
    abi::MAP_TABLES,
    abi::MAP_LEASE,
    abi::MAP_COUNTERS,
    abi::MAP_FRAGMENTS,
    abi::MAP_FLOWS,
    abi::MAP_NEWCOMERS,
    abi::MAP_AWAY,
    abi::MAP_SIGHTS,
    guard::MAP_VIRTUAL_MACS,
    guard::MAP_LEAKS,
    forward::MAP_ROADS,
    forward::MAP_ROADS_ACTIVE,
    forward::MAP_PEER_MACS,
    forward::MAP_FORWARDED,
];
const ABI: &str = "ABI";
/// Of pins whose filter does not run yet. (bpffs refuses dots in names.)
const STAGED_PREFIX: &str = "new-";

/// What an attachment runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Filter(Mode),
    Guard,
}

impl What {
    const ALL: [Self; 3] = [Self::Filter(Mode::Native), Self::Filter(Mode::Generic), Self::Guard];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Filter(Mode::Native) => "link-native-",
            Self::Filter(Mode::Generic) => "link-generic-",
            Self::Guard => "guard-",
        }
    }

    /// An interface name never has a colon.
    pub(super) fn pin(self, directory: &Path, interface: &str) -> PathBuf {
        directory.join(format!("{}{}", self.prefix(), interface.replace('.', ":")))
    }

    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        Self::ALL.into_iter().find(|what| name.starts_with(what.prefix()))
    }
}

/// An attachment of an earlier life.
#[derive(Debug)]
struct Link {
    path: PathBuf,
    what: What,
    /// 0: the interface has gone.
    interface: u32,
}

/// All attachments of an earlier life that nobody has taken over yet.
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<Link>);

impl Inherited {
    /// Forgets those whose interface has gone, or of which it is not clear what they are.
    pub(super) fn read(pin_dir: &Path) -> Result<Self, Error> {
        let mut links = Vec::new();
        for path in links_in(pin_dir)? {
            let interface = sys::pinned_link_interface(&path)
                .map_err(|source| Error::Unpin { path: path.clone(), source })?;
            match What::of(&path) {
                Some(what) if interface != 0 => links.push(Link { path, what, interface }),
                Some(_) | None => {
                    detach_pinned_link(&path).map_err(|source| Error::Unpin { path, source })?;
                }
            }
        }
        Ok(Self(links))
    }

    /// Found by the interface and not by its name, which may have changed.
    pub(super) fn take(&mut self, interface: u32, wanted: impl Fn(What) -> bool) -> Option<(PathBuf, What)> {
        let place = self.0.iter().position(|link| link.interface == interface && wanted(link.what))?;
        let link = self.0.swap_remove(place);
        Some((link.path, link.what))
    }

    /// Those on an interface that the filter no longer runs on, or not in this mode.
    pub(super) fn detach_rest(self) -> Result<(), Error> {
        self.0.into_iter().try_for_each(|link| {
            detach_pinned_link(&link.path).map_err(|source| Error::Unpin { path: link.path, source })
        })
    }
}

/// Where a map waits until its filter runs.
pub(super) fn staged(directory: &Path, map: &str) -> PathBuf {
    directory.join(format!("{STAGED_PREFIX}{map}"))
}

/// The names of the maps lead to the new ones from here on.
pub(super) fn publish_maps(directory: &Path) -> Result<(), Error> {
    let rename = |name: &str| {
        let path = directory.join(name);
        std::fs::rename(staged(directory, name), &path).map_err(|source| Error::Publish { path, source })
    };
    let abi = staged(directory, ABI);
    std::os::unix::fs::symlink(abi::ABI_VERSION.to_string(), &abi)
        .map_err(|source| Error::Publish { path: abi, source })?;
    PINNED_MAPS.into_iter().chain([ABI]).try_for_each(rename)
}

/// What a life that ended halfway left.
pub(super) fn remove_staged(directory: &Path) -> Result<(), Error> {
    PINNED_MAPS.into_iter().chain([ABI]).try_for_each(|name| remove(staged(directory, name)))
}

/// Ends whatever an earlier life has left in `pin_dir`: first the filter, then what it looks at. The directory itself,
/// and the bpffs, stay.
pub fn remove_pins(pin_dir: &Path) -> Result<(), Error> {
    for path in links_in(pin_dir)? {
        detach_pinned_link(&path).map_err(|source| Error::Unpin { path, source })?;
    }
    remove_staged(pin_dir)?;
    PINNED_MAPS.into_iter().chain([ABI]).try_for_each(|name| remove(pin_dir.join(name)))
}

fn remove(path: PathBuf) -> Result<(), Error> {
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::Unpin { path, source }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn links_in(pin_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::Unpin { path: pin_dir.to_owned(), source };
    let entries = match std::fs::read_dir(pin_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(source)),
    };
    let mut links = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("link-") || name.starts_with(What::Guard.prefix()) {
            links.push(path);
        }
    }
    Ok(links)
}
