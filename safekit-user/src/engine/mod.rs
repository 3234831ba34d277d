//! L2: pure, sans-IO state machines. Inputs and time come in as values, effects leave as values, in order.

pub mod farm;
pub mod groups;
