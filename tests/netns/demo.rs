//! The demo as its users run it: the binary, its output, and what it leaves on the machine.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use safekit::front::demo::prefix::Prefix;
use safekit_tests::lab;
use serde_json::Value;

#[test]
fn the_story_meets_its_bars_and_leaves_nothing() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let demo = Command::new(lab::binary()?)
        .args(["demo", "--script", "kill,revive,stop,start", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let run = Prefix { pid: demo.id(), number: 0 };
    let output = demo.wait_with_output()?;
    let progress = String::from_utf8_lossy(&output.stderr);
    let json: Value =
        serde_json::from_slice(&output.stdout).with_context(|| progress.clone().into_owned())?;
    assert_eq!(output.status.code(), Some(0), "{json:#}\n{progress}");
    assert_eq!(json["apiVersion"], "v1");
    assert_eq!(json["nodes"], 3);
    assert_eq!(json["ok"], true);
    let steps = json["steps"].as_array().context("steps")?;
    let names: Vec<&str> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(names, ["kill", "revive", "stop", "start"]);
    for step in steps {
        for figure in ["detected_ms", "converged_ms", "requests"] {
            assert!(step[figure].as_f64().is_some_and(|value| value > 0.0), "{figure} of {step:#}");
        }
        for nothing in ["requests_failed_after_convergence", "long_connections_on_other_nodes_broken"] {
            assert_eq!(step[nothing], 0, "{step:#}");
        }
        assert_eq!(step["share"].as_object().context("share")?.len(), 3);
    }
    assert_eq!(lab::leftovers_of(run), Vec::<String>::new());
    Ok(())
}

#[test]
fn an_interrupted_demo_removes_everything() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    for signal in [Signal::INT, Signal::TERM] {
        let (mut demo, run) = under_way()?;
        kill_process(Pid::from_child(&demo), signal)?;
        let status = demo.wait()?;
        assert_eq!(status.code(), Some(1), "{status}");
        assert_eq!(lab::leftovers_of(run), Vec::<String>::new());
    }
    Ok(())
}

/// SIGKILL leaves the demo no time: its processes die with it, the rest is removed by the next `clean`.
#[test]
fn a_killed_demo_is_cleaned_up_after() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let (mut demo, run) = under_way()?;
    demo.kill()?;
    demo.wait()?;
    lab::wait_until("its processes are gone", Duration::from_secs(20), || {
        !lab::leftovers_of(run).iter().any(|left| left.starts_with("process"))
    })?;
    assert!(!lab::leftovers_of(run).is_empty(), "a demo that leaves nothing when killed tests nothing here");
    let cleaned = lab::safekit(&["demo", "clean"])?;
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert_eq!(lab::leftovers_of(run), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_script_that_cannot_work_is_refused_before_anything_is_made() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let refused = lab::safekit(&["demo", "--script", "revive"])?;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(refused.stdout.is_empty(), "{refused:?}");
    Ok(())
}

/// A demo whose client is at work.
fn under_way() -> anyhow::Result<(Child, Prefix)> {
    let mut demo = Command::new(lab::binary()?)
        .args(["demo", "--script", "kill,revive", "--json"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let run = Prefix { pid: demo.id(), number: 0 };
    let progress = BufReader::new(demo.stderr.take().context("stderr is piped")?);
    let mut lines = progress.lines();
    let mut seen = Vec::new();
    loop {
        let line = lines.next().with_context(|| format!("the demo ended early: {seen:#?}"))??;
        let loses = line.contains("loses its power");
        seen.push(line);
        if loses {
            break;
        }
    }
    // Somebody has to read on, or the demo stops at a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    Ok((demo, run))
}
