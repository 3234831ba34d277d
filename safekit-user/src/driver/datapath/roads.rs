//! Directed delivery: where the filter sends what is another node's.

use aya::maps::{Array, MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use safekit_ebpf::abi::{BUCKETS, VIPS_MAX};
use safekit_ebpf::forward::{
    HOP_SLOTS, MAP_FORWARDED, MAP_PEER_MACS, MAP_ROADS, MAP_ROADS_ACTIVE, MARK_PREFIX, NODES, Road,
};
use safekit_ebpf::{forward, guard};

use super::object::{array, take};
use super::{Error, Plan};
use crate::config::Delivery;
use crate::types::{GroupId, NodeId};

type Entry = [[u8; 2]; BUCKETS];

/// The constants of one loading.
pub(super) struct Constants {
    directed: u64,
    mark: [u8; 8],
    entries: u32,
}

impl Constants {
    pub(super) fn of(plan: &Plan) -> Self {
        let directed = plan.virtual_ips.iter().enumerate();
        let directed = directed.filter(|(_, vip)| vip.delivery == Delivery::Directed);
        let key = plan.hash_words();
        let [a, b] = MARK_PREFIX;
        let [c, d, ..] = (key[0] ^ key[1]).to_le_bytes();
        Self {
            directed: directed.fold(0, |bits, (place, _)| bits | 1 << place),
            mark: [a, b, c, d, 0, plan.node.0, 0, 0],
            entries: (2 * groups(plan).len()).max(1) as u32,
        }
    }

    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global(forward::GLOBAL_DIRECTED, &self.directed, true)
            .override_global(forward::GLOBAL_MARK, &self.mark, true)
            .map_max_entries(MAP_ROADS, self.entries);
    }
}

const _: () = assert!(VIPS_MAX <= 64, "a bit for each virtual IP");

/// The groups whose buckets are sent on; two entries of the map are each one's own.
fn groups(plan: &Plan) -> Vec<GroupId> {
    let directed = |place: usize| plan.virtual_ips[place].delivery == Delivery::Directed;
    let of_vips = (0..plan.virtual_ips.len()).filter(|place| directed(*place));
    let of_vips = of_vips.map(|place| plan.virtual_ips[place].group);
    let of_rules = plan.rules.iter().filter(|rule| directed(usize::from(rule.vip)));
    let mut groups: Vec<_> = of_vips.chain(of_rules.map(|rule| rule.group)).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

pub(super) struct Maps {
    groups: Vec<GroupId>,
    /// By place among `groups`: which of the two entries counts; 2 while neither does.
    active: Vec<u32>,
    /// Place of each virtual IP of the plan, and of its interface in the notes of heartbeats.
    interfaces: Vec<Option<usize>>,
    roads: Array<MapData, Entry>,
    roads_active: Array<MapData, u32>,
    macs: Array<MapData, u64>,
    forwarded: PerCpuArray<MapData, [u64; HOP_SLOTS]>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl Maps {
    pub(super) fn of(plan: &Plan, ebpf: &mut Ebpf) -> Result<Self, Error> {
        let groups = groups(plan);
        let place = |interface: &String| plan.noted_interfaces.iter().position(|it| it == interface);
        // Peers tell no MAC for an interface that no configuration names.
        let interfaces = plan.virtual_ips.iter().map(|vip| place(&vip.interface));
        let forwarded = take(ebpf, MAP_FORWARDED)?;
        Ok(Self {
            active: vec![2; groups.len()],
            groups,
            interfaces: interfaces.collect(),
            roads: array(take(ebpf, MAP_ROADS)?, MAP_ROADS)?,
            roads_active: array(take(ebpf, MAP_ROADS_ACTIVE)?, MAP_ROADS_ACTIVE)?,
            macs: array(take(ebpf, MAP_PEER_MACS)?, MAP_PEER_MACS)?,
            forwarded: PerCpuArray::try_from(forwarded)
                .map_err(|source| Error::Map { map: MAP_FORWARDED, source })?,
        })
    }

    pub(super) fn groups(&self) -> &[GroupId] {
        &self.groups
    }

    /// The filter sees the old roads until it sees all of the new ones.
    pub(super) fn write(&mut self, group: GroupId, roads: &[Road]) -> Result<(), Error> {
        assert_eq!(roads.len(), BUCKETS, "a road for each bucket");
        let Some(place) = self.groups.iter().position(|known| *known == group) else { return Ok(()) };
        let idle = u32::from(self.active[place] == 0);
        let entry = place as u32 * 2 + idle;
        let bytes: Vec<[u8; 2]> = roads.iter().map(|road| [road.owner, road.holder]).collect();
        let bytes: Box<Entry> =
            bytes.into_boxed_slice().try_into().expect("as many as there are buckets, checked above");
        let map_error = |map| move |source| Error::Map { map, source };
        self.roads.set(entry, *bytes, 0).map_err(map_error(MAP_ROADS))?;
        let active = entry + 1;
        self.roads_active.set(u32::from(group.0), active, 0).map_err(map_error(MAP_ROADS_ACTIVE))?;
        self.active[place] = idle;
        Ok(())
    }

    /// `macs` as a node's heartbeats have them. What is missing is forgotten.
    pub(super) fn set_peer(&mut self, node: NodeId, macs: &[[u8; 6]]) -> Result<(), Error> {
        assert!(usize::from(node.0) < NODES, "the configuration has at most {NODES} nodes");
        for (vip, interface) in self.interfaces.iter().enumerate() {
            let mac = interface.and_then(|place| macs.get(place)).copied().unwrap_or_default();
            self.macs
                .set((vip * NODES + usize::from(node.0)) as u32, guard::key(mac), 0)
                .map_err(|source| Error::Map { map: MAP_PEER_MACS, source })?;
        }
        Ok(())
    }

    /// Frames sent on, by the hop that they went out with.
    pub(super) fn forwarded(&self) -> Result<[u64; HOP_SLOTS], Error> {
        let rows = self.forwarded.get(&0, 0);
        let rows = rows.map_err(|source| Error::Map { map: MAP_FORWARDED, source })?;
        let mut sum = [0; HOP_SLOTS];
        for row in rows.iter() {
            sum.iter_mut().zip(row).for_each(|(sum, one)| *sum += one);
        }
        Ok(sum)
    }
}

/// The interfaces of all virtual IPs of a configuration, each once, as heartbeats list their MACs.
pub(super) fn noted_interfaces(config: &crate::config::Config) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for vip in config.farms().flat_map(|farm| &farm.virtual_ips) {
        if !names.contains(&vip.interface) {
            names.push(vip.interface.clone());
        }
    }
    names
}
