//! Runs of fio, one of the jobs that storage is usually compared by.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::machine::{DATA, Machine};

/// What a job does, in fio's own words.
pub struct Job<'a> {
    pub name: &'a str,
    pub words: &'a [String],
    /// Where fio shall put its findings: a place that the machine and this program both see.
    pub findings: &'a Path,
    pub within: Duration,
}

/// Of all processes of a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    pub operations: f64,
    pub operations_per_second: f64,
    pub bytes: f64,
    pub bytes_per_second: f64,
}

pub fn run(machine: &Machine<'_>, job: &Job<'_>) -> Result<Done> {
    let mut command = machine.command("fio")?;
    command.args(["--ioengine=psync", "--thread", "--group_reporting", "--fallocate=none", "--randrepeat=1"]);
    command.args(["--output-format=json", &format!("--directory={DATA}"), &format!("--name={}", job.name)]);
    command.arg(format!("--output={}", job.findings.display())).args(job.words);
    machine.run("fio", command, job.within)?;
    let text = std::fs::read_to_string(job.findings).context("fio has written nothing")?;
    let done = done(&text).with_context(|| format!("fio's findings of {}", job.name));
    std::fs::remove_file(job.findings)?;
    done
}

#[derive(Deserialize)]
struct Findings {
    jobs: Vec<FoundJob>,
}

#[derive(Deserialize)]
struct FoundJob {
    error: i64,
    read: Found,
    write: Found,
}

#[derive(Deserialize)]
struct Found {
    total_ios: f64,
    iops: f64,
    io_bytes: f64,
    bw_bytes: f64,
}

/// Warnings may come before the object.
fn done(text: &str) -> Result<Done> {
    let object = text.find('{').map(|start| &text[start..]).context("no object in it")?;
    let found: Findings = serde_json::from_str(object)?;
    let [job] = &found.jobs[..] else { anyhow::bail!("{} groups instead of one", found.jobs.len()) };
    ensure!(job.error == 0, "error {}", job.error);
    let it = if job.write.total_ios > 0.0 { &job.write } else { &job.read };
    ensure!(it.total_ios > 0.0 && it.iops > 0.0, "nothing was done");
    Ok(Done {
        operations: it.total_ios,
        operations_per_second: it.iops,
        bytes: it.io_bytes,
        bytes_per_second: it.bw_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_read_from_the_findings() {
        let one = |error, ios| {
            let found =
                format!(r#"{{"total_ios": {ios}, "iops": 2.5, "io_bytes": 40960, "bw_bytes": 10240}}"#);
            let none = r#"{"total_ios": 0, "iops": 0.0, "io_bytes": 0, "bw_bytes": 0}"#;
            format!(
                "note: something\n{{\"jobs\": [{{\"error\": {error}, \"read\": {none}, \"write\": {found}}}]}}"
            )
        };
        let wanted =
            Done { operations: 10.0, operations_per_second: 2.5, bytes: 40960.0, bytes_per_second: 10240.0 };
        assert_eq!(done(&one(0, 10)).unwrap(), wanted);
        assert!(done(&one(5, 10)).is_err(), "an error of a job");
        assert!(done(&one(0, 0)).is_err(), "a job that did nothing");
        assert!(done("fio: cannot").is_err());
    }
}
