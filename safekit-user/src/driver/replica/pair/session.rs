//! The thread that reads from the other node: one connection after another, each frame in its order.

use std::sync::Arc;
use std::time::Duration;

use super::copying::sentence;
use super::desk::{Errand, Mode};
use super::flushing::Then;
use super::shared::Shared;
use crate::driver::clock;
use crate::driver::replica::apply::{Applier, Fault};
use crate::driver::replica::copy::Target;
use crate::driver::replica::link::{Incoming, Link, Port};
use crate::engine::mirror::Input;
use crate::types::replica::{ObjectId, Position};
use crate::wire::replica::{Check, Checked, Copied, Copying, Frame, Operation};

const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// After a connection that did not last: what ended it may be there still.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const LASTED: Duration = Duration::from_secs(10);
/// Answers that may wait for others.
const ANSWERS_BYTES: usize = 64 * 1024;

/// Why this side ends a connection.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the connection has ended")]
    Ended,
    #[error("the other node sent what does not belong here")]
    Unexpected,
    #[error("the copy here cannot follow")]
    Fault(#[from] Fault),
    #[error("cannot open the directory")]
    Open(#[from] std::io::Error),
    #[error("the other node asks for more than anybody waits for")]
    TooMuch,
    #[error("the other node gave up: {0}")]
    Left(String),
}

/// People see it, whatever is in it.
fn printable(why: &str) -> String {
    why.chars().map(|it| if it.is_control() { ' ' } else { it }).collect()
}

/// Connections of one directory, until the end.
pub(super) fn keep(shared: &Shared, port: &Port, place: usize) {
    let mut pause = PAUSE_MIN;
    while !shared.lock().ended {
        match port.next(place, LOOK_INTERVAL) {
            Ok((link, incoming)) => {
                let since = clock::now();
                converse(shared, &link, incoming);
                pause =
                    if clock::now().since(since) >= LASTED { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                shared.rest(pause);
            }
            Err(why) => shared.lock().figures.not_connected = Some(why.to_string()),
        }
    }
}

fn converse(shared: &Shared, link: &Link, mut incoming: Incoming) {
    let mut number = 0;
    shared.work(|desk, after| number = desk.connect(link.clone(), &shared.parts, after));
    let mut reader = Reader { shared, link, number, taking: Taking::Nothing, untold: None };
    let broken = reader.read(&mut incoming);
    drop(reader);
    if !matches!(broken, Broken::Ended) {
        tracing::warn!(why = sentence(&broken), "a connection of a mirror ends");
    }
    let (why, their_reason) = end_for(link, broken);
    drop(incoming);
    shared.work(|desk, after| {
        desk.figures.other_gave_up(their_reason);
        // Those that the other node has given.
        desk.handle(Input::Numbers(shared.numbering.reserved()), &[], &shared.parts, after);
        desk.disconnect(number, &why, &shared.parts, after);
    });
}

/// Gives back why it has ended, and why the other node ended it, if it said so.
fn end_for(link: &Link, broken: Broken) -> (String, Option<String>) {
    match broken {
        Broken::Ended => (link.end().map_or_else(|| broken.to_string(), |end| end.to_string()), None),
        Broken::Left(ref why) => {
            link.close(&broken.to_string());
            (broken.to_string(), Some(why.clone()))
        }
        // There it is another copy that is here.
        Broken::Fault(fault) => {
            let why = sentence(&fault);
            link.part(&why);
            (why, None)
        }
        Broken::Unexpected | Broken::Open(_) | Broken::TooMuch => {
            let why = sentence(&broken);
            link.part(&why);
            (why, None)
        }
    }
}

/// Who has the files now.
enum Taking {
    Nothing,
    Target(Box<Target>),
    Follower(Box<Applier>),
}

struct Reader<'a> {
    shared: &'a Shared,
    link: &'a Link,
    number: u64,
    taking: Taking,
    /// The last operation that was applied, until the other node has been told for certain.
    untold: Option<Position>,
}

impl Reader<'_> {
    fn read(&mut self, incoming: &mut Incoming) -> Broken {
        loop {
            let taken = match incoming.frame() {
                Err(_) => return Broken::Ended,
                Ok((Frame::Operation { position, operation, .. }, bulk)) => {
                    self.untold = Some(position);
                    self.apply(position, &operation, bulk)
                }
                Ok((frame, bulk)) => self.take(frame, bulk),
            };
            let more = incoming.has_more();
            if let Err(broken) = taken.and_then(|()| self.tell_applied(more)) {
                return broken;
            }
            // Answers to what arrived together leave together.
            if !more || self.link.queued_bytes() >= ANSWERS_BYTES {
                self.link.kick();
            }
        }
    }

    fn take(&mut self, frame: Frame, bulk: &[u8]) -> Result<(), Broken> {
        match frame {
            Frame::Message(message) => self.step(Input::Message(message)),
            Frame::Operation { .. } => unreachable!("operations are taken where they are read"),
            Frame::Place { object, parent, name } => match self.files()? {
                Taking::Follower(applier) => match applier.place(object, parent, &name) {
                    // Whatever is done to it next ends the connection, or a comparison finds it.
                    Ok(()) | Err(Fault::Unknown(_) | Fault::Differs { .. }) => Ok(()),
                    Err(fault) => Err(fault.into()),
                },
                Taking::Target(target) => Ok(target.place(object, parent, &name)?),
                Taking::Nothing => Err(Broken::Unexpected),
            },
            Frame::ForgetPlaces => {
                if let Taking::Follower(applier) = self.files()? {
                    applier.forget_places();
                }
                Ok(())
            }
            Frame::Copying(copying) => self.copy(copying, bulk),
            Frame::Copied(copied) => self.pass_on(copied),
            Frame::Check(check) => self.check(&check),
            Frame::Checked(checked) => self.checked(checked),
            Frame::Farewell { why } => Err(Broken::Left(printable(&why))),
        }
    }

    fn files(&mut self) -> Result<&mut Taking, Broken> {
        self.files_for(None)
    }

    /// By what the engine said last. `position`: of an operation, which has to be the next.
    fn files_for(&mut self, position: Option<Position>) -> Result<&mut Taking, Broken> {
        let mode = {
            let desk = self.shared.lock();
            let connection = desk.connection.as_ref().filter(|it| it.number == self.number);
            let mode = connection.ok_or(Broken::Ended)?.mode;
            if position.is_some() && desk.engine.expects() != position {
                return Err(Broken::Unexpected);
            }
            mode
        };
        let root =
            || rustix::io::fcntl_dupfd_cloexec(&self.shared.parts.root, 0).map_err(std::io::Error::from);
        let numbering = || Arc::clone(&self.shared.numbering);
        match (mode, &self.taking) {
            (Mode::Talk, Taking::Nothing)
            | (Mode::Target, Taking::Target(_))
            | (Mode::Follow, Taking::Follower(_)) => {}
            (Mode::Talk, _) => self.taking = Taking::Nothing,
            (Mode::Target, _) => {
                self.taking = Taking::Target(Box::new(Target::open(root()?, numbering())?));
            }
            (Mode::Follow, _) => {
                self.taking = Taking::Follower(Box::new(Applier::open(root()?, numbering())?));
            }
        }
        Ok(&mut self.taking)
    }

    fn apply(&mut self, position: Position, operation: &Operation, bulk: &[u8]) -> Result<(), Broken> {
        match self.files_for(Some(position))? {
            Taking::Follower(applier) => Ok(applier.apply(operation, bulk)?),
            Taking::Nothing | Taking::Target(_) => Err(Broken::Unexpected),
        }
    }

    /// After each frame: what follows an operation may be no operation, and somebody may wait for the answer.
    fn tell_applied(&mut self, more: bool) -> Result<(), Broken> {
        let Some(position) = self.untold else { return Ok(()) };
        if !more {
            self.untold = None;
        }
        self.step(Input::Applied { position, more })
    }

    fn copy(&mut self, copying: Copying, bulk: &[u8]) -> Result<(), Broken> {
        let Taking::Target(target) = self.files()? else { return Err(Broken::Unexpected) };
        if let Some(copied) = target.handle(copying, bulk)? {
            self.link.queue(&Frame::Copied(copied), &[]);
        }
        Ok(())
    }

    fn check(&mut self, check: &Check) -> Result<(), Broken> {
        let Taking::Follower(applier) = self.files()? else { return Err(Broken::Unexpected) };
        let differs = applier.check(check)?;
        self.link.queue(&Frame::Checked(Checked { number: check.number, differs }), &[]);
        Ok(())
    }

    fn checked(&self, checked: Checked) -> Result<(), Broken> {
        let mut expected = false;
        self.shared.work(|desk, after| {
            expected = desk.is_connected_by(self.number) && desk.checked(checked);
            after.woke = true;
        });
        if expected { Ok(()) } else { Err(Broken::Unexpected) }
    }

    /// To the copying thread, which asked for it.
    fn pass_on(&self, copied: Copied) -> Result<(), Broken> {
        let answers = {
            let desk = self.shared.lock();
            let connection = desk.connection.as_ref().filter(|it| it.number == self.number);
            connection.ok_or(Broken::Ended)?.answers.clone()
        };
        match answers {
            Some(answers) if answers.try_send(copied).is_ok() => Ok(()),
            Some(_) | None => Err(Broken::Unexpected),
        }
    }

    /// Nothing that arrives over a connection counts after the engine has given it up.
    fn step(&mut self, input: Input) -> Result<(), Broken> {
        let mut is_mine = false;
        let errands = self.shared.work(|desk, after| {
            is_mine = desk.is_connected_by(self.number);
            if is_mine {
                desk.handle(input, &[], &self.shared.parts, after);
            }
        });
        if !is_mine {
            return Err(Broken::Ended);
        }
        errands.iter().try_for_each(|errand| self.run(errand))
    }

    fn run(&mut self, errand: &Errand) -> Result<(), Broken> {
        match *errand {
            Errand::Flush { number, object, data_only } => {
                self.flush(Some(object), data_only, Then::FlushedFor(number))
            }
            Errand::SyncAll { position } => self.flush(None, false, Then::SyncedFor(position)),
            Errand::SyncTarget => {
                let Taking::Target(target) = self.files()? else { return Err(Broken::Unexpected) };
                target.sync()?;
                self.step(Input::TargetSynced)
            }
        }
    }

    fn flush(&mut self, object: Option<ObjectId>, data_only: bool, then: Then) -> Result<(), Broken> {
        let Taking::Follower(applier) = self.files()? else { return Err(Broken::Unexpected) };
        let flush = object.map_or_else(|| applier.sync_all(), |object| applier.flush(object, data_only));
        let flushers = &self.shared.parts.flushers;
        if flushers.flush_for(self.number, object, data_only, flush, then) {
            Ok(())
        } else {
            Err(Broken::TooMuch)
        }
    }
}
