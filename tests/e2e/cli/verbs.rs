//! What each command about modules, checks, configurations and other nodes says, word by word, at a real farm.
//!
//! `verbs.txt` and `help.txt` are what a user sees. `SAFEKIT_BLESS=1` writes them anew, for reading in the diff.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Signal, kill_process};
use safekit_tests::lab;

use crate::stage::{N1, N2, N3, PATIENCE, Stage};

const SEEN: &str = include_str!("verbs.txt");
const HELP: &str = include_str!("help.txt");

const VERBS: [&str; 45] = [
    "start",
    "stop",
    "restart",
    "stopstart",
    "forcestop",
    "prim",
    "second",
    "mirror",
    "mirror status",
    "mirror verify",
    "status",
    "wait",
    "module",
    "module explain",
    "resource",
    "resource list",
    "resource get",
    "resource set",
    "check",
    "check list",
    "check off",
    "check on",
    "check set",
    "logs",
    "config",
    "config check",
    "config show",
    "config apply",
    "config diff",
    "config history",
    "config rollback",
    "keygen",
    "farm show",
    "farm explain",
    "weight",
    "drain",
    "undrain",
    "reload",
    "events",
    "audit",
    "doctor",
    "snapshot",
    "config schema",
    "completions",
    "man",
];

#[test]
fn help_reads_well() -> Result<()> {
    let mut text = String::new();
    for verb in VERBS {
        let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let output = lab::safekit(&words)?;
        ensure!(output.status.success(), "{verb}: {output:?}");
        text += &format!("== safekit {verb} --help\n{}\n", String::from_utf8(output.stdout)?);
    }
    for pair in text.lines().collect::<Vec<_>>().windows(2) {
        let is_bare = pair[0].trim_end().ends_with('>') && pair[0].starts_with("  ");
        ensure!(
            !is_bare || pair[1].starts_with("      "),
            "an argument without a word about it: {}",
            pair[0]
        );
    }
    same("help.txt", HELP, &text)
}

#[test]
fn commands_say_what_they_did_and_errors_what_to_do_next() -> Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut stage = Stage::build()?;
    modules(&mut stage)?;
    resources(&mut stage)?;
    checks(&mut stage)?;
    configurations(&mut stage)?;
    stage.farm.kill(N3)?;
    let mut words = String::new();
    lab::wait_until("the death is known", PATIENCE, || {
        // Silent at first, and refused by the network a few seconds later.
        words = stage.ask(N1, "status --all").map(|seen| seen.all()).unwrap_or_default();
        words.contains("── n3\nunreachable: lan: no connection within")
    })
    .with_context(|| words.clone())?;
    with_a_dead_node(&mut stage)?;
    let mut transcript = std::mem::take(&mut stage.transcript);
    drop(stage);
    let mut stage = Stage::with_own_keys()?;
    stage.types(N1, "keygen --rotate")?;
    transcript += &stage.transcript;
    for section in transcript.split("\n== ").filter(|section| section.contains("\n! error")) {
        // Of the usage (exit code 2), or of the thing.
        let has_next = ["\n! next: ", "hint: ", "try '--help'"].iter().any(|next| section.contains(next));
        ensure!(has_next, "no next step: {section}");
    }
    same("verbs.txt", SEEN, &transcript)
}

fn modules(stage: &mut Stage) -> Result<()> {
    std::fs::write(stage.files.join("batch"), "#!/bin/sh\necho batch runs\n")?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(stage.files.join("batch"), executable)?;
    for line in [
        "start batch --all",
        "wait batch --for UP --timeout 10s",
        "status batch",
        "events batch --utc",
        "events batch --level warning --utc",
        "events batch -n 1 -o json",
        "events nothing",
        "audit -n 1 --utc",
        "audit -n 1 -o json",
        "status www --node n2",
        "stop www",
        "status www",
        "start www",
        "restart www --all",
        "stopstart www --node n2 --node n3",
        "forcestop www --node n3",
        "start www --node n3 --no-wait",
        "start nothing",
        "start nothing --all",
        "start www --node n9",
        "status nothing",
        "wait nothing --for UP",
        "module explain www",
        "module explain www --node n2",
        "module explain www -o json",
        "module explain nothing",
    ] {
        stage.types(N1, line)?;
    }
    stage.types(N3, "wait www --for UP --timeout 10s")?;
    stage.types_for(N1, "status www -o json", "/modules/0/state")?;
    for line in
        ["logs www", "logs www --script start", "logs www --script start --last 2 -o json", "logs nothing"]
    {
        stage.types(N1, line)?;
    }
    std::fs::write(stage.files.join("batch"), "#!/bin/sh\necho no licence; exit 3\n")?;
    for line in [
        "restart batch",
        "start batch",
        "status batch",
        "logs batch --script start",
        "logs batch --script bogus",
    ] {
        stage.types(N1, line)?;
    }
    Ok(())
}

fn resources(stage: &mut Stage) -> Result<()> {
    for line in [
        "resource list www",
        "resource list www --node n2 --node n3",
        "resource list www -o json",
        "resource get www custom.file",
        "resource get www custom.file -o json",
        "resource set www custom.disk down",
        "resource list www",
        "resource set www custom.disk up --node n2 -o json",
        "module explain www",
        "resource set www custom.disk up",
        "resource get www custom.nothing",
        "resource set www nothing down",
        "resource set www custom.disk sideways",
        "resource list nothing",
        "resource list batch",
    ] {
        stage.types(N1, line)?;
    }
    Ok(())
}

fn checks(stage: &mut Stage) -> Result<()> {
    std::fs::remove_file(stage.files.join("n1.up"))?;
    lab::wait_until("the check has seen it", PATIENCE, || {
        stage.ask(N1, "resource get www custom.file").is_ok_and(|seen| seen.out.contains("file: down"))
    })?;
    for line in [
        "check list www",
        "check list www --all",
        "check list www -o json",
        "check list www --node n2 -o json",
        "check set www backup up",
        "check set www file up",
        "check set www nothing up",
        "check off www --for 2h",
        "status www",
        "check on www",
        "check off www --all",
        "check on www --all",
        "check list batch",
        "check list nothing",
        "check off nothing",
        "check off www --for never",
    ] {
        stage.types(N1, line)?;
    }
    Ok(())
}

fn configurations(stage: &mut Stage) -> Result<()> {
    let text = std::fs::read_to_string(stage.farm.own_config(N1))?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = stage.farm.config().with_file_name(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let same = write("same", &text)?;
    let other = write("other", &text.replace("timeout: 5s", "timeout: 7s"))?;
    let stranger = write("stranger", &text.replace("name: n3,", "name: n4,"))?;
    let faulty = write("faulty", &text.replace("kind: farm", "kind: farms"))?;
    for line in [
        "config history".to_owned(),
        "config rollback --yes".to_owned(),
        format!("config diff {same}"),
        format!("config diff {other}"),
        format!("config diff {faulty}"),
        format!("config apply {other} --dry-run"),
        format!("config apply {other}"),
        format!("config apply {stranger} --yes"),
        format!("config apply {faulty} --yes"),
        format!("config apply {other} --yes"),
        "config history".to_owned(),
        "config history -o json".to_owned(),
        "config rollback --dry-run".to_owned(),
        "config rollback 99 --yes".to_owned(),
        "config rollback --yes".to_owned(),
        "config history".to_owned(),
    ] {
        stage.types(N1, &line)?;
    }
    Ok(())
}

fn with_a_dead_node(stage: &mut Stage) -> Result<()> {
    for line in [
        "status www --all",
        "start www --all --no-wait",
        "restart www --all --timeout 20s",
        "check list www --all",
        "resource get www custom.file --node n3",
        "module explain www --node n3",
        "check list www --all -o json",
        "logs www --node n3",
        "keygen --rotate",
    ] {
        stage.types(N1, line)?;
    }
    stage.types(N3, "status")
}

/// A node that says nothing any more is never shown as it was: not when it was killed, not when it was only stopped.
#[test]
fn status_shows_ages_and_never_a_stale_green() -> Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut stage = Stage::build()?;
    let parent = stage.farm.parent_pid(N2).context("n2 runs a daemon")?;
    let daemon = stage.farm.daemon_pid(N2)?;
    // The parent first: it would bring a daemon that hangs back to life.
    kill_process(parent, Signal::STOP)?;
    kill_process(daemon, Signal::STOP)?;
    let stopped = never_green(&stage, "n2");
    kill_process(daemon, Signal::CONT)?;
    kill_process(parent, Signal::CONT)?;
    stopped?;
    lab::wait_until("n2 is back", PATIENCE, || {
        stage.ask(N1, "status").is_ok_and(|seen| seen.out.starts_with("CONVERGED"))
    })?;
    stage.farm.kill(N3)?;
    never_green(&stage, "n3")
}

/// Until the node is seen to be gone, and for a while after, no line about it shows a good state without its age.
fn never_green(stage: &Stage, node: &str) -> Result<()> {
    let gone = |text: &str| {
        let unknown = format!("elsewhere: {node} unknown (UP (Ready) ");
        let elsewhere = text
            .lines()
            .any(|line| line.contains(&unknown) || line.contains(&format!(", {node} unknown (UP (Ready) ")));
        !text.starts_with("CONVERGED")
            && row(text, node).is_some_and(|row| row[1] == "unknown" && row[3] == "s")
            && elsewhere
    };
    let mut text = String::new();
    lab::wait_until("the node is shown as unknown, with ages", PATIENCE, || {
        text = stage.ask(N1, "status").map(|seen| seen.out).unwrap_or_default();
        gone(&text)
    })
    .with_context(|| text.clone())?;
    for _ in 0..20 {
        let seen = stage.ask(N1, "status")?;
        ensure!(gone(&seen.out) && seen.code == "3", "{}", seen.all());
        let module = stage.ask(N1, "status www")?;
        ensure!(gone(&module.out), "{}", module.all());
        let json: serde_json::Value = serde_json::from_str(&stage.ask(N1, "status -o json")?.out)?;
        let nodes = json["nodes"].as_array().context("nodes")?;
        let it = nodes.iter().find(|it| it["name"] == node).context("the node is listed")?;
        ensure!(it["member"] == false && it["heardMs"].as_u64().is_some_and(|ms| ms > 500), "{it:#}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(())
}

/// The words of a node's line in the first table.
fn row<'t>(text: &'t str, node: &str) -> Option<Vec<&'t str>> {
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.into_iter().find(|words| words.first() == Some(&node) && words.len() > 3)
}

pub(crate) fn same(file: &str, expected: &str, seen: &str) -> Result<()> {
    if std::env::var_os("SAFEKIT_BLESS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/cli").join(file), seen)?;
        return Ok(());
    }
    for (expected, seen) in expected.split("\n== ").zip(seen.split("\n== ")) {
        ensure!(expected == seen, "{file} says\n== {expected}\nseen was\n== {seen}");
    }
    ensure!(expected == seen, "{file} has another number of sections");
    Ok(())
}
