//! Who lives on after a run, and who is ended with it.

use super::*;
use crate::driver::clock;
use crate::driver::scripts::processes::{Leader, Processes};

#[tokio::test]
async fn a_server_left_behind_lives_on_and_keeps_printing() {
    let script = "(while :; do echo alive; sleep 0.02; done) & echo $! > server";
    let mut bench = Bench::new("server", &[(Script::StartBoth, script), (Script::StopBoth, "true")]);
    let order = bench.order(Script::StartBoth);
    assert_eq!(bench.run(order).await, ScriptEnd::Done, "an open output does not keep a run from ending");
    let server = bench.pid("server").await;
    let size = |bench: &Bench| std::fs::metadata(&bench.runs()[0].path).unwrap().len();
    let before = size(&bench);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(lives(server));
    assert!(size(&bench) > before, "it has somewhere to print to");

    // Another graceful stop, and another start, leave it alone too.
    let order = bench.order(Script::StopBoth);
    assert_eq!(bench.run(order).await, ScriptEnd::Done);
    assert!(lives(server));
    if !has_cgroups(&bench) {
        Processes { leader: Leader { pid: server, started: 0 }, cgroup: None }.end();
        let _gone = rustix::process::kill_process(
            rustix::process::Pid::from_raw(server).unwrap(),
            rustix::process::Signal::KILL,
        );
        return;
    }
    let order = bench.order(Script::StopBoth);
    assert_eq!(bench.run(Run { force: true, ..order }).await, ScriptEnd::Done);
    assert!(dies(server), "a forced stop leaves nothing behind");
}

#[tokio::test]
async fn a_script_that_hangs_is_ended_with_all_that_it_has_started() {
    // A child, one that ignores requests to end, and one with a session of its own.
    let script = "sleep 600 & echo $! > child; (trap '' TERM; sleep 600) & echo $! > deaf; \
                  setsid sh -c 'echo $$ > away; trap \"\" TERM; sleep 600' & trap '' TERM; wait; sleep 600";
    let mut bench = Bench::new("hang", &[(Script::StartBoth, script)]);
    let cgroups = has_cgroups(&bench);
    let order = bench.order(Script::StartBoth);
    let begun = clock::now();
    let end = bench.run(Run { timeout: Duration::from_millis(700), ..order }).await;
    let took = clock::now().since(begun);
    assert_eq!(end, ScriptEnd::TimedOut);
    assert!(took > Duration::from_millis(600) && took < Duration::from_secs(8), "{took:?}");
    for name in ["child", "deaf"] {
        assert!(dies(bench.pid(name).await), "{name}");
    }
    let away = bench.pid("away").await;
    if cgroups {
        assert!(dies(away), "its cgroup keeps what has left the session");
    } else {
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(away).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    }
    assert_eq!(bench.runs()[0].end, Some(ScriptEnd::TimedOut));
}

#[tokio::test]
async fn a_kill_ends_the_run_that_is_meant() {
    let mut bench = Bench::new("kill", &[(Script::StartBoth, "echo $$ > leader; sleep 600")]);
    let order = bench.order(Script::StartBoth);
    bench.runner.run(order);
    let leader = bench.pid("leader").await;
    bench.runner.kill(RunId(77));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(lives(leader), "another run was meant");
    bench.runner.kill(RunId(1));
    assert_eq!(bench.end().await, ScriptEnd::Killed);
    assert!(dies(leader));
}

#[tokio::test]
async fn there_is_one_script_at_a_time() {
    let scripts = [(Script::StartBoth, "echo $$ > leader; sleep 600"), (Script::StopBoth, "touch overtaken")];
    let mut bench = Bench::new("one", &scripts);
    let first = bench.order(Script::StartBoth);
    bench.runner.run(first);
    bench.pid("leader").await;
    let second = bench.order(Script::StopBoth);
    assert!(matches!(bench.run(second).await, ScriptEnd::NotStarted { .. }));
    assert!(!bench.place.directory.join("overtaken").exists());

    bench.runner.kill(RunId(1));
    let (run, end) = timeout(END_TIMEOUT, bench.ends.recv()).await.unwrap().unwrap();
    assert_eq!((run, end), (RunId(1), ScriptEnd::Killed));
    let third = bench.order(Script::StopBoth);
    assert_eq!(bench.run(third).await, ScriptEnd::Done);
}

#[tokio::test]
async fn nothing_of_the_daemon_is_open_in_a_script() {
    let mut bench = Bench::new("files", &[(Script::StartBoth, "ls /proc/self/fd | tr '\\n' ' '")]);
    let file = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let order = bench.order(Script::StartBoth);
    assert_eq!(bench.run(order).await, ScriptEnd::Done);
    // The fourth is the directory that ls itself reads.
    let text = bench.text(&bench.runs()[0]);
    assert!(text.starts_with("0 1 2 3 [safekit"), "{text}");
}

/// Where the process that plays the daemon finds its bench.
const BENCH: &str = "SAFEKIT_TEST_BENCH";

#[tokio::test]
async fn what_a_killed_daemon_has_left_is_ended_by_the_next() {
    let mut bench = Bench::new("left", &[(Script::StartBoth, HANGS)]);
    let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "driver::scripts::tests::lifetime::plays_the_daemon"])
        .env(BENCH, bench.dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (leader, child) = (bench.pid("leader").await, bench.pid("child").await);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(lives(leader) && lives(child), "nobody has ended them yet");

    bench.runner.end_leftovers().await;
    assert!(dies(leader) && dies(child));
    assert_eq!(bench.runs()[0].end, Some(ScriptEnd::Killed), "and its record says so");
    let order = bench.order(Script::StopBoth);
    assert_eq!(bench.run(order).await, ScriptEnd::Done, "the next run is not hindered");
}

const HANGS: &str = "sleep 600 & echo $! > child; echo $$ > leader; wait";

/// No test of its own: the process that [`what_a_killed_daemon_has_left_is_ended_by_the_next`] kills.
#[tokio::test]
#[ignore = "another test runs it"]
async fn plays_the_daemon() {
    let dir = PathBuf::from(std::env::var_os(BENCH).expect("another test runs it"));
    let mut bench = Bench::new("daemon", &[(Script::StartBoth, HANGS)]);
    bench.place.state_dir = dir.join("state");
    bench.place.directory = dir.join("app");
    bench.place.module = dir.file_name().unwrap().to_str().unwrap().to_owned();
    bench.runner.move_to(bench.place.clone());
    let order = bench.order(Script::StartBoth);
    bench.run(order).await;
}

#[tokio::test]
async fn a_record_with_a_used_process_number_ends_nobody() {
    let mut bench = Bench::new("reused", &[(Script::StartBoth, "true")]);
    let order = bench.order(Script::StartBoth);
    bench.run(order).await;
    // As if the daemon had died, and another process had got the number of its script.
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let path = PathBuf::from(&bench.runs()[0].path).with_extension("json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(record["processes"]["leader"]["pid"].is_number(), "{record}");
    record["processes"]["leader"]["pid"] = other.id().into();
    record["end"] = serde_json::Value::Null;
    for ending in [false, true] {
        record["ending"] = ending.into();
        std::fs::write(&path, record.to_string()).unwrap();
        let (ended, _ends) = mpsc::channel(1);
        Runner::new(bench.place.clone(), ended).end_leftovers().await;
        assert!(bench.runs()[0].end.is_some());
        assert_eq!(other.try_wait().unwrap(), None, "it is another one's");
    }
    other.kill().unwrap();
    other.wait().unwrap();
}
