//! What the filter notes so that nodes can compare: probes that arrived, and opening packets by cell.

use aya::maps::{Array, MapData, PerCpuArray};
use safekit_ebpf::abi::{self, AuditRow, ProbeRow};

use super::Error;
use super::object::Object;
use crate::types::GroupId;

pub(super) struct Compare {
    probes: Array<MapData, ProbeRow>,
    audit: PerCpuArray<MapData, AuditRow>,
}

impl std::fmt::Debug for Compare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compare").finish_non_exhaustive()
    }
}

impl Compare {
    pub(super) fn of(object: &mut Object) -> Result<Self, Error> {
        Ok(Self { probes: object.probes_map()?, audit: object.audit_map()? })
    }

    pub(super) fn probes(&self, vip: u16) -> Result<ProbeRow, Error> {
        self.probes.get(&u32::from(vip), 0).map_err(|source| Error::Map { map: abi::MAP_PROBES, source })
    }

    /// Summed over the CPUs.
    pub(super) fn audited(&self, group: GroupId) -> Result<Box<AuditRow>, Error> {
        let per_cpu = self
            .audit
            .get(&u32::from(group.0), 0)
            .map_err(|source| Error::Map { map: abi::MAP_AUDIT, source })?;
        let mut sum = Box::new([[0_u32; 2]; abi::AUDIT_CELLS]);
        for row in per_cpu.iter() {
            for (total, one) in sum.iter_mut().zip(row) {
                total[0] = total[0].wrapping_add(one[0]);
                total[1] = total[1].wrapping_add(one[1]);
            }
        }
        Ok(sum)
    }
}
