//! Disks without room: of the node that follows, which nobody who serves has to wait for, and of the one that serves.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, Result, ensure};
use safekit::types::replica::MirrorRole;

use crate::stage::{Options, story, write_and_sync};

const SMALL: u64 = 16 << 20;
const MORE: usize = 24 << 20;

#[test]
fn an_application_goes_on_when_the_other_disk_is_full() -> Result<()> {
    let options = Options { bytes: [None, Some(SMALL)], ..Options::default() };
    story("full", options, |stage| {
        stage.mirrored()?;
        let top = stage.mount(0);
        write_and_sync(&top.join("small"), b"small")?;
        write_and_sync(&top.join("large"), &vec![5; MORE])?;
        stage.until_role(0, MirrorRole::Alone)?;
        stage.until("people are told that there is no room", |stage| {
            let told = [stage.info(0)?.why, stage.info(1)?.why];
            Ok(told.iter().any(|why| why.contains("No space left")))
        })?;
        // It goes on, however often the other node tries again.
        write_and_sync(&top.join("meanwhile"), b"meanwhile")?;
        fs::remove_file(top.join("large"))?;
        stage.until_in_sync(0)?;
        stage.until_same()?;
        ensure!(fs::read(stage.below(1).join("meanwhile"))? == b"meanwhile");
        Ok(())
    })
}

#[test]
fn an_application_hears_of_its_own_full_disk_and_nothing_diverges() -> Result<()> {
    let options = Options { bytes: [Some(SMALL), None], ..Options::default() };
    story("own-full", options, |stage| {
        stage.mirrored()?;
        let top = stage.mount(0);
        let mut file = File::create(top.join("large"))?;
        let error = (0..MORE >> 16).find_map(|_| file.write_all(&[6; 1 << 16]).err());
        let error = error.context("there is room for more than the disk has")?;
        ensure!(error.kind() == ErrorKind::StorageFull, "{error}");
        ensure!(fs::write(top.join("another"), vec![1; 1 << 16]).is_err());
        drop(file);
        ensure!(stage.info(0)?.role == MirrorRole::Prim, "{:#?}", stage.info(0)?);
        stage.until_same()?;
        fs::remove_file(top.join("large"))?;
        write_and_sync(&top.join("after"), &vec![2; 1 << 20])?;
        stage.until_same()
    })
}
