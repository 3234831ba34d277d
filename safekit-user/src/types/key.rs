//! The secret that the nodes of a cluster share.

use std::fmt;

/// All other keys are derived from it; it is never used itself.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(pub [u8; 32]);

/// Says that there is one, and not which: keys must not reach logs.
impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}
