//! What the filter counted, under the operator's names.

use aya::maps::{MapData, PerCpuArray};
use safekit_ebpf::abi::{self, CounterRow};
use safekit_ebpf::verdict::Reason;

use super::{Error, Plan, PlannedRule, PlannedVip};

/// Frames of one kind since the filter was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub scope: Scope,
    pub reason: Reason,
    pub packets: u64,
}

/// Whose frames these were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// About no virtual IP.
    Outside,
    /// To a virtual IP, before or without a rule.
    VirtualIp(PlannedVip),
    /// Of one rule at one virtual IP.
    Rule(PlannedRule),
}

impl Scope {
    /// The module that the frames belong to.
    pub fn module(&self) -> Option<&str> {
        match self {
            Self::Outside => None,
            Self::VirtualIp(vip) => Some(&vip.module),
            Self::Rule(rule) => Some(&rule.module),
        }
    }
}

/// Reads the counters; can be shared between threads.
pub struct Counters {
    map: PerCpuArray<MapData, CounterRow>,
    scopes: Vec<(u32, Scope)>,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").field("scopes", &self.scopes.len()).finish_non_exhaustive()
    }
}

impl Counters {
    pub(super) fn of(plan: &Plan, map: PerCpuArray<MapData, CounterRow>) -> Self {
        let vips = plan.virtual_ips.iter().zip(0u16..);
        let rules = plan.rules.iter().zip(0u16..);
        let scopes = std::iter::once((abi::SCOPE_NONE, Scope::Outside))
            .chain(vips.map(|(vip, index)| (abi::scope_of_vip(index), Scope::VirtualIp(vip.clone()))))
            .chain(rules.map(|(rule, index)| (abi::scope_of_rule(index), Scope::Rule(rule.clone()))))
            .collect();
        Self { map, scopes }
    }

    /// The place of a scope among the kernel's counters.
    pub fn place(&self, scope: &Scope) -> u32 {
        let found = self.scopes.iter().find(|(_, candidate)| candidate == scope);
        found.expect("a scope of these counters").0
    }

    /// Every counter that is not zero.
    pub fn read(&self) -> Result<Vec<Counter>, Error> {
        let mut counters = Vec::new();
        for (place, scope) in &self.scopes {
            let row = self.row(*place)?;
            for &reason in Reason::ALL {
                let packets = row[reason as usize];
                if packets > 0 {
                    counters.push(Counter { scope: scope.clone(), reason, packets });
                }
            }
        }
        Ok(counters)
    }

    /// All frames, whatever became of them.
    pub fn frames_seen(&self) -> Result<u64, Error> {
        self.scopes.iter().try_fold(0, |sum, (place, _)| Ok(sum + self.row(*place)?.iter().sum::<u64>()))
    }

    /// One scope's counters, summed over the CPUs.
    fn row(&self, place: u32) -> Result<CounterRow, Error> {
        let per_cpu =
            self.map.get(&place, 0).map_err(|source| Error::Map { map: abi::MAP_COUNTERS, source })?;
        let mut sum: CounterRow = [0; abi::REASON_SLOTS];
        for row in per_cpu.iter() {
            for (total, one) in sum.iter_mut().zip(row) {
                *total += one;
            }
        }
        Ok(sum)
    }
}
