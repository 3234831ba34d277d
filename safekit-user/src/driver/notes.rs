//! What this node's data plane tells the others, and what follows from what they tell.
//!
//! ```text
//! PROBES ──▶ Prober ──┐                                  ┌──▶ undelivered, warnings
//! AUDIT  ──▶ Auditor ─┴──▶ Notes ──▶ heartbeats ──▶ peers┘
//! ```

use std::io;

use super::audit::Auditor;
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
    prober: Prober,
    unseen: Vec<Unseen>,
    /// Peers wait for the first notes: they hold the MACs.
    said: bool,
    auditor: Option<Auditor>,
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
        Ok(Self {
            config: config.clone(),
            me,
            prober: Prober::open(config, me, plan)?,
            unseen: Vec::new(),
            said: false,
            auditor: Auditor::new(config, me),
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
        let heard = self.prober.turn(datapath, members, now)?;
        let page = match &mut self.auditor {
            Some(auditor) => auditor.turn(engine, datapath, now)?,
            None => None,
        };
        if self.said && heard.is_none() && page.is_none() {
            return Ok(());
        }
        self.said = true;
        let conclude = heard.is_some();
        self.unseen = heard.unwrap_or_else(|| std::mem::take(&mut self.unseen));
        let notes = Notes {
            macs: datapath.own_macs().to_vec(),
            unseen: self.unseen.clone(),
            audit: page.map(Box::new),
        };
        engine.handle(Input::Notes(notes), now);
        if conclude {
            self.conclude(engine, members);
        }
        Ok(())
    }

    fn conclude(&mut self, engine: &Engine, members: NodeSet) {
        let mut told = vec![(self.me, self.unseen.clone())];
        let others = members.without(self.me).iter();
        told.extend(others.filter_map(|node| Some((node, engine.notes(node)?.unseen.clone()))));
        let undelivered = probe::undelivered(&self.config, members, &told);
        let mut warnings = probe::warnings(&self.config, &undelivered);
        warnings.extend(self.auditor.iter().flat_map(|auditor| auditor.warnings(engine)));
        for warning in warnings.iter().filter(|warning| !self.findings.warnings.contains(warning)) {
            tracing::warn!(remedy = %warning.remedy, "{}", warning.what);
        }
        self.findings = Findings { undelivered, warnings };
    }
}
