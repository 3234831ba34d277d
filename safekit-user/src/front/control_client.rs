//! The other end of the control socket: asks a daemon, with a deadline on every step.
//!
//! Blocking, because a command line has nothing else to do meanwhile.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exit::Exit;
use crate::types::command::{Answer, NodeAnswer};
use crate::types::{Command, Reply};

/// The daemon answers from memory in milliseconds; a stuck one is told apart by this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Larger than the snapshot of the largest cluster with all its events.
const REPLY_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach the daemon at {}", socket.display())]
    Connect {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the connection to the daemon at {} broke", socket.display())]
    Broken {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the daemon at {} closed the connection", socket.display())]
    Closed { socket: PathBuf },
    #[error("no answer from the daemon at {} within {waited:?}", socket.display())]
    Silent { socket: PathBuf, waited: Duration },
    #[error("the daemon at {} answered what this version does not understand", socket.display())]
    Foreign {
        socket: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{node} is unreachable: {why}")]
    Unreachable { node: String, why: String },
    #[error("the daemon gave an answer to another question")]
    Unexpected,
    #[error("no effect on {what} within {waited:?}: the members of the farm do not agree")]
    NoEffect { what: String, waited: Duration },
    #[error("cannot print")]
    Print(#[source] io::Error),
}

impl Error {
    /// What a person can do about it.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "use sudo, or join the group safekit"
            }
            Self::Connect { .. } => "start the daemon, or name its directory with --run-dir",
            Self::Broken { .. } | Self::Closed { .. } => "the daemon has ended or restarts: try again",
            Self::Silent { .. } => "the daemon is stuck or stopped: look at its log and its process state",
            Self::Foreign { .. } | Self::Unexpected => "use a safekit of the daemon's version",
            Self::Unreachable { .. } => "`safekit status` says what is known of it; look at that node",
            Self::NoEffect { .. } => "`safekit status` on each node",
            Self::Print(_) => "look at where the output goes",
        }
    }

    /// The daemon may well be there, and this user may not reach it.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    pub fn exit(&self) -> Exit {
        match self {
            Self::Print(_) | Self::NoEffect { .. } | Self::Unexpected | Self::Foreign { .. } => Exit::Failed,
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::Closed { .. }
            | Self::Silent { .. }
            | Self::Unreachable { .. } => Exit::Unreachable,
        }
    }

    /// Tells the person at the terminal, and says with which code to end.
    pub fn report(&self) -> Exit {
        match std::error::Error::source(self) {
            Some(source) => eprintln!("error: {self}: {source}"),
            None => eprintln!("error: {self}"),
        }
        eprintln!("next: {}", self.next_step());
        self.exit()
    }
}

/// One connection to a daemon.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
    /// What has arrived of a line that is not complete: a `receive` that timed out loses nothing.
    partial: Vec<u8>,
    /// Another node, to which the daemon passes questions on.
    node: Option<String>,
}

impl Client {
    /// Connects to the socket of a daemon (`RUN_DIR/control.sock`).
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let connect = || {
            let stream = UnixStream::connect(socket)?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(stream)
        };
        let stream = connect().map_err(|source| Error::Connect { socket: socket.to_owned(), source })?;
        Ok(Self {
            socket: socket.to_owned(),
            stream: BufReader::new(stream),
            partial: Vec::new(),
            node: None,
        })
    }

    /// Questions go to another node from now on; none: to this one.
    #[must_use]
    pub fn at(self, node: Option<&str>) -> Self {
        Self { node: node.map(str::to_owned), ..self }
    }

    /// One command, one reply.
    pub fn ask(&mut self, command: &Command) -> Result<Reply, Error> {
        let Some(node) = self.node.clone() else {
            self.send(command)?;
            return self.receive(ANSWER_TIMEOUT);
        };
        let each = Box::new(command.clone());
        self.send(&Command::On { nodes: vec![node], each, by: String::new() })?;
        match self.receive(ANSWER_TIMEOUT)? {
            Reply::ByNode { mut answers } => match answers.pop() {
                Some(NodeAnswer { answer: Answer::Said(reply), .. }) => Ok(reply),
                Some(NodeAnswer { node, answer: Answer::Unreachable(why) }) => {
                    Err(Error::Unreachable { node, why })
                }
                None => Err(Error::Unexpected),
            },
            refused @ Reply::Refused { .. } => Ok(refused),
            _ => Err(Error::Unexpected),
        }
    }

    /// The same with another deadline.
    pub fn ask_within(&mut self, command: &Command, within: Duration) -> Result<Reply, Error> {
        self.send(command)?;
        self.receive(within)
    }

    pub fn send(&mut self, command: &Command) -> Result<(), Error> {
        let mut line = serde_json::to_vec(command).expect("a command is plain data");
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|source| self.broken(source))
    }

    /// The next reply. After [`Error::Silent`] it can be asked for again.
    pub fn receive(&mut self, within: Duration) -> Result<Reply, Error> {
        // A timeout of zero would mean none.
        let timeout = within.max(Duration::from_millis(1));
        self.stream.get_ref().set_read_timeout(Some(timeout)).map_err(|source| self.broken(source))?;
        let room = REPLY_BYTES_MAX - self.partial.len() as u64;
        match (&mut self.stream).take(room).read_until(b'\n', &mut self.partial) {
            Ok(_) if self.partial.last() == Some(&b'\n') => {}
            Ok(_) => return Err(Error::Closed { socket: self.socket.clone() }),
            Err(error) if is_timeout(&error) => {
                return Err(Error::Silent { socket: self.socket.clone(), waited: within });
            }
            Err(source) => return Err(self.broken(source)),
        }
        let line = std::mem::take(&mut self.partial);
        serde_json::from_slice(&line).map_err(|source| Error::Foreign { socket: self.socket.clone(), source })
    }

    /// Replies of a [`Command::Watch`], for as long as `on_reply` wants more; silence longer than `silence_max`
    /// is an error.
    pub fn watch(
        &mut self,
        silence_max: Duration,
        mut on_reply: impl FnMut(Reply) -> std::ops::ControlFlow<()>,
    ) -> Result<(), Error> {
        self.send(&Command::Watch)?;
        while on_reply(self.receive(silence_max)?).is_continue() {}
        Ok(())
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Broken { socket: self.socket.clone(), source }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A daemon that writes `pieces`, one each 60 ms, and closes.
    fn daemon(name: &str, pieces: &'static [&'static str]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("safekit-client-{}-{name}.sock", std::process::id()));
        let _none = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket in the temporary directory");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the test connects");
            for piece in pieces {
                std::thread::sleep(Duration::from_millis(60));
                stream.write_all(piece.as_bytes()).expect("the test reads");
            }
        });
        path
    }

    const REFUSED: &str = "{\"reply\":\"refused\",\"error\":\"e\",\"next_step\":\"n\"}\n";

    #[test]
    fn a_slow_reply_is_silence_first_and_complete_later() {
        let path = daemon("slow", &["{\"reply\":\"refused\",\"error\":", "\"e\",\"next_step\":\"n\"}\n"]);
        let mut client = Client::connect(&path).expect("it listens");
        client.send(&Command::Status).expect("it is there");
        let mut silences = 0;
        let reply = loop {
            match client.receive(Duration::from_millis(20)) {
                Err(Error::Silent { .. }) => silences += 1,
                other => break other,
            }
        };
        assert_eq!(reply.unwrap(), Reply::Refused { error: "e".into(), next_step: "n".into() });
        assert!(silences >= 2, "{silences} silences");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn errors_are_told_apart() {
        let absent = Client::connect(Path::new("/nonexistent/control.sock")).unwrap_err();
        assert_eq!(absent.exit(), Exit::Unreachable);

        let path = daemon("torn", &["{\"reply\":"]);
        let torn = Client::connect(&path).unwrap().receive(Duration::from_secs(5)).unwrap_err();
        assert!(matches!(torn, Error::Closed { .. }), "{torn:?}");
        std::fs::remove_file(path).unwrap();

        let path = daemon("foreign", &["{\"reply\":\"poem\"}\n"]);
        let foreign = Client::connect(&path).unwrap().receive(Duration::from_secs(5)).unwrap_err();
        assert!(matches!(foreign, Error::Foreign { .. }), "{foreign:?}");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_watch_ends_when_its_reader_wants() {
        let path = daemon("watch", &[REFUSED, REFUSED, REFUSED]);
        let mut client = Client::connect(&path).unwrap();
        let mut seen = 0;
        let watched = client.watch(Duration::from_secs(5), |_| {
            seen += 1;
            if seen == 2 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
        });
        watched.unwrap();
        assert_eq!(seen, 2);
        std::fs::remove_file(path).unwrap();
    }
}
