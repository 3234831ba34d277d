//! The keeper with a process that speaks as the real one does: this program once more, at the test `stand_in`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::super::memory::Memory;
use super::super::{Files, Ground, Modules};
use crate::config::{Config, parse};
use crate::driver::scripts::tests::TempDir;
use crate::driver::{clock, inbox};
use crate::types::mirror::{CopyInfo, LatencyInfo, MirrorOrder, ReplicaReply, ReplicaRequest, SyncState};
use crate::types::module::{ModuleState, Role, Status, Verb};
use crate::types::replica::MirrorRole;
use crate::types::{Command, NodeId, Reply, Snapshot};

const FILE: &str = "
cluster:
  name: shop
  networks: [{ name: lan }]
  nodes:
    - { name: web1, addresses: { lan: 10.99.0.1 } }
    - { name: web2, addresses: { lan: 10.99.0.2 } }
modules:
  - { name: db, kind: mirror, replicate: [{ directory: /srv/db }], start: { boot: off } }
";

/// Each step takes milliseconds; more means a hang.
const PATIENCE: Duration = Duration::from_secs(20);
/// Set by the script that starts this program as the process of a mirror: its arguments, and how it behaves.
const ARGUMENTS: &str = "SAFEKIT_STAND_IN";

#[test]
#[ignore = "the process of the other tests, which start it"]
fn stand_in() {
    let words = std::env::var(ARGUMENTS).expect("it is started by a script of the other tests");
    let after = |name: &str| {
        let mut words = words.split(' ').skip_while(|word| *word != name).skip(1);
        words.next().expect("the keeper says it").to_owned()
    };
    assert!(words.starts_with("replica --module db ") && after("--node") == "web1", "{words}");
    let is_deaf = words.ends_with("deaf");
    let socket = Path::new(&after("--run-dir")).join("replica-db.sock");
    let _stale = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("its run directory is there");
    println!("it listens");
    let role = Arc::new(Mutex::new(MirrorRole::Wait));
    for stream in listener.incoming().flatten() {
        let role = Arc::clone(&role);
        std::thread::spawn(move || serve(stream, &role, is_deaf));
    }
}

fn serve(stream: UnixStream, role: &Mutex<MirrorRole>, is_deaf: bool) {
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines().map_while(Result::ok);
    let say = |reply: &ReplicaReply| {
        let line = serde_json::to_string(reply).expect("a reply is plain data") + "\n";
        (&stream).write_all(line.as_bytes()).is_ok()
    };
    let Some(line) = lines.next() else { return };
    match serde_json::from_str(&line).expect("the keeper speaks the language") {
        ReplicaRequest::Watch => {
            let copies = || ReplicaReply::Copies { copies: vec![copy(*role.lock().expect("no panic"))] };
            while say(&copies()) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        ReplicaRequest::Order { order: MirrorOrder::Prim { force: false } } => {
            say(&ReplicaReply::Refused { error: "web2 may be newer".into(), next_step: "force it".into() });
        }
        ReplicaRequest::Order { .. } => {
            *role.lock().expect("no panic") = MirrorRole::Alone;
            say(&ReplicaReply::Taken);
        }
        ReplicaRequest::Stop if is_deaf => {}
        ReplicaRequest::Stop => {
            say(&ReplicaReply::Taken);
            std::process::exit(0);
        }
    }
}

fn copy(role: MirrorRole) -> CopyInfo {
    CopyInfo {
        directory: "/srv/db".into(),
        role,
        generation: None,
        sync: SyncState::Unknown,
        why: "the stand-in says so".into(),
        cannot_lead: None,
        connected: false,
        frozen: false,
        behind_operations: 0,
        behind_bytes: 0,
        recorded_regions: 0,
        write_latency: LatencyInfo::default(),
        flush_latency: LatencyInfo::default(),
        stalls: 0,
        refused: 0,
        sent_bytes: 0,
        received_bytes: 0,
        resync: None,
        verification: None,
    }
}

/// Of a heartbeat thread that mirrors do not ask anything.
fn nothing() -> Snapshot {
    let text = serde_json::json!({
        "apiVersion": "v1", "cluster": "shop", "node": "web1", "boot": "", "taken": 0, "verdict": "CONVERGED",
        "summary": "", "state": "active", "view": 0, "viewSince": 0, "nodes": [], "farms": [], "generation": 0,
        "changing": false, "warnings": [], "undelivered": [], "events": [],
        "heartbeat": { "intervalMs": 25, "timeoutMs": 200, "leaseMs": 100, "realtime": false,
            "latenessMaxUs": 0, "rejected": 0, "unsent": 0 },
    });
    serde_json::from_value(text).expect("a snapshot")
}

struct Bench {
    dir: TempDir,
    config: Config,
}

/// A life of the daemon.
struct Life {
    modules: Modules,
    happened: mpsc::Receiver<super::super::Happened>,
    _snapshots: watch::Sender<Arc<Snapshot>>,
    _remotes: watch::Sender<Arc<Vec<crate::driver::check::Remote>>>,
}

impl Bench {
    /// `how`: one more word for the stand-in.
    fn new(how: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = TempDir::new("mirror");
        let program = std::env::current_exe().expect("a test is a program");
        let script = format!(
            "#!/bin/sh\nexport {ARGUMENTS}=\"$* {how}\"\nexec {} --exact driver::modules::mirror::tests::stand_in --ignored --nocapture\n",
            program.display()
        );
        std::fs::write(dir.path().join("program"), script.replace(" \"\n", "\"\n")).expect("a directory");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path().join("program"), executable).expect("a file");
        Self { dir, config: parse(FILE, "mirror.yaml").expect("a mirror") }
    }

    fn live(&self) -> Life {
        let (happen, happened) = mpsc::channel(64);
        let (snapshots, snapshots_seen) = watch::channel(Arc::new(nothing()));
        let (remotes, remotes_seen) = watch::channel(Arc::new(Vec::new()));
        let path = |name: &str| self.dir.path().join(name);
        let ground = Ground {
            config: self.config.clone(),
            me: NodeId(0),
            state_dir: path("state"),
            files: Files { program: path("program"), config: path("mirror.yaml"), run_dir: path("") },
            inbox: inbox::inbox().expect("descriptors").0,
            snapshots: snapshots_seen,
            remotes: remotes_seen,
            happened: happen,
        };
        let memory = Memory::load(&self.config, NodeId(0), &path("state"));
        Life { modules: Modules::start(ground, memory), happened, _snapshots: snapshots, _remotes: remotes }
    }
}

impl Life {
    async fn ask(&self, command: Command) -> Reply {
        let (answer, answered) = oneshot::channel();
        self.modules.ask(command, "root".into(), answer).await;
        timeout(PATIENCE, answered).await.expect("in time").expect("an answer")
    }

    async fn verb(&self, verb: Verb) {
        let reply = self.ask(Command::Module { module: "db".into(), verb }).await;
        assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");
    }

    async fn order(&self, order: MirrorOrder) -> Reply {
        self.ask(Command::Mirror { module: "db".into(), order }).await
    }

    /// Its process, once it is there.
    async fn until(&self, role: Role, status: Status) -> Option<u32> {
        let mut infos = self.modules.board.infos();
        let is_so = |all: &Arc<Vec<crate::types::ModuleInfo>>| all[0].state == ModuleState::new(role, status);
        let seen = timeout(PATIENCE, infos.wait_for(is_so)).await;
        seen.unwrap_or_else(|_| panic!("{:?}", self.modules.board.infos().borrow())).expect("a keeper");
        let mut mirrors = self.modules.board.mirrors();
        let settled = |all: &Arc<Vec<crate::types::mirror::MirrorInfo>>| {
            all[0].process.is_some() == (role != Role::Stop)
        };
        let seen = timeout(PATIENCE, mirrors.wait_for(settled)).await.expect("in time").expect("a keeper");
        seen[0].process
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_started_ordered_found_again_and_stopped() {
    let bench = Bench::new("");
    let life = bench.live();
    let refused = life.order(MirrorOrder::Prim { force: true }).await;
    assert!(
        matches!(&refused, Reply::Refused { next_step, .. } if next_step == "`safekit start db`"),
        "{refused:?}"
    );
    life.verb(Verb::Start).await;
    let process = life.until(Role::Wait, Status::NotReady).await;
    let refused = life.order(MirrorOrder::Prim { force: false }).await;
    assert!(matches!(&refused, Reply::Refused { error, .. } if error == "web2 may be newer"), "{refused:?}");
    assert!(matches!(life.order(MirrorOrder::Prim { force: true }).await, Reply::Accepted { .. }));
    assert_eq!(life.until(Role::Alone, Status::Ready).await, process);
    assert_eq!(life.modules.board.mirrors().borrow()[0].copies[0].directory, "/srv/db");
    life.modules.hand_over().await;
    drop(life);

    let life = bench.live();
    assert_eq!(
        life.until(Role::Alone, Status::Ready).await,
        process,
        "the same process, found by its socket"
    );
    life.modules.shut_down("the daemon is stopped").await;
    assert_eq!(life.until(Role::Stop, Status::NotReady).await, None);
    assert!(UnixStream::connect(bench.dir.path().join("replica-db.sock")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_is_told_and_started_again() {
    let bench = Bench::new("");
    let mut life = bench.live();
    life.verb(Verb::Start).await;
    let first = life.until(Role::Wait, Status::NotReady).await.expect("a process");
    assert!(matches!(life.order(MirrorOrder::Prim { force: true }).await, Reply::Accepted { .. }));
    life.until(Role::Alone, Status::Ready).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(first).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is there");
    let told = timeout(PATIENCE, async {
        loop {
            let it = life.happened.recv().await.expect("a keeper");
            if it.kind == "process" {
                return it;
            }
        }
    });
    let cause = told.await.expect("in time").cause.expect("a cause");
    assert_eq!(cause, "signal 9: it listens");
    let mut mirrors = life.modules.board.mirrors();
    let another = |all: &Arc<Vec<crate::types::mirror::MirrorInfo>>| {
        all[0].process.is_some_and(|pid| pid != first) && !all[0].copies.is_empty()
    };
    timeout(PATIENCE, mirrors.wait_for(another)).await.expect("in time").expect("a keeper");
    life.verb(Verb::Stop).await;
    life.until(Role::Stop, Status::NotReady).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_end_when_asked_is_ended() {
    let bench = Bench::new("deaf");
    let life = bench.live();
    life.verb(Verb::Start).await;
    life.until(Role::Wait, Status::NotReady).await;
    let began = clock::now();
    life.verb(Verb::Forcestop).await;
    life.until(Role::Stop, Status::NotReady).await;
    assert!(clock::now().since(began) >= crate::config::mirror::FORCED_STOP_TIMEOUT);
}
