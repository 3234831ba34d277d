//! The parent: it starts the daemon, watches it, and speaks for it when it has died.
//!
//! ```text
//!   parent ──spawn(boot id)──▶ daemon ──leaves cleanly──▶ parent ends
//!      ▲                          │ │
//!      │                          │ └─hands over (SIGHUP)─▶ parent becomes the program and configuration of today
//!      │                          └─dies─▶ parent: close the kernel's lease, send the obituary,
//!      └───────── again, after a pause ◀──         on all networks, three times
//! ```
//!
//! Peers that get the obituary take over within milliseconds instead of waiting for silence. The lease is closed
//! first: what the obituary says must be true when it arrives.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{interval, sleep, timeout};

use super::heartbeat::{Port, Sockets};
use super::notify::Manager;
use super::{clock, datapath, realtime};
use crate::config::Config;
use crate::config::key::{ClusterKey, read_key};
use crate::types::{BootId, NodeId};
use crate::wire::heartbeat::{Body, OBITUARY_SEQ, encode};
use crate::wire::seal::Sealer;

/// A lost obituary costs the detection time, so it goes out more than once; peers take the first.
const OBITUARY_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(20)];
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(500);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A life this long was a healthy one: the next death starts with the shortest pause again.
const HEALTHY_LIFE: Duration = Duration::from_secs(60);
/// A daemon that has been asked to leave, and is still there so long after its wait for connections, is killed.
const LEAVE_MARGIN: Duration = Duration::from_secs(5);
/// Shorter than any watchdog that makes sense.
const PAUSE_WORD_INTERVAL: Duration = Duration::from_millis(500);

/// The daemon's exit code for "could not start": a person has to mend something, and a restart mends nothing.
pub const START_FAILED: i32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start the daemon's process")]
    Spawn(#[source] std::io::Error),
    #[error("cannot watch the daemon's process or signals")]
    Watch(#[source] std::io::Error),
    #[error("the daemon could not start; its message is above")]
    StartFailed,
    #[error("the service manager's watchdog heard nothing: the daemon was stuck, and has been ended")]
    Stuck,
    #[error("the system has no random numbers")]
    Random,
    #[error(transparent)]
    Sockets(#[from] super::heartbeat::Error),
}

/// Everything that the parent needs for life after life.
pub struct Supervisor {
    pub config: Config,
    pub key: ClusterKey,
    pub me: NodeId,
    /// Command line of a daemon, without its boot id.
    pub arguments: Vec<std::ffi::OsString>,
    /// The program of each life. Named when the parent starts: a path, behind which an upgrade may put another.
    pub program: PathBuf,
    pub pin_dir: PathBuf,
    /// Whether the configuration of today could be run: asked before a daemon is made to hand over.
    pub check: fn(&DaemonFiles) -> Result<(), String>,
    pub files: DaemonFiles,
    pub manager: Manager,
}

/// What a daemon reads when it starts.
#[derive(Clone, Debug)]
pub struct DaemonFiles {
    pub config: PathBuf,
    pub node: Option<String>,
}

/// Why the parent is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Left,
    /// The filter and the addresses stay; whoever comes next takes them over.
    HandedOver,
}

enum Ended {
    /// It left on request, or by itself, cleanly.
    Left,
    HandedOver,
    Died {
        status: ExitStatus,
        /// The peers know it already.
        told: bool,
    },
}

impl Supervisor {
    /// Runs until the daemon has left cleanly or cannot start at all.
    pub async fn run(&self) -> Result<Outcome, Error> {
        if let Err(error) = realtime::raise_priority() {
            tracing::debug!(%error, "the parent runs without real-time priority");
        }
        let sockets = Sockets::open(&self.config, self.me, Port::Any)?;
        let mut signals = Signals::install()?;
        let mut pause = RESTART_PAUSE_MIN;
        let mut lives = 0_u64;
        loop {
            let boot = random_boot()?;
            let born = clock::now();
            let born_child = self.spawn(boot)?;
            lives += 1;
            match self.watch(born_child, boot, &sockets, &mut signals).await? {
                Ended::Left => return Ok(Outcome::Left),
                Ended::HandedOver => return Ok(Outcome::HandedOver),
                Ended::Died { status, .. } if status.code() == Some(START_FAILED) && lives == 1 => {
                    return Err(Error::StartFailed);
                }
                Ended::Died { status, told } => {
                    if !told {
                        self.speak_for_the_dead(boot, &sockets).await;
                    }
                    if clock::now().since(born) > HEALTHY_LIFE {
                        pause = RESTART_PAUSE_MIN;
                    }
                    tracing::error!(%status, restart_in = ?pause, "the daemon died; its traffic is handed over");
                }
            }
            tokio::select! {
                () = self.pause(pause) => pause = (pause * 2).min(RESTART_PAUSE_MAX),
                () = signals.stop() => return Ok(Outcome::Left),
            }
        }
    }

    async fn pause(&self, pause: Duration) {
        let told = async {
            let mut turns = interval(PAUSE_WORD_INTERVAL);
            loop {
                turns.tick().await;
                self.manager.waiting();
            }
        };
        let _over = timeout(pause, told).await;
    }

    fn spawn(&self, boot: BootId) -> Result<(Child, Pulse), Error> {
        let (pulse, beating) = Pulse::pair().map_err(Error::Spawn)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .args(["--boot", &boot.to_string(), "--pulse", &beating.as_raw_fd().to_string()])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::Spawn)?;
        Ok((child, pulse))
    }

    async fn watch(
        &self,
        (mut child, pulse): (Child, Pulse),
        boot: BootId,
        sockets: &Sockets,
        signals: &mut Signals,
    ) -> Result<Ended, Error> {
        let stopped = pulse.stopped(&self.manager);
        tokio::pin!(stopped);
        let mut how = None;
        loop {
            let told = how == Some(Stopped::Silently);
            let asked = tokio::select! {
                status = child.wait() => return ended(status, told),
                stopped = &mut stopped, if how.is_none() => {
                    how = Some(stopped);
                    if stopped == Stopped::Silently {
                        self.speak_for_the_dead(boot, sockets).await;
                    }
                    continue;
                }
                asked = signals.next() => asked,
            };
            match asked {
                Asked::Abort => {
                    tracing::error!("the service manager's watchdog heard nothing: ending the daemon");
                    child.kill().await.map_err(Error::Watch)?;
                    self.speak_for_the_dead(boot, sockets).await;
                    return Err(Error::Stuck);
                }
                Asked::Stop => return self.end(child, boot, sockets, signals).await,
                Asked::HandOver => match (self.check)(&self.files) {
                    Ok(()) => {
                        self.manager.reloading();
                        return hand_over(child).await;
                    }
                    Err(error) => tracing::error!(%error, "not restarted: the daemon goes on as it is"),
                },
            }
        }
    }

    /// Waits for the daemon's connections, or until it is asked a second time. A daemon that dies meanwhile has ended,
    /// too, but somebody has to say so.
    async fn end(
        &self,
        mut child: Child,
        boot: BootId,
        sockets: &Sockets,
        signals: &mut Signals,
    ) -> Result<Ended, Error> {
        self.manager.stopping();
        tell(&child, rustix::process::Signal::TERM);
        let patience = self.config.drain_timeout() + self.config.stop_timeout() + LEAVE_MARGIN;
        let left = tokio::select! {
            left = timeout(patience, child.wait()) => left.ok(),
            () = self.manager.keep_extending() => unreachable!("it asks for ever"),
            () = signals.stop() => {
                tell(&child, rustix::process::Signal::TERM);
                timeout(LEAVE_MARGIN, child.wait()).await.ok()
            }
        };
        let clean = match left {
            Some(status) => status.map_err(Error::Watch)?.success(),
            None => {
                tracing::error!("the daemon does not leave; killing it");
                child.kill().await.map_err(Error::Watch)?;
                false
            }
        };
        if !clean {
            self.speak_for_the_dead(boot, sockets).await;
        }
        Ok(Ended::Left)
    }

    async fn speak_for_the_dead(&self, boot: BootId, sockets: &Sockets) {
        if let Err(error) = datapath::close_lease(&self.pin_dir) {
            // Without a closed lease an obituary would be a lie for as long as the lease still runs.
            tracing::error!(%error, "cannot close the kernel's lease; waiting for its end");
            sleep(self.config.cluster.timing.lease).await;
        }
        // The key may have been changed since this parent began.
        let key = read_key(&self.config.cluster.key_file).unwrap_or_else(|_| self.key.clone());
        let mut datagram = Vec::new();
        Sealer::new(&key, &self.config.cluster.name, self.me, boot).seal(
            OBITUARY_SEQ,
            &encode(&Body::Obituary),
            &mut datagram,
        );
        for pause in OBITUARY_PAUSES {
            sleep(pause).await;
            sockets.send_to_all(&datagram);
        }
    }
}

/// A pipe whose other end only the daemon holds. The kernel takes a dead process's files away one by one, and its packet
/// sockets, each with a wait of ten milliseconds, before it tells the parent; this end of the pipe hears of it first.
struct Pulse(pipe::Receiver);

/// How a daemon's pulse stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// It said that it ends.
    Knowingly,
    Silently,
}

/// What a daemon writes before it ends by itself.
const FAREWELL: u8 = b'.';
/// After each word for the service manager.
const WORD_END: u8 = 0;
const WORD_BYTES_MAX: usize = 512;
/// The highest of a process's files go first (Linux 4.2: the last queued is done first), so the daemon's end has a high number.
const PULSE_FD_MIN: i32 = 900;

impl Pulse {
    /// Both ends; the daemon's is inherited by the next process that is started.
    fn pair() -> std::io::Result<(Self, OwnedFd)> {
        let (ours, low) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // Where so high a number is not allowed, a low one only makes the news later.
        let theirs = rustix::io::fcntl_dupfd_cloexec(&low, PULSE_FD_MIN).unwrap_or(low);
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
        Ok((Self(pipe::Receiver::from_owned_fd(ours)?), theirs))
    }

    /// Passes on what the daemon says meanwhile.
    async fn stopped(self, manager: &Manager) -> Stopped {
        let mut heard: Vec<u8> = Vec::new();
        let mut buffer = [0; WORD_BYTES_MAX];
        loop {
            let readable = self.0.readable().await;
            match self.0.try_read(&mut buffer) {
                Ok(0) => return Stopped::Silently,
                Ok(length) => {
                    heard.extend_from_slice(&buffer[..length]);
                    while let Some(end) = heard.iter().position(|byte| *byte == WORD_END) {
                        let word: Vec<u8> = heard.drain(..=end).collect();
                        manager.pass_on(&word[..end]);
                    }
                    if heard.first() == Some(&FAREWELL) || heard.len() > WORD_BYTES_MAX {
                        return Stopped::Knowingly;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && readable.is_ok() => {}
                // A pipe that cannot be read tells nothing: the parent's own news will come.
                Err(_) => return Stopped::Knowingly,
            }
        }
    }
}

/// The daemon's end: closed by the kernel when the daemon dies.
pub struct Beating(OwnedFd);

impl Beating {
    /// Takes over the descriptor that the parent named.
    pub fn take(number: i32) -> std::io::Result<Self> {
        // SAFETY: the parent made this descriptor for this process alone, and it is taken once, at the start.
        let end = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&end, rustix::io::FdFlags::CLOEXEC)?;
        // A parent that does not read must not hold the daemon up.
        rustix::fs::fcntl_setfl(&end, rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self(end))
    }

    /// For the service manager, by way of the parent.
    pub fn say(&self, word: &str) {
        assert!(word.len() < WORD_BYTES_MAX, "a word of {} bytes would be torn", word.len());
        let mut bytes = word.as_bytes().to_vec();
        bytes.push(WORD_END);
        // A parent that does not read is found out by the manager: it hears nothing.
        let _unheard = rustix::io::write(&self.0, &bytes);
    }

    /// The end that follows is no death.
    pub fn farewell(&self) {
        // A parent that has gone needs none.
        let _gone = rustix::io::write(&self.0, &[FAREWELL]);
    }
}

async fn hand_over(mut child: Child) -> Result<Ended, Error> {
    tell(&child, rustix::process::Signal::HUP);
    match timeout(LEAVE_MARGIN, child.wait()).await {
        Ok(status) => match ended(status, false)? {
            Ended::Left | Ended::HandedOver => Ok(Ended::HandedOver),
            died @ Ended::Died { .. } => Ok(died),
        },
        Err(_) => {
            tracing::error!("the daemon does not hand over; killing it");
            child.kill().await.map_err(Error::Watch)?;
            Ok(Ended::HandedOver)
        }
    }
}

fn tell(child: &Child, signal: rustix::process::Signal) {
    if let Some(process) = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
        // It may have ended by itself this moment; then the wait that follows says so.
        let _ended = rustix::process::kill_process(process, signal);
    }
}

fn ended(status: std::io::Result<ExitStatus>, told: bool) -> Result<Ended, Error> {
    let status = status.map_err(Error::Watch)?;
    Ok(if status.success() { Ended::Left } else { Ended::Died { status, told } })
}

fn random_boot() -> Result<BootId, Error> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(BootId(bytes))
}

/// What a process is asked for by signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM, SIGINT: leave the farm and end.
    Stop,
    /// SIGHUP: end, and leave filter and addresses to a successor.
    HandOver,
    /// SIGABRT: end at once. The service manager's watchdog sends it.
    Abort,
}

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    abort: Signal,
}

impl Signals {
    pub fn install() -> Result<Self, Error> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(Error::Watch)?,
            interrupt: signal(SignalKind::interrupt()).map_err(Error::Watch)?,
            hang_up: signal(SignalKind::hangup()).map_err(Error::Watch)?,
            abort: signal(SignalKind::from_raw(libc::SIGABRT)).map_err(Error::Watch)?,
        })
    }

    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::HandOver,
            _ = self.abort.recv() => Asked::Abort,
        }
    }

    /// Returns when the process is asked to end, and overhears the rest.
    pub async fn stop(&mut self) {
        while self.next().await == Asked::HandOver {}
    }
}
