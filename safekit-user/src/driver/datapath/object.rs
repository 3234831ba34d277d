//! The embedded kernel object: loading it with this plan's constants, and filling what never changes afterwards.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, ProgramArray};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use safekit_ebpf::{abi, guard};

use super::flows::{FlowNotes, Rows, Stamps};
use super::pins::{PINNED_MAPS, staged};
use super::plan::{Plan, kernel_address, kernel_balance, kernel_evidence, seed_without_collision};
use super::ports::PortMap;
use super::{Error, LeaseClock, roads, sys};
use crate::config::Delivery;

/// Built by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/safekit-ebpf.o"));

/// Values of the kernel's maps, as aya wants to see them.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct LeaseValue(pub(super) abi::Lease);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct LimitsValue(abi::Limits);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct VipValue(abi::Vip);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct RuleValue(abi::Rule);

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct LeaksValue(pub(super) guard::Leaks);

// SAFETY: integers without padding.
unsafe impl Pod for LeaseValue {}
// SAFETY: integers without padding.
unsafe impl Pod for LeaksValue {}
// SAFETY: integers without padding.
unsafe impl Pod for LimitsValue {}
// SAFETY: integers and bytes; its padding is the field `pad`.
unsafe impl Pod for VipValue {}
// SAFETY: integers and bytes, written only: `EvidenceBy` is never read back from the kernel.
unsafe impl Pod for RuleValue {}

const _: () =
    assert!(size_of::<abi::Vip>() == 48 && size_of::<abi::Rule>() == 32, "no padding that nobody wrote");

pub(super) struct Object {
    ebpf: Ebpf,
    pub(super) tables: Array<MapData, abi::Table>,
    pub(super) active: Array<MapData, u32>,
    pub(super) lease: Array<MapData, LeaseValue>,
    pub(super) stamps: Stamps,
    pub(super) notes: Arc<FlowNotes>,
    pub(super) roads: roads::Maps,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").finish_non_exhaustive()
    }
}

impl Object {
    pub(super) fn load(
        plan: &Plan,
        interfaces: &[(String, sys::Interface)],
        clock: LeaseClock,
        pin_dir: Option<&Path>,
    ) -> Result<Self, Error> {
        let ports = PortMap::of(plan);
        let vips = kernel_vips(plan, interfaces, &ports);
        let addresses: Vec<_> = vips.iter().map(|vip| vip.address).collect();
        let vip_seed = seed_without_collision(&addresses, abi::VIP_SLOTS, abi::vip_slot)
            .ok_or(Error::Duplicate("virtual IPs"))?;
        let rows = Rows::of(plan);
        let rules = kernel_rules(plan, &rows);
        let hash_key = plan.hash_words();
        let limits = LimitsValue(plan.limits);
        let clock = match clock {
            LeaseClock::Ticks { tick: _ } => abi::CLOCK_JIFFIES,
            LeaseClock::Precise => abi::CLOCK_PRECISE,
        };
        let directed = roads::Constants::of(plan);
        let mut loader = EbpfLoader::new();
        directed.set(&mut loader);
        // Nothing in the object is relocated against the kernel's types, and reading them takes most of the loading.
        loader
            .btf(None)
            .override_global(abi::GLOBAL_HASH_KEY, &hash_key, true)
            .override_global(abi::GLOBAL_VIP_SEED, &vip_seed, true)
            .override_global(abi::GLOBAL_CLOCK, &clock, true)
            .override_global(abi::GLOBAL_LIMITS, &limits, true)
            .override_global(abi::GLOBAL_CLUSTER, &plan.mark, true)
            .map_max_entries(abi::MAP_AUDIT, u32::from(plan.groups).max(1))
            .map_max_entries(abi::MAP_PORTS, ports.rows.len().max(1) as u32);
        for (map, entries) in rows.sizes() {
            loader.map_max_entries(map, entries);
        }
        let mut ebpf = loader.load(OBJECT).map_err(Error::Load)?;
        for program in [abi::PROGRAM, abi::PROGRAM_CLOCK, abi::PROGRAM_EMPTY, abi::PROGRAM_FLOWS] {
            load_program(&mut ebpf, program)?;
        }
        load_guard(&mut ebpf)?;
        if let Some(directory) = pin_dir {
            stage_maps(&ebpf, directory)?;
        }
        fill_virtual_macs(&mut ebpf, plan)?;
        fill_vips(&mut ebpf, &vips, vip_seed)?;
        fill_ports(&mut ebpf, &ports)?;
        fill_rules(&mut ebpf, &rules)?;
        let tables = array(take(&mut ebpf, abi::MAP_TABLES)?, abi::MAP_TABLES)?;
        let active = array(take(&mut ebpf, abi::MAP_ACTIVE)?, abi::MAP_ACTIVE)?;
        let lease = array(take(&mut ebpf, abi::MAP_LEASE)?, abi::MAP_LEASE)?;
        let (away, sights) = (take(&mut ebpf, abi::MAP_AWAY)?, take(&mut ebpf, abi::MAP_SIGHTS)?);
        let (flows, newcomers) = (take(&mut ebpf, abi::MAP_FLOWS)?, take(&mut ebpf, abi::MAP_NEWCOMERS)?);
        let notes = FlowNotes::new(plan, rows.clone(), flows, newcomers, second_handle(&away)?)?;
        let stamps = Stamps::new(rows, away, sights)?;
        let roads = roads::Maps::of(plan, &mut ebpf)?;
        Ok(Self { ebpf, tables, active, lease, stamps, notes, roads })
    }

    pub(super) fn counters_map(&mut self) -> Result<PerCpuArray<MapData, abi::CounterRow>, Error> {
        let map = take(&mut self.ebpf, abi::MAP_COUNTERS)?;
        PerCpuArray::try_from(map).map_err(|source| Error::Map { map: abi::MAP_COUNTERS, source })
    }

    pub(super) fn probes_map(&mut self) -> Result<Array<MapData, abi::ProbeRow>, Error> {
        array(take(&mut self.ebpf, abi::MAP_PROBES)?, abi::MAP_PROBES)
    }

    pub(super) fn audit_map(&mut self) -> Result<PerCpuArray<MapData, abi::AuditRow>, Error> {
        let map = take(&mut self.ebpf, abi::MAP_AUDIT)?;
        PerCpuArray::try_from(map).map_err(|source| Error::Map { map: abi::MAP_AUDIT, source })
    }

    pub(super) fn leaks_map(&mut self) -> Result<PerCpuArray<MapData, LeaksValue>, Error> {
        let map = take(&mut self.ebpf, guard::MAP_LEAKS)?;
        PerCpuArray::try_from(map).map_err(|source| Error::Map { map: guard::MAP_LEAKS, source })
    }

    pub(super) fn guard_mut(&mut self) -> Result<&mut SchedClassifier, Error> {
        let program = self.ebpf.program_mut(guard::PROGRAM).ok_or(Error::Missing(guard::PROGRAM))?;
        program.try_into().map_err(|source| Error::Verify { program: guard::PROGRAM, source })
    }

    pub(super) fn program(&self, name: &'static str) -> Result<&Xdp, Error> {
        let program = self.ebpf.program(name).ok_or(Error::Missing(name))?;
        program.try_into().map_err(|source| Error::Verify { program: name, source })
    }

    pub(super) fn filter_mut(&mut self) -> Result<&mut Xdp, Error> {
        let program = self.ebpf.program_mut(abi::PROGRAM).ok_or(Error::Missing(abi::PROGRAM))?;
        program.try_into().map_err(|source| Error::Verify { program: abi::PROGRAM, source })
    }

    pub(super) fn set_next_program(&mut self, name: &'static str) -> Result<(), Error> {
        let map_error = |source| Error::Map { map: abi::MAP_NEXT, source };
        let fd = self
            .program(name)?
            .fd()
            .and_then(|fd| fd.try_clone().map_err(aya::programs::ProgramError::IOError))
            .map_err(|source| Error::Verify { program: name, source })?;
        let map = self.ebpf.map_mut(abi::MAP_NEXT).ok_or(Error::Missing(abi::MAP_NEXT))?;
        ProgramArray::try_from(map).and_then(|mut next| next.set(0, &fd, 0)).map_err(map_error)
    }
}

/// The clock for a lease of this length, asked of a throw-away copy of the object: the choice is a constant of loading.
pub(super) fn choose_clock(lease: Duration) -> Result<LeaseClock, Error> {
    static PROBE: OnceLock<Ebpf> = OnceLock::new();
    let probe = match PROBE.get() {
        Some(probe) => probe,
        None => {
            let mut ebpf = EbpfLoader::new().btf(None).load(OBJECT).map_err(Error::Load)?;
            load_program(&mut ebpf, abi::PROGRAM_CLOCK)?;
            PROBE.get_or_init(|| ebpf)
        }
    };
    let program = probe.program(abi::PROGRAM_CLOCK).ok_or(Error::Missing(abi::PROGRAM_CLOCK))?;
    let clock = program.try_into().map_err(|source| Error::Verify { program: abi::PROGRAM_CLOCK, source })?;
    Ok(LeaseClock::choose(clock, lease))
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    <&mut Xdp>::try_from(program)
        .and_then(Xdp::load)
        .map_err(|source| Error::Verify { program: name, source })
}

fn kernel_vips(plan: &Plan, interfaces: &[(String, sys::Interface)], ports: &PortMap) -> Vec<abi::Vip> {
    let interface_of = |name: &str| {
        let found = interfaces.iter().find(|(candidate, _)| candidate == name);
        &found.expect("the caller looked up every interface of this plan").1
    };
    let kernel_vip = |(index, vip): (usize, &super::PlannedVip)| {
        let interface = interface_of(&vip.interface);
        abi::Vip {
            address: kernel_address(vip.address),
            interface: interface.index,
            index: index as u16,
            group: vip.group.0,
            virtual_mac: match vip.delivery {
                Delivery::Flood | Delivery::Multicast => vip.mac.0,
                Delivery::Directed => interface.mac,
            },
            own_mac: interface.mac,
            first_rule: ports.vips[index].first_rule,
            tcp_row: ports.vips[index].tcp,
            udp_row: ports.vips[index].udp,
            ..abi::Vip::EMPTY
        }
    };
    plan.virtual_ips.iter().enumerate().map(kernel_vip).collect()
}

fn kernel_rules(plan: &Plan, rows: &Rows) -> Vec<abi::Rule> {
    let kernel_rule = |(index, rule): (usize, &super::PlannedRule)| abi::Rule {
        balance: kernel_balance(rule.balance),
        index: index as u16,
        group: rule.group.0,
        evidence: kernel_evidence(rule),
        away: rows.row(rule.group).unwrap_or_default(),
        pad: [0; 2],
    };
    plan.rules.iter().enumerate().map(kernel_rule).collect()
}

fn fill_vips(ebpf: &mut Ebpf, vips: &[abi::Vip], seed: u64) -> Result<(), Error> {
    let mut map: Array<MapData, VipValue> = array(take(ebpf, abi::MAP_VIPS)?, abi::MAP_VIPS)?;
    vips.iter()
        .try_for_each(|vip| map.set(abi::vip_slot(vip.address, seed), VipValue(*vip), 0))
        .map_err(|source| Error::Map { map: abi::MAP_VIPS, source })
}

fn fill_ports(ebpf: &mut Ebpf, ports: &PortMap) -> Result<(), Error> {
    let mut map: Array<MapData, abi::PortRow> = array(take(ebpf, abi::MAP_PORTS)?, abi::MAP_PORTS)?;
    (0..)
        .zip(&ports.rows)
        .try_for_each(|(place, row)| map.set(place, **row, 0))
        .map_err(|source| Error::Map { map: abi::MAP_PORTS, source })
}

fn fill_rules(ebpf: &mut Ebpf, rules: &[abi::Rule]) -> Result<(), Error> {
    let mut map: Array<MapData, RuleValue> = array(take(ebpf, abi::MAP_RULES)?, abi::MAP_RULES)?;
    (0..)
        .zip(rules)
        .try_for_each(|(place, rule)| map.set(place, RuleValue(*rule), 0))
        .map_err(|source| Error::Map { map: abi::MAP_RULES, source })
}

fn load_guard(ebpf: &mut Ebpf) -> Result<(), Error> {
    let program = ebpf.program_mut(guard::PROGRAM).ok_or(Error::Missing(guard::PROGRAM))?;
    <&mut SchedClassifier>::try_from(program)
        .and_then(SchedClassifier::load)
        .map_err(|source| Error::Verify { program: guard::PROGRAM, source })
}

/// Only unicast ones can be a source, and only those of this node's own are never one.
fn fill_virtual_macs(ebpf: &mut Ebpf, plan: &Plan) -> Result<(), Error> {
    let map_error = |source| Error::Map { map: guard::MAP_VIRTUAL_MACS, source };
    let mut map: HashMap<MapData, u64, u32> =
        HashMap::try_from(take(ebpf, guard::MAP_VIRTUAL_MACS)?).map_err(map_error)?;
    for (vip, place) in plan.virtual_ips.iter().zip(0u32..) {
        if vip.delivery == Delivery::Flood && guard::may_be_virtual(vip.mac.0) {
            map.insert(guard::key(vip.mac.0), place, 0).map_err(map_error)?;
        }
    }
    Ok(())
}

fn stage_maps(ebpf: &Ebpf, directory: &Path) -> Result<(), Error> {
    for name in PINNED_MAPS {
        let path = staged(directory, name);
        let map = ebpf.map(name).ok_or(Error::Missing(name))?;
        map.pin(&path).map_err(|source| Error::Pin { path, source })?;
    }
    Ok(())
}

/// One map, for two threads.
fn second_handle(map: &Map) -> Result<Map, Error> {
    let map_error = |source| Error::Map { map: abi::MAP_AWAY, source };
    match map {
        Map::Array(data) => {
            // By its number would need CAP_SYS_ADMIN.
            let handle = data.fd().as_fd().try_clone_to_owned();
            let handle = handle.map_err(|error| map_error(MapError::IoError(error)))?;
            Ok(Map::Array(MapData::from_fd(handle).map_err(map_error)?))
        }
        _ => Err(Error::Missing(abi::MAP_AWAY)),
    }
}

pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or(Error::Missing(name))
}

pub(super) fn array<V: Pod>(map: Map, name: &'static str) -> Result<Array<MapData, V>, Error> {
    Array::try_from(map).map_err(|source| Error::Map { map: name, source })
}
