//! What scripts are told, and what is kept of what they say.

use super::*;
use crate::driver::scripts::output::FILE_BYTES_MAX;
use crate::driver::scripts::records::RUNS_KEPT;

#[tokio::test]
async fn a_script_knows_what_it_is_run_for() {
    let script = "env | sort; echo \"arguments: $@\"; pwd; read line || echo no input";
    let mut bench = Bench::new("told", &[(Script::StartBoth, script), (Script::StopBoth, script)]);
    let order = bench.order(Script::StartBoth);
    assert_eq!(bench.run(order).await, ScriptEnd::Done);

    let text = bench.text(&bench.runs()[0]);
    let module = bench.place.module.clone();
    for expected in [
        "APP_PORT=8080",
        "SAFEKIT_ACTION=start",
        "SAFEKIT_CAUSE=asked by admin",
        "SAFEKIT_FORCE=0",
        "SAFEKIT_FROM=WAIT",
        "SAFEKIT_NODE=web1",
        "SAFEKIT_ROLE=UP",
        "SAFEKIT_TO=UP",
        &format!("SAFEKIT_MODULE={module}"),
        "arguments: WAIT UP start",
        bench.place.directory.to_str().unwrap(),
        "no input",
        "[safekit: ended well]",
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected} in {text}");
    }
    let foreign = text.lines().find(|line| line.starts_with("CARGO") || line.starts_with("RUST"));
    assert_eq!(foreign, None, "nothing of the daemon's own environment");

    let stop = bench.order(Script::StopBoth);
    let stop = Run { force: true, from: Role::Up, to: Role::Wait, action: "stopstart".into(), ..stop };
    assert_eq!(bench.run(stop).await, ScriptEnd::Done);
    let text = bench.text(&bench.runs()[1]);
    for expected in ["arguments: force UP WAIT stopstart", "SAFEKIT_FORCE=1", "SAFEKIT_ROLE=UP"] {
        assert!(text.lines().any(|line| line == expected), "{expected} in {text}");
    }
}

#[tokio::test]
async fn a_file_alone_gets_the_arguments() {
    let mut bench = Bench::new("file", &[(Script::StartBoth, "start.sh")]);
    let file = bench.place.directory.join("start.sh");
    std::fs::write(&file, "#!/bin/sh\necho \"$# $*\"\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let order = bench.order(Script::StartBoth);
    assert_eq!(bench.run(order).await, ScriptEnd::Done);
    assert!(bench.text(&bench.runs()[0]).starts_with("3 WAIT UP start\n"));
}

#[tokio::test]
async fn each_end_says_how_it_came() {
    let exit = |code, last_line: &str| ScriptEnd::Failed { code: Some(code), last_line: last_line.into() };
    for (script, expected) in [
        ("true", ScriptEnd::Done),
        ("echo fine; exit 3", exit(3, "fine")),
        ("echo out; echo no disk >&2; exit 1", exit(1, "no disk")),
        ("no-such-program-here", exit(127, &format!("{}: 1: no-such-program-here: not found", "MODULE"))),
        ("kill -9 $$", ScriptEnd::Failed { code: None, last_line: "signal 9".into() }),
    ] {
        let mut bench = Bench::new("ends", &[(Script::StartPrim, script)]);
        let order = bench.order(Script::StartPrim);
        let end = bench.run(order).await;
        let module = bench.place.module.clone();
        let end = match end {
            ScriptEnd::Failed { code, last_line } => {
                ScriptEnd::Failed { code, last_line: last_line.replace(&module, "MODULE") }
            }
            end => end,
        };
        assert_eq!(end, expected, "{script}");
        let runs = bench.runs();
        assert_eq!(runs.len(), 1);
        assert!(runs[0].end.is_some() && runs[0].took_ms.is_some());
        assert_eq!((runs[0].script.as_str(), runs[0].cause.as_str()), ("start_prim", "asked by admin"));
    }
}

#[tokio::test]
async fn a_script_without_a_directory_is_not_started() {
    let mut bench = Bench::new("nowhere", &[(Script::StartBoth, "true")]);
    bench.place.directory = bench.dir.path().join("gone");
    bench.runner.move_to(bench.place.clone());
    let order = bench.order(Script::StartBoth);
    let ScriptEnd::NotStarted { why } = bench.run(order).await else { panic!("it cannot be started") };
    assert!(why.starts_with("there is no directory") && why.ends_with("gone"), "{why}");
}

#[tokio::test]
async fn a_flood_is_bounded_and_never_blocks_the_script() {
    let flood = "echo first; yes 'a line of a flood' | head -c 60000000; echo; echo last";
    let mut bench = Bench::new("flood", &[(Script::StartBoth, flood)]);
    let order = bench.order(Script::StartBoth);
    assert_eq!(bench.run(order).await, ScriptEnd::Done);
    let run = &bench.runs()[0];
    assert!(run.bytes <= FILE_BYTES_MAX, "{} bytes", run.bytes);
    let text = bench.text(run);
    assert_eq!(text.len() as u64, run.bytes, "all pages together");
    assert!(text.starts_with("first\n") && text.contains("\nlast\n"), "{}", &text[text.len() - 200..]);
    let mark = format!("\n[… {} bytes dropped]\n", run.dropped);
    assert!(text.contains(&mark));
    let printed = "first\n".len() + 60_000_000 + "\nlast\n[safekit: ended well]\n".len();
    let kept = text.len() - mark.len();
    assert_eq!(run.dropped, (printed - kept) as u64, "not one byte is unaccounted for");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_keeps_no_script_from_running() {
    let mut bench = Bench::new("full", &[(Script::StopBoth, "echo lost; touch was-here")]);
    // A file where the directory of the logs should be.
    std::fs::create_dir_all(&bench.place.state_dir).unwrap();
    std::fs::write(bench.place.state_dir.join("modules"), "").unwrap();
    let order = bench.order(Script::StopBoth);
    assert_eq!(bench.run(order).await, ScriptEnd::Done);
    assert!(bench.place.directory.join("was-here").exists());
    assert_eq!(bench.runs(), []);
}

#[tokio::test]
async fn the_last_runs_are_kept() {
    let mut bench = Bench::new("many", &[(Script::Transition, "true"), (Script::StartBoth, "true")]);
    for _ in 0..RUNS_KEPT + 5 {
        let order = bench.order(Script::Transition);
        assert_eq!(bench.run(order).await, ScriptEnd::Done);
    }
    let order = bench.order(Script::StartBoth);
    bench.run(order).await;
    let runs = bench.runs();
    assert_eq!(runs.len(), RUNS_KEPT);
    assert_eq!(runs.last().unwrap().script, "start_both", "the newest last");
    assert!(runs.windows(2).all(|pair| pair[0].name < pair[1].name), "by time");

    let of = |script: &str| match logs::runs(&bench.place.state_dir, &bench.place.module, Some(script), 3) {
        Reply::Runs { runs } => runs.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((of("start_both"), of("start"), of("transition"), of("st")), (1, 1, 3, 0));
}

#[tokio::test]
async fn nobody_reads_other_files_through_the_logs() {
    let bench = Bench::new("paths", &[]);
    for run in ["../state", "../../../../etc/passwd", "", "."] {
        let reply = logs::page(&bench.place.state_dir, &bench.place.module, run, 0);
        assert!(matches!(reply, Reply::Refused { .. }), "{run}");
    }
}
