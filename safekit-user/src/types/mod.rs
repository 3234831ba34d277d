//! L0, the vocabulary: plain values that every layer may use and that use no layer.

pub mod access;
pub mod bits;
pub mod bundle;
pub mod cluster;
pub mod command;
pub mod doctor;
pub mod event;
pub mod ids;
pub mod journal;
pub mod key;
pub mod logs;
pub mod mirror;
pub mod module;
pub mod notes;
pub mod replica;
pub mod share;
pub mod snapshot;
pub mod time;

pub use access::Access;
pub use bits::BucketBits;
pub use cluster::{ConfigIdentity, ConfigVersion};
pub use command::{Command, Reply, Wish};
pub use event::{Departure, Event, EventKind};
pub use ids::{BootId, Bucket, GroupId, NetworkId, NodeId, NodeSet, Seq, ViewId};
pub use key::{ClusterKey, KeyRing, KeyStep};
pub use module::{ModuleId, ModuleInfo, ModuleState};
pub use notes::Notes;
pub use share::{Adjustments, Change, Follows, Generation, GenerationId, Share};
pub use snapshot::Snapshot;
pub use time::{Instant, Timing, WallTime};
