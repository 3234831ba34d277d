//! Where and how the filter hangs on an interface, and what of it outlives the daemon.
//!
//! ```text
//! <pin directory>/VIPS … COUNTERS    maps, one pin each
//! <pin directory>/link-<interface>   the attachment; while this is there, the filter runs
//! ```

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use safekit_ebpf::abi;

use super::sys::{Interface, detach_pinned_link};
use super::{Error, Mode, ModeChoice};

/// Drivers whose native XDP is missing or not what it seems. veth hands the stack a frame that keeps the packet type
/// from before the filter rewrote its destination (measured on 6.18), so nothing passed would arrive.
const GENERIC_DRIVERS: &[&str] = &[
    "veth",
    "bridge",
    "macvlan",
    "macvtap",
    "ipvlan",
    "tun",
    "dummy",
    "802.1Q VLAN Support",
    "bonding",
    "team",
];

pub(super) const PINNED_MAPS: [&str; 12] = [
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
];
const LINK_PREFIX: &str = "link-";

/// An interface on which the filter runs.
#[derive(Debug)]
pub struct Attached {
    pub interface: String,
    pub mode: Mode,
    /// Why this mode, in words.
    pub why: String,
    link: Held,
}

#[derive(Debug)]
enum Held {
    /// The kernel keeps it by its pin.
    Pinned(PathBuf),
    /// It ends with this value.
    Here { _link: FdLink },
}

impl Attached {
    pub(super) fn attach(
        program: &mut Xdp,
        name: &str,
        interface: &Interface,
        choice: ModeChoice,
        pin_dir: Option<&Path>,
    ) -> Result<Self, Error> {
        let (link, mode, why) = attach_in_mode(program, name, interface, choice)?;
        let link = match pin_dir {
            None => Held::Here { _link: link },
            Some(directory) => {
                let path = link_pin(directory, name);
                link.pin(&path).map_err(|source| Error::Pin { path: path.clone(), source })?;
                Held::Pinned(path)
            }
        };
        Ok(Self { interface: name.to_owned(), mode, why, link })
    }

    pub(super) fn detach(self) -> Result<(), Error> {
        match self.link {
            Held::Here { _link: _ } => Ok(()),
            Held::Pinned(path) => match detach_pinned_link(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::Unpin { path, source }),
                Ok(()) | Err(_) => Ok(()),
            },
        }
    }
}

fn attach_in_mode(
    program: &mut Xdp,
    name: &str,
    interface: &Interface,
    choice: ModeChoice,
) -> Result<(FdLink, Mode, String), Error> {
    let driver = interface.driver.as_deref();
    match choice {
        ModeChoice::Native => {
            Ok((link(program, name, interface, Mode::Native)?, Mode::Native, "configured".into()))
        }
        ModeChoice::Generic => {
            Ok((link(program, name, interface, Mode::Generic)?, Mode::Generic, "configured".into()))
        }
        ModeChoice::Auto => {
            if let Some(driver) = driver.filter(|driver| GENERIC_DRIVERS.contains(driver)) {
                let why = format!("{driver} interfaces need it");
                return Ok((link(program, name, interface, Mode::Generic)?, Mode::Generic, why));
            }
            match link(program, name, interface, Mode::Native) {
                Ok(link) => {
                    Ok((link, Mode::Native, format!("driver {} has it", driver.unwrap_or("unknown"))))
                }
                Err(Error::OtherProgram { interface }) => Err(Error::OtherProgram { interface }),
                Err(_) => {
                    let why = format!("driver {} has no native XDP", driver.unwrap_or("unknown"));
                    Ok((link(program, name, interface, Mode::Generic)?, Mode::Generic, why))
                }
            }
        }
    }
}

fn link(program: &mut Xdp, name: &str, interface: &Interface, mode: Mode) -> Result<FdLink, Error> {
    let kernel_mode = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let attach_error = |source| Error::Attach { interface: name.to_owned(), mode, source };
    let id = match program.attach_to_if_index(interface.index, kernel_mode) {
        Ok(id) => id,
        Err(source) if is_taken(&source) => return Err(Error::OtherProgram { interface: name.to_owned() }),
        Err(source) => return Err(attach_error(source)),
    };
    let link = program.take_link(id).map_err(attach_error)?;
    FdLink::try_from(link).map_err(|_| Error::OldKernel { interface: name.to_owned() })
}

/// EBUSY: a program in this mode; EEXIST: one in the other mode.
fn is_taken(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// bpffs refuses dots in names; an interface name never has a colon.
fn link_pin(directory: &Path, interface: &str) -> PathBuf {
    directory.join(format!("{LINK_PREFIX}{}", interface.replace('.', ":")))
}

/// Ends whatever an earlier life has left in `pin_dir`: first the filter, then what it looks at. The directory itself,
/// and the bpffs, stay.
pub fn remove_pins(pin_dir: &Path) -> Result<(), Error> {
    remove_links(pin_dir)?;
    remove_maps(pin_dir)
}

/// Detaches every filter that is pinned here, on whatever interface.
pub(super) fn remove_links(pin_dir: &Path) -> Result<(), Error> {
    let unreadable = |source| Error::Unpin { path: pin_dir.to_owned(), source };
    let entries = match std::fs::read_dir(pin_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(unreadable(source)),
    };
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK_PREFIX)) {
            detach_pinned_link(&path).map_err(|source| Error::Unpin { path, source })?;
        }
    }
    Ok(())
}

/// Removes the pins of the maps; a filter that still runs keeps the maps themselves.
pub(super) fn remove_maps(pin_dir: &Path) -> Result<(), Error> {
    for map in PINNED_MAPS {
        let path = pin_dir.join(map);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(Error::Unpin { path, source }),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
