//! What goes into the engine and what comes out of it.

use std::time::Duration;

use super::marks::Entry;
use super::table::Judgement;
use crate::types::replica::{Acknowledge, DataGeneration, MirrorRole, ObjectId, Position, Touch};
use crate::wire::replica::{Message, VERSION};

/// What the module's configuration says.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub acknowledge: Acknowledge,
    /// An application waits no longer than this for the other node.
    pub max_stall: Duration,
    pub checkpoint_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            acknowledge: Acknowledge::Disk,
            max_stall: Duration::from_secs(2),
            checkpoint_interval: Duration::from_secs(5),
        }
    }
}

/// Rules that a test can switch off, to show that they are needed.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A region is recorded before it changes.
    pub record_first: bool,
    /// What the other copy recorded is compared too.
    pub union_of_records: bool,
    /// A region leaves the record only when both copies have it on their disks.
    pub cool_when_both: bool,
    /// A copy that was restarted does not go on without the other.
    pub restarted_waits: bool,
    /// The overwritten copy is flushed before it counts as equal.
    pub flush_target: bool,
    /// The last pass runs with the gate closed.
    pub gated_pass: bool,
    /// What was copied in a resynchronisation that broke off is copied again.
    pub abort_remembers: bool,
    /// Of equal generations the one that led is the source.
    pub led_is_source: bool,
    /// The loss of the other copy is on the disk before anybody is answered.
    pub record_loss: bool,
    /// A copy that is being overwritten is marked so first.
    pub mark_target: bool,
}

impl Rules {
    pub const ALL: Self = Self {
        record_first: true,
        union_of_records: true,
        cool_when_both: true,
        restarted_waits: true,
        flush_target: true,
        gated_pass: true,
        abort_remembers: true,
        led_is_source: true,
        record_loss: true,
        mark_target: true,
    };
}

/// A change or a flush of an application, from its begin to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the operator wants of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Serve nobody.
    Follow,
    /// `force`: although another copy may be newer.
    Lead { force: bool },
    /// As `Follow`, and what this copy has is of no worth.
    Discard,
}

/// How a change came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// So many operations, maybe none.
    Operations(u64),
    /// Something that no operation says.
    Unknown,
}

#[derive(Clone, Debug)]
pub enum Input {
    Order(Order),
    /// A change wants to begin.
    Begin {
        ticket: Ticket,
        touches: Vec<Touch>,
    },
    /// It has been made here.
    Done {
        ticket: Ticket,
        made: Made,
    },
    /// An application wants its changes on the disks. The driver flushes here at the same time.
    Flush {
        ticket: Ticket,
        object: ObjectId,
        data_only: bool,
    },
    FlushedHere {
        ticket: Ticket,
    },
    /// A batch of the record is on the disk.
    Recorded {
        batch: u64,
    },
    /// Operations of [`Output::LastWords`], maybe none.
    LastWords {
        operations: u64,
    },
    /// The file system here is on the disk.
    SyncedHere {
        number: u64,
    },
    Connected,
    Disconnected,
    Message(Message),
    /// An operation of the other node has been carried out. `more`: others have arrived already.
    Applied {
        position: Position,
        more: bool,
    },
    /// What the other node asked to be flushed is on the disk here.
    FlushedFor {
        number: u64,
    },
    SyncedFor {
        position: Position,
    },
    /// Of a resynchronisation, as the source: the pass is over, and `lost` could not be copied.
    PassDone {
        number: u64,
        lost: Vec<ObjectId>,
    },
    /// As the target: what was copied is on the disk.
    TargetSynced,
    /// Numbers of objects below this may be in use.
    Numbers(u64),
    /// Regions that were changed while nobody watched. Before the first connection.
    Found {
        touches: Vec<Touch>,
    },
    Tick,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Proceed(Ticket),
    /// Nobody may change this copy now.
    Refuse(Ticket),
    /// The operations of this change go to the other node, from this position on.
    Transmit {
        ticket: Ticket,
        first: Position,
    },
    /// The application may hear of it.
    Answer(Ticket),
    Send(Message),
    /// To the disk, as a whole; then `Recorded`.
    Record {
        batch: u64,
        entries: Vec<Entry>,
    },
    /// Nothing changes any more: what is left to be told of what has changed; then the input of that name.
    LastWords,
    SyncHere {
        number: u64,
    },
    FlushFor {
        number: u64,
        object: ObjectId,
        data_only: bool,
    },
    SyncFor {
        position: Position,
    },
    /// Copy what `work` names, then `PassDone`.
    StartPass {
        number: u64,
        everything: bool,
        fresh_from: u64,
        work: Vec<Touch>,
    },
    /// This copy is overwritten from now on.
    BeginTarget,
    /// To the disk; then `TargetSynced`.
    SyncTarget,
    /// Operations follow.
    EndTarget,
    /// The connection is of no more use.
    Close(Closing),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closing {
    #[error("the other node speaks version {0} of the protocol, this one {VERSION}")]
    Version(u32),
    #[error("the other node has not answered within max_stall")]
    Stalled,
    #[error("the other node sent what does not belong here")]
    Unexpected,
    #[error("the copies start over")]
    Restart,
}

/// What people see of it.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub role: MirrorRole,
    pub generation: Option<DataGeneration>,
    pub connected: bool,
    /// Waits for the record before it goes on without the other copy.
    pub frozen: bool,
    /// Passes begun, of the resynchronisation that is under way, and regions of the present one.
    pub resync: Option<(u32, usize)>,
    pub overwritten: bool,
    pub judgement: Option<Judgement>,
    /// Why an order to lead is not followed.
    pub cannot_lead: Option<CannotLead>,
    pub sent: Position,
    pub received: Position,
    pub recorded: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotLead {
    #[error("this copy is half overwritten")]
    HalfCopied,
    #[error("the other node serves")]
    OtherLeads,
    #[error("the copy of the other node is newer")]
    OtherNewer,
    #[error("the other copy may be newer, and its node cannot be asked")]
    Unknown,
    #[error("this node has never met the other one")]
    NeverMet,
}
