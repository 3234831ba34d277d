//! What nodes ask each other: commands on several of them, configurations for all, another cluster key.

use std::process::Output;
use std::time::Duration;

use safekit::front::demo::farm::Farm;
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::wait_whole;
use safekit::types::NodeId;
use safekit_tests::lab;
use serde_json::Value;

const N1: NodeId = NodeId(0);
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
    // Silent at first, and known to be gone a few seconds later.
    lab::wait_until("the reason is the network's", PATIENCE, || {
        let some = ask(&farm, N1, &["status", "--all"]).map(|it| it.stdout).unwrap_or_default();
        let some = String::from_utf8_lossy(&some).into_owned();
        let why = some.split("unreachable: ").nth(1).unwrap_or_default();
        why.contains("no connection within") || why.contains("os error")
    })?;
    Ok(())
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
