//! The data plane's driver: loads the kernel's filter, hangs it on the interfaces, writes what it looks at, reads what
//! it counted.
//!
//! ```text
//! Plan --load--> maps + program --attach--> interfaces
//! engine::farm::Table --write_table--> idle slot, then the active index       (atomic for a group)
//! Instant             --set_lease----> LEASE, in the filter's clock           (every few milliseconds)
//! AWAY, SIGHTS, FLOWS --flow_notes---> what ends a transition of rules with `evidence: flows`
//! COUNTERS            --counters-----> module, rule or virtual IP, reason
//! ```
//!
//! A [`Datapath`] belongs to one thread at a time and needs no runtime: after loading, each call is one or two system
//! calls, so it can live on the real-time thread. [`Counters`] can be shared.

mod attach;
mod compare;
mod counters;
mod flows;
mod guard;
mod lease;
mod multicast;
mod object;
mod pins;
mod plan;
mod ports;
mod roads;
mod sys;
mod table;
mod trial;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun as _, TestRunOptions};
use safekit_ebpf::abi;

use crate::driver::clock;
use crate::engine::farm::Table;
use crate::types::{BucketBits, GroupId, Instant, NodeId};

pub use attach::Attached;
pub use counters::{Counter, Counters, Scope};
pub use flows::FlowNotes;
pub use guard::{Guarded, Leak};
pub use lease::LeaseClock;
pub use pins::remove_pins;
pub use plan::{Plan, PlanError, PlannedRule, PlannedVip, VirtualMac, bucket};
pub use safekit_ebpf::forward::{HOP_SLOTS, NOBODY, Road};
pub use sys::{ensure_bpffs, interface_request};
pub use trial::{Trial, driver, generic_because, index_and_mac, is_pinned, tcx_programs, try_loading};

use compare::Compare;
use object::{LeaseValue, Object};
use pins::Inherited;

/// How the operator wants the filter attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeChoice {
    /// Native where the driver has it and it works, else generic.
    #[default]
    Auto,
    Native,
    Generic,
}

/// How it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before a socket buffer exists.
    Native,
    /// In the stack, on any interface.
    Generic,
}

impl ModeChoice {
    const fn allows(self, mode: Mode) -> bool {
        match self {
            Self::Auto => true,
            Self::Native => matches!(mode, Mode::Native),
            Self::Generic => matches!(mode, Mode::Generic),
        }
    }
}

impl Mode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot load the farm filter into the kernel (root, or CAP_BPF and CAP_NET_ADMIN, is needed)")]
    Load(#[source] aya::EbpfError),
    #[error("the kernel refuses the farm filter {program}")]
    Verify {
        program: &'static str,
        #[source]
        source: ProgramError,
    },
    #[error("the farm filter's object has no {0}: it is of another build")]
    Missing(&'static str),
    #[error("cannot use the map {map}")]
    Map {
        map: &'static str,
        #[source]
        source: aya::maps::MapError,
    },
    #[error("no interface {interface}: name an existing one in virtual_ips")]
    Interface {
        interface: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot attach the farm filter to {interface} in {mode} mode")]
    Attach {
        interface: String,
        mode: Mode,
        #[source]
        source: ProgramError,
    },
    #[error(
        "another XDP program is attached to {interface}: remove it (`ip link set dev {interface} xdp off`) or choose another interface"
    )]
    OtherProgram { interface: String },
    #[error("cannot attach the farm filter to {interface} durably: this needs Linux 5.9 or newer")]
    OldKernel { interface: String },
    #[error("cannot guard {interface} against leaks of virtual MACs")]
    Guard {
        interface: String,
        #[source]
        source: ProgramError,
    },
    #[error("cannot make {path} a BPF file system")]
    Bpffs {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot pin {path}")]
    Pin {
        path: PathBuf,
        #[source]
        source: aya::pin::PinError,
    },
    #[error("cannot put a new filter into {path}, which an earlier life of the daemon left")]
    Inherit {
        path: PathBuf,
        #[source]
        source: aya::programs::links::LinkError,
    },
    #[error("cannot make {path} name the new filter's map or link")]
    Publish {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot remove {path}, which an earlier life of the daemon left")]
    Unpin {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no seed places {0} without collision: two of them are equal")]
    Duplicate(&'static str),
    #[error("cannot read the kernel's clocks")]
    Clock(#[source] ProgramError),
    #[error("there is no group {}: the plan has {groups}", group.0)]
    NoGroup { group: GroupId, groups: u16 },
}

/// The loaded filter, its maps and its attachments.
#[derive(Debug)]
pub struct Datapath {
    object: Object,
    /// Which of its two tables each group uses; the kernel has the same in ACTIVE.
    active: Vec<u32>,
    attached: Vec<Attached>,
    guards: Vec<Guarded>,
    leaks: guard::Leaks,
    own_macs: Vec<[u8; 6]>,
    clock: LeaseClock,
    reading: lease::Reading,
    counters: Arc<Counters>,
    compare: Compare,
    pin_dir: Option<PathBuf>,
}

impl Datapath {
    /// Loads and attaches. Until tables and a lease are written, the filter accepts nothing new for the virtual IPs:
    /// every bucket is one that this node has just lost, so connections that live here go on.
    ///
    /// With `pin_dir` (a directory of our own, made a bpffs where it is none) maps and attachments outlive the process.
    /// Those of an earlier life are taken over: each interface has one filter or the other at every moment. Without,
    /// they end with the value.
    pub fn load(plan: &Plan, pin_dir: Option<&Path>, choice: ModeChoice) -> Result<Self, Error> {
        let mut interfaces = Vec::new();
        for name in plan.interfaces() {
            let interface = sys::Interface::find(name)
                .map_err(|source| Error::Interface { interface: name.to_owned(), source })?;
            interfaces.push((name.to_owned(), interface));
        }
        let mut inherited = Inherited::default();
        if let Some(directory) = pin_dir {
            ensure_bpffs(directory).map_err(|source| Error::Bpffs { path: directory.to_owned(), source })?;
            pins::remove_staged(directory)?;
            inherited = Inherited::read(directory)?;
        }
        let mut datapath = Self::load_detached(plan, &interfaces, pin_dir)?;
        match datapath.start(&interfaces, choice, inherited) {
            Ok(()) => Ok(datapath),
            Err(error) => {
                // Half a filter must not outlive us; what went wrong first is what the operator should read.
                if let Err(second) = datapath.detach() {
                    tracing::warn!(error = %second, "cannot take the farm filter back");
                }
                Err(error)
            }
        }
    }

    fn start(
        &mut self,
        interfaces: &[(String, sys::Interface)],
        choice: ModeChoice,
        mut inherited: Inherited,
    ) -> Result<(), Error> {
        self.write_all_lost()?;
        let pin_dir = self.pin_dir.as_deref();
        for (name, interface) in interfaces {
            let program = self.object.filter_mut()?;
            self.attached.push(Attached::attach(program, name, interface, choice, pin_dir, &mut inherited)?);
            let program = self.object.guard_mut()?;
            self.guards.push(Guarded::attach(program, name, interface.index, pin_dir, &mut inherited));
        }
        if let Some(directory) = pin_dir {
            pins::publish_maps(directory)?;
        }
        self.begin_watch()?;
        inherited.detach_rest()
    }

    fn write_all_lost(&mut self) -> Result<(), Error> {
        let all = |set| BucketBits::from_fn(abi::BUCKETS, |_| set);
        let lost = Table { mine: all(false), transitional: all(true) };
        (0..self.active.len()).try_for_each(|group| self.write_table(GroupId(group as u16), &lost))
    }

    /// Loads without attaching: for tests and benchmarks, which run the program by hand. `interface` gives the index and
    /// the MAC that each interface of the plan is taken to have.
    pub fn load_for_test(plan: &Plan, interface: impl Fn(&str) -> (u32, [u8; 6])) -> Result<Self, Error> {
        let pretend = |name: &str| {
            let (index, mac) = interface(name);
            (name.to_owned(), sys::Interface { index, mac, driver: None })
        };
        let interfaces: Vec<_> = plan.interfaces().into_iter().map(pretend).collect();
        Self::load_detached(plan, &interfaces, None)
    }

    fn load_detached(
        plan: &Plan,
        interfaces: &[(String, sys::Interface)],
        pin_dir: Option<&Path>,
    ) -> Result<Self, Error> {
        let clock = object::choose_clock(plan.lease)?;
        let mut object = Object::load(plan, interfaces, clock, pin_dir)?;
        let reading = lease::Reading::take(object.program(abi::PROGRAM_CLOCK)?).map_err(Error::Clock)?;
        let counters = Arc::new(Counters::of(plan, object.counters_map()?));
        let compare = Compare::of(&mut object)?;
        let leaks = guard::Leaks::of(plan, object.leaks_map()?);
        Ok(Self {
            object,
            active: vec![0; usize::from(plan.groups)],
            attached: Vec::new(),
            guards: Vec::new(),
            leaks,
            own_macs: own_macs(plan, interfaces),
            clock,
            reading,
            counters,
            compare,
            pin_dir: pin_dir.map(Path::to_owned),
        })
    }

    /// Puts a table into the kernel: the filter sees the old one until it sees all of the new one.
    pub fn write_table(&mut self, group: GroupId, table: &Table) -> Result<(), Error> {
        if let Some(row) = self.object.stamps.row(group) {
            let words = self.active_words(group)?;
            self.object.stamps.stamp(row, &words, clock::now())?;
        }
        let idle = 1 - self.active_slot(group)?;
        let place = u32::from(group.0) * 2 + idle;
        let map_error = |map| move |source| Error::Map { map, source };
        self.object.tables.set(place, table::pack(table), 0).map_err(map_error(abi::MAP_TABLES))?;
        self.object.active.set(u32::from(group.0), idle, 0).map_err(map_error(abi::MAP_ACTIVE))?;
        self.active[usize::from(group.0)] = idle;
        Ok(())
    }

    /// The table that the filter uses, read back.
    pub fn table(&self, group: GroupId) -> Result<Table, Error> {
        Ok(table::unpack(&self.active_words(group)?))
    }

    fn active_words(&self, group: GroupId) -> Result<abi::Table, Error> {
        let place = u32::from(group.0) * 2 + self.active_slot(group)?;
        self.object.tables.get(&place, 0).map_err(|source| Error::Map { map: abi::MAP_TABLES, source })
    }

    /// The filter sees what is on the wire from here on; [`Datapath::load`] does it, once it is attached.
    pub fn begin_watch(&mut self) -> Result<(), Error> {
        self.object.stamps.begin_watch(clock::now())
    }

    fn active_slot(&self, group: GroupId) -> Result<u32, Error> {
        let groups = self.active.len() as u16;
        self.active.get(usize::from(group.0)).copied().ok_or(Error::NoGroup { group, groups })
    }

    /// The filter accepts until `until` (boot clock) at the latest; see [`LeaseClock`] for how much less it may be.
    pub fn set_lease(&mut self, until: Instant) -> Result<(), Error> {
        let tick = match self.clock {
            LeaseClock::Precise => None,
            LeaseClock::Ticks { tick } => Some(tick),
        };
        let lease = match tick {
            None => abi::Lease { jiffies: 0, boot_ns: until.0 },
            Some(tick) => {
                if self.reading.is_stale_for(until) {
                    self.reading = lease::Reading::take(self.object.program(abi::PROGRAM_CLOCK)?)
                        .map_err(Error::Clock)?;
                }
                self.reading.lease(until, tick)
            }
        };
        self.object
            .lease
            .set(0, LeaseValue(lease), 0)
            .map_err(|source| Error::Map { map: abi::MAP_LEASE, source })
    }

    /// Every counter that is not zero.
    pub fn counters(&self) -> Result<Vec<Counter>, Error> {
        self.counters.read()
    }

    /// Frames that the filter has seen, whatever they were: it grows while anybody can be heard (R12).
    pub fn frames_seen(&self) -> Result<u64, Error> {
        self.counters.frames_seen()
    }

    /// The same counters, for another thread.
    pub fn shared_counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// What the filter has noted of flows, for the thread that counts them.
    pub fn flow_notes(&self) -> Arc<FlowNotes> {
        Arc::clone(&self.object.notes)
    }

    /// The newest round of each sender of probes to the virtual IP at this place of the configuration.
    pub fn probes(&self, vip: u16) -> Result<abi::ProbeRow, Error> {
        self.compare.probes(vip)
    }

    /// Opening packets of a group so far, seen and passed by cell; wrapping.
    pub fn audited(&self, group: GroupId) -> Result<Box<abi::AuditRow>, Error> {
        self.compare.audited(group)
    }

    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// The groups whose frames are sent on to other nodes: their roads have to be written.
    pub fn directed_groups(&self) -> &[GroupId] {
        self.object.roads.groups()
    }

    /// Where the frames of each bucket go; does nothing for a group that is not delivered that way.
    pub fn write_roads(&mut self, group: GroupId, roads: &[Road]) -> Result<(), Error> {
        self.object.roads.write(group, roads)
    }

    /// The MACs that a node's heartbeats list.
    pub fn set_peer_macs(&mut self, node: NodeId, macs: &[[u8; 6]]) -> Result<(), Error> {
        self.object.roads.set_peer(node, macs)
    }

    /// Frames sent on, by the hop that they went out with.
    pub fn forwarded(&self) -> Result<[u64; HOP_SLOTS], Error> {
        self.object.roads.forwarded()
    }

    /// For this node's heartbeats: its MACs, in the order of the configuration; zero where it takes no part.
    pub fn own_macs(&self) -> &[[u8; 6]] {
        &self.own_macs
    }

    /// Where the guard stands, or why not, by interface.
    pub fn guards(&self) -> &[Guarded] {
        &self.guards
    }

    /// Virtual MACs that somebody uses as a source, which ends the flooding of their frames; empty while all is well.
    pub fn leaks(&self) -> Result<Vec<Leak>, Error> {
        self.leaks.read()
    }

    pub fn lease_clock(&self) -> LeaseClock {
        self.clock
    }

    /// Runs a program of the object by hand (BPF_PROG_TEST_RUN): for tests and benchmarks.
    pub fn test_run(
        &self,
        program: &'static str,
        options: TestRunOptions<'_>,
    ) -> Result<aya::programs::TestRunResult, Error> {
        self.object.program(program)?.test_run(options).map_err(|source| Error::Verify { program, source })
    }

    /// How many instructions the verifier followed until it believed a program; it gives up at a million. 0 where the
    /// kernel does not tell (before Linux 5.16).
    pub fn verified_instructions(&self, program: &'static str) -> Result<u32, Error> {
        let info = self.object.program(program)?.info();
        let count = info.map(|info| info.verified_instruction_count().unwrap_or_default());
        count.map_err(|source| Error::Verify { program, source })
    }

    /// Which program the benchmark's wrapper calls.
    pub fn set_next_program(&mut self, program: &'static str) -> Result<(), Error> {
        self.object.set_next_program(program)
    }

    /// Ends this life and leaves the filter: connections that live here go on without a daemon, nothing new is
    /// accepted, and the next life takes over. Only what is pinned stays.
    pub fn leave_pinned(mut self) -> Result<(), Error> {
        self.close_lease()
    }

    fn close_lease(&mut self) -> Result<(), Error> {
        self.object
            .lease
            .set(0, LeaseValue(abi::Lease::default()), 0)
            .map_err(|source| Error::Map { map: abi::MAP_LEASE, source })
    }

    /// Ends the filter: from here on the stack sees every frame again. Pins are removed.
    pub fn detach(mut self) -> Result<(), Error> {
        for attached in self.attached.drain(..) {
            attached.detach()?;
        }
        for guarded in self.guards.drain(..) {
            guarded.detach()?;
        }
        match &self.pin_dir {
            Some(directory) => remove_pins(directory),
            None => Ok(()),
        }
    }
}

fn own_macs(plan: &Plan, interfaces: &[(String, sys::Interface)]) -> Vec<[u8; 6]> {
    let mac = |name: &String| {
        let found = interfaces.iter().find(|(candidate, _)| candidate == name);
        found.map_or([0; 6], |(_, interface)| interface.mac)
    };
    plan.noted_interfaces.iter().map(mac).collect()
}

/// Ends the lease of a filter whose daemon has died: it keeps its live connections in buckets on the move, and takes no
/// new one. For the parent process; one system call each to open and to write.
pub fn close_lease(pin_dir: &Path) -> Result<(), Error> {
    let map_error = |source| Error::Map { map: abi::MAP_LEASE, source };
    let map = MapData::from_pin(pin_dir.join(abi::MAP_LEASE)).map_err(map_error)?;
    let mut lease: Array<MapData, LeaseValue> =
        Array::try_from(aya::maps::Map::Array(map)).map_err(map_error)?;
    lease.set(0, LeaseValue(abi::Lease::default()), 0).map_err(map_error)
}

const _: () = {
    const fn can_move_to_the_real_time_thread<T: Send>() {}
    const fn can_be_shared<T: Send + Sync>() {}
    can_move_to_the_real_time_thread::<Datapath>();
    can_be_shared::<Counters>();
};
