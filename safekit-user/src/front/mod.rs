//! L4, what people touch. Screens read snapshots and send commands; they never see an engine or a driver.

pub mod cli;
pub mod exit;
