//! Both nodes are killed at once, and come back in each order: only a copy that is known to be the newest may serve.

use std::fs;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use safekit::types::mirror::MirrorOrder;
use safekit::types::replica::MirrorRole;

use crate::stage::{Options, Stage, story, write_and_sync};

const PRIM: MirrorOrder = MirrorOrder::Prim { force: false };

fn kill_both(stage: &mut Stage) -> Result<()> {
    stage.signal(0, Signal::KILL)?;
    stage.signal(1, Signal::KILL)?;
    stage.kill(0)?;
    stage.kill(1)
}

/// It was told to serve, and says why it does not.
fn refuses(stage: &mut Stage, at: usize, part: &str) -> Result<()> {
    stage.order(at, PRIM)?;
    let what = format!("a refusal with {part:?}");
    stage.until(&what, |stage| Ok(stage.info(at)?.cannot_lead.is_some_and(|why| why.contains(part))))?;
    ensure!(stage.info(at)?.role == MirrorRole::Wait);
    ensure!(fs::write(stage.mount(at).join("not allowed"), b"x").is_err());
    Ok(())
}

/// While both were equal: which of them has more nobody knows before they have met, and then it is the one that served.
fn both_were_equal(name: &str, first: usize) -> Result<()> {
    story(name, Options::default(), |stage| {
        stage.mirrored()?;
        write_and_sync(&stage.mount(0).join("promised"), b"promised")?;
        fs::write(stage.mount(0).join("late"), vec![7; 500_000])?;
        kill_both(stage)?;
        stage.start(first)?;
        refuses(stage, first, "may be newer")?;
        stage.order(first, MirrorOrder::Second { full_sync: false })?;
        stage.start(1 - first)?;
        stage.until_met()?;
        refuses(stage, 1, "is newer")?;
        stage.order(0, PRIM)?;
        stage.until_in_sync(0)?;
        ensure!(fs::read(stage.below(1).join("promised"))? == b"promised");
        stage.until_same()
    })
}

#[test]
fn the_one_that_served_returns_first() -> Result<()> {
    both_were_equal("prim-first", 0)
}

#[test]
fn the_one_that_followed_returns_first() -> Result<()> {
    both_were_equal("second-first", 1)
}

/// One had gone on alone: it needs nobody, and the other may not serve by itself.
fn one_was_alone(name: &str, first: usize) -> Result<()> {
    story(name, Options::default(), |stage| {
        stage.mirrored()?;
        write_and_sync(&stage.mount(0).join("file"), b"both")?;
        stage.road.cut();
        stage.until_role(0, MirrorRole::Alone)?;
        write_and_sync(&stage.mount(0).join("file"), b"one")?;
        kill_both(stage)?;
        stage.road.mend();
        stage.start(first)?;
        if first == 0 {
            stage.order(0, PRIM)?;
            stage.until_role(0, MirrorRole::Alone)?;
            ensure!(fs::read(stage.mount(0).join("file"))? == b"one");
            stage.start(1)?;
        } else {
            refuses(stage, 1, "may be newer")?;
            stage.start(0)?;
            stage.until_met()?;
            refuses(stage, 1, "is newer")?;
            stage.order(0, PRIM)?;
        }
        stage.until_in_sync(0)?;
        ensure!(fs::read(stage.below(1).join("file"))? == b"one");
        stage.until_same()
    })
}

#[test]
fn the_one_that_was_alone_returns_first() -> Result<()> {
    one_was_alone("alone-first", 0)
}

#[test]
fn the_one_that_is_out_of_date_returns_first() -> Result<()> {
    one_was_alone("outdated-first", 1)
}
