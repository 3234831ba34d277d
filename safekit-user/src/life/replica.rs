//! `safekit replica`: the process that keeps the directories of one mirror. The daemon starts it, and it outlives the
//! daemon.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::{Context as _, bail};
use safekit::config::key::read_ring;
use safekit::config::{Config, Kind, Mirror};
use safekit::driver::cluster::tls::Identities;
use safekit::driver::log;
use safekit::driver::replica::link::{self, Port};
use safekit::driver::replica::pair::{Pair, Setup};
use safekit::driver::replica::service;
use safekit::front::cli::ReplicaArgs;
use safekit::front::exit::Exit;
use safekit::types::NodeId;

/// The other node says something every half second.
const SILENCE: Duration = Duration::from_secs(3);
/// linux/prctl.h, since 5.6.
const PR_SET_IO_FLUSHER: i32 = 57;

pub(crate) fn replica(args: &ReplicaArgs) -> Exit {
    log::install();
    match keep(args) {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("error: {error:#}");
            Exit::Failed
        }
    }
}

fn keep(args: &ReplicaArgs) -> anyhow::Result<()> {
    let config = Arc::new(safekit::config::load(&args.config)?);
    let me = config.node(&args.node).with_context(|| format!("there is no node {}", args.node))?;
    let mirror = mirror_of(&config, &args.module)?;
    let (stop, stopped) = service::stopper();
    // Before there is another thread, which would take the signal.
    stop_at_signals(stop.clone())?;
    prepare();
    let port = Arc::new(open_port(&config, me, &args.module, mirror)?);
    let mut pairs = Vec::new();
    for (place, directory) in mirror.directories.iter().enumerate() {
        pairs.push(Pair::start(&Setup {
            directory: directory.directory.clone(),
            acknowledge: directory.acknowledge,
            max_stall: mirror.max_stall,
            require: directory.require.clone(),
            port: Arc::clone(&port),
            place,
        })?);
    }
    let socket = service::socket_path(&args.run_dir, &args.module);
    service::serve(&socket, pairs, (stop, stopped))
        .context("the directories could not be given back in order")
}

fn mirror_of<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a Mirror> {
    let module = config.modules.iter().find(|module| module.name == name);
    match module.map(|module| &module.kind) {
        Some(Kind::Mirror(mirror)) => Ok(mirror),
        Some(_) => bail!("module {name} is no mirror"),
        None => bail!("there is no module {name}"),
    }
}

fn open_port(config: &Arc<Config>, me: NodeId, module: &str, mirror: &Mirror) -> anyhow::Result<Port> {
    let peer = mirror.nodes.iter().copied().find(|node| *node != me).context("a mirror has two nodes")?;
    let address = |node: NodeId| {
        let addresses = &config.cluster.nodes[usize::from(node.0)].addresses;
        let address = addresses[usize::from(mirror.network.0)];
        address.map(|address| SocketAddr::new(address, mirror.port)).context("a node lacks the address")
    };
    let keys = Arc::clone(config);
    let identities = move || {
        let ring = read_ring(&keys.cluster.key_file).map_err(|error| error.to_string())?;
        Ok(Identities::of(&ring.accepted(), &keys, me))
    };
    let setup = link::Setup {
        cluster: config.cluster.name.clone(),
        module: module.to_owned(),
        own_name: config.name(me).to_owned(),
        peer_name: config.name(peer).to_owned(),
        peer,
        own: address(me)?,
        theirs: address(peer)?,
        dials: me < peer,
        directories: mirror.directories.len(),
        stall: mirror.max_stall,
        silence: SILENCE,
        identities: Box::new(identities),
    };
    Port::open(setup).context("cannot make the connections of this mirror")
}

/// SIGTERM and SIGINT, taken by a thread of their own.
fn stop_at_signals(stop: SyncSender<()>) -> anyhow::Result<()> {
    // SAFETY: the set is made empty before it is used, and outlives each call.
    let set = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    std::thread::Builder::new().name("mirror-signal".into()).spawn(move || {
        let mut signal = 0;
        // SAFETY: both outlive the call.
        while unsafe { libc::sigwait(&raw const set, &raw mut signal) } == 0 {
            // Full: it stops already.
            let _stops = stop.try_send(());
        }
    })?;
    Ok(())
}

/// Applications wait for this process: it is the last to be ended for want of memory, and never waits for its own mount
/// when the kernel wants memory back. Without these rights it works as well.
fn prepare() {
    let _refused = std::fs::write("/proc/self/oom_score_adj", "-1000");
    // SAFETY: plain numbers.
    let _refused = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _refused = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    rustix::process::umask(rustix::fs::Mode::empty());
}
