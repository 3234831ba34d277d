//! A PostgreSQL server whose files are in a directory below a mirror.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use safekit_tests::lab;
use safekit_tests::netns::SCRATCH;

use super::programs::{ended_within, run, run_well, said_to, spawn};

const VERSIONS: &str = "/usr/lib/postgresql";
const USER: &str = "postgres";
/// Below the mirror's directory.
const CLUSTER: &str = "cluster";
const INITIALISE_MAX: Duration = Duration::from_secs(60);
/// It may have to recover before it answers.
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(60);
/// Of any one program that asks it something.
const CLIENT_MAX: Duration = Duration::from_secs(90);

/// Its processes end with the thread that started it.
pub(crate) struct Server {
    postmaster: Option<Child>,
    place: Place,
}

/// A new cluster below the directory of a mirror.
pub(crate) fn initialise(mirror: &Path, options: &[&str]) -> Result<()> {
    let (uid, gid) = account()?;
    let place = Place::make(mirror)?;
    fs::create_dir(place.cluster())?;
    chown(place.cluster(), Some(uid), Some(gid))?;
    fs::set_permissions(place.cluster(), fs::Permissions::from_mode(0o700))?;
    let mut initdb = program("initdb")?;
    initdb.uid(uid).gid(gid).args(["--auth=trust", "--locale=C", "--encoding=UTF8"]);
    run_well(initdb.args(options).arg(place.cluster()), &place.dir, INITIALISE_MAX)?;
    Ok(())
}

impl Server {
    /// It answers when this returns.
    pub(crate) fn start(mirror: &Path) -> Result<Self> {
        let (uid, gid) = account()?;
        let place = Place::make(mirror)?;
        // Segments of shared memory that a killed server leaves end with the thread of the story.
        // SAFETY: neither this thread nor a child of it has such segments.
        unsafe { unshare_unsafe(UnshareFlags::NEWIPC) }?;
        let mut postgres = program("postgres")?;
        postgres.uid(uid).gid(gid).arg("-D").arg(place.cluster()).arg("-k").arg(place.socket());
        postgres.args(["-c", "listen_addresses=", "-c", "log_line_prefix=%m [%p] "]);
        said_to(&mut postgres, &place.log())?;
        let mut server = Self { postmaster: Some(spawn(&mut postgres)?), place };
        let answers =
            lab::wait_until("PostgreSQL answers", START_MAX, || server.has_ended() || server.is_ready());
        answers.with_context(|| server.last_words())?;
        ensure!(!server.has_ended(), "PostgreSQL does not start: {}", server.last_words());
        Ok(server)
    }

    fn has_ended(&mut self) -> bool {
        self.postmaster.as_mut().is_none_or(|it| !matches!(it.try_wait(), Ok(None)))
    }

    fn is_ready(&self) -> bool {
        let asked =
            self.program("pg_isready").and_then(|mut it| run(it.arg("--quiet"), &self.place.dir, CLIENT_MAX));
        asked.is_ok_and(|it| it.status.success())
    }

    /// A client of this server, which gets words of its own yet.
    pub(crate) fn program(&self, name: &str) -> Result<Command> {
        let mut command = program(name)?;
        command.arg("--host").arg(self.place.socket()).args(["--username", USER]);
        Ok(command)
    }

    pub(crate) fn psql(&self) -> Result<Command> {
        let mut psql = self.program("psql")?;
        psql.args(["--dbname", USER, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        psql.args(["--set", "ON_ERROR_STOP=1"]);
        Ok(psql)
    }

    /// Statements, each a transaction of its own; what they say.
    pub(crate) fn query(&self, text: &str) -> Result<String> {
        let file = self.place.dir.join("statements.sql");
        fs::write(&file, text)?;
        let answer = run_well(self.psql()?.arg("--file").arg(&file), &self.place.dir, CLIENT_MAX);
        answer.with_context(|| self.last_words())
    }

    pub(crate) fn run(&self, name: &str, words: &[&str]) -> Result<String> {
        run_well(self.program(name)?.args(words), &self.place.dir, CLIENT_MAX)
            .with_context(|| self.last_words())
    }

    /// Below the mirror's directory, and of the user of the database.
    pub(crate) fn directory_of_its_own(&self, name: &str) -> Result<PathBuf> {
        let (uid, gid) = account()?;
        let directory = self.place.mirror().join(name);
        fs::create_dir(&directory)?;
        chown(&directory, Some(uid), Some(gid))?;
        Ok(directory)
    }

    /// Each table and each index is whole, and they agree; each value can be read.
    pub(crate) fn check(&self) -> Result<()> {
        let words = ["--all", "--install-missing", "--heapallindexed", "--parent-check", "--rootdescend"];
        // It ends with an error when it finds one.
        self.run("pg_amcheck", &words)?;
        self.run("pg_dumpall", &[])?;
        Ok(())
    }

    /// In order, with the last checkpoint.
    pub(crate) fn stop(mut self) -> Result<()> {
        let mut postmaster = self.postmaster.take().context("it runs")?;
        kill_process(Pid::from_child(&postmaster), Signal::INT)?;
        let status = ended_within(&mut postmaster, STOP_MAX)?;
        ensure!(status.success(), "PostgreSQL ended with {status}: {}", self.last_words());
        Ok(())
    }

    /// All of its processes, none of which gets to do anything more.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.kill_all()
    }

    fn kill_all(&mut self) -> Result<()> {
        let Some(mut postmaster) = self.postmaster.take() else { return Ok(()) };
        let pid = Pid::from_child(&postmaster);
        // Then it starts no more of them. They are in sessions of their own, so no signal reaches all.
        kill_process(pid, Signal::STOP)?;
        let children = children_of(pid)?;
        for child in &children {
            let _gone_already = kill_process(*child, Signal::KILL);
        }
        kill_process(pid, Signal::KILL)?;
        ended_within(&mut postmaster, STOP_MAX)?;
        let alive = |child: &Pid| Path::new("/proc").join(child.as_raw_nonzero().to_string()).exists();
        lab::wait_until("all of PostgreSQL is gone", STOP_MAX, || !children.iter().any(alive))
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.place.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.kill_all() {
            eprintln!("warning: PostgreSQL is not gone: {error}");
        }
    }
}

/// Where a server finds its files and leaves its socket: the same on both nodes, one after the other. The mirror's directory
/// is mounted there once more, because the user of the database may not get to where it is.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn make(mirror: &Path) -> Result<Self> {
        let dir = Path::new(SCRATCH).join("postgres");
        for name in ["mirror", "socket"] {
            fs::create_dir_all(dir.join(name))?;
        }
        mount_bind(mirror, dir.join("mirror"))?;
        let place = Self { dir };
        // One that was killed has left its own.
        for left in fs::read_dir(place.socket())? {
            fs::remove_file(left?.path())?;
        }
        let (uid, gid) = account()?;
        chown(place.socket(), Some(uid), Some(gid))?;
        Ok(place)
    }

    fn mirror(&self) -> PathBuf {
        self.dir.join("mirror")
    }

    fn cluster(&self) -> PathBuf {
        self.mirror().join(CLUSTER)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.mirror(), UnmountFlags::DETACH) {
            eprintln!("warning: {} stays mounted: {error}", self.mirror().display());
        }
    }
}

/// Of the newest version that is installed.
fn program(name: &str) -> Result<Command> {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/postgres").is_file())
        .max_by_key(number);
    let newest =
        newest.with_context(|| format!("no PostgreSQL in {VERSIONS} (`cargo xtask setup` installs it)"))?;
    let mut command = Command::new(newest.join("bin").join(name));
    // It may not be in a directory that its user must not enter.
    command.current_dir(SCRATCH);
    Ok(command)
}

/// Numbers of user and group of the database.
fn account() -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut numbers = line.context("there is no user postgres")?.split(':').skip(2).map(str::parse);
    let mut next = || numbers.next().context("a line of /etc/passwd has two numbers");
    Ok((next()??, next()??))
}

fn children_of(parent: Pid) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        // The name of the program may have blanks and brackets: what follows the last one is fixed.
        let facts = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let of = facts.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        if of == Some(parent.as_raw_nonzero().get()) {
            found.push(pid);
        }
    }
    Ok(found)
}
