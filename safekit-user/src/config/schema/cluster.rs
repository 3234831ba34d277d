//! The section `cluster`.

use serde_json::{Value, json};

use super::super::cluster::{
    CLUSTER, HEARTBEAT, KEY_FILE_DEFAULT, NETWORK, NETWORKS_MAX, NODE, PORT_DEFAULT, PROFILES,
};
use super::{address, any_text, duration, field, list, mapping, name, port, word};
use crate::types::ids::NODES_MAX;

pub(super) fn cluster() -> Value {
    mapping(
        &CLUSTER,
        vec![
            field("name", name(), "What the cluster is called.").required(),
            field(
                "key_file",
                any_text(),
                "The cluster key that `safekit keygen` makes; beside this file where the path is relative.",
            )
            .default(KEY_FILE_DEFAULT),
            field("networks", list(network(), NETWORKS_MAX), "Heartbeats use all of them.").required(),
            field("nodes", list(node(), NODES_MAX), "The servers.").required(),
            field("heartbeat", heartbeat(), "How soon a node that is silent counts as gone."),
        ],
        json!({}),
    )
}

fn network() -> Value {
    mapping(
        &NETWORK,
        vec![
            field("name", name(), "What the nodes' addresses are listed under.").required(),
            field("port", port(), "UDP for heartbeats, TCP for commands.").default(PORT_DEFAULT),
        ],
        json!({}),
    )
}

fn node() -> Value {
    let addresses = json!({ "type": "object", "minProperties": 1, "additionalProperties": address() });
    mapping(
        &NODE,
        vec![
            field("name", name(), "Its host name, or what `--node` says.").required(),
            field("addresses", addresses, "For each network that it is in: its address there.").required(),
        ],
        json!({}),
    )
}

fn heartbeat() -> Value {
    let own = ["interval", "timeout", "lease"];
    let with_own = own.map(|key| json!({ "required": [key] }));
    mapping(
        &HEARTBEAT,
        vec![
            field("profile", word(&PROFILES), "Times that fit each other.").default("default"),
            field("interval", duration(), "Between two heartbeats."),
            field("timeout", duration(), "Silence after which a node counts as gone."),
            field("lease", duration(), "After so long without its daemon a node takes no new connection."),
        ],
        json!({ "oneOf": [
            { "required": ["profile"], "not": { "anyOf": with_own } },
            { "required": own, "not": { "required": ["profile"] } },
        ] }),
    )
}
