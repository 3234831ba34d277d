//! The filter's notes about flows (`evidence: flows`), as the driver keeps and counts them.
//!
//! ```text
//! AWAY    stamped before each new table: until now, these buckets were another node's
//! SIGHTS  filled once, when the filter begins to watch: anything may have been seen a moment ago
//! FLOWS, NEWCOMERS   read for the count that ends a transition
//! ```

use std::collections::HashMap as StdHashMap;
use std::sync::Arc;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use safekit_ebpf::abi::{self, FlowKey, FlowRecord, Limits};
use safekit_ebpf::verdict::BucketState;
use safekit_ebpf::{flow, flows};

use super::plan::kernel_balance;
use super::{Error, Plan};
use crate::config::Evidence;
use crate::engine::farm::Table;
use crate::types::{Bucket, GroupId, Instant};

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
struct KeyValue(FlowKey);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct RecordValue(FlowRecord);

// SAFETY: integers; its padding is the field `pad`.
unsafe impl Pod for KeyValue {}
// SAFETY: integers without padding.
unsafe impl Pod for RecordValue {}

const _: () = assert!(size_of::<FlowKey>() == 24 && size_of::<FlowRecord>() == 16, "no hidden padding");

/// Where the groups that have rules with flows keep their rows of AWAY.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows(StdHashMap<GroupId, u8>);

impl Rows {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut rows = StdHashMap::new();
        for rule in plan.rules.iter().filter(|rule| rule.evidence == Evidence::Flows) {
            let next = rows.len() as u8;
            rows.entry(rule.group).or_insert(next);
        }
        Self(rows)
    }

    pub(super) fn row(&self, group: GroupId) -> Option<u8> {
        self.0.get(&group).copied()
    }

    /// Entries of the maps that only such rules need, as many as it takes.
    pub(super) fn sizes(&self) -> [(&'static str, u32); 4] {
        if self.0.is_empty() {
            // A map has one entry at least.
            return [(abi::MAP_FLOWS, 1), (abi::MAP_NEWCOMERS, 1), (abi::MAP_AWAY, 1), (abi::MAP_SIGHTS, 1)];
        }
        [
            (abi::MAP_FLOWS, abi::FLOWS_MAX as u32),
            (abi::MAP_NEWCOMERS, abi::NEWCOMERS_MAX as u32),
            (abi::MAP_AWAY, (self.0.len() * abi::AWAY_PAGES) as u32),
            (abi::MAP_SIGHTS, abi::SIGHT_PAGES as u32),
        ]
    }
}

/// The writing half: belongs to whoever writes tables.
pub(super) struct Stamps {
    rows: Rows,
    away: Array<MapData, abi::AwayPage>,
    sights: Array<MapData, abi::SightPage>,
    /// What AWAY holds.
    times: Vec<abi::AwayPage>,
}

impl Stamps {
    pub(super) fn new(rows: Rows, away: Map, sights: Map) -> Result<Self, Error> {
        let away = Array::try_from(away).map_err(away_error)?;
        let sights = Array::try_from(sights).map_err(sights_error)?;
        let times = vec![[0; abi::PAGE]; rows.0.len() * abi::AWAY_PAGES];
        Ok(Self { rows, away, sights, times })
    }

    pub(super) fn row(&self, group: GroupId) -> Option<u8> {
        self.rows.row(group)
    }

    /// Buckets that are another node's by `table`, which is about to be replaced: what was noted of them counts no more.
    pub(super) fn stamp(&mut self, row: u8, table: &abi::Table, now: Instant) -> Result<(), Error> {
        let first = usize::from(row) * abi::AWAY_PAGES;
        for (place, page) in self.times.iter_mut().enumerate().skip(first).take(abi::AWAY_PAGES) {
            let buckets = (place - first) * abi::PAGE..;
            let mut changed = false;
            for (bucket, time) in buckets.zip(page.iter_mut()) {
                if BucketState::in_table(table, bucket as u16) == BucketState::Foreign {
                    *time = now.0;
                    changed = true;
                }
            }
            if changed {
                self.away.set(place as u32, *page, 0).map_err(away_error)?;
            }
        }
        Ok(())
    }

    /// From now on the filter sees what passes on the wire; what passed before, it cannot know.
    pub(super) fn begin_watch(&mut self, now: Instant) -> Result<(), Error> {
        let page = [flows::sight_time(now.0); abi::PAGE];
        (0..self.sights.len()).try_for_each(|place| self.sights.set(place, page, 0)).map_err(sights_error)
    }
}

fn away_error(source: MapError) -> Error {
    Error::Map { map: abi::MAP_AWAY, source }
}

fn sights_error(source: MapError) -> Error {
    Error::Map { map: abi::MAP_SIGHTS, source }
}

/// The counting half: can be shared between threads.
pub struct FlowNotes {
    flows: HashMap<MapData, KeyValue, RecordValue>,
    newcomers: HashMap<MapData, KeyValue, RecordValue>,
    away: Array<MapData, abi::AwayPage>,
    rows: Rows,
    rules: Vec<Place>,
    hash_key: flow::HashKey,
    limits: Limits,
}

/// Where the flows of a rule fall.
struct Place {
    vip: u16,
    protocol: u8,
    ports: crate::config::Ports,
    group: GroupId,
    balance: abi::Balance,
    by_flows: bool,
}

impl std::fmt::Debug for FlowNotes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowNotes").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl FlowNotes {
    pub(super) fn new(
        plan: &Plan,
        rows: Rows,
        flows: Map,
        newcomers: Map,
        away: Map,
    ) -> Result<Arc<Self>, Error> {
        let mut rules: Vec<_> = plan.rules.iter().collect();
        rules.sort_by_key(|rule| rule.ports.width());
        let place = |rule: &&super::PlannedRule| Place {
            vip: rule.vip,
            protocol: super::plan::kernel_protocol(rule.protocol).number(),
            ports: rule.ports,
            group: rule.group,
            balance: kernel_balance(rule.balance),
            by_flows: rule.evidence == Evidence::Flows,
        };
        let map_error = |map| move |source| Error::Map { map, source };
        Ok(Arc::new(Self {
            flows: HashMap::try_from(flows).map_err(map_error(abi::MAP_FLOWS))?,
            newcomers: HashMap::try_from(newcomers).map_err(map_error(abi::MAP_NEWCOMERS))?,
            away: Array::try_from(away).map_err(away_error)?,
            rows,
            rules: rules.iter().map(place).collect(),
            hash_key: plan.hash_words(),
            limits: plan.limits,
        }))
    }

    /// Calls `each` with the bucket of each flow of this group that is still noted in a bucket that `table` counts as
    /// lost. In a bucket that is another node's no flow is ours any more, whatever is noted.
    pub fn held(
        &self,
        group: GroupId,
        table: &Table,
        now: Instant,
        mut each: impl FnMut(Bucket),
    ) -> Result<(), Error> {
        let Some(row) = self.rows.row(group) else { return Ok(()) };
        let away = self.away_row(row)?;
        let mut count = |key: &FlowKey, record: &FlowRecord, limit_ns: u64| {
            let Some(bucket) = self.bucket(group, key) else { return };
            let lost = table.transitional.contains(bucket) && !table.mine.contains(bucket);
            if lost && flows::counts(record, now.0, away[usize::from(bucket.0)], limit_ns) {
                each(bucket);
            }
        };
        walk(&self.flows, abi::FLOWS_MAX, |key, record| {
            count(key, record, flows::limit(key, record, &self.limits));
        })
        .map_err(|source| Error::Map { map: abi::MAP_FLOWS, source })?;
        walk(&self.newcomers, abi::NEWCOMERS_MAX, |key, record| {
            // A newcomer that became a flow stays among them until it is pushed out.
            if self.flows.get(&KeyValue(*key), 0).is_ok() {
                return;
            }
            count(key, record, flows::limit_of_newcomer(key, &self.limits));
        })
        .map_err(|source| Error::Map { map: abi::MAP_NEWCOMERS, source })
    }

    fn away_row(&self, row: u8) -> Result<Vec<u64>, Error> {
        let first = u32::from(row) * abi::AWAY_PAGES as u32;
        let mut times = Vec::with_capacity(abi::BUCKETS);
        for place in first..first + abi::AWAY_PAGES as u32 {
            times.extend_from_slice(&self.away.get(&place, 0).map_err(away_error)?);
        }
        Ok(times)
    }

    /// None where the flow is not one of this group's rules with flows.
    fn bucket(&self, group: GroupId, key: &FlowKey) -> Option<Bucket> {
        let covers = |place: &&Place| {
            place.vip == key.vip && place.protocol == key.protocol && place.ports.contains(key.port)
        };
        let rule = self.rules.iter().find(covers)?;
        if rule.group != group || !rule.by_flows {
            return None;
        }
        Some(Bucket(flow::bucket(self.hash_key, &rule.balance, key.client, key.client_port)))
    }
}

/// Entries come and go meanwhile, and where one goes the kernel begins again: so no more than twice as many as there is
/// room for. An entry that is seen twice is counted twice, which does no harm to a count that has to find none.
fn walk(
    map: &HashMap<MapData, KeyValue, RecordValue>,
    room: usize,
    mut each: impl FnMut(&FlowKey, &FlowRecord),
) -> Result<(), MapError> {
    for key in map.keys().take(2 * room) {
        let key = key?;
        match map.get(&key, 0) {
            Ok(record) => each(&key.0, &record.0),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
