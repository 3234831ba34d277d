//! Runs of real scripts: what they are told, what is kept of them, and how they are ended.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Place, Run, Runner, cgroup, logs};
use crate::config::upkeep::ScriptSpec;
use crate::types::Reply;
use crate::types::logs::ScriptRun;
use crate::types::module::{Role, RunId, Script, ScriptEnd};

mod lifetime;
mod served;
mod told;

/// Gone with the test.
pub(in crate::driver) struct TempDir(PathBuf);

impl TempDir {
    pub(in crate::driver) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("safekit-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(in crate::driver) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// A module whose scripts are given by the story.
struct Bench {
    dir: TempDir,
    place: Place,
    runner: Runner,
    ends: mpsc::Receiver<(RunId, ScriptEnd)>,
    next: u64,
}

/// Every script of these tests ends within a second; more means a hang.
const END_TIMEOUT: Duration = Duration::from_secs(20);

impl Bench {
    fn new(name: &str, scripts: &[(Script, &str)]) -> Self {
        let dir = TempDir::new(name);
        let app = dir.path().join("app");
        std::fs::create_dir_all(&app).unwrap();
        let spec = |(script, run): &(Script, &str)| ScriptSpec {
            script: *script,
            run: (*run).to_owned(),
            timeout: Duration::from_secs(10),
        };
        let place = Place {
            state_dir: dir.path().join("state"),
            // Cgroups are the machine's: tests beside each other need names of their own.
            module: dir.path().file_name().unwrap().to_str().unwrap().to_owned(),
            node: "web1".to_owned(),
            directory: app,
            variables: vec![("APP_PORT".to_owned(), "8080".to_owned())],
            scripts: scripts.iter().map(spec).collect(),
            services: Vec::new(),
        };
        let (ended, ends) = mpsc::channel(8);
        let runner = Runner::new(place.clone(), ended);
        Self { dir, place, runner, ends, next: 0 }
    }

    fn order(&mut self, script: Script) -> Run {
        self.next += 1;
        Run {
            run: RunId(self.next),
            script,
            force: false,
            from: Role::Wait,
            to: Role::Up,
            action: "start".to_owned(),
            cause: "asked by admin".to_owned(),
            timeout: Duration::from_secs(10),
        }
    }

    async fn run(&mut self, order: Run) -> ScriptEnd {
        self.runner.run(order);
        self.end().await
    }

    async fn end(&mut self) -> ScriptEnd {
        let (run, end) = timeout(END_TIMEOUT, self.ends.recv()).await.expect("it ends").expect("it lives");
        assert_eq!(run, RunId(self.next), "the end of the run that was started last");
        end
    }

    fn runs(&self) -> Vec<ScriptRun> {
        match logs::runs(&self.place.state_dir, &self.place.module, None, 100) {
            Reply::Runs { runs } => runs,
            other => panic!("{other:?}"),
        }
    }

    fn text(&self, run: &ScriptRun) -> String {
        let mut text = String::new();
        let mut from = 0;
        loop {
            let reply = logs::page(&self.place.state_dir, &self.place.module, &run.name, from);
            let Reply::LogPage { page } = reply else { panic!("{reply:?}") };
            text.push_str(&page.text);
            from = page.next;
            if page.is_last {
                return text;
            }
        }
    }

    /// A file that a script wrote: the number of one of its processes.
    async fn pid(&self, name: &str) -> i32 {
        let path = self.place.directory.join(name);
        for _ in 0..400 {
            if let Some(pid) = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no script wrote {}", path.display());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        cgroup::sweep(&self.place.module);
    }
}

/// Not gone, and no zombie.
fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn dies(pid: i32) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        !lives(pid)
    })
}

/// Whether this machine gives a script a cgroup; the lab demands it.
fn has_cgroups(bench: &Bench) -> bool {
    let made = cgroup::Cgroup::make(&bench.place.module, "try");
    let has = made.is_some();
    if let Some(cgroup) = made {
        cgroup.remove_if_empty();
    }
    let demanded = std::env::var_os("SAFEKIT_LAB").is_some_and(|value| value == "1");
    assert!(has || !demanded, "SAFEKIT_LAB=1, and no cgroup (version 2) can be made");
    has
}
