//! L4: what people touch.

pub mod control;
