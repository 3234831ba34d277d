//! Why a copy cannot follow any longer: the session ends, and another one compares.

use rustix::io::Errno;

use crate::types::replica::ObjectId;

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("object {} is not known here", .0.0)]
    Unknown(ObjectId),
    #[error("the copy of object {} is not what the other node says: {why}", object.0)]
    Differs { object: ObjectId, why: &'static str },
    #[error("cannot {doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: Errno,
    },
}

impl Fault {
    pub(in crate::driver::replica) fn differs(object: ObjectId, why: &'static str) -> Self {
        Self::Differs { object, why }
    }
}

/// Says what was being done when the kernel refused.
pub(in crate::driver::replica) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, Fault>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, doing: &'static str) -> Result<T, Fault> {
        self.map_err(|source| Fault::Io { doing, source })
    }
}
