//! What nodes ask each other: commands on several of them, configurations for all, another cluster key.

use std::process::Output;
use std::time::Duration;

use anyhow::Context as _;
use safekit::driver::clock;
use safekit::front::demo::farm::Farm;
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::{Scenario, wait_whole};
use safekit::types::NodeId;
use safekit::types::module::Role;
use safekit_tests::lab::{self, Nobody};
use serde_json::Value;

const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);
const N3: NodeId = NodeId(2);
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_command_on_all_nodes_names_the_one_that_is_dead() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = connected(3)?;
    let whole = ask(&farm, N1, &["status", "--all"])?;
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    let text = String::from_utf8_lossy(&whole.stdout).into_owned();
    for node in ["── n1\nCONVERGED", "── n2\nCONVERGED", "── n3\nCONVERGED"] {
        assert!(text.contains(node), "{node}: {text}");
    }
    let one = ask(&farm, N1, &["status", "--node", "n2", "-o", "json"])?;
    let json: Value = serde_json::from_slice(&one.stdout)?;
    assert_eq!(json["nodes"][0]["answer"]["node"], "n2");
    let nobody = ask(&farm, N1, &["status", "--node", "n9"])?;
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");

    let restarted = ask(&farm, N1, &["stopstart", "www", "--all"])?;
    let text = String::from_utf8_lossy(&restarted.stdout).into_owned();
    assert_eq!(restarted.status.code(), Some(0), "{restarted:?}");
    for node in ["n1", "n2", "n3"] {
        let line = format!("{node}: www: UP (Ready)");
        assert!(text.contains(&line), "{line}: {text}");
    }
    wait_whole(&mut farm, &Interrupt::default())?;
    let two = ask(&farm, N1, &["resource", "list", "www", "--node", "n3", "--node", "n1", "-o", "json"])?;
    let json: Value = serde_json::from_slice(&two.stdout)?;
    let nodes = [&json["nodes"][0]["node"], &json["nodes"][1]["node"], &json["nodes"][2]["node"]];
    assert_eq!(nodes, [&Value::from("n1"), &Value::from("n3"), &Value::Null], "{json}");
    assert!(json["nodes"][0]["answer"]["resources"].is_array(), "{json}");
    let unknown = ask(&farm, N1, &["stop", "wwww", "--all"])?;
    let words = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert!(words.contains("there is no module wwww\nnext: name one of: www"), "{words}");

    let reloaded = ask(&farm, N1, &["reload", "--all"])?;
    assert_eq!(reloaded.status.code(), Some(0), "{reloaded:?}");
    wait_whole(&mut farm, &Interrupt::default())?;

    farm.kill(N3)?;
    let mut words = String::new();
    lab::wait_until("the dead node is named", PATIENCE, || {
        let Ok(some) = ask(&farm, N1, &["status", "--all"]) else { return false };
        words = String::from_utf8_lossy(&some.stdout).into_owned();
        some.status.code() == Some(4) && words.contains("── n3\nunreachable: ")
    })?;
    assert!(words.contains("heartbeat every") && words.contains("── n2\n"), "{words}");
    let stopped = ask(&farm, N1, &["check", "off", "www", "--all", "--for", "1m"])?;
    assert_eq!(stopped.status.code(), Some(4), "{stopped:?}");
    // Silent at first, and known to be gone a few seconds later.
    lab::wait_until("the reason is the network's", PATIENCE, || {
        let some = ask(&farm, N1, &["status", "--all"]).map(|it| it.stdout).unwrap_or_default();
        let some = String::from_utf8_lossy(&some).into_owned();
        let why = some.split("unreachable: ").nth(1).unwrap_or_default();
        why.contains("no connection within") || why.contains("os error")
    })?;
    Ok(())
}

#[test]
fn a_configuration_is_in_force_everywhere_or_nowhere_and_the_way_back_is_kept() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = with_own_files()?;
    let old = std::fs::read_to_string(farm.config())?;
    let new = with_weight(&old, 3);
    let file = farm.config().with_extension("proposed");
    std::fs::write(&file, &new)?;
    let path = file.to_str().context("plain text")?;

    let preview = ask(&farm, N1, &["config", "apply", path, "--dry-run"])?;
    let text = String::from_utf8_lossy(&preview.stdout).into_owned();
    for part in ["+     n2: 3", "n1, n2, n3:\n", "new connections pause", "buckets of www move"] {
        assert!(text.contains(part), "{part}: {preview:?}");
    }
    assert_eq!(texts(&farm)?, vec![old.clone(); 3], "only a question");

    let applied = ask(&farm, N1, &["config", "apply", path, "--yes"])?;
    assert_eq!(applied.status.code(), Some(0), "{applied:?}");
    assert_eq!(texts(&farm)?, vec![new.clone(); 3]);
    wait_whole(&mut farm, &Interrupt::default())?;
    wait_connected(&farm)?;
    let shares = shares(&farm);
    assert!(shares[1] > 2 * shares[0], "{shares:?}");

    // A file in which one of the nodes does not find itself.
    std::fs::write(&file, new.replace("name: n3,", "name: n4,"))?;
    let refused = ask(&farm, N2, &["config", "apply", path, "--yes"])?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("n3: it has no node n3"), "{refused:?}");
    assert_eq!(texts(&farm)?, vec![new.clone(); 3], "nothing anywhere");

    let back = ask(&farm, N2, &["config", "rollback", "--yes"])?;
    assert_eq!(back.status.code(), Some(0), "{back:?}");
    wait_texts(&farm, |texts| *texts == vec![old.clone(); 3])?;
    wait_whole(&mut farm, &Interrupt::default())?;
    let history = ask(&farm, N3, &["config", "history", "-o", "json"])?;
    let history: Value = serde_json::from_slice(&history.stdout)?;
    let users = [&history["history"][0]["user"], &history["history"][1]["user"]];
    assert_eq!(users, ["root on n2", "root on n1"]);
    let events = events(&farm, N3)?;
    assert!(events.contains("is in force: applied by root on n1"), "{events}");

    wait_connected(&farm)?;
    farm.kill(N3)?;
    std::fs::write(&file, &new)?;
    let refused = ask(&farm, N1, &["config", "apply", path, "--yes"])?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("n3: no answer"), "{refused:?}");
    assert_eq!(texts(&farm)?, vec![old; 3], "nothing anywhere");
    Ok(())
}

/// Added under way it starts; taken away while it runs it would be left to itself.
#[test]
fn a_module_comes_by_the_configuration_and_goes_only_when_it_is_stopped() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = with_own_files()?;
    let old = std::fs::read_to_string(farm.config())?;
    let scripts = "start: 'true', stop: 'true'";
    let job = format!("  - name: job\n    kind: light\n    nodes: [n2]\n    scripts: {{ {scripts} }}\n");
    let with_job = old.replacen("modules:\n", &format!("modules:\n{job}"), 1);
    let (file, without) = (farm.config().with_extension("proposed"), farm.config().with_extension("without"));
    std::fs::write(&file, &with_job)?;
    std::fs::write(&without, &old)?;
    let (file, without) = (file.to_str().context("plain text")?, without.to_str().context("plain text")?);

    let preview = ask(&farm, N1, &["config", "apply", file, "--dry-run"])?;
    let text = String::from_utf8_lossy(&preview.stdout).into_owned();
    assert!(text.contains("module job is new here and starts at once"), "{preview:?}");
    let applied = ask(&farm, N1, &["config", "apply", file, "--yes"])?;
    assert_eq!(applied.status.code(), Some(0), "{applied:?}");
    let role = |farm: &Farm| {
        let modules = farm.sight(N2).snapshot.map(|snapshot| snapshot.modules).unwrap_or_default();
        modules.iter().find(|module| module.name == "job").map(|module| module.state.role)
    };
    lab::wait_until("the new module runs", PATIENCE, || role(&farm) == Some(Role::Up))?;
    wait_whole(&mut farm, &Interrupt::default())?;
    wait_connected(&farm)?;

    let refused = ask(&farm, N1, &["config", "apply", without, "--yes"])?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let why = "n2: module job is UP here and would be left to itself: `safekit stop job --node n2` first";
    assert!(String::from_utf8_lossy(&refused.stderr).contains(why), "{refused:?}");
    assert_eq!(texts(&farm)?, vec![with_job; 3], "nothing anywhere");

    let stopped = ask(&farm, N1, &["stop", "job", "--node", "n2"])?;
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    lab::wait_until("it is stopped", PATIENCE, || role(&farm) == Some(Role::Stop))?;
    let applied = ask(&farm, N1, &["config", "apply", without, "--yes"])?;
    assert_eq!(applied.status.code(), Some(0), "{applied:?}");
    wait_texts(&farm, |texts| *texts == vec![old.clone(); 3])?;
    wait_whole(&mut farm, &Interrupt::default())?;
    assert_eq!(role(&farm), None, "it is gone");
    Ok(())
}

/// The proposer, and another one, at moments all over the exchange.
#[test]
fn a_daemon_that_dies_while_a_configuration_is_applied_splits_nothing() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = with_own_files()?;
    let old = std::fs::read_to_string(farm.config())?;
    let mut both = [0, 0];
    for (round, (victim, millis)) in
        [(N1, 3), (N2, 5), (N1, 12), (N3, 14), (N1, 18), (N2, 25)].into_iter().enumerate()
    {
        let before = texts(&farm)?[0].clone();
        let new = with_weight(&old, 2 + round as u32);
        let file = farm.config().with_extension("proposed");
        std::fs::write(&file, &new)?;
        let dir = farm.node_dir(N1);
        let mut applying = std::process::Command::new(lab::binary()?)
            .args(["config", "apply", file.to_str().context("plain text")?, "--yes", "--run-dir"])
            .arg(dir)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(millis));
        farm.crash(victim)?;
        applying.wait()?;
        wait_texts(&farm, |texts| texts.iter().all(|text| *text == texts[0]))?;
        wait_whole(&mut farm, &Interrupt::default())?;
        wait_connected(&farm)?;
        // In force, in all eyes, is what all files say.
        lab::wait_until("all run with the same", PATIENCE, || {
            farm.sight(N1).snapshot.is_some_and(|snapshot| {
                let links = &snapshot.links;
                links.nodes.iter().all(|link| link.config.as_ref() == Some(&links.config))
            })
        })?;
        let now = texts(&farm)?[0].clone();
        assert!(now == before || now == new, "neither the old nor the new");
        both[usize::from(now == new)] += 1;
    }
    eprintln!("{} times the old one stayed, {} times the new one came", both[0], both[1]);
    Ok(())
}

/// Under traffic: no request fails, no connection breaks, nobody leaves anybody's view, and clients stay where they are.
#[test]
fn the_cluster_key_is_changed_under_traffic_and_nobody_notices() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let interrupt = Interrupt::default();
    let mut farm = Farm::idle(&lab::binary()?, 3)?;
    // One file for each node: a copy of the key in its own directory.
    for node in farm.ids() {
        let own = farm.own_config(node);
        let key = own.with_extension("key");
        std::fs::copy(own.with_file_name("cluster.key"), &key)?;
        let text = std::fs::read_to_string(farm.config())?;
        std::fs::write(
            &own,
            text.replace("cluster.key", &key.file_name().context("it has one")?.to_string_lossy()),
        )?;
        farm.start(node)?;
    }
    wait_whole(&mut farm, &interrupt)?;
    wait_connected(&farm)?;
    let keys = |farm: &Farm| -> anyhow::Result<Vec<String>> {
        farm.ids()
            .map(|node| Ok(std::fs::read_to_string(farm.own_config(node).with_extension("key"))?))
            .collect()
    };
    let before = keys(&farm)?;
    let mut scenario = Scenario::with(farm, 60, &interrupt, &Nobody)?;
    let views =
        |farm: &Farm| farm.ids().map(|node| farm.sight(node).snapshot.map(|it| it.view)).collect::<Vec<_>>();
    let (begin, viewed) = (clock::now(), views(&scenario.farm));
    for asked in [N1, N3] {
        let rotated = ask(&scenario.farm, asked, &["keygen", "--rotate"])?;
        assert_eq!(rotated.status.code(), Some(0), "{rotated:?}");
        scenario.idle(Duration::from_secs(2))?;
    }
    let after = keys(&scenario.farm)?;
    assert!(after.iter().all(|key| *key == after[0] && *key != before[0]), "all have the same new one");
    assert!(after[0].contains(&format!("seed {}", before[0].trim_end())), "clients stay where they are");
    assert_eq!(views(&scenario.farm), viewed, "nobody left anybody's view");
    let end = clock::now();
    let ledger = scenario.client.ledger();
    assert_eq!(ledger.broken(begin, end).count(), 0, "connections broken");
    assert_eq!(ledger.requests(begin, end).filter(|request| request.outcome.is_err()).count(), 0);
    assert!(ledger.requests(begin, end).count() > 100, "there was traffic");
    drop(ledger);
    assert_eq!(scenario.double_answers(begin, end), 0);
    let events = events(&scenario.farm, N2)?;
    assert!(events.contains("only one cluster key is accepted"), "{events}");
    // A daemon that died speaks through its parent with the key of today: the others hear it at once.
    scenario.farm.crash(N2)?;
    lab::wait_until("the obituary is understood", PATIENCE, || {
        scenario.farm.sight(N1).snapshot.is_some_and(|snapshot| {
            let gone = &snapshot.nodes[1];
            gone.departed == Some(safekit::types::Departure::Obituary)
        })
    })?;
    wait_whole(&mut scenario.farm, &interrupt)?;
    wait_connected(&scenario.farm)?;

    scenario.farm.kill(N3)?;
    let refused = ask(&scenario.farm, N1, &["keygen", "--rotate"])?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("nothing was changed: n3 is unreachable"), "{words}");
    assert_eq!(keys(&scenario.farm)?, after);
    Ok(())
}

#[test]
fn a_node_with_another_key_is_refused_counted_and_named() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = Farm::idle(&lab::binary()?, 3)?;
    let key = farm.own_config(N3).with_extension("key");
    safekit::front::demo::farm::write_key(&key)?;
    let text = std::fs::read_to_string(farm.config())?;
    std::fs::write(farm.own_config(N3), text.replace("cluster.key", "n3.key"))?;
    for node in farm.ids() {
        farm.start(node)?;
    }
    lab::wait_until("both sides have counted", PATIENCE, || {
        [(N1, "n3 ("), (N3, "n")].into_iter().all(|(node, last)| {
            let refused = farm.sight(node).snapshot.map(|it| it.links.refused).unwrap_or_default();
            refused.iter().any(|it| it.reason.contains("key") && it.last.starts_with(last))
        })
    })?;
    let status = ask(&farm, N1, &["status", "--all"])?;
    let words = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(4), "{words}");
    assert!(words.contains("── n3\nunreachable: ") && words.contains("another cluster key"), "{words}");
    assert!(words.contains("refused connections of nodes: "), "{words}");
    let events = events(&farm, N1)?;
    assert!(
        events.contains("refused to talk to n3 (") && events.contains(": another cluster key"),
        "{events}"
    );
    Ok(())
}

fn events(farm: &Farm, node: NodeId) -> anyhow::Result<String> {
    Ok(String::from_utf8(ask(farm, node, &["events"])?.stdout)?)
}

/// Every node has a file of its own, as on machines of their own.
fn with_own_files() -> anyhow::Result<Farm> {
    let mut farm = Farm::idle(&lab::binary()?, 3)?;
    for node in farm.ids() {
        std::fs::copy(farm.config(), farm.own_config(node))?;
        farm.start(node)?;
    }
    wait_whole(&mut farm, &Interrupt::default())?;
    wait_connected(&farm)?;
    Ok(farm)
}

fn with_weight(text: &str, weight: u32) -> String {
    text.replace("    kind: farm\n", &format!("    kind: farm\n    weights: {{ n2: {weight} }}\n"))
}

fn texts(farm: &Farm) -> anyhow::Result<Vec<String>> {
    farm.ids().map(|node| Ok(std::fs::read_to_string(farm.own_config(node))?)).collect()
}

fn wait_texts(farm: &Farm, reached: impl Fn(&Vec<String>) -> bool) -> anyhow::Result<()> {
    lab::wait_until("the files of all nodes", PATIENCE, || texts(farm).is_ok_and(|texts| reached(&texts)))
}

fn shares(farm: &Farm) -> Vec<u32> {
    farm.sight(N1).snapshot.map(|it| it.farms[0].groups[0].shares.clone()).unwrap_or_default()
}

/// Whole, and every daemon connected to every other one.
fn connected(nodes: usize) -> anyhow::Result<Farm> {
    let mut farm = Farm::build(&lab::binary()?, nodes)?;
    wait_whole(&mut farm, &Interrupt::default())?;
    wait_connected(&farm)?;
    Ok(farm)
}

fn wait_connected(farm: &Farm) -> anyhow::Result<()> {
    lab::wait_until("all nodes are connected", PATIENCE, || {
        farm.ids().all(|node| {
            let links = farm.sight(node).snapshot.map(|snapshot| snapshot.links.nodes).unwrap_or_default();
            !links.is_empty() && links.iter().all(|link| link.connected && link.heard_ms.is_some())
        })
    })
}

fn ask(farm: &Farm, node: NodeId, words: &[&str]) -> anyhow::Result<Output> {
    let dir = farm.node_dir(node);
    let mut arguments = words.to_vec();
    arguments.extend(["--run-dir", dir.to_str().expect("the run directory is plain text")]);
    lab::safekit(&arguments)
}
