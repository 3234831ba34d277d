//! What modules need of the rest of the daemon, and it of them.

use std::path::Path;
use std::sync::Arc;

use safekit::config::Config;
use safekit::driver::check::Remote;
use safekit::driver::cluster::Cluster;
use safekit::driver::daemon::Running;
use safekit::driver::journal::Journal;
use safekit::driver::modules::{Files, Ground, Happened, Level, Memory, Modules};
use safekit::types::NodeId;
use safekit::types::journal::{self, Note};
use tokio::sync::{mpsc, watch};

/// Lines for the journal that wait to be written; more are left out, and are in the log.
const HAPPENED_MAX: usize = 256;

/// Starts them, and lets the other nodes know of them.
pub(super) fn start(
    config: &Config,
    me: NodeId,
    (state_dir, memory): (&Path, Memory),
    files: Files,
    running: &Running,
    cluster: &Cluster,
    journal: &Journal,
) -> Modules {
    let (happened, news) = mpsc::channel(HAPPENED_MAX);
    let ground = Ground {
        config: config.clone(),
        me,
        state_dir: state_dir.to_owned(),
        files,
        inbox: running.inbox.clone(),
        snapshots: running.snapshots.clone(),
        remotes: remotes(cluster),
        happened,
    };
    let modules = Modules::start(ground, memory);
    tokio::spawn(tell(modules.clone(), cluster.clone()));
    tokio::spawn(write_down(news, journal.clone()));
    modules
}

async fn tell(modules: Modules, cluster: Cluster) {
    let mut reports = modules.board.reports();
    loop {
        cluster.publish(reports.borrow_and_update().to_vec());
        if reports.changed().await.is_err() {
            return;
        }
    }
}

fn remotes(cluster: &Cluster) -> watch::Receiver<Arc<Vec<Remote>>> {
    let mut heard = cluster.reports();
    let of = |heard: &[Option<safekit::driver::cluster::Heard>]| {
        let one = |it: &Option<safekit::driver::cluster::Heard>| {
            it.as_ref().map_or((None, Vec::new()), |it| (Some(it.at), it.reports.clone()))
        };
        Arc::new(heard.iter().map(one).collect::<Vec<Remote>>())
    };
    let (sender, receiver) = watch::channel(of(&heard.borrow_and_update()));
    tokio::spawn(async move {
        while heard.changed().await.is_ok() {
            sender.send_replace(of(&heard.borrow_and_update()));
        }
    });
    receiver
}

async fn write_down(mut news: mpsc::Receiver<Happened>, journal: Journal) {
    while let Some(Happened { module, level, kind, text, cause }) = news.recv().await {
        let level = match level {
            Level::Info => journal::Level::Info,
            Level::Warning => journal::Level::Warning,
            Level::Error => journal::Level::Error,
        };
        journal.note(Note { level, module: Some(module), kind, text, cause });
    }
}

/// Configurations that change nothing but how modules are kept.
pub(super) async fn follow(modules: Modules, me: NodeId, mut configs: watch::Receiver<Arc<Config>>) {
    while configs.changed().await.is_ok() {
        let config = Arc::clone(&configs.borrow_and_update());
        modules.change(&config, me).await;
    }
}
