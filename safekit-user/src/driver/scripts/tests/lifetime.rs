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

#[tokio::test]
async fn what_a_dead_daemon_has_left_is_ended() {
    // The runner's process is not killed here (the lab does that): its task is, together with its runtime.
    let mut bench =
        Bench::new("left", &[(Script::StartBoth, "sleep 600 & echo $! > child; echo $$ > leader; wait")]);
    let order = bench.order(Script::StartBoth);
    bench.runner.run(order);
    let (leader, child) = (bench.pid("leader").await, bench.pid("child").await);
    let (ended, _ends) = mpsc::channel(1);
    let mut successor = Runner::new(bench.place.clone(), ended);
    successor.end_leftovers().await;
    assert!(dies(leader) && dies(child));
    let runs = bench.runs();
    assert_eq!(runs[0].end, Some(ScriptEnd::Killed), "and its record says so");
}
