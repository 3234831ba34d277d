//! L4: what people touch.

pub mod control_client;
pub mod demo;
pub mod exit;
