//! The clients: connections that are held, and new ones all the time. One thread, in the client's namespace.
//!
//! ```text
//!   tick ──▶ a task per fresh connection: connect, name, one question, end        ┐
//!   a task per held connection: connect, name, then idle, slow or busy for ever   ├─▶ Ledger ──▶ report
//!   orders of the scenario: end what a node holds; everybody give a sign of life  ┘
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use safekit::driver::clock;
use safekit::front::demo::ledger::Failure;
use safekit::front::demo::namespace::Namespace;
use safekit::front::demo::tap::Tap;
use safekit::front::demo::topology::node_of_card;
use safekit::types::{Instant, NodeId};
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connection::{Connection, Opened};
use super::ledger::{Break, Fresh, Held, Kind, Ledger, NotOpened};

/// Full: ticks start nothing and are counted.
const IN_FLIGHT_MAX: usize = 20_000;
/// Held connections are opened at this rate.
const OPENINGS_PER_SECOND: u64 = 1_000;
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
const FRESH_QUESTION_BYTES: usize = 64;
/// Signs of life are spread over this.
const SIGNS_OVER: Duration = Duration::from_millis(300);

#[derive(Clone, Debug)]
pub struct Load {
    pub target: SocketAddr,
    pub sources: Vec<IpAddr>,
    pub held: usize,
    /// New connections a second; 0 for none.
    pub rate: u32,
    /// Names that the servers say, in the order of their ids.
    pub nodes: Vec<String>,
}

/// Running clients. They stop when dropped.
pub struct Client {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    load: Load,
    ledger: Mutex<Ledger>,
    tap: Arc<Tap>,
    keys: AtomicU64,
    /// Per node: its held connections end in order, spread over this.
    farewells: Vec<watch::Sender<Duration>>,
    /// Each held connection gives a sign of life.
    signs: watch::Sender<()>,
    cpu_time: AtomicU64,
}

impl Client {
    pub fn start(namespace: &Namespace, load: Load, tap: Arc<Tap>) -> anyhow::Result<Self> {
        let door = namespace.door()?;
        let shared = Arc::new(Shared {
            farewells: load.nodes.iter().map(|_| watch::Sender::new(Duration::ZERO)).collect(),
            signs: watch::Sender::new(()),
            load,
            ledger: Mutex::new(Ledger::new(clock::now())),
            tap,
            keys: AtomicU64::new(1),
            cpu_time: AtomicU64::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let (entered, entrance) = std::sync::mpsc::channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("client".into()).spawn(move || {
            let runtime = door
                .enter()
                .map_err(anyhow::Error::from)
                .and_then(|()| Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?));
            match runtime {
                Ok(runtime) => {
                    let _heard = entered.send(Ok(()));
                    runtime.block_on(work(of_thread, stopped));
                }
                Err(error) => {
                    let _heard = entered.send(Err(error));
                }
            }
        })?;
        entrance.recv().context("the client's thread ended early")??;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger()
    }

    /// The held connections of a node end in order, spread over `over`; each is opened again, elsewhere.
    pub fn end_connections_of(&self, node: NodeId, over: Duration) {
        self.shared.farewells[usize::from(node.0)].send_replace(over);
    }

    /// Each held connection asks something at once.
    pub fn ask_for_signs_of_life(&self) {
        self.shared.signs.send_replace(());
    }

    /// Processor time of the client's thread so far.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_nanos(self.shared.cpu_time.load(Ordering::Relaxed))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Either end may be gone already when the thread panicked.
        let _gone = self.stop.take().map(|stop| stop.send(()));
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    /// A ledger is whole between its calls, so a reader's panic spoils nothing.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_key(&self) -> u64 {
        self.keys.fetch_add(1, Ordering::Relaxed)
    }

    fn source(&self, key: u64) -> IpAddr {
        self.load.sources[key as usize % self.load.sources.len()]
    }

    /// A connection with the name of its node, or why not. What broke or never stood is in the ledger then.
    async fn open(&self, kind: Kind, started: Instant) -> Option<(Connection, Instant)> {
        let key = self.next_key();
        let opened = match Opened::connect(self.source(key), self.load.target).await {
            Ok(opened) => opened,
            Err(failure) => {
                self.ledger().was_not_opened(NotOpened { started, failure });
                return None;
            }
        };
        let stood = clock::now();
        self.ledger().handshake_retransmissions += u64::from(opened.retransmissions);
        let local = opened.local;
        match opened.greeted(&self.load.nodes, key).await {
            Ok(connection) => Some((connection, stood)),
            Err(failure) => {
                let node = self.tap.accepted_by(local).and_then(node_of_card);
                self.broke(Break { at: clock::now(), opened: stood, kind, node, failure, asked: None });
                None
            }
        }
    }

    fn broke(&self, broken: Break) {
        self.ledger().broke(broken);
    }
}

async fn work(shared: Arc<Shared>, stopped: oneshot::Receiver<()>) {
    for number in 0..shared.load.held {
        tokio::spawn(hold(Arc::clone(&shared), number));
    }
    tokio::spawn(keep_accounts(Arc::clone(&shared)));
    tokio::select! {
        () = open_afresh(&shared) => {}
        _ = stopped => {}
    }
}

/// The thread's own processor time, for all to read; and how late its clock runs.
async fn keep_accounts(shared: Arc<Shared>) {
    const PAUSE: Duration = Duration::from_millis(50);
    loop {
        let before = clock::now();
        sleep(PAUSE).await;
        let late = clock::now().since(before).saturating_sub(PAUSE);
        let mut ledger = shared.ledger();
        ledger.late_max = ledger.late_max.max(late);
        drop(ledger);
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let nanos = used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64;
        shared.cpu_time.store(nanos, Ordering::Relaxed);
    }
}

async fn open_afresh(shared: &Arc<Shared>) {
    if shared.load.rate == 0 {
        return std::future::pending().await;
    }
    let mut tick = interval(Duration::from_secs(1) / shared.load.rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tick.tick().await;
        {
            let mut ledger = shared.ledger();
            if ledger.in_flight >= IN_FLIGHT_MAX {
                ledger.skipped += 1;
                continue;
            }
            ledger.in_flight += 1;
        }
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            ask_once(&shared).await;
            shared.ledger().in_flight -= 1;
        });
    }
}

/// Every other one ends by FIN, the rest by a reset.
async fn ask_once(shared: &Shared) {
    let started = clock::now();
    let Some((mut connection, opened)) = shared.open(Kind::Fresh, started).await else { return };
    let (node, asked) = (connection.node, clock::now());
    let by_fin = shared.next_key() % 2 == 0;
    let mut outcome = connection.echo(FRESH_QUESTION_BYTES).await;
    let answered = clock::now();
    if outcome.is_ok() && by_fin {
        outcome = connection.goodbye().await;
    } else {
        connection.abort();
    }
    match outcome {
        Ok(()) => {
            let mut ledger = shared.ledger();
            ledger.answered(answered);
            ledger.fresh_answered(Fresh { started, node });
        }
        Err(failure) => {
            let (at, kind, node, asked) = (clock::now(), Kind::Fresh, Some(node), Some(asked));
            shared.broke(Break { at, opened, kind, node, failure, asked });
        }
    }
}

/// One held connection after the other, as long as the client lives.
async fn hold(shared: Arc<Shared>, number: usize) {
    sleep(Duration::from_micros(number as u64 * 1_000_000 / OPENINGS_PER_SECOND)).await;
    let kind = match number % 10 {
        0..5 => Kind::Idle,
        5..8 => Kind::Slow,
        _ => Kind::Busy,
    };
    loop {
        if let Some((connection, opened)) = shared.open(kind, clock::now()).await {
            hold_one(&shared, connection, opened, kind).await;
        }
        sleep(REOPEN_PAUSE).await;
    }
}

enum End {
    Wanted,
    Broken { failure: Failure, asked: Option<Instant> },
}

async fn hold_one(shared: &Shared, connection: Connection, opened: Instant, kind: Kind) {
    let node = connection.node;
    let ticket = shared.ledger().stands(Held { opened, node, kind });
    let end = live(shared, connection, kind).await;
    let at = clock::now();
    let mut ledger = shared.ledger();
    ledger.ends(ticket);
    match end {
        End::Wanted => ledger.closed += 1,
        End::Broken { failure, asked } => {
            ledger.broke(Break { at, opened, kind, node: Some(node), failure, asked });
        }
    }
}

async fn live(shared: &Shared, mut connection: Connection, kind: Kind) -> End {
    let mut farewell = shared.farewells[usize::from(connection.node.0)].subscribe();
    let mut signs = shared.signs.subscribe();
    loop {
        let bytes = tokio::select! {
            failure = connection.unasked() => return End::Broken { failure, asked: None },
            _ = farewell.changed() => {
                let over = *farewell.borrow_and_update();
                return part(connection, over).await;
            }
            _ = signs.changed() => {
                signs.borrow_and_update();
                sleep(SIGNS_OVER.mul_f64(fastrand::f64())).await;
                1
            }
            bytes = own_wish(kind) => bytes,
        };
        let asked = clock::now();
        if let Err(failure) = connection.echo(bytes).await {
            return End::Broken { failure, asked: Some(asked) };
        }
        let now = clock::now();
        let mut ledger = shared.ledger();
        ledger.answered(now);
        ledger.worst_answer = ledger.worst_answer.max(now.since(asked));
    }
}

/// When the client itself wants to ask again, and how many bytes.
async fn own_wish(kind: Kind) -> usize {
    match kind {
        Kind::Idle | Kind::Fresh => std::future::pending().await,
        Kind::Slow => {
            sleep(Duration::from_millis(fastrand::u64(1_000..2_000))).await;
            1
        }
        Kind::Busy => {
            sleep(Duration::from_millis(fastrand::u64(60..140))).await;
            fastrand::usize(1..400)
        }
    }
}

/// Ends within `over`, unless it breaks before.
async fn part(mut connection: Connection, over: Duration) -> End {
    if let Ok(failure) = timeout(over.mul_f64(fastrand::f64()), connection.unasked()).await {
        return End::Broken { failure, asked: None };
    }
    let asked = clock::now();
    match connection.goodbye().await {
        Ok(()) => End::Wanted,
        Err(failure) => End::Broken { failure, asked: Some(asked) },
    }
}
