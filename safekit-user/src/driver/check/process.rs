//! Processes by name and arguments. Those that are found are watched: a death is known in milliseconds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use regex::bytes::Regex;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use super::Ends;
use super::sight::Seen;

/// Of one process's arguments; a pattern sees no more.
const ARGUMENTS_BYTES_MAX: u64 = 64 * 1024;
/// Above that, only so many are watched; a death among the others is seen by the next probe.
const WATCHED_MAX: usize = 256;
const PATTERN_BYTES_MAX: usize = 1 << 20;

pub(super) struct Process {
    wanted: Arc<Wanted>,
    at_least: u32,
    at_most: Option<u32>,
    watched: Mutex<BTreeMap<i32, Ends>>,
    stir: Arc<Notify>,
}

struct Wanted {
    name: String,
    /// Over the arguments, joined by blanks. An error: none can match, and every look says why.
    arguments: Option<Result<Regex, String>>,
}

impl Process {
    pub(super) fn new(
        name: &str,
        arguments: Option<&str>,
        at_least: u32,
        at_most: Option<u32>,
        stir: &Arc<Notify>,
    ) -> Self {
        let arguments = arguments.map(pattern);
        Self {
            wanted: Arc::new(Wanted { name: name.to_owned(), arguments }),
            at_least,
            at_most,
            watched: Mutex::new(BTreeMap::new()),
            stir: Arc::clone(stir),
        }
    }

    pub(super) async fn look(&self) -> Seen {
        let wanted = Arc::clone(&self.wanted);
        let found = match spawn_blocking(move || wanted.find()).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Seen::down(error),
            Err(_) => return Seen::down("the look into /proc was ended"),
        };
        self.watch(&found);
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        let name = &self.wanted.name;
        let some = found.iter().take(8).map(ToString::to_string).collect::<Vec<_>>().join(" ");
        match self.at_most {
            _ if count < self.at_least => {
                Seen::down(format!("{count} of {name}, at least {} expected", self.at_least))
            }
            Some(most) if count > most => {
                Seen::down(format!("{count} of {name} (process {some}), at most {most} expected"))
            }
            _ => Seen::up(format!("{count} of {name} (process {some})")),
        }
    }

    fn watch(&self, found: &[i32]) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // A number may already belong to another process than the one that is watched: a watch that has ended is none.
        watched.retain(|pid, watch| found.contains(pid) && !watch.0.is_finished());
        for pid in found {
            if watched.len() < WATCHED_MAX && !watched.contains_key(pid) {
                let (pid, stir) = (*pid, Arc::clone(&self.stir));
                watched.insert(pid, Ends(tokio::spawn(until_it_ends(pid, stir))));
            }
        }
    }
}

async fn until_it_ends(pid: i32, stir: Arc<Notify>) {
    match ends(pid).await {
        // It ended between the look and the watch.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => stir.notify_one(),
        Ok(()) => stir.notify_one(),
        Err(error) => {
            tracing::debug!(pid, %error, "cannot watch a process; its death is seen by the next probe");
        }
    }
}

async fn ends(pid: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let descriptor = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: an OwnedFd is the same open descriptor until it is dropped.
    let watch = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
    // Readable once the process has ended, whoever reaps it (pidfd_open(2)).
    watch.readable().await.map(|_| ())
}

pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    regex::bytes::RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .map_err(|error| format!("the pattern {text} cannot be used: {error}"))
}

impl Wanted {
    /// Their numbers. Blocks for some 30 µs a process.
    fn find(&self) -> Result<Vec<i32>, String> {
        if let Some(Err(error)) = &self.arguments {
            return Err(error.clone());
        }
        // A container shares the host's /proc at times, and other containers' processes are not ours.
        let ours = network(Path::new("/proc/thread-self"))
            .map_err(|error| format!("cannot tell the own network namespace: {error}"))?;
        let all = fs::read_dir("/proc").map_err(|error| format!("cannot read /proc: {error}"))?;
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        Ok(pids.filter(|pid| self.is_met_by(*pid, ours).unwrap_or(false)).collect())
    }

    /// An error: it has ended meanwhile, or is not ours to look at.
    fn is_met_by(&self, pid: i32, ours: u64) -> io::Result<bool> {
        let directory = Path::new("/proc").join(pid.to_string());
        let stat = fs::read(directory.join("stat"))?;
        let Some(stat) = Stat::parse(&stat) else { return Ok(false) };
        if stat.is_over {
            return Ok(false);
        }
        let arguments = arguments(&directory)?;
        if stat.name != self.name.as_bytes() && base_name(&arguments) != self.name.as_bytes() {
            return Ok(false);
        }
        if let Some(Ok(pattern)) = &self.arguments
            && !pattern.is_match(&joined(&arguments))
        {
            return Ok(false);
        }
        Ok(network(&directory)? == ours)
    }
}

struct Stat<'a> {
    name: &'a [u8],
    /// A zombie, or about to be none.
    is_over: bool,
}

impl<'a> Stat<'a> {
    /// `PID (NAME) STATE …`; the name may contain anything, brackets too (proc_pid_stat(5)).
    fn parse(line: &'a [u8]) -> Option<Self> {
        let from = line.iter().position(|byte| *byte == b'(')? + 1;
        let to = line.iter().rposition(|byte| *byte == b')')?;
        let state = line.get(to + 2)?;
        Some(Self { name: line.get(from..to)?, is_over: matches!(state, b'Z' | b'X') })
    }
}

/// As the kernel has them: each ended by a zero.
fn arguments(directory: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(directory.join("cmdline"))?.take(ARGUMENTS_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn base_name(arguments: &[u8]) -> &[u8] {
    let program = arguments.split(|byte| *byte == 0).next().unwrap_or_default();
    program.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn joined(arguments: &[u8]) -> Vec<u8> {
    let all = arguments.strip_suffix(&[0]).unwrap_or(arguments);
    all.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect()
}

/// What tells a process's network namespace from others: each has files of its own under this name. Its `ns/net` would
/// say it too, but not to a daemon with fewer capabilities than the process has (ptrace(2), "access mode checking").
fn network(directory: &Path) -> io::Result<u64> {
    Ok(fs::metadata(directory.join("net/dev"))?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_brackets_and_blanks() {
        let stat = Stat::parse(b"12 (a) b (c) S 1 12 12 0 -1").expect("a line of /proc");
        assert_eq!((stat.name, stat.is_over), (b"a) b (c".as_slice(), false));
        assert!(Stat::parse(b"12 (sh) Z 1 12").expect("a line").is_over);
        for broken in ["", "12", "12 (sh", "12 sh)", ")(", "1 (a)"] {
            assert!(Stat::parse(broken.as_bytes()).is_none(), "{broken}");
        }
    }

    #[test]
    fn arguments_are_joined_by_blanks_and_the_program_has_a_base_name() {
        let arguments = b"/usr/sbin/nginx\0-g\0daemon off;\0";
        assert_eq!(base_name(arguments), b"nginx");
        assert_eq!(joined(arguments), b"/usr/sbin/nginx -g daemon off;");
        assert_eq!((base_name(b""), joined(b"").as_slice()), (b"".as_slice(), b"".as_slice()));
    }

    #[test]
    fn a_pattern_that_is_none_is_told() {
        assert!(pattern("(").is_err());
        assert!(pattern(r"(\w{1000}){1000}").is_err(), "one that needs too much memory");
    }
}
