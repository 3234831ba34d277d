//! The mirror as processes: two `safekit replica` with a network of their own between them, which are killed, halted,
//! parted and lied to while an application writes.
//!
//! `SAFEKIT_MIRROR_ROUNDS=200 cargo test -p safekit-tests --test mirror crash -- --nocapture --test-threads=1` plays so
//! many rounds of crashes instead of a few; `SAFEKIT_MIRROR_SEED` says with which seed the first of them begins.

mod application;
mod apps;
mod crash;
mod faults;
mod full;
mod nonsense;
mod returns;
mod road;
mod stage;
mod trees;

use std::fs;

use anyhow::{Result, ensure};
use safekit::types::mirror::SyncState;

use stage::{Options, story};

#[test]
fn what_is_written_on_one_node_is_on_the_other() -> Result<()> {
    story("both", Options::default(), |stage| {
        stage.mirrored()?;
        let top = stage.mount(0);
        fs::create_dir(top.join("inner"))?;
        stage::write_and_sync(&top.join("inner/file"), b"contents")?;
        // Synced: it is on the other disk when the call returns.
        ensure!(fs::read(stage.below(1).join("inner/file"))? == b"contents");
        fs::hard_link(top.join("inner/file"), top.join("second name"))?;
        stage.until_same()?;
        ensure!(stage.info(0)?.sync == SyncState::InSync);
        stage.stop(1)?;
        stage.stop(0)?;
        ensure!(fs::read(top.join("second name"))? == b"contents", "the directory lies there as it is");
        Ok(())
    })
}
