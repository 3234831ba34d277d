//! Mirrors of configuration files: what they may say, and what is said of mistakes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::change::Change;
use crate::config::upkeep::Boot;
use crate::config::{Config, Mirror, Replicated, effective, load, ownership_hash, parse};
use crate::types::replica::Acknowledge;
use crate::types::{NetworkId, NodeId};

const FILE: &str = "
cluster:
  name: shop
  networks: [{ name: lan }, { name: backup, port: 4801 }]
  nodes:
    - { name: web1, addresses: { lan: 10.99.0.1, backup: 10.98.0.1 } }
    - { name: web2, addresses: { lan: 10.99.0.2, backup: 10.98.0.2 } }
    - { name: web3, addresses: { backup: 10.98.0.3 } }
modules:
  - name: db
    kind: mirror
    nodes: [web2, web1]
    replicate:
      - { directory: /var/lib/db/, acknowledge: each_write, require: .is-mounted }
      - { directory: /srv/files }
    replication: { network: backup, port: 4950, max_stall: 500ms }
    start: { boot: auto, delay: 2s }
  - name: logs
    kind: mirror
    nodes: [web2, web3]
    replicate: [{ directory: /srv/logs, acknowledge: memory }]
";

fn parsed(text: &str) -> Config {
    parse(text, "mirror.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn mirrors_are_read_and_shown() {
    let config = parsed(FILE);
    let mirrors: Vec<&Mirror> = config.mirrors().map(|(_, mirror)| mirror).collect();
    let of = |directory: &str, acknowledge, require: Option<&str>| Replicated {
        directory: PathBuf::from(directory),
        acknowledge,
        require: require.map(str::to_owned),
    };
    let db = Mirror {
        nodes: [NodeId(0), NodeId(1)],
        directories: vec![
            of("/var/lib/db", Acknowledge::EachWrite, Some(".is-mounted")),
            of("/srv/files", Acknowledge::Disk, None),
        ],
        network: NetworkId(1),
        port: 4950,
        max_stall: Duration::from_millis(500),
    };
    let logs = Mirror {
        nodes: [NodeId(1), NodeId(2)],
        directories: vec![of("/srv/logs", Acknowledge::Memory, None)],
        // The first that both are in: web3 is not in lan.
        network: NetworkId(1),
        port: 4900,
        max_stall: Duration::from_secs(2),
    };
    assert_eq!(mirrors, [&db, &logs]);
    assert_eq!(config.modules[0].nodes, [NodeId(0), NodeId(1)]);
    assert_eq!(config.modules[0].upkeep.boot, Boot::Auto);
    let shown = effective(&config);
    assert_eq!(parsed(&shown).modules[1].kind, config.modules[1].kind, "{shown}");
    assert_eq!(effective(&parsed(&shown)), shown);
    assert!(!shown.contains("scripts"), "what a mirror does not have yet is not shown: {shown}");
}

#[test]
fn the_sample_is_a_mirror_of_two_directories() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/mirror.yaml");
    let config = load(&sample).unwrap_or_else(|errors| panic!("{errors}"));
    let (module, mirror) = config.mirrors().next().expect("a mirror");
    assert_eq!((module.name.as_str(), mirror.directories.len(), mirror.network), ("db", 2, NetworkId(1)));
    assert_eq!(config.farms().count(), 0);
}

#[test]
fn a_cluster_of_two_needs_no_list_of_nodes() {
    let text = FILE
        .replace("    - { name: web3, addresses: { backup: 10.98.0.3 } }\n", "")
        .replace("    nodes: [web2, web1]\n", "");
    let text = &text[..text.find("  - name: logs").expect("the second mirror")];
    let config = parsed(text);
    assert_eq!(config.modules[0].nodes, [NodeId(0), NodeId(1)]);
}

#[test]
fn mistakes_in_mirrors_are_named() {
    for (from, to, expected) in [
        ("nodes: [web2, web1]", "nodes: [web2]", "a mirror of 1 node"),
        ("nodes: [web2, web1]", "nodes: [web1, web2, web3]", "a mirror of 3 nodes"),
        ("    nodes: [web2, web1]\n", "", "a mirror of 3 nodes"),
        ("nodes: [web2, web1]", "nodes: [web2, wbe1]", "there is no node `wbe1`"),
        (
            "    replicate: [{ directory: /srv/logs, acknowledge: memory }]\n",
            "",
            "a mirror lacks `replicate`",
        ),
        ("directory: /srv/logs", "directory: srv/logs", "`srv/logs` is no absolute path"),
        ("directory: /srv/logs", "directory: /", "the root of the file system"),
        ("directory: /srv/logs", "directory: //", "the root of the file system"),
        ("directory: /srv/logs", "directory: /srv/../logs", "goes over `.` or `..`"),
        ("directory: /srv/logs", "directory: /srv/files/", "/srv/files is replicated twice"),
        ("directory: /srv/logs", "directory: /srv/files/logs", "lie within each other"),
        ("directory: /srv/logs", "directory: /srv", "lie within each other"),
        ("acknowledge: memory", "acknowledge: momory", "`momory` is no `acknowledge`"),
        ("require: .is-mounted", "require: a/b", "`a/b` is no name of a file"),
        ("acknowledge: memory", "exclude: ['*.tmp']", "`exclude` in a replicated directory is not available"),
        ("network: backup", "network: bakcup", "there is no network `bakcup`"),
        ("max_stall: 500ms", "max_stall: 50ms", "a `max_stall` of 50ms"),
        ("max_stall: 500ms", "max_stall: 2m", "a `max_stall` of 2m"),
        ("port: 4950", "port: 4801", "is that of the network's heartbeats"),
        ("port: 4950", "port: 4900", "two mirrors of one node use port 4900"),
        ("port: 4950", "bandwidth: 50MB/s", "`bandwidth` in `replication` is not available"),
        ("port: 4950", "verify: 1w", "`verify` in `replication` is not available"),
        (
            "start: { boot: auto, delay: 2s }",
            "witness: { node: web3 }",
            "`witness` in a mirror is not available",
        ),
        ("start: { boot: auto, delay: 2s }", "checks: []", "`checks` in a mirror is not available"),
        ("start: { boot: auto, delay: 2s }", "start: { boot: maybe }", "`maybe` is no `boot`"),
        ("start: { boot: auto, delay: 2s }", "delivery: flood", "unknown key `delivery` in a mirror"),
    ] {
        assert!(FILE.contains(from), "{from}");
        let errors = parse(&FILE.replacen(from, to, 1), "mirror.yaml").expect_err(to);
        let messages: Vec<&str> = errors.errors.iter().map(|error| error.message.as_str()).collect();
        assert!(messages.iter().any(|message| message.contains(expected)), "{to}: {messages:?}");
    }
}

#[test]
fn both_nodes_have_an_address_in_the_network() {
    let named = FILE.replace(
        "replicate: [{ directory: /srv/logs, acknowledge: memory }]",
        "replicate: [{ directory: /srv/logs }]\n    replication: { network: lan }",
    );
    let errors = parse(&named, "mirror.yaml").expect_err("web3 is not in lan");
    assert_eq!(errors.errors[0].message, "web3 has no address in the network lan");
    let apart = FILE.replace(
        "name: web2, addresses: { lan: 10.99.0.2, backup: 10.98.0.2 }",
        "name: web2, addresses: { lan: 10.99.0.2 }",
    );
    let errors = parse(&apart, "mirror.yaml").expect_err("web2 and web3 have nothing in common");
    let messages: Vec<&str> = errors.errors.iter().map(|error| error.message.as_str()).collect();
    assert!(messages.contains(&"web2 and web3 have no network in common"), "{messages:?}");
}

#[test]
fn mirrors_of_other_nodes_or_networks_may_use_the_same() {
    let apart = FILE
        .replace("- { name: web3, addresses: { backup: 10.98.0.3 } }", "- { name: web3, addresses: { backup: 10.98.0.3 } }\n    - { name: web4, addresses: { backup: 10.98.0.4 } }")
        .replace("nodes: [web2, web3]", "nodes: [web3, web4]")
        .replace("port: 4950", "port: 4900")
        .replace("/srv/logs", "/srv/files");
    parsed(&apart);
    parsed(&FILE.replace("network: backup, port: 4950", "network: lan, port: 4900"));
}

#[test]
fn what_a_mirror_is_decides_no_packet_and_changes_with_a_new_daemon() {
    let config = parsed(FILE);
    let other = parsed(&FILE.replace("/srv/files", "/srv/data"));
    assert_eq!(ownership_hash(&config), ownership_hash(&other));
    assert_eq!(
        Change::of(&config, &other),
        Change::HandOver(vec!["the directories of mirror db".to_owned()])
    );
    let boot = parsed(&FILE.replace("boot: auto", "boot: off"));
    assert_eq!(Change::of(&config, &boot), Change::WhileRunning(vec!["the upkeep of db".to_owned()]));
}
