//! `services:` systemd units, started in order, stopped in the reverse one, and looked at afterwards.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::super::clock;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("systemd does not run here: services need it")]
    NoSystemd,
    #[error("there is no service {0}")]
    Unknown(String),
    #[error("{service} did not become {wanted} within {waited:?}: it is {found}")]
    Late { service: String, wanted: &'static str, waited: Duration, found: String },
    #[error("{service} failed: {result}")]
    Failed { service: String, result: String },
    #[error("systemctl {verb} {service} failed: {message}")]
    Systemctl { verb: &'static str, service: String, message: String },
}

/// Where systemd says that it runs.
const RUNS: &str = "/run/systemd/system";
const POLL: Duration = Duration::from_millis(50);

pub async fn start(services: &[String], within: Duration) -> Result<(), Error> {
    for service in services {
        known(service).await?;
        systemctl("start", service, within).await?;
        settle(service, "active", within).await?;
    }
    Ok(())
}

pub async fn stop(services: &[String], within: Duration) -> Result<(), Error> {
    for service in services.iter().rev() {
        systemctl("stop", service, within).await?;
        settle(service, "inactive", within).await?;
    }
    Ok(())
}

pub async fn restart(services: &[String], within: Duration) -> Result<(), Error> {
    for service in services {
        known(service).await?;
        systemctl("restart", service, within).await?;
        settle(service, "active", within).await?;
    }
    Ok(())
}

async fn known(service: &str) -> Result<(), Error> {
    let found = properties(service).await?;
    if found.load == "not-found" {
        return Err(Error::Unknown(service.to_owned()));
    }
    Ok(())
}

/// Until the unit is there, has failed, or time is over.
async fn settle(service: &str, wanted: &'static str, within: Duration) -> Result<(), Error> {
    let deadline = clock::now() + within;
    loop {
        let found = properties(service).await?;
        match found.active.as_str() {
            state if state == wanted => return Ok(()),
            // What had failed before it was stopped is down.
            "failed" if wanted == "inactive" => return Ok(()),
            "failed" => return Err(Error::Failed { service: service.to_owned(), result: found.result }),
            _ if clock::now() >= deadline => {
                let service = service.to_owned();
                return Err(Error::Late { service, wanted, waited: within, found: found.active });
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Unit {
    load: String,
    active: String,
    result: String,
}

async fn properties(service: &str) -> Result<Unit, Error> {
    let words = ["show", "-p", "LoadState", "-p", "ActiveState", "-p", "Result", "--", service];
    let output = run(&words, service, "show", Duration::from_secs(10)).await?;
    Ok(unit(&output))
}

/// `KEY=VALUE` lines in systemd's own order.
fn unit(text: &str) -> Unit {
    let value = |key: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_default().to_owned()
    };
    Unit { load: value("LoadState"), active: value("ActiveState"), result: value("Result") }
}

async fn systemctl(verb: &'static str, service: &str, within: Duration) -> Result<(), Error> {
    run(&[verb, "--", service], service, verb, within).await.map(drop)
}

async fn run(words: &[&str], service: &str, verb: &'static str, within: Duration) -> Result<String, Error> {
    if !Path::new(RUNS).exists() {
        return Err(Error::NoSystemd);
    }
    let failed = |message: String| Error::Systemctl { verb, service: service.to_owned(), message };
    let mut command = Command::new("systemctl");
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(within, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer within {within:?}"))),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        return Err(failed(text(&output.stderr)));
    }
    Ok(text(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_told_apart_by_name() {
        let expected = Unit { load: "loaded".into(), active: "failed".into(), result: "exit-code".into() };
        assert_eq!(unit("Result=exit-code\nLoadState=loaded\nActiveState=failed\n"), expected);
        assert_eq!(unit(""), Unit::default());
    }
}
