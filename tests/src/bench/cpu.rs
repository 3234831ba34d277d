//! Processor time, counted in two ways that have to agree on an idle machine.
//!
//! - **The lab's own**: what the scheduler says of each thread of the lab's processes, of the load client's thread and
//!   of the kernel's softirq threads. Exact to the nanosecond, and blind to what else the machine does. Between
//!   namespaces a frame travels in the context of whoever sent it, so the switch, the filters and the stacks are in it.
//! - **The machine's**: all that was not idle in /proc/stat, which has steps of 10 ms.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use safekit::driver::clock;
use safekit::types::Instant;

/// /proc/stat counts in these, whatever the kernel's own tick (USER_HZ, proc(5)).
const STEP: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    lab: Duration,
    client: Duration,
    idle: Duration,
    cpus: u32,
}

/// Between two readings.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub lab: Duration,
    /// The load client's thread alone; part of `lab`.
    pub client: Duration,
    pub machine: Duration,
    pub elapsed: Duration,
}

impl Reading {
    /// For the client's thread to call: the time of its own thread is counted, not that of the rest of the benchmark.
    pub fn take(processes: &[Pid]) -> Result<Self> {
        let mut lab = Duration::ZERO;
        for pid in processes {
            lab += process(&format!("/proc/{}", pid.as_raw_nonzero()));
        }
        let client = thread(Path::new("/proc/thread-self"));
        let (idle, cpus) = idle(&std::fs::read_to_string("/proc/stat")?)?;
        Ok(Self { at: clock::now(), lab: lab + client, client, idle, cpus })
    }

    pub fn until(&self, later: &Self) -> Spent {
        let elapsed = later.at.since(self.at);
        Spent {
            lab: later.lab.saturating_sub(self.lab),
            client: later.client.saturating_sub(self.client),
            machine: (elapsed * self.cpus).saturating_sub(later.idle.saturating_sub(self.idle)),
            elapsed,
        }
    }
}

/// Threads that the kernel gives deferred network work to.
pub fn softirq_threads() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let softirq = entries.filter(|entry| {
        std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
    });
    softirq.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// All threads of a process; nothing when it has ended.
fn process(path: &str) -> Duration {
    let tasks = std::fs::read_dir(Path::new(path).join("task")).into_iter().flatten().flatten();
    tasks.map(|task| thread(&task.path())).sum()
}

/// Nanoseconds on a processor are the first word of schedstat (Documentation/scheduler/sched-stats).
fn thread(path: &Path) -> Duration {
    let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
    let word = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(word.unwrap_or_default())
}

/// Idle time of all processors, and how many they are. Time that a hypervisor took away was not spent either.
fn idle(stat: &str) -> Result<(Duration, u32)> {
    let total = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u32> = total.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let field = |index: usize| fields.get(index).copied().context("/proc/stat has another first line");
    let steps = field(3)? + field(4)? + field(7)?;
    let cpus = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
    Ok((STEP * steps, u32::try_from(cpus)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::idle;

    #[test]
    fn idle_is_what_nobody_used() {
        let stat = "cpu  10 20 30 400 50 6 7 8 0 0\ncpu0 5 10 15 200 25 3 3 4 0 0\ncpu1 5 10 15 200 25 3 4 4 0 0\nintr 1\n";
        assert_eq!(idle(stat).unwrap(), (Duration::from_millis(4580), 2));
        assert!(idle("").is_err());
        assert!(idle("cpu  1 2 3\n").is_err());
    }

    #[test]
    fn work_is_noticed() {
        let before = super::Reading::take(&[]).unwrap();
        let mut value = 1_u64;
        while before.until(&super::Reading::take(&[]).unwrap()).client < Duration::from_millis(5) {
            value = std::hint::black_box(value.wrapping_mul(3));
        }
        let spent = before.until(&super::Reading::take(&[]).unwrap());
        // The scheduler's account of a running thread may be a tick old, at the beginning as at the end.
        let tick = Duration::from_millis(10);
        assert!(spent.lab == spent.client && spent.elapsed + tick >= spent.client, "{spent:?}");
    }
}
