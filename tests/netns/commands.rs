//! The command line against running daemons.

use std::net::{SocketAddr, TcpStream};
use std::process::Output;

use anyhow::Context;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use safekit::front::demo::farm::{Farm, MODULE, PORT};
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::wait_whole;
use safekit::front::demo::topology::{CLIENT, VIRTUAL_IP, node_name};
use safekit::types::NodeId;
use safekit_tests::lab;
use serde_json::Value;

const N1: NodeId = NodeId(0);
const N3: NodeId = NodeId(2);

#[test]
fn commands_tell_the_truth_about_a_farm() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = Farm::build(&lab::binary()?, 3)?;
    let waited = ask(&farm, N1, &["wait", MODULE, "--for", "converged", "--timeout", "30s"])?;
    assert_eq!(waited.status.code(), Some(0), "{waited:?}");
    wait_whole(&mut farm, &Interrupt::default())?;

    status_of_a_whole_farm(&farm)?;
    every_node_names_the_one_that_serves(&farm)?;

    farm.kill(N3)?;
    lab::wait_until("status sees the loss", std::time::Duration::from_secs(10), || {
        ask(&farm, N1, &["status"])
            .is_ok_and(|it| it.status.code() == Some(3) && text(&it).starts_with("DEGRADED"))
    })?;
    let gone = ask(&farm, N3, &["status"])?;
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
    let impatient = ask(&farm, N1, &["wait", MODULE, "--for", "converged", "--timeout", "500ms"])?;
    assert_eq!(impatient.status.code(), Some(1), "{impatient:?}");
    Ok(())
}

fn status_of_a_whole_farm(farm: &Farm) -> anyhow::Result<()> {
    for node in farm.ids() {
        let table = ask(farm, node, &["status"])?;
        assert_eq!(table.status.code(), Some(0), "{table:?}");
        assert!(text(&table).starts_with("CONVERGED"), "{}", text(&table));
        let json: Value = serde_json::from_slice(&ask(farm, node, &["status", "-o", "json"])?.stdout)?;
        assert_eq!(json["apiVersion"], "v1");
        assert_eq!(json["node"], node_name(node));
        let shares = json["farms"][0]["groups"][0]["shares"].as_array().context("shares")?;
        assert_eq!(shares.iter().filter_map(Value::as_u64).sum::<u64>(), 65_536);
    }
    Ok(())
}

/// What `explain` says of a client's port, from any node, is what a connection from that port meets.
fn every_node_names_the_one_that_serves(farm: &Farm) -> anyhow::Result<()> {
    let mut servers = std::collections::BTreeSet::new();
    for port in 40_001..40_013 {
        let client = format!("{CLIENT}:{port}");
        let owners = farm.ids().map(|node| {
            let output = ask(farm, node, &["farm", "explain", &client, "-o", "json"])?;
            let json: Value =
                serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
            Ok(owner(&json).with_context(|| format!("no owner in {json}"))?.to_owned())
        });
        let owners = owners.collect::<anyhow::Result<Vec<String>>>()?;
        let server = served_from(farm, port)?;
        assert!(owners.iter().all(|owner| *owner == server), "{client}: {owners:?}, served by {server}");
        servers.insert(server);
    }
    assert!(servers.len() > 1, "all twelve ports are one node's");
    Ok(())
}

/// The first owner in an answer, whether the answers are listed at the top or under a name.
fn owner(json: &Value) -> Option<&str> {
    match json {
        Value::Array(items) => items.iter().find_map(owner),
        Value::Object(fields) => {
            fields.get("owner").and_then(Value::as_str).or_else(|| fields.values().find_map(owner))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Opens one connection from this port of the client, and says who answered.
fn served_from(farm: &Farm, port: u16) -> anyhow::Result<String> {
    farm.topology().client().inside(|| {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddr::from((CLIENT, port)))?;
        connect(&socket, &SocketAddr::from((VIRTUAL_IP, PORT)))?;
        answer(TcpStream::from(socket))
    })?
}

fn answer(mut stream: TcpStream) -> anyhow::Result<String> {
    use std::io::{Read, Write};
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.lines().last().context("an empty answer")?.to_owned())
}

fn ask(farm: &Farm, node: NodeId, words: &[&str]) -> anyhow::Result<Output> {
    let dir = farm.node_dir(node);
    let mut arguments = words.to_vec();
    let dir = dir.to_str().context("the run directory is plain text")?;
    arguments.extend(["--run-dir", dir]);
    lab::safekit(&arguments)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
