//! The guard on an interface's way out, and what it and the filter have seen: virtual MACs as sources.

use std::net::IpAddr;
use std::path::Path;

use aya::maps::{MapData, PerCpuArray};
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{SchedClassifier, TcAttachType};
use safekit_ebpf::guard;

use super::attach::Held;
use super::object::LeaksValue;
use super::pins::{Inherited, What};
use super::{Error, Plan};

/// How the guard stands on an interface.
#[derive(Debug)]
pub struct Guarded {
    pub interface: String,
    /// None while it stands.
    pub missing: Option<String>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Nowhere,
    /// Linux 6.6: a link like the filter's.
    Tcx(Held),
    /// Before: a filter of the interface's clsact queue, which stays until it is removed.
    Clsact,
}

impl Guarded {
    /// Without a guard the farm works all the same, as long as nobody leaks; so a failure is only a remark.
    pub(super) fn attach(
        program: &mut SchedClassifier,
        name: &str,
        index: u32,
        pin_dir: Option<&Path>,
        inherited: &mut Inherited,
    ) -> Self {
        let interface = name.to_owned();
        let by_tcx = match tcx(program, name, index, pin_dir, inherited) {
            Ok(held) => return Self { interface, missing: None, place: Place::Tcx(held) },
            Err(error) => error,
        };
        match clsact(program, name) {
            Ok(()) => Self { interface, missing: None, place: Place::Clsact },
            Err(error) => {
                let missing = format!("{}; {}", Chain(&by_tcx), Chain(&error));
                tracing::warn!(%interface, %missing, "no guard against leaks of virtual MACs");
                Self { interface, missing: Some(missing), place: Place::Nowhere }
            }
        }
    }

    pub(super) fn detach(self) -> Result<(), Error> {
        match self.place {
            Place::Nowhere => {}
            Place::Tcx(held) => return held.detach(),
            Place::Clsact => {
                if let Err(error) =
                    qdisc_detach_program(&self.interface, TcAttachType::Egress, guard::PROGRAM)
                {
                    tracing::warn!(interface = %self.interface, %error, "cannot take the guard off");
                }
            }
        }
        Ok(())
    }
}

fn tcx(
    program: &mut SchedClassifier,
    name: &str,
    index: u32,
    pin_dir: Option<&Path>,
    inherited: &mut Inherited,
) -> Result<Held, Error> {
    let guard_error = |source| Error::Guard { interface: name.to_owned(), source };
    if let Some(directory) = pin_dir
        && let Some((path, _)) = inherited.take(index, |what| what == What::Guard)
    {
        let unusable = |source| Error::Inherit { path: path.clone(), source };
        let pinned = PinnedLink::from_pin(&path).map_err(unusable)?;
        let link = SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(unusable)?;
        let id = program.attach_to_link(link).map_err(guard_error)?;
        drop(program.take_link(id).map_err(guard_error)?);
        return Held::rename(path, What::Guard.pin(directory, name));
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(name, TcAttachType::Egress, order).map_err(guard_error)?;
    let link = program.take_link(id).map_err(guard_error)?;
    let link = FdLink::try_from(link).map_err(|_| Error::OldKernel { interface: name.to_owned() })?;
    Held::keep(link, pin_dir.map(|directory| What::Guard.pin(directory, name)))
}

/// The queue may be there already, and so may the guard of an earlier life: it makes room.
fn clsact(program: &mut SchedClassifier, name: &str) -> Result<(), Error> {
    let guard_error = |source| Error::Guard { interface: name.to_owned(), source };
    let _present = qdisc_add_clsact(name);
    let _none = qdisc_detach_program(name, TcAttachType::Egress, guard::PROGRAM);
    let options = TcAttachOptions::Netlink(NlOptions::default());
    let id = program.attach_with_options(name, TcAttachType::Egress, options).map_err(guard_error)?;
    // Dropped, the link would take the guard off.
    std::mem::forget(program.take_link(id).map_err(guard_error)?);
    Ok(())
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Frames with a virtual MAC as their source, since the filter was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    pub address: IpAddr,
    pub interface: String,
    pub mac: super::VirtualMac,
    /// Of this node; the guard dropped them.
    pub sent: u64,
    /// Of somebody else: switches have learnt where the virtual MAC is not.
    pub heard: u64,
}

#[derive(Debug)]
pub(super) struct Leaks {
    map: Map,
    virtual_ips: Vec<super::PlannedVip>,
}

struct Map(PerCpuArray<MapData, LeaksValue>);

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(guard::MAP_LEAKS)
    }
}

impl Leaks {
    pub(super) fn of(plan: &Plan, map: PerCpuArray<MapData, LeaksValue>) -> Self {
        Self { map: Map(map), virtual_ips: plan.virtual_ips.clone() }
    }

    pub(super) fn read(&self) -> Result<Vec<Leak>, Error> {
        let mut leaks = Vec::new();
        for (vip, place) in self.virtual_ips.iter().zip(0u32..) {
            let row = self.map.0.get(&place, 0);
            let row = row.map_err(|source| Error::Map { map: guard::MAP_LEAKS, source })?;
            let (sent, heard) =
                row.iter().fold((0, 0), |(sent, heard), cpu| (sent + cpu.0.sent, heard + cpu.0.heard));
            if sent + heard > 0 {
                leaks.push(Leak {
                    address: vip.address,
                    interface: vip.interface.clone(),
                    mac: vip.mac,
                    sent,
                    heard,
                });
            }
        }
        Ok(leaks)
    }
}
