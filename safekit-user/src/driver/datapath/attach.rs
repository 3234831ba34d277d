//! Where and how the filter hangs on an interface.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};

use super::pins::{Inherited, What};
use super::sys::{Interface, detach_pinned_link};
use super::{Error, Mode, ModeChoice};

/// Drivers whose native XDP is missing or not what it seems. veth hands the stack a frame that keeps the packet type
/// from before the filter rewrote its destination (measured on 6.18), so nothing passed would arrive.
pub(super) const GENERIC_DRIVERS: &[&str] = &[
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

/// An interface on which the filter runs.
#[derive(Debug)]
pub struct Attached {
    pub interface: String,
    pub mode: Mode,
    /// Why this mode, in words.
    pub why: String,
    link: Held,
}

/// What keeps an attachment.
#[derive(Debug)]
pub(super) enum Held {
    /// The kernel keeps it by its pin.
    Pinned(PathBuf),
    /// It ends with this value.
    Here { _link: FdLink },
}

impl Held {
    pub(super) fn keep(link: FdLink, pin: Option<PathBuf>) -> Result<Self, Error> {
        let Some(path) = pin else { return Ok(Self::Here { _link: link }) };
        link.pin(&path).map_err(|source| Error::Pin { path: path.clone(), source })?;
        Ok(Self::Pinned(path))
    }

    /// Keeps what was pinned already, under the name that the interface has now.
    pub(super) fn rename(before: PathBuf, path: PathBuf) -> Result<Self, Error> {
        if before != path {
            std::fs::rename(before, &path).map_err(|source| Error::Publish { path: path.clone(), source })?;
        }
        Ok(Self::Pinned(path))
    }

    pub(super) fn detach(self) -> Result<(), Error> {
        match self {
            Self::Here { _link: _ } => Ok(()),
            Self::Pinned(path) => match detach_pinned_link(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::Unpin { path, source }),
                Ok(()) | Err(_) => Ok(()),
            },
        }
    }
}

impl Attached {
    /// In the place of an earlier life's filter where there is one: no frame passes unseen in between.
    pub(super) fn attach(
        program: &mut Xdp,
        name: &str,
        interface: &Interface,
        choice: ModeChoice,
        pin_dir: Option<&Path>,
        inherited: &mut Inherited,
    ) -> Result<Self, Error> {
        let suits = |what| match what {
            What::Filter(mode) => choice.allows(mode),
            What::Guard => false,
        };
        if let Some(directory) = pin_dir
            && let Some((path, What::Filter(mode))) = inherited.take(interface.index, suits)
        {
            take_over(program, name, mode, &path)?;
            let link = Held::rename(path, What::Filter(mode).pin(directory, name))?;
            let why = why(choice, mode, interface.driver.as_deref());
            return Ok(Self { interface: name.to_owned(), mode, why, link });
        }
        if let Some((path, _)) = inherited.take(interface.index, |what| what != What::Guard) {
            // The operator wants the other mode, and one interface has one at a time.
            detach_pinned_link(&path).map_err(|source| Error::Unpin { path, source })?;
        }
        let (link, mode) = attach_in_mode(program, name, interface, choice)?;
        let link = Held::keep(link, pin_dir.map(|directory| What::Filter(mode).pin(directory, name)))?;
        let why = why(choice, mode, interface.driver.as_deref());
        Ok(Self { interface: name.to_owned(), mode, why, link })
    }

    pub(super) fn detach(self) -> Result<(), Error> {
        self.link.detach()
    }
}

/// Puts the program into the attachment that is pinned at `path`.
fn take_over(program: &mut Xdp, name: &str, mode: Mode, path: &Path) -> Result<(), Error> {
    let attach_error = |source| Error::Attach { interface: name.to_owned(), mode, source };
    let pinned = PinnedLink::from_pin(path).map_err(|source| Error::Inherit { path: path.into(), source })?;
    let link = XdpLink::try_from(FdLink::from(pinned))
        .map_err(|source| Error::Inherit { path: path.into(), source })?;
    let id = program.attach_to_link(link).map_err(attach_error)?;
    // The pin keeps it from here on.
    drop(program.take_link(id).map_err(attach_error)?);
    Ok(())
}

fn attach_in_mode(
    program: &mut Xdp,
    name: &str,
    interface: &Interface,
    choice: ModeChoice,
) -> Result<(FdLink, Mode), Error> {
    let mut attach = |mode| Ok((link(program, name, interface, mode)?, mode));
    match choice {
        ModeChoice::Native => attach(Mode::Native),
        ModeChoice::Generic => attach(Mode::Generic),
        ModeChoice::Auto if needs_generic(interface.driver.as_deref()) => attach(Mode::Generic),
        ModeChoice::Auto => match attach(Mode::Native) {
            Ok(attached) => Ok(attached),
            Err(Error::OtherProgram { interface }) => Err(Error::OtherProgram { interface }),
            Err(_) => attach(Mode::Generic),
        },
    }
}

fn needs_generic(driver: Option<&str>) -> bool {
    driver.is_some_and(|driver| GENERIC_DRIVERS.contains(&driver))
}

/// Why an interface has its mode, in words.
fn why(choice: ModeChoice, mode: Mode, driver: Option<&str>) -> String {
    let name = driver.unwrap_or("unknown");
    match (choice, mode) {
        (ModeChoice::Native | ModeChoice::Generic, _) => "configured".into(),
        (ModeChoice::Auto, Mode::Native) => format!("driver {name} has it"),
        (ModeChoice::Auto, Mode::Generic) if needs_generic(driver) => format!("{name} interfaces need it"),
        (ModeChoice::Auto, Mode::Generic) => format!("driver {name} has no native XDP"),
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
