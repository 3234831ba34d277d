//! git: thousands of small files with names that change, and a checksum of everything.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use safekit_tests::netns::SCRATCH;

use super::programs::{rounds, run_well};
use crate::stage::{Options, Stage, story};

const COMMAND_MAX: Duration = Duration::from_secs(60);
const FILES: usize = 60;

#[test]
fn a_repository_is_whole_on_both_nodes() -> Result<()> {
    let rounds = rounds(3);
    let within = Duration::from_secs(90) + Duration::from_secs(30) * rounds as u32;
    story("git", Options { within, ..Options::default() }, |stage| {
        let origin = Path::new(SCRATCH).join("origin");
        made(&origin)?;
        stage.mirrored()?;
        let clone = stage.mount(0).join("clone");
        git(Path::new(SCRATCH), &["clone", "--no-local", "--quiet", "origin", &clone.to_string_lossy()])?;
        for round in 0..rounds {
            worked_on(&clone, round)?;
            if round % 2 == 1 {
                missed_something(stage, &clone)?;
            }
            stage.until_same()?;
        }
        let head = git(&clone, &["rev-parse", "HEAD"])?;
        stage.stop(1)?;
        let other = stage.mount(1).join("clone");
        ensure!(git(&other, &["fsck", "--full", "--strict"])?.is_empty(), "git finds fault with the copy");
        ensure!(
            git(&other, &["status", "--porcelain"])?.is_empty(),
            "the copy's files are not those of HEAD"
        );
        ensure!(git(&other, &["rev-parse", "HEAD"])? == head, "the copy is at another commit");
        Ok(())
    })
}

fn made(origin: &Path) -> Result<()> {
    fs::create_dir(origin)?;
    git(origin, &["init", "--quiet", "--initial-branch=main"])?;
    for number in 0..FILES {
        let directory = origin.join(format!("part{}", number % 7));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("file{number}")), format!("{number}\n").repeat(number * 20))?;
    }
    committed(origin, "the first")
}

/// A branch that is merged, files that move and go, and everything packed anew.
fn worked_on(clone: &Path, round: usize) -> Result<()> {
    let branch = format!("branch{round}");
    git(clone, &["checkout", "--quiet", "-b", &branch])?;
    for number in 0..FILES / 2 {
        fs::write(
            clone.join(format!("part0/new{round}-{number}")),
            format!("{round} {number}\n").repeat(300),
        )?;
    }
    committed(clone, "new files")?;
    git(clone, &["mv", "part1", &format!("moved{round}")])?;
    git(clone, &["mv", &format!("moved{round}/file1"), "part2/"])?;
    committed(clone, "a directory moves")?;
    git(clone, &["checkout", "--quiet", "main"])?;
    fs::write(clone.join(format!("main{round}")), "on the other side\n")?;
    committed(clone, "on main")?;
    git(clone, &["merge", "--quiet", "--no-edit", &branch])?;
    git(clone, &["mv", &format!("moved{round}"), "part1"])?;
    git(clone, &["mv", "part2/file1", "part1/"])?;
    committed(clone, "and back")?;
    git(clone, &["tag", &format!("round{round}")])?;
    git(clone, &["gc", "--quiet", "--prune=now"])?;
    Ok(())
}

/// The other node is away while branches come and go.
fn missed_something(stage: &mut Stage, clone: &Path) -> Result<()> {
    stage.kill(1)?;
    git(clone, &["checkout", "--quiet", "-b", "alone", "main~2"])?;
    fs::write(clone.join("alone"), "nobody else has it\n")?;
    committed(clone, "alone")?;
    git(clone, &["checkout", "--quiet", "main"])?;
    git(clone, &["merge", "--quiet", "--no-edit", "alone"])?;
    git(clone, &["branch", "--delete", "alone"])?;
    git(clone, &["repack", "-a", "-d", "--quiet"])?;
    stage.start(1)?;
    stage.until_in_sync(0)
}

fn committed(repository: &Path, message: &str) -> Result<()> {
    git(repository, &["add", "--all"])?;
    git(repository, &["commit", "--quiet", "--message", message])?;
    Ok(())
}

/// As nobody in particular, whatever is configured on this machine.
fn git(repository: &Path, words: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command.current_dir(repository).args(["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]);
    command.args(["-c", "core.fsync=all", "-c", "gc.auto=0", "-c", "gc.autoDetach=false"]).args(words);
    command.envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("LC_ALL", "C")]);
    run_well(&mut command, SCRATCH.as_ref(), COMMAND_MAX)
}
