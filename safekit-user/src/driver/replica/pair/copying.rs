//! The thread that carries over what a pass of a resynchronisation names, while applications go on.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::shared::Shared;
use crate::driver::clock;
use crate::driver::replica::copy::{Counted, Ended, Failure, Source, Wire, Work};
use crate::driver::replica::link::Link;
use crate::engine::mirror::Input;
use crate::types::replica::ObjectId;
use crate::wire::replica::{Copied, Frame};

/// Bytes that wait for the network.
const QUEUED_BYTES: usize = 8 << 20;
/// The other node's disk may have much to do before it goes on.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct PassOrder {
    pub(super) link: Link,
    /// The number of the connection.
    pub(super) connection: u64,
    pub(super) answered: Receiver<Copied>,
    pub(super) work: Work,
}

pub(super) struct Copier {
    /// None: the end. One pass at a time: the engine orders the next when the last is done, or its connection has ended.
    orders: Mutex<Option<Sender<PassOrder>>>,
    pub(super) counted: Arc<Counted>,
}

impl Copier {
    pub(super) fn start(shared: Weak<Shared>) -> io::Result<(Self, JoinHandle<()>)> {
        let (orders, ordered) = channel();
        let counted = Arc::new(Counted::default());
        let counting = Arc::clone(&counted);
        let thread = std::thread::Builder::new()
            .name("mirror-copy".into())
            .spawn(move || work(&shared, &ordered, &counting))?;
        Ok((Self { orders: Mutex::new(Some(orders)), counted }, thread))
    }

    pub(super) fn start_pass(&self, order: PassOrder) {
        if let Some(orders) = &*self.orders.lock().unwrap_or_else(PoisonError::into_inner) {
            // The thread ends after this queue only.
            let _ended = orders.send(order);
        }
    }

    pub(super) fn end(&self) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What a resynchronisation has found out about the directory is good for its next passes.
type Known = Option<(u64, Source)>;

fn work(shared: &Weak<Shared>, ordered: &Receiver<PassOrder>, counted: &Arc<Counted>) {
    let mut known = None;
    while let Ok(order) = ordered.recv() {
        let Some(shared) = shared.upgrade() else { return };
        let number = order.work.number;
        match pass(&shared, &order, &mut known, counted) {
            Ok(lost) => {
                shared.step(Input::PassDone { number, lost });
            }
            // Whoever reads from it tells the engine.
            Err(Failure::Ended) => {}
            Err(error) => {
                tracing::warn!(%error, "a resynchronisation breaks off");
                order.link.part(&format!("the resynchronisation breaks off: {}", sentence(&error)));
            }
        }
    }
}

/// With what is behind it.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", sentence(source)),
        None => error.to_string(),
    }
}

fn pass(
    shared: &Shared,
    order: &PassOrder,
    known: &mut Known,
    counted: &Arc<Counted>,
) -> Result<Vec<ObjectId>, Failure> {
    let source = match known.take() {
        Some((connection, source)) if connection == order.connection => source,
        Some(_) | None => {
            let (numbering, counted) = (Arc::clone(&shared.numbering), Arc::clone(counted));
            Source::open(shared.parts.root.as_fd(), numbering, counted)
                .map_err(|source| Failure::Io { doing: "open the directory", source })?
        }
    };
    let (_, source) = known.insert((order.connection, source));
    let mut wire = LinkWire { link: &order.link, answered: &order.answered };
    source.pass(&order.work, &|object| shared.trace(object), &mut wire)
}

struct LinkWire<'a> {
    link: &'a Link,
    answered: &'a Receiver<Copied>,
}

impl Wire for LinkWire<'_> {
    fn send(&mut self, frame: &Frame, bulk: &[u8]) -> Result<(), Ended> {
        self.link.queue(frame, bulk);
        if self.link.queued_bytes() >= QUEUED_BYTES {
            self.link.kick();
            self.link.wait_for_room(QUEUED_BYTES / 2, PATIENCE).map_err(|_| Ended)?;
        }
        if self.link.is_closed() { Err(Ended) } else { Ok(()) }
    }

    fn answer(&mut self) -> Result<Copied, Ended> {
        self.link.kick();
        let until = clock::now() + PATIENCE;
        loop {
            match self.answered.recv_timeout(LOOK_INTERVAL) {
                Ok(copied) => return Ok(copied),
                Err(RecvTimeoutError::Disconnected) => return Err(Ended),
                Err(RecvTimeoutError::Timeout) if self.link.is_closed() => return Err(Ended),
                Err(RecvTimeoutError::Timeout) if clock::now() >= until => {
                    self.link.part("the other node does not answer to what is copied");
                    return Err(Ended);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
