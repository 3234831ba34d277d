//! How two nodes meet: TCP, the handshake of TLS, and what each says first. Every step has a deadline, and all of them end
//! when the port is closed.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustls::{
    AlertDescription as Alert, CertificateError, ClientConnection, Connection, Error, ServerConnection,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::incoming::take_plaintext;
use super::outgoing::timespec;
use super::{Met, Setup};
use crate::driver::clock;
use crate::driver::cluster::tls;
use crate::types::Instant;
use crate::wire::link::Decoder;
use crate::wire::replica::opening::Opening;

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Whoever is refused gets so long to read why; closing at once would take it away from under its eyes.
const LAST_WORDS: Duration = Duration::from_millis(300);
const LAST_WORDS_BYTES: usize = 64 << 10;

pub(super) enum Failed {
    /// It is there, and is not what it should be.
    Refused(String),
    /// Of the network, or of this node itself.
    Unreachable(String),
    /// The port is closed.
    Closing,
}

impl Failed {
    fn network(error: &io::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// Until when, and what ends it before.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    pub(super) closing: BorrowedFd<'a>,
    pub(super) until: Instant,
}

impl Patience<'_> {
    /// False: not within the time.
    pub(super) fn wait(&self, what: impl AsFd, flags: PollFlags) -> Result<bool, Failed> {
        let mut polled =
            [PollFd::from_borrowed_fd(what.as_fd(), flags), PollFd::new(&self.closing, PollFlags::IN)];
        loop {
            let left = self.until.since(clock::now());
            match poll(&mut polled, Some(&timespec(left))) {
                Ok(_) if !polled[1].revents().is_empty() => return Err(Failed::Closing),
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Failed::network(&errno.into())),
            }
        }
    }

    fn no_later(self, span: Duration) -> Self {
        Self { until: self.until.min(clock::now() + span), ..self }
    }
}

/// From the address that this node has in the configuration, so that the other side can say whom it refuses.
pub(super) fn connect(own: SocketAddr, to: SocketAddr, patience: Patience<'_>) -> Result<TcpStream, Failed> {
    let patience = patience.no_later(CONNECT_TIMEOUT);
    let failed = |error: io::Error| Failed::network(&error);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let from = SocketAddr::new(own.ip(), 0);
    socket.bind(&from.into()).map_err(|error| {
        Failed::Unreachable(format!("this node does not have its address {}: {error}", own.ip()))
    })?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
            return Err(failed(error));
        }
        _ => {}
    }
    if !patience.wait(&socket, PollFlags::OUT)? {
        return Err(Failed::Unreachable("no answer to the attempt to connect".to_owned()));
    }
    match socket.take_error() {
        Ok(None) => Ok(socket.into()),
        Ok(Some(error)) | Err(error) => Err(failed(error)),
    }
}

/// From whoever dials: the connection is for this directory.
pub(super) fn dial(setup: &Setup, directory: usize, patience: Patience<'_>) -> Result<Met, Failed> {
    let identities = (setup.identities)().map_err(Failed::Unreachable)?;
    let stream = connect(setup.own, setup.theirs, patience)?;
    let client = ClientConnection::new(identities.dial(setup.peer), tls::server_name());
    let client = client.map_err(|error| Failed::Unreachable(error.to_string()))?;
    let mut meeting = Meeting::new(setup, stream, client.into(), patience)?;
    let own = opening(setup, directory);
    meeting.shake_hands()?;
    meeting.say(&own)?;
    let theirs = meeting.hear()?;
    meeting.check(own.check(&theirs, &setup.peer_name, false))?;
    Ok(meeting.done())
}

/// From whoever is dialed: says for which directory.
pub(super) fn answer(
    setup: &Setup,
    stream: TcpStream,
    patience: Patience<'_>,
) -> Result<(usize, Met), Failed> {
    let identities = (setup.identities)().map_err(Failed::Unreachable)?;
    let server = ServerConnection::new(identities.listen());
    let server = server.map_err(|error| Failed::Unreachable(error.to_string()))?;
    let mut meeting = Meeting::new(setup, stream, server.into(), patience)?;
    meeting.shake_hands()?;
    let shown = meeting.tls.peer_certificates().and_then(|shown| shown.first());
    if shown.and_then(|shown| identities.owner(shown)) != Some(setup.peer) {
        return Err(meeting.refuse(another_node()));
    }
    let theirs = meeting.hear()?;
    let own = opening(setup, theirs.directory);
    // Also where they do not fit: the other side can then name it, too.
    meeting.say(&own)?;
    meeting.check(own.check(&theirs, &setup.peer_name, true))?;
    Ok((theirs.directory, meeting.done()))
}

fn opening(setup: &Setup, directory: usize) -> Opening {
    Opening::new(&setup.cluster, &setup.module, &setup.own_name, setup.directories, directory)
}

fn another_node() -> String {
    "it is a node of this cluster, and not the other one of this mirror".to_owned()
}

/// What an error of TLS says about the other side.
fn sentence(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::NotValidForName) => another_node(),
        Error::InvalidCertificate(_)
        | Error::NoCertificatesPresented
        | Error::AlertReceived(Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown) => {
            "it has another cluster key: copy the key file of a node that is in".to_owned()
        }
        error => format!("it does not speak as a node of the cluster: {error}"),
    }
}

struct Meeting<'a> {
    stream: TcpStream,
    tls: Connection,
    decoder: Decoder,
    patience: Patience<'a>,
}

impl<'a> Meeting<'a> {
    fn new(
        setup: &Setup,
        stream: TcpStream,
        tls: Connection,
        patience: Patience<'a>,
    ) -> Result<Self, Failed> {
        let options = || {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            // The buffers of the socket are left to the kernel: it lets them grow with the connection, to more than
            // a program may ask for. A node that is gone is noticed even while nobody reads.
            SockRef::from(&stream).set_tcp_user_timeout(Some(setup.silence.max(setup.stall)))
        };
        options().map_err(|error| Failed::network(&error))?;
        Ok(Self { stream, tls, decoder: Opening::decoder(), patience: patience.no_later(HANDSHAKE_TIMEOUT) })
    }

    fn shake_hands(&mut self) -> Result<(), Failed> {
        while self.tls.is_handshaking() {
            self.send()?;
            if self.tls.is_handshaking() {
                self.receive()?;
            }
        }
        self.send()
    }

    fn say(&mut self, opening: &Opening) -> Result<(), Failed> {
        let bytes = opening.encode().map_err(|refused| Failed::Unreachable(refused.to_string()))?;
        self.tls.writer().write_all(&bytes).map_err(|error| Failed::network(&error))?;
        self.send()
    }

    fn hear(&mut self) -> Result<Opening, Failed> {
        loop {
            match self.decoder.take() {
                Ok(Some(opening)) => return Ok(opening),
                Ok(None) => self.receive()?,
                Err(refused) => return Err(self.refuse(refused.to_string())),
            }
        }
    }

    fn check<E: std::error::Error>(&mut self, checked: Result<(), E>) -> Result<(), Failed> {
        checked.map_err(|mismatch| self.refuse(mismatch.to_string()))
    }

    fn done(self) -> Met {
        Met { stream: self.stream, tls: self.tls, arrived: self.decoder.into_rest() }
    }

    fn send(&mut self) -> Result<(), Failed> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) => self.wait_after(&error, PollFlags::OUT)?,
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Failed> {
        let length = loop {
            match self.tls.read_tls(&mut self.stream) {
                Ok(length) => break length,
                Err(error) => self.wait_after(&error, PollFlags::IN)?,
            }
        };
        let state = match self.tls.process_new_packets() {
            Ok(state) => state,
            Err(error) => return Err(self.refuse(sentence(&error))),
        };
        take_plaintext(&mut self.tls, &state, self.decoder.buffer());
        if length == 0 {
            return Err(Failed::Unreachable(
                "it ended the connection in the middle of the greeting".to_owned(),
            ));
        }
        Ok(())
    }

    fn wait_after(&self, error: &io::Error, flags: PollFlags) -> Result<(), Failed> {
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::WouldBlock if self.patience.wait(&self.stream, flags)? => Ok(()),
            ErrorKind::WouldBlock => {
                Err(Failed::Refused("connected, and no greeting came in time".to_owned()))
            }
            _ => Err(Failed::network(error)),
        }
    }

    /// The other side hears why, if TLS has a word for it.
    fn refuse(&mut self, why: String) -> Failed {
        self.patience = self.patience.no_later(LAST_WORDS);
        // It is refused, whether it hears of it or not.
        let _unheard = self.send();
        let _ended = self.stream.shutdown(Shutdown::Write);
        let mut ignored = [0; 4096];
        let mut bytes = 0;
        while bytes < LAST_WORDS_BYTES {
            match self.stream.read(&mut ignored) {
                Ok(0) => break,
                Ok(length) => bytes += length,
                Err(error) if self.wait_after(&error, PollFlags::IN).is_ok() => {}
                Err(_) => break,
            }
        }
        Failed::Refused(why)
    }
}
