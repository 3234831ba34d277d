//! What other programs say: each has a deadline and a bound, and one that hangs or is missing is an item that says so.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::super::clock;
use super::ITEM_BYTES_MAX;
use crate::types::bundle::Item;

/// Of one program; all of them answer in milliseconds where the kernel does.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where the answer goes, and the question. Nothing here prints keys, environments or command lines.
const PROGRAMS: [(&str, &[&str]); 15] = [
    ("system/addresses.json", &["ip", "-j", "-d", "address"]),
    ("system/links.json", &["ip", "-j", "-s", "-d", "link"]),
    ("system/routes-v4.json", &["ip", "-j", "-4", "route", "show", "table", "all"]),
    ("system/routes-v6.json", &["ip", "-j", "-6", "route", "show", "table", "all"]),
    ("system/rules.json", &["ip", "-j", "rule"]),
    ("system/neighbours.json", &["ip", "-j", "neighbour"]),
    ("system/queues.json", &["tc", "-j", "-s", "qdisc"]),
    ("system/nft.txt", &["nft", "list", "ruleset"]),
    ("system/bpf-programs.json", &["bpftool", "-j", "prog", "show"]),
    ("system/bpf-net.json", &["bpftool", "-j", "net", "show"]),
    ("system/sockets.txt", &["ss", "-tuln"]),
    ("system/clock.txt", &["timedatectl", "show"]),
    ("system/unit.txt", &["systemctl", "show", "safekit.service", "-p", UNIT]),
    ("system/failed-units.txt", &["systemctl", "--failed", "--plain", "--no-pager"]),
    (
        "journal/safekit.log",
        &["journalctl", "-u", "safekit.service", "-n", "5000", "-o", "short-iso-precise", "--no-pager", "-q"],
    ),
];
/// Not its environment.
const UNIT: &str = "LoadState,ActiveState,SubState,Result,NRestarts,MainPID,ExecMainStatus,ActiveEnterTimestamp,\
                    UnitFileState,MemoryCurrent,WatchdogUSec,CapabilityBoundingSet";

/// Side by side: all together take as long as the slowest.
pub(super) fn run_all() -> Vec<Item> {
    std::thread::scope(|scope| {
        let started = PROGRAMS.map(|(path, words)| (path, scope.spawn(move || run(path, words, DEADLINE))));
        let item = |(path, thread): (&str, std::thread::ScopedJoinHandle<'_, Item>)| {
            thread.join().unwrap_or_else(|_| Item::lacking(path, "the thread that asked died"))
        };
        started.into_iter().map(item).collect()
    })
}

fn run(path: &str, words: &[&str], deadline: Duration) -> Item {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("SYSTEMD_COLORS", "0").env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Item::lacking(path, format!("cannot run {}: {error}", words[0])),
    };
    let (out, err) = (child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from));
    let mut said = Said { out: Vec::new(), err: Vec::new(), is_whole: true };
    let ended = said.read(out, err, deadline);
    let note = match (ended, end(&mut child, ended && said.is_whole)) {
        (false, _) => Some(format!("`{}` did not end within {deadline:?}, and was ended", words.join(" "))),
        (true, _) if !said.is_whole => Some(format!("cut after {ITEM_BYTES_MAX} bytes")),
        (true, Some(status)) if !status.success() => {
            Some(format!("`{}`: {status}: {}", words.join(" "), first_line(&said.err)))
        }
        (true, _) => None,
    };
    Item { path: path.to_owned(), text: String::from_utf8_lossy(&said.out).into_owned(), note }
}

fn first_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().lines().next().unwrap_or_default().to_owned()
}

/// By itself once it has closed its output, otherwise by force, with all that it had started.
fn end(child: &mut Child, by_itself: bool) -> Option<std::process::ExitStatus> {
    let deadline = clock::now() + Duration::from_secs(1);
    while by_itself && clock::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(_) => return None,
        }
    }
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // One that has gone meanwhile needs no end.
        let _gone = kill_process_group(group, Signal::KILL);
    }
    child.wait().ok()
}

struct Said {
    out: Vec<u8>,
    err: Vec<u8>,
    is_whole: bool,
}

impl Said {
    /// Whether both ends were closed in time; a child of a child may keep them open.
    fn read(&mut self, out: Option<OwnedFd>, err: Option<OwnedFd>, span: Duration) -> bool {
        let deadline = clock::now() + span;
        let mut open: Vec<(std::fs::File, bool)> = Vec::new();
        open.extend(out.map(|fd| (std::fs::File::from(fd), true)));
        open.extend(err.map(|fd| (std::fs::File::from(fd), false)));
        let mut buffer = vec![0; 64 << 10];
        while !open.is_empty() {
            let left = deadline.since(clock::now());
            let Ok(wait) = left.try_into() else { return false };
            let mut asked: Vec<PollFd<'_>> =
                open.iter().map(|(file, _)| PollFd::new(file, PollFlags::IN)).collect();
            if clock::now() >= deadline || !matches!(poll(&mut asked, Some(&wait)), Ok(1..)) {
                return false;
            }
            let ready: Vec<bool> = asked.iter().map(|it| !it.revents().is_empty()).collect();
            for index in (0..open.len()).rev().filter(|index| ready[*index]) {
                let (file, is_out) = &mut open[index];
                let count = file.read(&mut buffer).unwrap_or(0);
                let kept = if *is_out { &mut self.out } else { &mut self.err };
                let room = ITEM_BYTES_MAX - kept.len();
                kept.extend_from_slice(&buffer[..count.min(room)]);
                if count > room {
                    self.is_whole = false;
                    return true;
                }
                if count == 0 {
                    open.remove(index);
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(line: &str, deadline: Duration) -> Item {
        run("a.txt", &["sh", "-c", line], deadline)
    }

    #[test]
    fn an_answer_is_kept_and_a_failure_named() {
        assert_eq!(ran("echo well", DEADLINE), Item::whole("a.txt", "well\n"));
        let failed = ran("echo some; echo why >&2; exit 3", DEADLINE);
        assert_eq!(failed.text, "some\n");
        let note = failed.note.expect("it failed");
        assert!(note.contains("exit status: 3") && note.ends_with("why"), "{note}");
        let missing = run("a.txt", &["safekit-no-such-program"], DEADLINE);
        assert!(missing.note.expect("it is not there").contains("cannot run safekit-no-such-program"));
    }

    #[test]
    fn one_that_hangs_is_ended_with_its_children_and_says_so() {
        let before = clock::now();
        let hanging = ran("echo begun; sleep 300 & echo $!; wait", Duration::from_millis(300));
        assert!(clock::now().since(before) < Duration::from_secs(5));
        assert!(hanging.note.expect("it hung").contains("did not end within 300ms"));
        let mut lines = hanging.text.lines();
        assert_eq!(lines.next(), Some("begun"));
        let child = lines.next().expect("the child's number");
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "the sleeping child has ended: {state}");
    }

    #[test]
    fn one_that_never_stops_talking_is_cut() {
        let long = ran("yes", DEADLINE);
        assert_eq!(long.text.len(), ITEM_BYTES_MAX);
        assert!(long.note.expect("it is cut").contains("cut after"));
    }
}
