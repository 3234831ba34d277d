//! Feeds the audit: reads the filter's counters when a window ends, hands on what peers say, puts findings into words.

use std::time::Duration;

use safekit_ebpf::abi;

use super::datapath::{self, Datapath};
use crate::config::Config;
use crate::engine::audit::{Audit, CELLS, Finding, HALF, Kind, Place, audited};
use crate::engine::farm::Engine;
use crate::types::notes::AuditPage;
use crate::types::snapshot::Warning;
use crate::types::{Bucket, GroupId, Instant, NodeId, NodeSet};

pub struct Auditor {
    config: Config,
    me: NodeId,
    audit: Audit,
    interval: Duration,
    next_page: Instant,
    /// The tables as they were: one that is another has been written since.
    tables: Vec<(GroupId, std::sync::Arc<crate::engine::farm::Table>)>,
}

const _: () =
    assert!(CELLS == abi::AUDIT_CELLS && HALF == abi::AUDIT_HALF, "the filter counts by the audit's cells");

impl Auditor {
    /// None where no group can be audited.
    pub fn new(config: &Config, me: NodeId) -> Option<Self> {
        let timing = config.cluster.timing;
        let audit = Audit::new(me, audited(config, me), &timing)?;
        Some(Self {
            config: config.clone(),
            me,
            audit,
            interval: timing.interval,
            next_page: Instant::default(),
            tables: Vec::new(),
        })
    }

    /// Takes in what peers said, and gives out a page where one is due for the next heartbeat.
    pub fn turn(
        &mut self,
        engine: &Engine,
        datapath: &Datapath,
        now: Instant,
    ) -> Result<Option<AuditPage>, datapath::Error> {
        self.note_tables(engine);
        let members = engine.view().members;
        for node in members.without(self.me).iter() {
            if let Some(page) = page_of(engine, node) {
                self.audit.hear(node, page);
            }
        }
        let leader = members.iter().next().filter(|lowest| *lowest != self.me);
        let leader = leader.and_then(|leader| page_of(engine, leader));
        if let Some(turnover) = self.audit.turnover(members, leader, now) {
            let closing = datapath.audited(turnover.closing)?;
            if turnover.opening == turnover.closing {
                self.audit.turn(turnover, &closing, &closing, now);
            } else {
                self.audit.turn(turnover, &closing, &*datapath.audited(turnover.opening)?, now);
            }
        }
        if now < self.next_page {
            return Ok(None);
        }
        self.next_page = now + self.interval;
        Ok(self.audit.page())
    }

    /// A table that the engine has replaced is in the kernel in the same turn.
    fn note_tables(&mut self, engine: &Engine) {
        let now: Vec<_> = self.config.groups.iter().map(|group| (group.id, engine.table(group.id))).collect();
        for (group, table) in &now {
            let same = self.tables.iter().any(|(id, old)| id == group && std::sync::Arc::ptr_eq(old, table));
            if !same {
                self.audit.note_moved(*group);
            }
        }
        self.tables = now;
    }

    pub fn warnings(&self, engine: &Engine) -> Vec<Warning> {
        self.audit.findings().iter().map(|finding| self.warning(engine, finding)).collect()
    }

    fn warning(&self, engine: &Engine, finding: &Finding) -> Warning {
        let module = self.config.groups.iter().find(|group| group.id == finding.group);
        let module = module.map_or("?", |group| &group.module);
        let bucket = match finding.place {
            Place::Bucket(bucket) | Place::Run(bucket) => bucket,
        };
        let place = match finding.place {
            Place::Bucket(Bucket(bucket)) => format!("bucket {bucket}"),
            Place::Run(Bucket(first)) => format!("some of the buckets {first} to {}", first | 63),
        };
        let owner = engine.owner(finding.group, bucket).filter(|_| matches!(finding.place, Place::Bucket(_)));
        let owner = owner.map(|owner| format!(" (it belongs to {})", self.name(owner))).unwrap_or_default();
        let Finding { seen, passed, .. } = finding;
        match finding.kind {
            Kind::Double => Warning {
                what: format!(
                    "farm {module}, {place}{owner}: accepted by {} at once ({passed} times, of {seen} openings seen)",
                    self.names(finding.nodes, " and ")
                ),
                remedy: format!(
                    "one of {} works with a wrong table: restart safekit there, one node after the other",
                    self.names(finding.nodes, ", ")
                ),
            },
            Kind::Unserved => Warning {
                what: format!(
                    "farm {module}, {place}{owner}: accepted by no node ({} of {seen} openings seen are passed by nobody)",
                    seen - passed.min(seen)
                ),
                remedy: "restart safekit on the node that it belongs to, and look for packets that its card drops (ip \
                         -s link)"
                    .to_owned(),
            },
        }
    }

    fn names(&self, nodes: NodeSet, between: &str) -> String {
        let names: Vec<&str> = nodes.iter().map(|node| self.name(node)).collect();
        if names.is_empty() { "several nodes".to_owned() } else { names.join(between) }
    }

    fn name(&self, node: NodeId) -> &str {
        self.config.cluster.nodes.get(usize::from(node.0)).map_or("?", |node| &node.name)
    }
}

fn page_of(engine: &Engine, node: NodeId) -> Option<&AuditPage> {
    engine.notes(node)?.audit.as_deref()
}
