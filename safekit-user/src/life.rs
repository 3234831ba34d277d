//! `safekit daemon`: the parent, and the daemon that it starts. Joins what drivers make with what people touch.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use safekit::config::key::read_ring;
use safekit::config::{self, Config};
use safekit::driver::cluster::store::Store;
use safekit::driver::cluster::{Cluster, applier};
use safekit::driver::daemon::{Life, Running, pin_dir};
use safekit::driver::datapath;
use safekit::driver::journal::{self, Journal};
use safekit::driver::log;
use safekit::driver::modules::{Files, Memory, Modules};
use safekit::driver::notify::{self, Manager};
use safekit::driver::rights;
use safekit::driver::scripts::Way;
use safekit::driver::supervise::{Asked, Beating, DaemonFiles, Error, Outcome, Signals, Supervisor};
use safekit::engine::doctor::facts::Facts;
use safekit::front::cli::DaemonArgs;
use safekit::front::cli::status::verdict_word;
use safekit::front::control;
use safekit::front::exit::Exit;
use safekit::front::web;
use safekit::types::journal::{Level, Note};
use safekit::types::{BootId, Command, KeyRing, NodeId, Reply, Snapshot};
use tokio::sync::{mpsc, watch};

mod desk;
mod modules;
mod replica;
mod rotation;

use desk::Desk;
pub(crate) use replica::replica;

/// Questions of clients under way; more wait in their clients' tasks.
const QUESTIONS_MAX: usize = 32;
/// What a stuck disk may cost at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

pub(crate) fn daemon(args: &DaemonArgs) -> Exit {
    log::install();
    let result = match &args.boot {
        None => parent(args),
        Some(boot) => beating(args, boot),
    };
    match result {
        Ok(()) => Exit::Done,
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failed
        }
    }
}

fn parent(args: &DaemonArgs) -> anyhow::Result<()> {
    let files = DaemonFiles { config: args.config.clone(), node: args.node.clone() };
    store(args).recover().context("cannot put the configuration into its place")?;
    let (config, keys, me) = read(&files)?;
    prepare(&args.run_dir)?;
    let pins = pin_dir(&args.run_dir);
    // Before the right to mount is given back.
    datapath::ensure_bpffs(&pins).with_context(|| format!("cannot make {} a bpffs", pins.display()))?;
    give_back_rights();
    let program = std::env::current_exe().context("cannot name the program that runs")?;
    let supervisor = Supervisor {
        config,
        key: keys.sending,
        me,
        arguments: arguments(args),
        program: program.clone(),
        pin_dir: pins.clone(),
        check: |files| read(files).map(drop).map_err(|error| format!("{error:#}")),
        files,
        manager: Manager::of_environment(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(supervisor.run());
    drop(runtime);
    if matches!(outcome, Ok(Outcome::HandedOver)) {
        // The same process, so that whoever watches it sees no end: only the program behind the path may be another.
        return Err(std::process::Command::new(program).args(std::env::args_os().skip(1)).exec().into());
    }
    if matches!(outcome, Err(Error::Stuck)) {
        // The addresses are still there, and the filter with its closed lease guards them until the next life.
        return Ok(outcome.map(drop)?);
    }
    datapath::remove_pins(&pins).context("cannot remove the pinned maps")?;
    for file in ["control.sock", "daemon.pid"] {
        // The daemon may have taken it along.
        let _gone = std::fs::remove_file(args.run_dir.join(file));
    }
    outcome?;
    Ok(())
}

/// A daemon that ends, well or not, says so; only one that dies does not.
fn beating(args: &DaemonArgs, boot: &str) -> anyhow::Result<()> {
    give_back_rights();
    let pulse = args.pulse.map(Beating::take).transpose().context("--pulse is no descriptor")?.map(Arc::new);
    let result = child(args, boot, pulse.clone());
    if let Some(pulse) = pulse {
        pulse.farewell();
    }
    result
}

/// Before there is any other thread. Without it the daemon works as well, and `safekit doctor` says so.
fn give_back_rights() {
    if let Err(error) = rights::keep_what_is_needed(Way::of_environment()) {
        tracing::warn!(%error, "the daemon keeps rights that it does not need");
    }
}

fn child(args: &DaemonArgs, boot: &str, pulse: Option<Arc<Beating>>) -> anyhow::Result<()> {
    // Without its parent nobody would announce this daemon's death: end cleanly with it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let files = DaemonFiles { config: args.config.clone(), node: args.node.clone() };
    store(args).recover().context("cannot put the configuration into its place")?;
    let (config, keys, me) = read(&files)?;
    let memory = Memory::load(&config, me, &args.state_dir);
    let life = Life {
        config,
        keys,
        me,
        boot: parse_boot(boot)?,
        pin_dir: pin_dir(&args.run_dir),
        state_dir: args.state_dir.clone(),
        health: memory.health(),
    };
    std::fs::write(args.run_dir.join("daemon.pid"), format!("{}\n", std::process::id()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(live(life, memory, (&args.config, &args.run_dir), store(args), pulse));
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

async fn live(
    life: Life,
    memory: Memory,
    (config_file, run_dir): (&Path, &Path),
    store: Store,
    pulse: Option<Arc<Beating>>,
) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let drain_max = life.config.drain_timeout();
    let (config, me, keys) = (Arc::new(life.config.clone()), life.me, life.keys.accepted());
    let state_dir = life.state_dir.clone();
    let journal = open_journal(&state_dir, run_dir, config.name(me))?;
    note(&journal, format!("the daemon starts, version {}", env!("CARGO_PKG_VERSION")));
    let running = life.start().await?;
    let socket = run_dir.join("control.sock");
    let listener =
        control::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let identity = store.identity().context("cannot read the configurations that are kept")?;
    let (cluster, passed_on) = Cluster::start(Arc::clone(&config), me, &keys, identity);
    let (applier, configs) =
        applier::start(cluster.clone(), store, journal.clone(), Arc::new(hand_over_for_config))
            .context("cannot read the configurations that are kept")?;
    let files = Files {
        program: std::env::current_exe().context("cannot name the program that runs")?,
        config: std::path::absolute(config_file)?,
        run_dir: std::path::absolute(run_dir)?,
    };
    let modules = modules::start(&config, me, (&state_dir, memory), files, &running, &cluster, &journal);
    tokio::spawn(modules::follow(modules.clone(), me, configs.clone()));
    let (console, console_state) = watch::channel(None);
    let snapshots = desk::complete(running.snapshots.clone(), cluster.clone(), &modules.board, console_state);
    tokio::spawn(web::serve(configs, snapshots.clone(), console));
    tokio::spawn(journal::follow(journal.clone(), config, snapshots.clone()));
    let auditor = journal.clone();
    let service = control::Service {
        snapshots: snapshots.clone(),
        questions,
        auditor: Arc::new(move |act| auditor.audit(act)),
    };
    tokio::spawn(control::serve(listener, service));
    if let Some(pulse) = pulse {
        tokio::spawn(notify::follow(pulse, running.snapshots.clone(), |it| verdict_word(it.verdict)));
    }
    let (modules_of_desk, journal_of_desk) = (modules.clone(), journal.clone());
    let desk = Desk {
        inbox: running.inbox.clone(),
        snapshots,
        cluster,
        modules: modules_of_desk,
        applier,
        journal: journal_of_desk,
    };
    tokio::spawn(desk.serve(asked, passed_on));
    let left = until_left(running, drain_max, &modules, &mut signals).await;
    note(&journal, "the daemon ends".to_owned());
    journal.flush(FLUSH_TIMEOUT);
    left
}

/// High availability does not wait for a disk: without a state directory the journal lives as long as the machine.
fn open_journal(state_dir: &Path, run_dir: &Path, node: &str) -> anyhow::Result<Journal> {
    Journal::open(state_dir, node)
        .or_else(|error| {
            tracing::error!(%error, directory = %state_dir.display(), "cannot keep the journal there");
            Journal::open(run_dir, node)
        })
        .context("cannot keep a journal")
}

fn note(journal: &Journal, text: String) {
    journal.note(Note::of_node(Level::Info, "daemon", text));
}

fn hand_over_for_config() {
    if let Reply::Refused { error, .. } = desk::ask_parent_to_restart() {
        tracing::error!(%error, "the daemon goes on with the configuration of before");
    }
}

/// The first request to stop stops the modules, and then waits for connections; the second waits for nothing.
async fn until_left(
    running: Running,
    drain_max: Duration,
    modules: &Modules,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let inbox = running.inbox.clone();
    let handing_over = AtomicBool::new(false);
    let ended = running.ended(&handing_over);
    tokio::pin!(ended);
    let mut asked = None;
    let mut modules_done = false;
    loop {
        let modules_end = async {
            match asked {
                None => std::future::pending().await,
                Some(Asked::HandOver) => modules.hand_over().await,
                Some(Asked::Stop | Asked::Abort) => modules.shut_down("the daemon is stopped").await,
            }
        };
        tokio::select! {
            result = &mut ended => {
                result?;
                return if asked.is_some() { Ok(()) } else { bail!("the heartbeat thread ended without being asked") };
            }
            next = signals.next() => {
                // A second word, of whatever kind, means now.
                if asked.is_some() || next == Asked::Abort {
                    asked = asked.or(Some(Asked::Stop));
                    safekit::driver::daemon::leave(&inbox, Duration::ZERO).await;
                } else {
                    handing_over.store(next == Asked::HandOver, Ordering::Release);
                    asked = Some(next);
                }
            }
            () = modules_end, if !modules_done => {
                modules_done = true;
                if asked == Some(Asked::HandOver) {
                    safekit::driver::daemon::hand_over(&inbox).await;
                } else {
                    safekit::driver::daemon::leave(&inbox, drain_max).await;
                }
            }
        }
    }
}

fn store(args: &DaemonArgs) -> Store {
    Store::new(&args.config, &args.state_dir)
}

fn read(files: &DaemonFiles) -> anyhow::Result<(Config, KeyRing, NodeId)> {
    let config = config::load(&files.config)?;
    let me = own_node(&config, files)?;
    let keys = read_ring(&config.cluster.key_file)
        .map_err(|error| anyhow::anyhow!("{error}; {}", error.next_step()))?;
    Ok((config, keys, me))
}

fn own_node(config: &Config, args: &DaemonFiles) -> anyhow::Result<NodeId> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = args.node.as_deref().unwrap_or_else(|| host.split('.').next().unwrap_or(&host));
    config.node(name).with_context(|| {
        let known: Vec<&str> = config.cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        format!(
            "{} has no node {name} (nodes: {}); name this one with --node",
            args.config.display(),
            known.join(", ")
        )
    })
}

fn prepare(run_dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(run_dir).with_context(|| format!("cannot make {}", run_dir.display()))?;
    if !rustix::process::geteuid().is_root() {
        bail!("the daemon needs root for the packet filter and the virtual IP; run it with sudo");
    }
    Ok(())
}

/// The command line of a daemon of this parent; the boot id is added for each life.
fn arguments(args: &DaemonArgs) -> Vec<std::ffi::OsString> {
    let mut arguments: Vec<std::ffi::OsString> = vec!["daemon".into()];
    let paths = [("--config", &args.config), ("--run-dir", &args.run_dir), ("--state-dir", &args.state_dir)];
    for (name, path) in paths {
        arguments.extend([name.into(), path.into()]);
    }
    if let Some(node) = &args.node {
        arguments.extend(["--node".into(), node.into()]);
    }
    arguments
}

fn parse_boot(text: &str) -> anyhow::Result<BootId> {
    let bytes = u128::from_str_radix(text, 16).context("--boot is not a boot id")?;
    Ok(BootId(bytes.to_be_bytes()))
}

/// Who collects and writes a support bundle.
pub(crate) fn bundle() -> safekit::front::cli::snapshot::Hands {
    use safekit::driver::bundle;
    safekit::front::cli::snapshot::Hands {
        collect: bundle::collect,
        host_names: bundle::host_names,
        default_name: bundle::default_name,
        write: |path, top, items| {
            bundle::write(path, top, items).map_err(|error| {
                let next_step = error.next_step();
                (error.into(), next_step)
            })
        },
        facts,
    }
}

/// What `safekit doctor` looks at.
pub(crate) fn facts(
    config: &Config,
    me: NodeId,
    run_dir: &Path,
    state_dir: &Path,
    daemon: Option<Snapshot>,
) -> anyhow::Result<Facts> {
    Ok(safekit::driver::doctor::gather(config, me, (&pin_dir(run_dir), state_dir), daemon)?)
}

/// What a daemon that no longer answers has left of its journal.
pub(crate) fn leftover(state_dir: &Path, command: &Command) -> Reply {
    let files = journal::Files::of(state_dir);
    match command {
        Command::Events { wanted, after } => {
            let entries = files.events(wanted, *after);
            Reply::Events { last: entries.last().map_or(0, |entry| entry.number), entries }
        }
        Command::Audit { count } => Reply::Audit { acts: files.acts(*count) },
        _ => Reply::Refused {
            error: "only the journal outlives a daemon".to_owned(),
            next_step: "start the daemon".to_owned(),
        },
    }
}
