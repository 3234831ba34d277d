//! The exactly-one audit on a real farm: a bucket that two nodes accept is named, and changes of members raise nothing.

use std::time::Duration;

use anyhow::{Context, ensure};
use aya::maps::{Array, Map, MapData};
use safekit::driver::clock;
use safekit::driver::datapath::{VirtualMac, index_and_mac};
use safekit::driver::packet_socket::PacketSocket;
use safekit::front::demo::farm::{Farm, PORT};
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::wait_whole;
use safekit::front::demo::topology::{CLIENT, VIRTUAL_IP};
use safekit::types::NodeId;
use safekit_ebpf::abi;
use safekit_tests::{lab, packets};
use serde_json::Value;

const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);
/// Of the client whose SYNs tell.
const CLIENT_PORT: u16 = 40_001;
const SYN: u8 = 0x02;

#[test]
fn a_bucket_that_two_nodes_accept_is_named_and_changes_of_members_are_not() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = Farm::build(&lab::binary()?, 2)?;
    wait_whole(&mut farm, &Interrupt::default())?;
    // Members come and go under traffic: nothing to say.
    farm.stop(N2)?;
    knock(&farm, Duration::from_secs(12))?;
    farm.start(N2)?;
    wait_whole(&mut farm, &Interrupt::default())?;
    knock(&farm, Duration::from_secs(24))?;
    for node in [N1, N2] {
        assert_eq!(warnings(&farm, node)?, Vec::<String>::new());
    }

    let (bucket, owner) = explain(&farm)?;
    let stranger = if owner == "n1" { N2 } else { N1 };
    accept_too(&farm, stranger, bucket)?;
    let deadline = clock::now() + Duration::from_secs(75);
    let expected = format!("bucket {bucket} (it belongs to {owner}): accepted by n1 and n2 at once");
    let named =
        |node| Ok::<_, anyhow::Error>(warnings(&farm, node)?.iter().any(|said| said.contains(&expected)));
    // The pages of a window reach the nodes one after the other.
    while !(named(N1)? && named(N2)?) {
        ensure!(
            clock::now() < deadline,
            "not named by both: {:?}, {:?}",
            warnings(&farm, N1)?,
            warnings(&farm, N2)?
        );
        knock(&farm, Duration::from_secs(1))?;
    }
    Ok(())
}

/// The client's SYN, thirty times a second, and one of another port each time.
fn knock(farm: &Farm, during: Duration) -> anyhow::Result<()> {
    farm.topology().client().inside(|| {
        let (index, own) = index_and_mac("eth0")?;
        let socket = PacketSocket::sender()?;
        let syn = |port| {
            let frame = packets::ethernet(VirtualMac::of(VIRTUAL_IP.into()).0);
            let mut frame = frame.ipv4(CLIENT, VIRTUAL_IP).tcp(port, PORT, SYN).for_a_stack();
            frame[6..12].copy_from_slice(&own);
            frame
        };
        let until = clock::now() + during;
        let mut port = 50_000;
        while clock::now() < until {
            port = 50_000 + (port + 1) % 10_000;
            socket.send(index, &syn(CLIENT_PORT))?;
            socket.send(index, &syn(port))?;
            std::thread::sleep(Duration::from_millis(33));
        }
        anyhow::Ok(())
    })?
}

/// The bucket of the client that knocks, and whose it is.
fn explain(farm: &Farm) -> anyhow::Result<(u16, String)> {
    let dir = farm.node_dir(N1);
    let dir = dir.to_str().context("the run directory is plain text")?;
    let client = format!("{CLIENT}:{CLIENT_PORT}");
    let output = lab::safekit(&["farm", "explain", &client, "-o", "json", "--run-dir", dir])?;
    let json: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let answer = &json["answers"][0];
    let bucket = answer["bucket"].as_u64().with_context(|| format!("{json:#}"))?;
    Ok((u16::try_from(bucket)?, answer["owner"].as_str().context("an owner")?.to_owned()))
}

/// Writes into the node's pinned tables, both of them, that this bucket is its own.
fn accept_too(farm: &Farm, node: NodeId, bucket: u16) -> anyhow::Result<()> {
    let map = MapData::from_pin(farm.node_dir(node).join("bpf").join(abi::MAP_TABLES))?;
    let mut tables: Array<MapData, abi::Table> = Array::try_from(Map::Array(map))?;
    for slot in 0..2 {
        let mut table = tables.get(&slot, 0)?;
        table[usize::from(bucket) / abi::BUCKETS_PER_WORD] |= 1 << (u64::from(bucket) % 32 * 2);
        tables.set(slot, table, 0)?;
    }
    Ok(())
}

fn warnings(farm: &Farm, node: NodeId) -> anyhow::Result<Vec<String>> {
    let snapshot = farm.sight(node).snapshot.context("a snapshot")?;
    Ok(snapshot.warnings.into_iter().map(|warning| warning.what).collect())
}
