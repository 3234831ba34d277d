//! L4: what people touch.

pub mod cli;
pub mod control;
pub mod control_client;
pub mod demo;
pub mod exit;
mod peer;
pub mod web;
