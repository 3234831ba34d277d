//! PostgreSQL with its data in the measured directory, and pgbench's own transactions (like TPC-B) against it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::machine::{Lab, Machine, Running};
use super::subject::data;
use crate::netns::SCRATCH;

/// Whom the package runs it as: it refuses root.
const USER: &str = "postgres";
const START_TIMEOUT: Duration = Duration::from_secs(60);
const FILL_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// As it comes, but that no checkpoint and no cleaning of tables falls into some contestant's seconds.
const SETTINGS: [&str; 5] = [
    "listen_addresses=",
    "unix_socket_directories=/mnt",
    "checkpoint_timeout=30min",
    "max_wal_size=4GB",
    "autovacuum=off",
];

/// A server with tables that are filled.
pub struct Server<'a, 'lab> {
    machine: &'a Machine<'lab>,
    programs: PathBuf,
    running: Running,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    pub transactions: f64,
    pub per_second: f64,
}

impl<'a, 'lab> Server<'a, 'lab> {
    pub fn start(lab: &Lab, machine: &'a Machine<'lab>, scale: u32) -> Result<Self> {
        let (programs, place) = (programs()?, data("pg"));
        let mut folder = machine.command("install")?;
        folder.args(["-d", "-m", "0700", "-o", USER, "-g", USER, &place]);
        machine.run("install", folder, START_TIMEOUT)?;
        let mut make = as_user(machine, &programs.join("initdb"))?;
        make.args(["--pgdata", &place, "--auth=trust", "--no-locale", "--encoding=UTF8"]);
        machine.run("initdb", make, FILL_TIMEOUT)?;
        let mut serve = as_user(machine, &programs.join("postgres"))?;
        serve.args(["-D", &place]).args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        let running = machine.start("postgres", serve)?;
        let mut server = Self { machine, programs, running };
        lab.wait_until("a PostgreSQL that answers", START_TIMEOUT, || server.answers())?;
        server.pgbench(&["--initialize", "--quiet", &format!("--scale={scale}")], FILL_TIMEOUT)?;
        server.query("VACUUM ANALYZE")?;
        server.query("CHECKPOINT")?;
        Ok(server)
    }

    fn answers(&mut self) -> Result<bool> {
        if let Some(status) = self.running.process.ended()? {
            anyhow::bail!("PostgreSQL ended with {status}: {}", self.running.last_words());
        }
        Ok(self.query("SELECT 1").is_ok())
    }

    pub fn transactions(&self, clients: u32, span: Duration) -> Result<Done> {
        let words = [
            format!("--client={clients}"),
            format!("--time={}", span.as_secs().max(1)),
            "--protocol=prepared".to_owned(),
            "--no-vacuum".to_owned(),
        ];
        let said = self.pgbench(&words.each_ref().map(String::as_str), span + FILL_TIMEOUT)?;
        done(&said).with_context(|| format!("pgbench said: {said}"))
    }

    pub fn stop(mut self) -> Result<()> {
        // PostgreSQL's fast shutdown.
        self.running.process.signal(Signal::INT);
        let status = self.running.process.wait(STOP_TIMEOUT)?;
        ensure!(status.success(), "PostgreSQL ended with {status}: {}", self.running.last_words());
        Ok(())
    }

    fn query(&self, query: &str) -> Result<String> {
        let mut command = as_user(self.machine, &self.programs.join("psql"))?;
        command.args(["--host", SCRATCH, "--quiet", "--no-psqlrc", "--command", query, USER]);
        self.machine.run("psql", command, FILL_TIMEOUT)
    }

    fn pgbench(&self, words: &[&str], within: Duration) -> Result<String> {
        let mut command = as_user(self.machine, &self.programs.join("pgbench"))?;
        command.args(["--host", SCRATCH]).args(words).arg(USER);
        self.machine.run("pgbench", command, within)
    }
}

impl fmt::Debug for Server<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("programs", &self.programs).finish_non_exhaustive()
    }
}

/// The change of the user takes the signal away that the kernel sends when this program dies, so it is asked for again.
fn as_user(machine: &Machine<'_>, program: &Path) -> Result<Command> {
    let mut command = machine.command("setpriv")?;
    command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--pdeathsig", "KILL"]);
    command.arg(program).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    Ok(command)
}

/// Of the newest version there is.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let bins = versions.filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        let bin = version.path().join("bin");
        bin.join("pgbench").is_file().then_some((number, bin))
    });
    let newest = bins.max_by_key(|(number, _)| *number);
    Ok(newest.context("no PostgreSQL here; install the package postgresql")?.1)
}

fn done(said: &str) -> Option<Done> {
    let after = |name: &str| said.lines().find_map(|line| line.strip_prefix(name));
    let number = |text: &str| text.split([' ', '/']).find(|word| !word.is_empty())?.parse::<f64>().ok();
    Some(Done {
        transactions: number(after("number of transactions actually processed:")?)?,
        per_second: number(after("tps =")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Done, done};

    #[test]
    fn transactions_are_read_from_what_pgbench_says() {
        let said = "number of clients: 8\nnumber of transactions actually processed: 4021\n\
                    number of failed transactions: 0 (0.000%)\ntps = 1340.25 (without initial connection time)\n";
        assert_eq!(done(said), Some(Done { transactions: 4021.0, per_second: 1340.25 }));
        assert_eq!(done("pgbench: error: connection failed\n"), None);
    }
}
