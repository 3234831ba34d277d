//! Collects what a support bundle has of this machine, and writes the archive. Changes nothing else.
//!
//! ```text
//! state directory ── by an allow list ─┐
//! programs ───────── each with an end ─┼─▶ Items ─▶ engine/bundle::prepare ─▶ archive ─▶ one file, mode 0600
//! /proc, /sys ────── by an allow list ─┘              (the caller's)
//! ```

mod archive;
mod files;
mod programs;
mod system;

use std::path::{Path, PathBuf};

pub use archive::{Error, write};

use crate::types::bundle::Item;

/// Of one file; of a log the end is kept.
const ITEM_BYTES_MAX: usize = 2 << 20;

/// Everything of this machine; `modules` are the names of those whose scripts' output is wanted.
pub fn collect(state_dir: &Path, modules: &[String]) -> Vec<Item> {
    let mut items = system::facts();
    items.extend(programs::run_all());
    items.extend(files::state(state_dir, modules));
    items
}

/// The names by which this machine is known.
pub fn host_names() -> Vec<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let short = name.split('.').next().unwrap_or_default().to_owned();
    vec![name, short]
}

/// Where a bundle goes that nobody named: `safekit-snapshot-web1-20261123T151856Z.tar.gz`.
pub fn default_name(node: &str) -> PathBuf {
    let stamp: String = super::clock::utc().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let stamp = stamp.split('.').next().unwrap_or_default();
    format!("safekit-snapshot-{node}-{stamp}Z.tar.gz").into()
}
