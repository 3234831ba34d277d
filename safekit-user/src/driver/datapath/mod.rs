//! The farm filter in the kernel: loads it, attaches it, and keeps its maps as the engine says.
//!
//! A table is replaced whole: the group's idle slot is filled, then its active index flipped. A reader that still has
//! the old index reads one word of one table; that table was in force a moment ago, or will be in a moment.

mod lease;
pub mod measure;
mod pins;
mod plan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp, XdpMode as AyaMode};
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};
use safekit_ebpf::abi::{self, Address, RuleKey, maps, symbols};
use safekit_ebpf::{Reason, abi::Table as PackedTable};

use self::lease::{Clocks, LeaseClock};
pub use self::pins::{close_lease, ensure_bpffs, remove_pins};
pub use self::plan::{Plan, PlannedVip, TooMuch};
use super::vip::Interface;
use crate::engine::farm::Table;
use crate::types::{GroupId, Instant};

/// The kernel object that the build script made, aligned as its parser wants it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/safekit-ebpf"));

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kernel refused the filter; this needs Linux 5.13 or newer, and root")]
    Load(#[source] EbpfError),
    #[error("the kernel refused the program {name}")]
    Program {
        name: &'static str,
        #[source]
        source: ProgramError,
    },
    #[error(
        "cannot attach the farm filter to {interface}: is another XDP program there? `ip link show {interface}` tells"
    )]
    Attach {
        interface: String,
        #[source]
        source: ProgramError,
    },
    #[error("cannot use the filter's map {name}")]
    Map {
        name: &'static str,
        #[source]
        source: MapError,
    },
    #[error("cannot pin under {}", path.display())]
    Pin {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot pin {name}: {reason}")]
    PinObject { name: String, reason: String },
    #[error("the kernel object has no {0}; it was built from other sources")]
    Missing(&'static str),
}

/// How the filter is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where it works as it should, generic elsewhere.
    Auto,
    Native,
    Generic,
}

/// How one interface got its filter, in words for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub mode: &'static str,
    pub reason: String,
}

/// Packets counted for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// None: not for any virtual IP.
    pub module: Option<String>,
    pub reason: Reason,
    pub packets: u64,
}

/// A value of a map that the kernel's side shares.
macro_rules! shared {
    ($($wrapper:ident($inner:ty)),*) => {
        $(
            #[derive(Clone, Copy)]
            #[repr(transparent)]
            struct $wrapper($inner);
            // SAFETY: plain integers without padding (asserted beside the type) for which all bits are valid.
            unsafe impl Pod for $wrapper {}
        )*
    };
}
shared!(
    SharedAddress(Address),
    SharedVirtualIp(abi::VirtualIp),
    SharedRuleKey(RuleKey),
    SharedRule(abi::Rule),
    SharedInterface(abi::Interface),
    SharedTable(PackedTable)
);

pub struct Datapath {
    ebpf: Ebpf,
    tables: Array<MapData, SharedTable>,
    active: Array<MapData, u32>,
    lease: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    interfaces: HashMap<MapData, u32, SharedInterface>,
    active_slots: BTreeMap<GroupId, u32>,
    lease_clock: LeaseClock,
    clocks: Clocks,
    scopes: Vec<Option<String>>,
    attachments: BTreeMap<String, Attachment>,
    links: Vec<Link>,
    /// Reused for every table: 16 KiB.
    packed: Box<PackedTable>,
}

enum Link {
    /// Outlives this process, under the name of its interface.
    Pinned(String, PinnedLink),
    /// Ends with this process.
    Held(#[expect(dead_code, reason = "held for its drop")] FdLink),
}

impl Datapath {
    /// Loads the filter with `plan`, closed: no lease, no bucket. Pins of an earlier life are replaced.
    pub fn load(plan: &Plan, pin_dir: Option<&Path>, lease: Duration) -> Result<Self, Error> {
        let lease_clock = LeaseClock::for_lease(lease);
        let clock_number = match lease_clock {
            LeaseClock::Jiffies { .. } => abi::LEASE_CLOCK_JIFFIES,
            LeaseClock::BootNs => abi::LEASE_CLOCK_BOOT_NS,
        };
        let hash_key = plan.hash_key;
        let mut ebpf = EbpfLoader::new()
            .override_global(symbols::HASH_KEY, &hash_key[..], true)
            .override_global(symbols::LEASE_CLOCK, &clock_number, true)
            .load(OBJECT)
            .map_err(Error::Load)?;
        for name in [symbols::FILTER, symbols::CLOCKS] {
            program(&mut ebpf, name)?.load().map_err(|source| Error::Program { name, source })?;
        }
        if let Some(dir) = pin_dir {
            pins::clear(dir)?;
            for name in [maps::LEASE, maps::TABLES, maps::ACTIVE, maps::COUNTERS] {
                let map = ebpf.map(name).ok_or(Error::Missing(name))?;
                map.pin(pins::map_path(dir, name))
                    .map_err(|error| Error::PinObject { name: name.to_owned(), reason: error.to_string() })?;
            }
        }
        let clocks = read_clocks(&mut ebpf)?;
        let mut datapath = Self {
            tables: take(&mut ebpf, maps::TABLES)?,
            active: take(&mut ebpf, maps::ACTIVE)?,
            lease: take(&mut ebpf, maps::LEASE)?,
            counters: take(&mut ebpf, maps::COUNTERS)?,
            interfaces: take(&mut ebpf, maps::INTERFACES)?,
            ebpf,
            active_slots: BTreeMap::new(),
            lease_clock,
            clocks,
            scopes: plan.scopes.clone(),
            attachments: BTreeMap::new(),
            links: Vec::new(),
            packed: Box::new([0; abi::TABLE_WORDS]),
        };
        datapath.fill(plan)?;
        Ok(datapath)
    }

    fn fill(&mut self, plan: &Plan) -> Result<(), Error> {
        let mut virtual_ips: HashMap<_, SharedAddress, SharedVirtualIp> =
            take(&mut self.ebpf, maps::VIRTUAL_IPS)?;
        for (address, value) in plan.filter_virtual_ips() {
            virtual_ips
                .insert(SharedAddress(address), SharedVirtualIp(value), 0)
                .map_err(|source| Error::Map { name: maps::VIRTUAL_IPS, source })?;
        }
        let mut rules: HashMap<_, SharedRuleKey, SharedRule> = take(&mut self.ebpf, maps::RULES)?;
        for (key, rule) in plan.filter_rules() {
            rules
                .insert(SharedRuleKey(key), SharedRule(rule), 0)
                .map_err(|source| Error::Map { name: maps::RULES, source })?;
        }
        Ok(())
    }

    /// Tells the filter its own MAC on an interface; frames from interfaces that it does not know are dropped.
    pub fn know(&mut self, index: u32, mac: [u8; 6]) -> Result<(), Error> {
        let interface = SharedInterface(abi::Interface { mac, padding: [0; 2] });
        self.interfaces
            .insert(index, interface, 0)
            .map_err(|source| Error::Map { name: maps::INTERFACES, source })
    }

    /// Attaches the filter to `interfaces`, by name.
    pub fn attach(
        &mut self,
        interfaces: &BTreeMap<String, Interface>,
        pin_dir: Option<&Path>,
        mode: XdpMode,
    ) -> Result<(), Error> {
        for (name, interface) in interfaces {
            self.know(interface.index, interface.mac)?;
            let (link, attachment) = self.attach_one(name, interface, mode)?;
            tracing::info!(
                interface = name,
                mode = attachment.mode,
                reason = attachment.reason,
                "filter attached"
            );
            self.attachments.insert(name.clone(), attachment);
            self.links.push(match pin_dir {
                None => Link::Held(link),
                Some(dir) => {
                    let failed = |error: aya::pin::PinError| Error::PinObject {
                        name: name.clone(),
                        reason: error.to_string(),
                    };
                    Link::Pinned(name.clone(), link.pin(pins::link_path(dir, name)).map_err(failed)?)
                }
            });
        }
        Ok(())
    }

    fn attach_one(
        &mut self,
        name: &str,
        interface: &Interface,
        mode: XdpMode,
    ) -> Result<(FdLink, Attachment), Error> {
        let attached = |mode, reason: &str| Attachment { mode, reason: reason.to_owned() };
        match mode {
            XdpMode::Generic => Ok((
                self.link(name, interface, AyaMode::Skb)?,
                attached("generic", "asked for by configuration"),
            )),
            XdpMode::Native => Ok((
                self.link(name, interface, AyaMode::Driver)?,
                attached("native", "asked for by configuration"),
            )),
            XdpMode::Auto => {
                if let Some(kind) = &interface.kind {
                    // Such an interface decides before XDP runs that a frame for another MAC is not for this host,
                    // and the stack then drops what the filter has readdressed.
                    let reason = format!("{kind} interfaces drop readdressed frames in native mode");
                    return Ok((self.link(name, interface, AyaMode::Skb)?, attached("generic", &reason)));
                }
                if let Ok(link) = self.link(name, interface, AyaMode::Driver) {
                    return Ok((link, attached("native", "the driver supports it")));
                }
                Ok((
                    self.link(name, interface, AyaMode::Skb)?,
                    attached("generic", "the driver has no native XDP"),
                ))
            }
        }
    }

    fn link(&mut self, name: &str, interface: &Interface, mode: AyaMode) -> Result<FdLink, Error> {
        let failed = |source| Error::Attach { interface: name.to_owned(), source };
        let filter = program(&mut self.ebpf, symbols::FILTER)?;
        let id = filter.attach_to_if_index(interface.index, mode).map_err(failed)?;
        let link = filter.take_link(id).map_err(failed)?;
        FdLink::try_from(link)
            .map_err(|error| Error::PinObject { name: name.to_owned(), reason: error.to_string() })
    }

    pub fn attachment(&self, interface: &str) -> Option<&Attachment> {
        self.attachments.get(interface)
    }

    /// Puts a table into force, all of it or nothing.
    pub fn write_table(&mut self, group: GroupId, table: &Table) -> Result<(), Error> {
        abi::pack(table.mine.words(), table.transitional.words(), &mut self.packed);
        let slot = 1 - self.active_slots.get(&group).copied().unwrap_or(0);
        self.tables
            .set(u32::from(group.0) * 2 + slot, SharedTable(*self.packed), 0)
            .map_err(|source| Error::Map { name: maps::TABLES, source })?;
        self.active
            .set(u32::from(group.0), slot, 0)
            .map_err(|source| Error::Map { name: maps::ACTIVE, source })?;
        self.active_slots.insert(group, slot);
        Ok(())
    }

    /// The two bits of each bucket as the filter sees them now.
    pub fn read_table(&self, group: GroupId) -> Result<PackedTable, Error> {
        let active = self
            .active
            .get(&u32::from(group.0), 0)
            .map_err(|source| Error::Map { name: maps::ACTIVE, source })?;
        let table = self.tables.get(&(u32::from(group.0) * 2 + active), 0);
        Ok(table.map_err(|source| Error::Map { name: maps::TABLES, source })?.0)
    }

    /// The filter may take new connections until then. Called every few milliseconds: one system call.
    pub fn set_lease(&mut self, until: Instant) -> Result<(), Error> {
        if matches!(self.lease_clock, LeaseClock::Jiffies { .. }) && lease::stale(self.clocks) {
            self.clocks = read_clocks(&mut self.ebpf)?;
        }
        let value = lease::map_value(self.lease_clock, self.clocks, until);
        self.lease.set(0, value, 0).map_err(|source| Error::Map { name: maps::LEASE, source })
    }

    /// Every counter that has counted something, in the order of modules and reasons.
    pub fn counters(&self) -> Vec<Counter> {
        let scopes = self.scopes.iter().enumerate();
        let counters = scopes.flat_map(|(scope, module)| {
            Reason::ALL.into_iter().map(move |reason| (scope as u32, module.clone(), reason))
        });
        counters
            .map(|(scope, module, reason)| Counter { module, reason, packets: self.count(scope, reason) })
            .filter(|counter| counter.packets > 0)
            .collect()
    }

    /// A figure that rises while frames arrive, be they a neighbour's, a peer's heartbeats or a client's. Read often,
    /// so it leaves out the reasons that never come alone.
    pub fn frames_seen(&self) -> u64 {
        let scopes = 1..self.scopes.len() as u32;
        let farm = scopes.flat_map(|scope| [(scope, Reason::Mine), (scope, Reason::Foreign)]);
        farm.chain([(0, Reason::NotFarm)]).map(|(scope, reason)| self.count(scope, reason)).sum()
    }

    fn count(&self, scope: u32, reason: Reason) -> u64 {
        let index = scope * abi::REASONS_MAX + reason as u32;
        self.counters.get(&index, 0).map_or(0, |values| values.iter().sum())
    }

    /// Takes the filter off every interface.
    pub fn detach(&mut self) -> Result<(), Error> {
        for link in self.links.drain(..) {
            match link {
                Link::Held(_) => {}
                Link::Pinned(interface, link) => {
                    let failed = |source| Error::PinObject { name: interface, reason: format!("{source}") };
                    drop(link.unpin().map_err(failed)?);
                }
            }
        }
        Ok(())
    }

    /// Runs one frame through the loaded filter as the kernel would (`BPF_PROG_TEST_RUN`): its action, and the frame
    /// as the filter left it. The frame seems to come from the loopback interface of the caller's namespace.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>), Error> {
        let mut left = vec![0; frame.len().max(64)];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut left), ..TestRunOptions::default() };
        let result = program(&mut self.ebpf, symbols::FILTER)?
            .test_run(options)
            .map_err(|source| Error::Program { name: symbols::FILTER, source })?;
        left.truncate(result.data_size_out as usize);
        Ok((result.return_value, left))
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    program.try_into().map_err(|source| Error::Program { name, source })
}

fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Missing(name))?;
    map.try_into().map_err(|source| Error::Map { name, source })
}

fn read_clocks(ebpf: &mut Ebpf) -> Result<Clocks, Error> {
    let failed = |source| Error::Program { name: symbols::CLOCKS, source };
    let mut frame = [0; 64];
    let options =
        TestRunOptions { data_in: Some(&[0; 64]), data_out: Some(&mut frame), ..TestRunOptions::default() };
    program(ebpf, symbols::CLOCKS)?.test_run(options).map_err(failed)?;
    let word = |at: usize| u64::from_ne_bytes(frame[at..at + 8].try_into().expect("eight bytes"));
    Ok(Clocks { jiffies: word(0), monotonic_ns: word(8) })
}
