//! The way into the heartbeat thread: a bounded queue and an eventfd that wakes it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use crate::engine::farm::Input;
use crate::types::{BucketBits, ClusterKey, Command, GroupId, Instant, Reply};

/// Full: the sender is told, and tries again or drops what is only a hint.
const REQUESTS_MAX: usize = 256;

#[derive(Debug)]
pub enum Request {
    Engine(Input),
    /// Live connections of this node in buckets that others own.
    Counted {
        group: GroupId,
        buckets: BucketBits,
        since: Instant,
        connections: u64,
    },
    /// All live connections of this node, by group.
    Live(Vec<(GroupId, u32)>),
    Question(Command, oneshot::Sender<Reply>),
    /// Keys to go by from now on: send with the first, accept all.
    Keys(Vec<ClusterKey>),
    /// Leave the farm, and leave the filter to a successor: live connections go on meanwhile.
    HandOver,
}

/// The queue is full, or the thread gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTaken;

#[derive(Clone)]
pub struct Inbox {
    requests: SyncSender<Request>,
    wake: Arc<OwnedFd>,
}

/// The heartbeat thread's end.
pub struct Requests {
    requests: Receiver<Request>,
    wake: Arc<OwnedFd>,
}

pub fn inbox() -> io::Result<(Inbox, Requests)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = sync_channel(REQUESTS_MAX);
    Ok((Inbox { requests: sender, wake: Arc::clone(&wake) }, Requests { requests: receiver, wake }))
}

impl Inbox {
    /// Hands a request over and wakes the thread.
    pub fn post(&self, request: Request) -> Result<(), NotTaken> {
        self.requests.try_send(request).map_err(|_| NotTaken)?;
        // An eventfd counter that is full wakes as well; there is nothing to do about an error here.
        let _woken = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        Ok(())
    }
}

impl Requests {
    pub fn next(&self) -> Option<Request> {
        self.requests.try_recv().ok()
    }

    /// Takes the wake-up note away; call it before [`Self::next`], so that none is missed.
    pub fn clear(&self) {
        let _cleared = rustix::io::read(&*self.wake, &mut [0; 8]);
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
