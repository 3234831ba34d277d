//! The client: fresh connections all the time, and long ones that ask again and again.
//!
//! ```text
//!   own thread, in the client's namespace
//!   ├─ tick ──▶ a task per request: connect, ask once, close
//!   └─ a task per long connection: connect, ask, pause, ask, …   ──▶ Ledger (shared) ──▶ scenario, screen
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::ledger::{End, Failure, Ledger, Ticket};
use super::namespace::{Door, Namespace};
use crate::driver::clock;
use crate::types::NodeId;

/// A person would have reloaded by then; it leaves room for one retransmission of a SYN, not for two.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// Full: the clock's ticks start nothing and are counted.
const IN_FLIGHT_MAX: usize = 2_000;
/// Between the questions of a long connection, drawn per connection.
const PAUSES: std::ops::RangeInclusive<u64> = 100..=250;
/// Before a long connection that is lost is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);
const ANSWER_BYTES_MAX: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Namespace(#[from] super::namespace::Error),
    #[error("cannot start the client's thread")]
    Thread(#[source] io::Error),
}

/// What the client does.
#[derive(Clone, Debug)]
pub struct Load {
    pub target: SocketAddr,
    /// Fresh connections; 0 for none.
    pub requests_per_second: u32,
    pub long_connections: usize,
    /// Names that the nodes answer with, in the order of their ids.
    pub nodes: Vec<String>,
}

/// A running client. It stops when dropped.
pub struct Client {
    ledger: Arc<Mutex<Ledger>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    pub fn start(namespace: &Namespace, load: Load) -> Result<Self, Error> {
        let door = namespace.door()?;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let shared = Arc::clone(&ledger);
        let (stop, stopped) = oneshot::channel();
        let (entered, entrance) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("client".into())
            .spawn(move || match enter(door) {
                Ok(runtime) => {
                    let _heard = entered.send(Ok(()));
                    runtime.block_on(work(load, shared, stopped));
                }
                Err(error) => {
                    let _heard = entered.send(Err(error));
                }
            })
            .map_err(Error::Thread)?;
        entrance.recv().expect("the thread reports before it ends")?;
        Ok(Self { ledger, stop: Some(stop), thread: Some(thread) })
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// For a reader that lives on another thread.
    pub fn shared_ledger(&self) -> Arc<Mutex<Ledger>> {
        Arc::clone(&self.ledger)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Either end may be gone already when the thread panicked.
        let _gone = self.stop.take().map(|stop| stop.send(()));
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

fn enter(door: Door) -> Result<tokio::runtime::Runtime, Error> {
    door.enter()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)
}

/// A ledger is whole between its calls, so a reader's panic spoils nothing.
pub fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn work(load: Load, ledger: Arc<Mutex<Ledger>>, stopped: oneshot::Receiver<()>) {
    let load = Arc::new(load);
    for number in 0..load.long_connections {
        tokio::spawn(hold(Arc::clone(&load), Arc::clone(&ledger), pause_of(number)));
    }
    tokio::select! {
        () = ask_afresh(&load, &ledger) => {}
        _ = stopped => {}
    }
}

async fn ask_afresh(load: &Arc<Load>, ledger: &Arc<Mutex<Ledger>>) {
    if load.requests_per_second == 0 {
        return std::future::pending().await;
    }
    let mut tick = interval(Duration::from_secs(1) / load.requests_per_second);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let ticket = {
            let mut ledger = lock(ledger);
            if ledger.in_flight() >= IN_FLIGHT_MAX {
                ledger.skipped += 1;
                continue;
            }
            ledger.request_starts(clock::now())
        };
        let (load, ledger) = (Arc::clone(load), Arc::clone(ledger));
        tokio::spawn(async move {
            let outcome = ask_once(&load).await;
            lock(&ledger).request_ends(ticket, clock::now(), outcome);
        });
    }
}

async fn ask_once(load: &Load) -> Result<NodeId, Failure> {
    let once = async {
        let mut connection = Connection::open(load).await?;
        connection.ask(load).await.map(|answer| answer.node)
    };
    timeout(TIMEOUT, once).await.unwrap_or(Err(Failure::Timeout))
}

/// One long connection after the other, as long as the client lives.
async fn hold(load: Arc<Load>, ledger: Arc<Mutex<Ledger>>, pause: Duration) {
    // Not all at once.
    sleep(pause).await;
    loop {
        if hold_one(&load, &ledger, pause).await != Some(End::Moved) {
            sleep(REOPEN_PAUSE).await;
        }
    }
}

/// None: it never stood. That is a failed attempt and no broken connection; the fresh requests count those.
async fn hold_one(load: &Load, ledger: &Mutex<Ledger>, pause: Duration) -> Option<End> {
    let first = async {
        let mut connection = Connection::open(load).await?;
        let answer = connection.ask(load).await?;
        Ok::<_, Failure>((connection, answer))
    };
    let (mut connection, mut answer) = timeout(TIMEOUT, first).await.ok()?.ok()?;
    let node = answer.node;
    let ticket = lock(ledger).connection_opens(clock::now(), node);
    let end = loop {
        if answer.last {
            break End::Moved;
        }
        sleep(pause).await;
        match ask_again(&mut connection, load, ledger, ticket).await {
            Ok(next) if next.node == node => answer = next,
            Ok(_) => break End::Broken(Failure::WrongNode),
            Err(failure) => break End::Broken(failure),
        }
    };
    lock(ledger).connection_ends(ticket, clock::now(), end);
    Some(end)
}

async fn ask_again(
    connection: &mut Connection,
    load: &Load,
    ledger: &Mutex<Ledger>,
    ticket: Ticket,
) -> Result<Answer, Failure> {
    let asked = clock::now();
    let answer = timeout(TIMEOUT, connection.ask(load)).await.map_err(|_| Failure::Timeout)??;
    lock(ledger).connection_answers(ticket, clock::now().since(asked));
    Ok(answer)
}

struct Answer {
    node: NodeId,
    /// The server closes after it.
    last: bool,
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    async fn open(load: &Load) -> Result<Self, Failure> {
        let stream = TcpStream::connect(load.target).await.map_err(|error| failure(&error))?;
        // A reset instead of a FIN at the end: no port of the client waits for a minute until it is free again.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).map_err(|_| Failure::Local)?;
        stream.set_nodelay(true).map_err(|_| Failure::Local)?;
        Ok(Self { stream, received: Vec::with_capacity(256) })
    }

    async fn ask(&mut self, load: &Load) -> Result<Answer, Failure> {
        let io = |error: io::Error| failure(&error);
        self.stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n").await.map_err(io)?;
        self.received.clear();
        loop {
            if let Some(answer) = parse(&self.received, &load.nodes)? {
                return Ok(answer);
            }
            if self.stream.read_buf(&mut self.received).await.map_err(io)? == 0 {
                return Err(Failure::Closed);
            }
        }
    }
}

/// None: more is to come.
fn parse(received: &[u8], nodes: &[String]) -> Result<Option<Answer>, Failure> {
    const WRONG: Failure = Failure::WrongAnswer;
    if received.len() > ANSWER_BYTES_MAX {
        return Err(WRONG);
    }
    let text = std::str::from_utf8(received).map_err(|_| WRONG)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let mut lines = head.lines();
    if lines.next() != Some("HTTP/1.1 200 OK") {
        return Err(WRONG);
    }
    let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    let field = |name| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let length: usize = field("Content-Length").and_then(|text| text.parse().ok()).ok_or(WRONG)?;
    if body.len() < length {
        return Ok(None);
    }
    let name = body.strip_suffix('\n').filter(|_| body.len() == length).ok_or(WRONG)?;
    let index = nodes.iter().position(|node| node == name).ok_or(WRONG)?;
    Ok(Some(Answer { node: NodeId(index as u8), last: field("Connection") == Some("close") }))
}

/// What an error of a socket means to a client.
pub fn failure(error: &io::Error) -> Failure {
    let is_one_of = |kinds: &[io::ErrorKind]| kinds.contains(&error.kind());
    if is_one_of(&[io::ErrorKind::ConnectionRefused]) {
        Failure::Refused
    } else if is_one_of(&[io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe]) {
        Failure::Reset
    } else if is_one_of(&[io::ErrorKind::TimedOut]) {
        Failure::Timeout
    } else {
        Failure::Local
    }
}

/// Spread evenly, and the same in every run.
fn pause_of(number: usize) -> Duration {
    let (shortest, longest) = PAUSES.into_inner();
    Duration::from_millis(shortest + number as u64 * 37 % (longest - shortest + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(received: &str) -> Result<Option<(u8, bool)>, Failure> {
        let nodes = ["n1".to_owned(), "n2".to_owned()];
        parse(received.as_bytes(), &nodes).map(|some| some.map(|answer| (answer.node.0, answer.last)))
    }

    #[test]
    fn an_answer_is_complete_or_more_is_to_come_or_it_is_wrong() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n";
        for (received, expected) in [
            (String::new(), Ok(None)),
            (head.to_owned(), Ok(None)),
            (format!("{head}\r\nn2"), Ok(None)),
            (format!("{head}\r\nn2\n"), Ok(Some((1, false)))),
            (format!("{head}Connection: close\r\n\r\nn1\n"), Ok(Some((0, true)))),
            (format!("{head}\r\nn9\n"), Err(Failure::WrongAnswer)),
            (format!("{head}\r\nn1\nn2\n"), Err(Failure::WrongAnswer)),
            ("HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nn1\n".to_owned(), Err(Failure::WrongAnswer)),
            ("HTTP/1.1 200 OK\r\n\r\nn1\n".to_owned(), Err(Failure::WrongAnswer)),
            ("x".repeat(ANSWER_BYTES_MAX + 1), Err(Failure::WrongAnswer)),
        ] {
            assert_eq!(fate(&received), expected, "{received:?}");
        }
    }

    #[test]
    fn pauses_stay_in_their_range_and_differ() {
        let pauses: std::collections::BTreeSet<Duration> = (0..60).map(pause_of).collect();
        assert!(pauses.len() > 40);
        assert!(pauses.iter().all(|pause| PAUSES.contains(&(pause.as_millis() as u64))));
    }
}
