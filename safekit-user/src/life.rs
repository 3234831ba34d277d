//! `safekit daemon`: the parent, and the daemon that it starts. Joins what drivers make with what people touch.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use safekit::config::key::{ClusterKey, read_key};
use safekit::config::{self, Config};
use safekit::driver::daemon::{Life, Running, pin_dir};
use safekit::driver::inbox::{Inbox, Request};
use safekit::driver::supervise::{Signals, Supervisor};
use safekit::driver::{datapath, doctor};
use safekit::engine::doctor::facts::Facts;
use safekit::front::cli::DaemonArgs;
use safekit::front::control::{self, Question};
use safekit::front::exit::Exit;
use safekit::types::{BootId, NodeId, Snapshot};
use tokio::sync::mpsc;

/// Questions of clients under way; more wait in their clients' tasks.
const QUESTIONS_MAX: usize = 32;

pub(crate) fn daemon(args: &DaemonArgs) -> Exit {
    install_log();
    let result = match &args.boot {
        None => parent(args),
        Some(boot) => child(args, boot),
    };
    match result {
        Ok(()) => Exit::Done,
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failed
        }
    }
}

fn install_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SAFEKIT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn parent(args: &DaemonArgs) -> anyhow::Result<()> {
    let (config, key, me) = read(args)?;
    prepare(&args.run_dir)?;
    let pins = pin_dir(&args.run_dir);
    let supervisor = Supervisor { config, key, me, arguments: arguments(args), pin_dir: pins.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(supervisor.run());
    datapath::remove_pins(&pins).context("cannot remove the pinned maps")?;
    for file in ["control.sock", "daemon.pid"] {
        // The daemon may have taken it along.
        let _gone = std::fs::remove_file(args.run_dir.join(file));
    }
    Ok(ended?)
}

fn child(args: &DaemonArgs, boot: &str) -> anyhow::Result<()> {
    // Without its parent nobody would announce this daemon's death: end cleanly with it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let (config, key, me) = read(args)?;
    let life = Life { config, key, me, boot: parse_boot(boot)?, pin_dir: pin_dir(&args.run_dir) };
    std::fs::write(args.run_dir.join("daemon.pid"), format!("{}\n", std::process::id()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(live(life, &args.run_dir));
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

async fn live(life: Life, run_dir: &Path) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let running = life.start().await?;
    let socket = run_dir.join("control.sock");
    let listener =
        control::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    tokio::spawn(control::serve(listener, running.snapshots.clone(), questions));
    tokio::spawn(hand_over(asked, running.inbox.clone()));
    until_left(running, &mut signals).await
}

async fn until_left(running: Running, signals: &mut Signals) -> anyhow::Result<()> {
    let inbox = running.inbox.clone();
    let ended = running.ended();
    tokio::pin!(ended);
    tokio::select! {
        result = &mut ended => {
            result?;
            bail!("the heartbeat thread ended without being asked");
        }
        () = signals.stop() => {}
    }
    safekit::driver::daemon::leave(&inbox).await;
    Ok(ended.await?)
}

async fn hand_over(mut asked: mpsc::Receiver<Question>, inbox: Inbox) {
    while let Some((command, answer)) = asked.recv().await {
        // Full or gone: dropping the question tells the client's task.
        let _refused = inbox.post(Request::Question(command, answer));
    }
}

fn read(args: &DaemonArgs) -> anyhow::Result<(Config, ClusterKey, NodeId)> {
    let config = config::load(&args.config)?;
    let me = own_node(&config, args)?;
    let key = read_key(&config.cluster.key_file)
        .map_err(|error| anyhow::anyhow!("{error}; {}", error.next_step()))?;
    Ok((config, key, me))
}

fn own_node(config: &Config, args: &DaemonArgs) -> anyhow::Result<NodeId> {
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

/// What `safekit doctor` looks at.
pub(crate) fn facts(
    config: &Config,
    me: NodeId,
    run_dir: &Path,
    daemon: Option<Snapshot>,
) -> anyhow::Result<Facts> {
    Ok(doctor::gather(config, me, &pin_dir(run_dir), daemon)?)
}
