//! Faults that pass: the application goes on, people are told why, and the copies are equal again without anybody's help.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use safekit::driver::clock;
use safekit::types::mirror::SyncState;
use safekit::types::replica::MirrorRole;

use crate::stage::{Options, Stage, story, write_and_sync};

/// On top of `max_stall`, because other tests keep the disk busy.
const LEEWAY: Duration = Duration::from_secs(5);

/// How long an application waits for its slowest flush, until it has made `count` of them.
fn slowest_flush(stage: &Stage, name: &str, count: usize) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let begun = clock::now();
        write_and_sync(&stage.mount(0).join(format!("{name} {number}")), &[number as u8; 5000])?;
        slowest = slowest.max(clock::now().since(begun));
    }
    Ok(slowest)
}

fn until_alone_because(stage: &mut Stage, part: &str) -> Result<()> {
    stage.until_role(0, MirrorRole::Alone)?;
    let told = stage.until("people are told why", |stage| Ok(stage.info(0)?.why.contains(part)));
    told.map_err(|error| error.context(format!("no mention of {part:?}")))
}

fn heals(stage: &mut Stage) -> Result<()> {
    stage.until_in_sync(0)?;
    stage.until_same()?;
    let info = stage.info(0)?;
    ensure!(info.sync == SyncState::InSync, "{info:#?}");
    ensure!(info.resync.as_ref().is_some_and(|resync| !resync.everything), "{info:#?}");
    Ok(())
}

#[test]
fn an_application_goes_on_without_a_node_that_is_halted() -> Result<()> {
    story("halted", Options::default(), |stage| {
        stage.mirrored()?;
        write_and_sync(&stage.mount(0).join("before"), b"x")?;
        stage.signal(1, Signal::STOP)?;
        let slowest = slowest_flush(stage, "halted", 10)?;
        ensure!(slowest < Options::default().max_stall + LEEWAY, "{slowest:?}");
        until_alone_because(stage, "not connected to b")?;
        ensure!(stage.info(0)?.stalls == 1);
        stage.signal(1, Signal::CONT)?;
        heals(stage)
    })
}

#[test]
fn an_application_goes_on_without_a_network_that_hangs() -> Result<()> {
    story("hangs", Options::default(), |stage| {
        stage.mirrored()?;
        stage.road.hold();
        let slowest = slowest_flush(stage, "held", 10)?;
        ensure!(slowest < Options::default().max_stall + LEEWAY, "{slowest:?}");
        until_alone_because(stage, "not connected to b")?;
        stage.road.mend();
        heals(stage)
    })
}

#[test]
fn a_slow_network_slows_and_parts_nobody() -> Result<()> {
    story("slow", Options::default(), |stage| {
        stage.mirrored()?;
        stage.road.delay(Duration::from_millis(60));
        let slowest = slowest_flush(stage, "slow", 10)?;
        ensure!(
            slowest >= Duration::from_millis(120),
            "the flush did not wait for the other node: {slowest:?}"
        );
        let (passed, info) = (stage.road.passed(), stage.info(0)?);
        ensure!(info.role == MirrorRole::Prim && info.stalls == 0, "{info:#?}");
        fs::write(stage.mount(0).join("large"), vec![7; 256 << 10])?;
        File::open(stage.mount(0).join("large"))?.sync_all()?;
        ensure!(stage.road.passed() - passed > 256 << 10, "it went over the network");
        ensure!(stage.info(0)?.stalls == 0);
        stage.road.mend();
        stage.until_same()
    })
}

#[test]
fn a_connection_that_breaks_within_a_frame_is_made_again() -> Result<()> {
    story("breaks", Options::default(), |stage| {
        stage.mirrored()?;
        for bytes in [1, 777, 40_000] {
            stage.road.cut_after(bytes);
            slowest_flush(stage, &format!("cut {bytes}"), 10)?;
            until_alone_because(stage, "not connected")?;
            stage.road.mend();
            heals(stage)?;
        }
        stage.road.cut();
        slowest_flush(stage, "parted", 10)?;
        until_alone_because(stage, "not connected")?;
        stage.road.mend();
        heals(stage)
    })
}

#[test]
fn applications_learn_at_once_that_the_process_is_gone() -> Result<()> {
    story("gone", Options::default(), |stage| {
        stage.mirrored()?;
        let path = stage.mount(0).join("file");
        write_and_sync(&path, b"before")?;
        let open = File::options().write(true).open(&path)?;
        stage.kill(0)?;
        let begun = clock::now();
        for result in [
            fs::read(&path).map(drop),
            open.sync_all(),
            fs::write(stage.mount(0).join("new"), b"x"),
            fs::read_dir(stage.mount(0)).map(drop),
        ] {
            let error = result.expect_err("nobody is there");
            ensure!(error.kind() == ErrorKind::NotConnected, "{error:?}");
        }
        ensure!(clock::now().since(begun) < LEEWAY);
        drop(open);
        // It takes the dead mount away.
        stage.start(0)?;
        ensure!(fs::read(&path)? == b"before");
        let refused = fs::write(&path, b"x").expect_err("a node that was restarted serves nobody by itself");
        ensure!(refused.kind() == ErrorKind::ReadOnlyFilesystem, "{refused:?}");
        stage.order(0, safekit::types::mirror::MirrorOrder::Prim { force: false })?;
        stage.until_in_sync(0)?;
        write_and_sync(&path, b"after")?;
        stage.until_same()
    })
}

#[test]
fn what_changes_below_old_directories_is_found() -> Result<()> {
    story("below", Options::default(), |stage| {
        fs::create_dir_all(stage.mount(0).join("old/deep"))?;
        fs::create_dir(stage.mount(0).join("other"))?;
        fs::write(stage.mount(0).join("old/deep/file"), vec![1; 300_000])?;
        stage.mirrored()?;
        stage.road.cut();
        stage.until_role(0, MirrorRole::Alone)?;
        // Names, contents and attributes, at several depths, of what both have had before.
        let top = stage.mount(0);
        write_and_sync(&top.join("old/new"), b"new")?;
        File::options().write(true).open(top.join("old/deep/file"))?.write_all_at(b"other", 200_000)?;
        fs::rename(top.join("old/deep"), top.join("other/moved"))?;
        fs::set_permissions(top.join("old"), fs::Permissions::from_mode(0o750))?;
        stage.road.mend();
        heals(stage)?;
        let resync = stage.info(0)?.resync.context("there was one")?;
        // What is met in its new directory before its old one was looked at is made anew there.
        ensure!(resync.bytes < 400_000, "more than was changed or moved: {resync:?}");
        Ok(())
    })
}
