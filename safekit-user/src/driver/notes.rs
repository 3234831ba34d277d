//! What this node's data plane tells the others, and what follows from what they tell.
//!
//! ```text
//! PROBES ──▶ Prober ──┐                                  ┌──▶ undelivered, warnings
//! AUDIT  ──▶ Auditor ─┴──▶ Notes ──▶ heartbeats ──▶ peers┘
//! ```

use std::io;

use super::datapath::{self, Datapath, Plan};
use super::probe::Prober;
use crate::config::Config;
use crate::engine::farm::{Engine, Input};
use crate::engine::probe;
use crate::types::notes::Unseen;
use crate::types::snapshot::{Undelivered, Warning};
use crate::types::{Instant, NodeId, NodeSet, Notes};

pub struct Noter {
    config: Config,
    me: NodeId,
    macs: Vec<[u8; 6]>,
    prober: Prober,
    unseen: Vec<Unseen>,
    findings: Findings,
}

/// What a screen is told.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub undelivered: Vec<Undelivered>,
    pub warnings: Vec<Warning>,
}

impl Noter {
    pub fn open(config: &Config, me: NodeId, plan: &Plan) -> io::Result<Self> {
        let macs = plan.interfaces().into_iter().map(|name| Ok(datapath::index_and_mac(name)?.1));
        Ok(Self {
            config: config.clone(),
            me,
            macs: macs.collect::<io::Result<_>>()?,
            prober: Prober::open(config, me, plan)?,
            unseen: Vec::new(),
            findings: Findings::default(),
        })
    }

    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Does what is due; most turns do nothing.
    pub fn turn(
        &mut self,
        engine: &mut Engine,
        datapath: &Datapath,
        now: Instant,
    ) -> Result<(), datapath::Error> {
        let members = engine.view().members;
        let Some(unseen) = self.prober.turn(datapath, members, now)? else { return Ok(()) };
        self.unseen = unseen;
        engine.handle(
            Input::Notes(Notes { macs: self.macs.clone(), unseen: self.unseen.clone(), audit: None }),
            now,
        );
        self.conclude(engine, members);
        Ok(())
    }

    fn conclude(&mut self, engine: &Engine, members: NodeSet) {
        let mut told = vec![(self.me, self.unseen.clone())];
        let others = members.without(self.me).iter();
        told.extend(others.filter_map(|node| Some((node, engine.notes(node)?.unseen.clone()))));
        let undelivered = probe::undelivered(&self.config, members, &told);
        let warnings = probe::warnings(&self.config, &undelivered);
        for warning in warnings.iter().filter(|warning| !self.findings.warnings.contains(warning)) {
            tracing::warn!(remedy = %warning.remedy, "{}", warning.what);
        }
        self.findings = Findings { undelivered, warnings };
    }
}
