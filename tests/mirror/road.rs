//! The network between the nodes: a proxy that can cut, hold or delay what passes, at any byte.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Whoever waits for bytes looks so often whether the road is still there.
const LOOK: Duration = Duration::from_millis(50);
const CHUNK_BYTES: usize = 32 * 1024;

/// Dropping it ends all connections, and its threads soon after.
pub(crate) struct Road(Arc<Shared>);

struct Shared {
    to: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// No connection is let through.
    barred: bool,
    held: bool,
    delay: Duration,
    /// So many bytes pass, both ways together, then all is cut.
    left: Option<usize>,
    /// Both ends of each connection that passes.
    passing: Vec<TcpStream>,
    passed: u64,
    ended: bool,
}

impl Road {
    pub(crate) fn open(at: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at).with_context(|| format!("cannot listen at {at}"))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared { to, state: Mutex::default(), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accepting.accept(&listener));
        Ok(Self(shared))
    }

    /// What is under way is lost, and nobody gets through before [`Road::mend`].
    pub(crate) fn cut(&self) {
        self.0.cut(&mut self.0.state());
    }

    /// … after so many more bytes, both ways together.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.0.state().left = Some(bytes);
    }

    /// As if nothing had been wrong.
    pub(crate) fn mend(&self) {
        let mut state = self.0.state();
        (state.barred, state.held, state.left, state.delay) = (false, false, None, Duration::ZERO);
        self.0.changed.notify_all();
    }

    /// Nothing passes, and nothing is lost.
    pub(crate) fn hold(&self) {
        self.0.state().held = true;
    }

    /// Each piece, up to 32 KiB, takes so long, one after another.
    pub(crate) fn delay(&self, delay: Duration) {
        self.0.state().delay = delay;
    }

    /// Bytes, both ways.
    pub(crate) fn passed(&self) -> u64 {
        self.0.state().passed
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.ended = true;
        self.0.cut(&mut state);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self, state: &mut State) {
        (state.barred, state.left) = (true, None);
        for stream in state.passing.drain(..) {
            let _gone = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while !self.state().ended {
            if !is_readable(listener) {
                continue;
            }
            let Ok((near, _)) = listener.accept() else { continue };
            if self.state().barred {
                continue;
            }
            // A node that does not listen refuses, and so does the road.
            let Ok(far) = TcpStream::connect_timeout(&self.to, CONNECT_TIMEOUT) else { continue };
            let _passing = self.pass(&near, &far);
        }
    }

    fn pass(self: &Arc<Self>, near: &TcpStream, far: &TcpStream) -> std::io::Result<()> {
        for stream in [near, far] {
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
        }
        let mut state = self.state();
        if state.barred {
            return Ok(());
        }
        state.passing.retain(|stream| stream.peer_addr().is_ok());
        state.passing.extend([near.try_clone()?, far.try_clone()?]);
        for (from, to) in [(near, far), (far, near)] {
            let (shared, from, to) = (Arc::clone(self), from.try_clone()?, to.try_clone()?);
            std::thread::spawn(move || shared.carry(&from, &to));
        }
        Ok(())
    }

    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let length = match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let (delay, passing) = self.wait_to_pass(length);
            std::thread::sleep(delay);
            let written = to.write_all(&chunk[..passing]);
            if passing < length {
                self.cut(&mut self.state());
            }
            if written.is_err() {
                break;
            }
        }
        // The other direction meets the end as well: nodes have no use for half a connection.
        let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    /// How many bytes of so many, and how much later.
    fn wait_to_pass(&self, length: usize) -> (Duration, usize) {
        let waits = |state: &mut State| state.held && !state.barred;
        let mut state = self.changed.wait_while(self.state(), waits).unwrap_or_else(PoisonError::into_inner);
        state.passed += length as u64;
        let passing = match &mut state.left {
            Some(left) if *left < length => std::mem::take(left),
            Some(left) => {
                *left -= length;
                length
            }
            None => length,
        };
        (state.delay, passing)
    }
}

fn is_readable(listener: &TcpListener) -> bool {
    let look = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as i64 };
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&look)).is_ok_and(|ready| ready > 0)
}
