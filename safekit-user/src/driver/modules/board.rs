//! What modules let each other, the other nodes and the screens know.

use std::sync::Arc;

use tokio::sync::watch;

use crate::types::ModuleInfo;
use crate::types::mirror::MirrorInfo;
use crate::types::module::ModuleReport;

/// One place for each module of this node, in the order of the configuration.
#[derive(Clone)]
pub struct Board {
    reports: watch::Sender<Arc<Vec<ModuleReport>>>,
    infos: watch::Sender<Arc<Vec<ModuleInfo>>>,
    /// Of the modules that are mirrors, in the same order.
    mirrors: watch::Sender<Arc<Vec<MirrorInfo>>>,
}

impl Board {
    pub(super) fn new(reports: Vec<ModuleReport>, infos: Vec<ModuleInfo>, mirrors: Vec<MirrorInfo>) -> Self {
        assert_eq!(reports.len(), infos.len(), "each module has its place on both");
        Self {
            reports: watch::Sender::new(Arc::new(reports)),
            infos: watch::Sender::new(Arc::new(infos)),
            mirrors: watch::Sender::new(Arc::new(mirrors)),
        }
    }

    /// States, for modules that depend on each other and for the other nodes: only news wake anybody.
    pub fn reports(&self) -> watch::Receiver<Arc<Vec<ModuleReport>>> {
        self.reports.subscribe()
    }

    /// Everything, for screens.
    pub fn infos(&self) -> watch::Receiver<Arc<Vec<ModuleInfo>>> {
        self.infos.subscribe()
    }

    pub fn mirrors(&self) -> watch::Receiver<Arc<Vec<MirrorInfo>>> {
        self.mirrors.subscribe()
    }

    pub(super) fn post_mirror(&self, mirror: MirrorInfo) {
        let place = self.mirrors.borrow().iter().position(|it| it.module == mirror.module);
        replace(&self.mirrors, place.expect("each mirror has its place"), mirror);
    }

    pub(super) fn post(&self, place: usize, report: ModuleReport, info: ModuleInfo) {
        replace(&self.reports, place, report);
        replace(&self.infos, place, info);
    }
}

fn replace<T: Clone + PartialEq>(sender: &watch::Sender<Arc<Vec<T>>>, place: usize, new: T) {
    sender.send_if_modified(|all| {
        if all[place] == new {
            return false;
        }
        Arc::make_mut(all)[place] = new;
        true
    });
}
