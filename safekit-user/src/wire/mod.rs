//! L1: bytes on the network, and the values they stand for. Versioned; everything received is refused or complete.

mod compact;
pub mod heartbeat;
pub mod identity;
pub mod link;
pub mod replica;
pub mod seal;
