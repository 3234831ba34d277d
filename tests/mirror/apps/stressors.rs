//! stress-ng: many processes and threads that do to files and names what they can think of, and verify it. What fails on a
//! mirror and not on a directory of the same disk is ours.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use safekit_tests::netns::SCRATCH;

use super::programs::{is_long, run};
use crate::stage::{Options, story};

/// Those of version 0.15 that are about files.
const STRESSORS: &str = "\
    chattr chmod chown copy-file dentry dir dirdeep dirmany fallocate fcntl fiemap filename flock fpunch getdent hdd \
    inotify iomix lease link locka lockf lockofd mknod mmap msync open rename revio seek symlink sync-file utime xattr";
/// Not there on a mirror: the kernel does not ask a file system of ours where its blocks are.
const WITHOUT: [&str; 1] = ["fiemap"];
/// It ends by itself long before.
const STRESSOR_MAX: Duration = Duration::from_secs(60);

#[test]
fn stressors_find_nothing_that_a_plain_directory_has_not() -> Result<()> {
    let seconds = if is_long() { 10 } else { 1 };
    let within = Duration::from_secs(180 + 4 * seconds * STRESSORS.split_whitespace().count() as u64);
    story("stressors", Options { within, ..Options::default() }, |stage| {
        stage.mirrored()?;
        let plain = stage.mount(0).with_file_name("plain");
        fs::create_dir(&plain)?;
        let mut worse = Vec::new();
        for stressor in STRESSORS.split_whitespace() {
            let before = stress(stressor, &plain, seconds)?;
            let found = stress(stressor, &stage.mount(0), seconds)?;
            if found != before && !WITHOUT.contains(&stressor) {
                worse.push(format!("{stressor}: {before} on the disk, on the mirror {found}"));
            }
        }
        ensure!(worse.is_empty(), "{}", worse.join("\n"));
        // Several at once, on two processors.
        let together = "--dir 2 --rename 2 --link 2 --symlink 2 --hdd 2 --iomix 1 --xattr 1 --utime 1";
        let end = stress_with(&together.split(' ').collect::<Vec<_>>(), &stage.mount(0), seconds * 4)?;
        ensure!(end == "passed", "together: {end}");
        stage.until_same()?;
        stage.stop(1)?;
        stage.stop(0)?;
        stage.until_same()
    })
}

fn stress(stressor: &str, directory: &Path, seconds: u64) -> Result<String> {
    stress_with(&[&format!("--{stressor}"), "1"], directory, seconds)
}

/// What came of it, in words that do not differ from run to run.
fn stress_with(stressors: &[&str], directory: &Path, seconds: u64) -> Result<String> {
    let mut command = Command::new("stress-ng");
    command.args(stressors).args(["--verify", "--hdd-bytes", "64m", "--iomix-bytes", "64m"]);
    command.args(["--timeout", &format!("{seconds}s"), "--temp-path"]).arg(directory);
    let end = run(&mut command, SCRATCH.as_ref(), STRESSOR_MAX)?;
    let told = |word: &str| end.said.lines().any(|line| line.contains(word));
    Ok(match end.status.code() {
        Some(0) if told("skipping stressor") || told("not supported") => "skipped".to_owned(),
        Some(0) => "passed".to_owned(),
        _ => format!("{}: {}", end.status, end.said),
    })
}
