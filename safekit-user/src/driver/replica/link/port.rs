//! Where connections come from. Of the two nodes the one that stands first in the configuration dials, for each directory
//! on the thread that wants to have the connection; the other listens, with one listener for all directories.
//!
//! ```text
//!   next(d) ──▶ connect, handshake, opening(d) ───── network ─────▶ listener ──▶ greeting thread ──▶ place d ──▶ next(d)
//! ```

use std::fmt;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use thiserror::Error;

use super::meet::{self, Failed, HANDSHAKE_TIMEOUT, Patience};
use super::{Incoming, Limits, Link, Met};
use crate::driver::clock;
use crate::driver::cluster::tls::Identities;
use crate::types::{Instant, NodeId};

/// In the middle of their greeting; further ones are closed at once.
const STRANGERS_MAX: usize = 16;
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The listener looks around so often even if nothing happens.
const ROUND: Duration = Duration::from_secs(60);
/// Lines of the log about refused connections are so far apart.
const LOG_PAUSE: Duration = Duration::from_secs(10);

pub type IdentitySource = Box<dyn Fn() -> Result<Arc<Identities>, String> + Send + Sync>;

pub struct Setup {
    pub cluster: String,
    pub module: String,
    pub own_name: String,
    pub peer_name: String,
    pub peer: NodeId,
    pub own: SocketAddr,
    pub theirs: SocketAddr,
    /// Or listens.
    pub dials: bool,
    pub directories: usize,
    /// How long the other side may take no data while some waits for it.
    pub stall: Duration,
    /// How long it may say nothing at all.
    pub silence: Duration,
    /// Asked for each connection: the cluster key may have changed.
    pub identities: IdentitySource,
}

/// A sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct NotConnected(pub String);

/// Who was refused since the port is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    pub connections: u64,
    pub frames: u64,
    /// Whose connection was refused last, and why.
    pub last: Option<String>,
}

/// Dropping it closes it.
pub struct Port {
    shared: Arc<Shared>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    setup: Setup,
    /// Readable when the port is closed.
    closing: OwnedFd,
    refused_connections: AtomicU64,
    refused_frames: Arc<AtomicU64>,
    state: Mutex<State>,
    /// A connection has come, or the end.
    changed: Condvar,
}

struct State {
    places: Vec<Place>,
    closed: bool,
    /// Why this node cannot listen.
    deaf: Option<String>,
    last_refusal: Option<(Instant, String)>,
    logged: Option<Instant>,
}

/// Of one directory.
struct Place {
    /// Nobody has asked for it yet.
    waiting: Option<(Link, Incoming)>,
    newest: Option<Link>,
    next_try: Instant,
    pause: Duration,
}

impl Port {
    pub fn open(setup: Setup) -> io::Result<Self> {
        let place = || Place { waiting: None, newest: None, next_try: Instant(0), pause: PAUSE_MIN };
        let state = State {
            places: (0..setup.directories).map(|_| place()).collect(),
            closed: false,
            deaf: None,
            last_refusal: None,
            logged: None,
        };
        let shared = Arc::new(Shared {
            setup,
            closing: eventfd(0, EventfdFlags::CLOEXEC)?,
            refused_connections: AtomicU64::new(0),
            refused_frames: Arc::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let listener = if shared.setup.dials {
            None
        } else {
            let listening = Arc::clone(&shared);
            Some(shared.thread().spawn(move || listening.listen())?)
        };
        Ok(Self { shared, listener: Mutex::new(listener) })
    }

    /// The next connection for this directory. One at a time: the one before it is closed when it comes.
    pub fn next(&self, directory: usize, within: Duration) -> Result<(Link, Incoming), NotConnected> {
        assert!(directory < self.shared.setup.directories, "a directory of this module");
        let until = clock::now() + within;
        if self.shared.setup.dials {
            self.shared.dial(directory, until)
        } else {
            self.shared.wait_for(directory, until)
        }
    }

    pub fn refusals(&self) -> Refusals {
        Refusals {
            connections: self.shared.refused_connections.load(Ordering::Relaxed),
            frames: self.shared.refused_frames.load(Ordering::Relaxed),
            last: self.shared.state().last_refusal.as_ref().map(|(_, last)| last.clone()),
        }
    }

    /// Ends all connections, and whoever waits for one. Its threads have ended when it returns.
    pub fn close(&self) {
        self.shared.close();
        let listener = self.listener.lock().expect("nobody panics with it").take();
        if let Some(listener) = listener {
            // A panic there has been reported by its own thread.
            let _panicked = listener.join();
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("module", &self.shared.setup.module).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    fn thread(&self) -> std::thread::Builder {
        std::thread::Builder::new().name(format!("link-{}", self.setup.module))
    }

    fn patience(&self, until: Instant) -> Patience<'_> {
        Patience { closing: self.closing.as_fd(), until }
    }

    fn not_connected(&self, why: &str) -> NotConnected {
        NotConnected(format!("not connected to {} ({}): {why}", self.setup.peer_name, self.setup.theirs.ip()))
    }

    fn dial(&self, directory: usize, until: Instant) -> Result<(Link, Incoming), NotConnected> {
        let mut why = None;
        while self.wait_for_try(directory, until)? {
            let met = meet::dial(&self.setup, directory, self.patience(until));
            let placed = met.and_then(|met| self.start(met)).and_then(|connection| {
                self.place(directory, connection.0.clone(), None)?;
                Ok(connection)
            });
            let failed = match placed {
                Ok(connection) => return Ok(connection),
                Err(Failed::Closing) => return Err(closed()),
                Err(Failed::Unreachable(why)) => why,
                Err(Failed::Refused(why)) => {
                    self.refuse(self.setup.theirs.ip(), &why);
                    why
                }
            };
            // What the end of the time has cut short says less than the attempt before it.
            if why.is_none() || clock::now() < until {
                why = Some(failed);
            }
        }
        Err(self.not_connected(why.as_deref().unwrap_or("no attempt yet")))
    }

    /// A node that ends each connection at once is not dialed more often than one that cannot be reached. False: not
    /// within the time.
    fn wait_for_try(&self, directory: usize, until: Instant) -> Result<bool, NotConnected> {
        let due = self.state().places[directory].next_try;
        let pause = due.min(until).since(clock::now());
        let state = self.changed.wait_timeout_while(self.state(), pause, |state| !state.closed);
        let mut state = state.expect("nobody panics with it").0;
        let now = clock::now();
        if state.closed {
            return Err(closed());
        }
        if now < due || now >= until {
            return Ok(false);
        }
        let place = &mut state.places[directory];
        let in_peace = now.since(due) > PAUSE_MAX * 2;
        place.pause = if in_peace { PAUSE_MIN } else { (place.pause * 2).min(PAUSE_MAX) };
        place.next_try = now + place.pause;
        Ok(true)
    }

    fn wait_for(&self, directory: usize, until: Instant) -> Result<(Link, Incoming), NotConnected> {
        let mut state = self.state();
        loop {
            if state.closed {
                return Err(closed());
            }
            if let Some(found) = state.places[directory].waiting.take() {
                if !found.0.is_closed() {
                    return Ok(found);
                }
                // Its thread is waited for when it is dropped, which is nothing to do with the lock.
                drop(state);
                drop(found);
                state = self.state();
                continue;
            }
            let left = until.since(clock::now());
            if left.is_zero() {
                let refused = state.last_refusal.as_ref().filter(|(at, _)| clock::now().since(*at) < ROUND);
                let refused = refused.map(|(_, last)| format!("it has not come; refused was {last}"));
                let why = state.deaf.clone().or(refused);
                return Err(self.not_connected(&why.unwrap_or_else(|| "it has not come".to_owned())));
            }
            state = self.changed.wait_timeout(state, left).expect("nobody panics with it").0;
        }
    }

    fn start(&self, met: Met) -> Result<(Link, Incoming), Failed> {
        let limits = Limits { stall: self.setup.stall, silence: self.setup.silence };
        let refused = Arc::clone(&self.refused_frames);
        Link::start(met, limits, refused, &self.setup.module)
            .map_err(|error| Failed::Unreachable(error.to_string()))
    }

    /// The newest connection of a directory: those before it end. `waiting`: somebody will ask for it.
    fn place(&self, directory: usize, link: Link, waiting: Option<(Link, Incoming)>) -> Result<(), Failed> {
        let mut state = self.state();
        if state.closed {
            // What is dropped waits for its thread, which is nothing to do with the lock.
            drop(state);
            return Err(Failed::Closing);
        }
        let place = &mut state.places[directory];
        let older = (place.newest.replace(link), mem::replace(&mut place.waiting, waiting));
        drop(state);
        self.changed.notify_all();
        if let Some(older) = older.0 {
            older.close("a newer connection takes its place");
        }
        Ok(())
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let take = |place: &mut Place| (place.newest.take(), place.waiting.take());
        let all: Vec<_> = state.places.iter_mut().map(take).collect();
        drop(state);
        // It is a counter that cannot be full after so few times.
        let _told = rustix::io::write(&self.closing, &1_u64.to_ne_bytes());
        self.changed.notify_all();
        for link in all.iter().filter_map(|(newest, _)| newest.as_ref()) {
            link.close("the module ends here");
        }
    }

    fn refuse(&self, from: IpAddr, why: &str) {
        self.refused_connections.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        let now = clock::now();
        if state.logged.is_none_or(|logged| now.since(logged) >= LOG_PAUSE) {
            state.logged = Some(now);
            tracing::warn!(module = self.setup.module, %from, why, "refused a connection for a mirror");
        }
        state.last_refusal = Some((now, format!("{from}: {why}")));
    }

    /// The listener's thread. Those of strangers end before it does.
    fn listen(self: Arc<Self>) {
        let Some(listener) = self.bind() else { return };
        let mut strangers: Vec<JoinHandle<()>> = Vec::new();
        while let Ok(somebody) = self.patience(clock::now() + ROUND).wait(&listener, PollFlags::IN) {
            strangers.retain(|stranger| !stranger.is_finished());
            if !somebody {
                continue;
            }
            match listener.accept() {
                Ok((_, from)) if strangers.len() >= STRANGERS_MAX => {
                    self.refuse(from.ip(), "too many connections at once");
                }
                Ok((stream, from)) => {
                    let greeting = Arc::clone(&self);
                    let thread = self.thread().spawn(move || greeting.greet(stream, from.ip()));
                    strangers.extend(thread.inspect_err(|error| tracing::warn!(%error, "no thread")).ok());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for a mirror");
                    self.pause(RETRY_PAUSE);
                }
            }
        }
        for stranger in strangers {
            // A panic there has been reported by its own thread.
            let _panicked = stranger.join();
        }
    }

    /// An address that comes late, or a port that is taken, is tried again. None: the port is closed before.
    fn bind(&self) -> Option<TcpListener> {
        let address = self.setup.own;
        loop {
            let bound = TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            let error = match bound {
                Ok(listener) => {
                    self.state().deaf = None;
                    return Some(listener);
                }
                Err(error) => error,
            };
            let why = format!("this node cannot listen at {address}: {error}");
            if self.state().deaf.replace(why).is_none() {
                tracing::warn!(%error, %address, "cannot listen for the other node of a mirror; trying again");
            }
            if self.pause(RETRY_PAUSE) {
                return None;
            }
        }
    }

    /// True: the port is closed.
    fn pause(&self, span: Duration) -> bool {
        let state = self.changed.wait_timeout_while(self.state(), span, |state| !state.closed);
        state.expect("nobody panics with it").0.closed
    }

    /// The thread of one stranger.
    fn greet(&self, stream: TcpStream, from: IpAddr) {
        let until = clock::now() + HANDSHAKE_TIMEOUT;
        let placed = meet::answer(&self.setup, stream, self.patience(until)).and_then(|(directory, met)| {
            let connection = self.start(met)?;
            self.place(directory, connection.0.clone(), Some(connection))
        });
        match placed {
            Ok(()) | Err(Failed::Closing) => {}
            Err(Failed::Refused(why) | Failed::Unreachable(why)) => self.refuse(from, &why),
        }
    }
}

fn closed() -> NotConnected {
    NotConnected("the module ends here".to_owned())
}
