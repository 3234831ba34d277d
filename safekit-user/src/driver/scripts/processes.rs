//! All processes of one run: its leader, the leader's session, and the cgroup where there is one.
//!
//! A process can leave its group and its session (`setsid`), but not its cgroup. Without cgroups, a descendant with a
//! session of its own cannot be told from anybody else's process and lives on.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;

/// A process, told apart from a later one with the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Leader {
    pub(super) pid: i32,
    /// Clock ticks since boot, as /proc/PID/stat has it.
    pub(super) started: u64,
}

/// Rounds of looking for members of a session that fork while they are looked for.
const SWEEPS_MAX: usize = 16;

impl Leader {
    pub(super) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: stat(pid)?.started })
    }

    /// The same process, dead or alive, is still in the kernel's table.
    pub(super) fn is_there(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Another process has its number.
    fn is_replaced(self) -> bool {
        Self::of(self.pid).is_some_and(|other| other != self)
    }

    fn as_pid(self) -> Option<Pid> {
        // Zero and one would mean everybody.
        if self.pid > 1 { Pid::from_raw(self.pid) } else { None }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Processes {
    /// It made its own session: group and session have its number.
    pub(super) leader: Leader,
    pub(super) cgroup: Option<PathBuf>,
}

impl Processes {
    /// Asks the group of the leader to end.
    pub(super) fn ask_to_end(&self) {
        self.signal_group(Signal::TERM);
    }

    /// Ends them all.
    pub(super) fn end(&self) {
        self.signal_group(Signal::KILL);
        for _ in 0..SWEEPS_MAX {
            if !self.end_session() {
                break;
            }
        }
        if let Some(cgroup) = &self.cgroup {
            Cgroup::at(cgroup.clone()).kill();
        }
    }

    fn signal_group(&self, signal: Signal) {
        let Some(pid) = self.leader.as_pid() else { return };
        if self.leader.is_there() {
            // Gone meanwhile: then nothing is to be done.
            let _gone = kill_process_group(pid, signal);
        }
    }

    /// Whether there was anybody left.
    fn end_session(&self) -> bool {
        // A session keeps its number from new processes as long as it has members: a process with that number and
        // another start time means that the session has ended.
        if self.leader.pid <= 1 || self.leader.is_replaced() {
            return false;
        }
        let mut any = false;
        for pid in all_pids() {
            let Some(facts) = stat(pid) else { continue };
            if facts.session == self.leader.pid && facts.state != 'Z' {
                any = true;
                let _gone = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
        any
    }
}

struct Stat {
    state: char,
    session: i32,
    started: u64,
}

fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name, in brackets, may hold blanks and brackets itself: proc_pid_stat(5).
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_confuses_nobody() {
        let text = "77 (a) b) S 1 77 70 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2";
        let facts = parse(text).unwrap();
        assert_eq!((facts.state, facts.session, facts.started), ('S', 70, 4711));
        for cut in 0..text.len() - 4 {
            assert!(parse(&text[..cut]).is_none_or(|facts| facts.started != 4711));
        }
    }

    #[test]
    fn a_process_with_a_used_number_is_left_alone() {
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(other.id()).unwrap();
        let real = Leader::of(pid).unwrap();
        let former = Leader { started: real.started - 1, ..real };
        assert!(real.is_there() && !former.is_there());

        Processes { leader: former, cgroup: None }.end();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(other.try_wait().unwrap(), None, "it has another start time, and lives");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn nobody_is_never_everybody() {
        for pid in [-1, 0, 1] {
            let processes = Processes { leader: Leader { pid, started: 0 }, cgroup: None };
            assert!(processes.leader.as_pid().is_none());
            assert!(!processes.end_session());
        }
    }
}
