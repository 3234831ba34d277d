//! The section `modules`: kinds, and how a farm shares its traffic out.

use serde_json::{Value, json};

use super::super::decode::Keys;
use super::super::duration::print;
use super::super::mirror::{
    ACKNOWLEDGES, DIRECTORIES_MAX, FILE_NAME_BYTES_MAX, MAX_STALL_DEFAULT, MIRROR,
    PORT_DEFAULT as MIRROR_PORT_DEFAULT, REPLICATED, REPLICATION,
};
use super::super::module::{
    DELIVERIES, DRAIN_TIMEOUT_DEFAULT, FARM, INTERFACE_BYTES_MAX, KINDS, LIGHT, MODULES_MAX, VIRTUAL_IP,
    VIRTUAL_IPS_MAX,
};
use super::super::rule::{BALANCES, EVIDENCES, PREFIX, PROTOCOLS, RULE, RULES_MAX};
use super::{
    Field, address, duration, field, list, mapping, name, not_together, port, set, span, text, upkeep, whole,
    word,
};
use crate::types::ids::NODES_MAX;
use crate::types::share::WEIGHT_MAX;

const KIND_ABOUT: &str = "farm: every node serves its share. light: every node for itself. mirror: two nodes with the \
                          same directories.";

/// A kind decides which keys a module has, so that an editor offers only those.
pub(super) fn modules() -> Value {
    let is = |kind: &str| json!({ "properties": { "kind": { "const": kind } }, "required": ["kind"] });
    let farm_or_light = json!({ "if": is("light"), "then": light(), "else": farm() });
    let module = json!({ "type": "object", "if": is("mirror"), "then": mirror(), "else": farm_or_light });
    list(module, MODULES_MAX)
}

fn mirror() -> Value {
    let mut pair = set(name(), 2);
    pair["minItems"] = 2.into();
    mapping(
        &MIRROR,
        vec![
            field("name", name(), "What the module is called.").required(),
            field("kind", word(&KINDS), KIND_ABOUT).required(),
            field("nodes", pair, "The two that have a copy. Default: both nodes of a cluster of two."),
            field("replicate", list(replicated(), DIRECTORIES_MAX), "The directories.").required(),
            field("replication", replication(), "How changes go from one node to the other."),
            field("start", upkeep::start(), "What happens when the daemon starts."),
        ],
        json!({}),
    )
}

fn replicated() -> Value {
    let guard = text(&format!("^(?!\\.{{1,2}}$)[^/]{{1,{FILE_NAME_BYTES_MAX}}}$"));
    mapping(
        &REPLICATED,
        vec![
            field("directory", text("^(?!.*/\\.{1,2}(/|$))/.*[^/]"), "An absolute path.").required(),
            field("acknowledge", word(&ACKNOWLEDGES), "When a flush of the application returns.")
                .default("disk"),
            field("require", guard, "A file that must be in it: a disk that is not mounted lacks it."),
        ],
        json!({}),
    )
}

fn replication() -> Value {
    mapping(
        &REPLICATION,
        vec![
            field("network", name(), "Default: the first network that both nodes are in."),
            field("port", port(), "TCP, for this mirror alone.").default(MIRROR_PORT_DEFAULT),
            field("max_stall", span(), "How long an application waits at most for a silent node.")
                .default(print(MAX_STALL_DEFAULT)),
        ],
        json!({}),
    )
}

fn light() -> Value {
    mapping(&LIGHT, of_all_kinds(&LIGHT, Vec::new()), json!({}))
}

fn farm() -> Value {
    let own = vec![
        field(
            "weights",
            weights(),
            "How much of the traffic each node takes in; a node that is not named weighs 1.",
        ),
        field(
            "virtual_ips",
            list(virtual_ip(), VIRTUAL_IPS_MAX),
            "The addresses that clients use; every node has them.",
        )
        .required(),
        field("delivery", word(&DELIVERIES), "How packets reach every node, or their owner.")
            .default("flood"),
        field("drain_timeout", duration(), "How long a clean stop waits for live connections.")
            .default(print(DRAIN_TIMEOUT_DEFAULT)),
        field("rules", list(rule(), RULES_MAX), "What the farm takes in; what no rule names is dropped.")
            .required(),
        field("traffic", upkeep::traffic(), "How the application's health decides the node's share."),
    ];
    mapping(&FARM, of_all_kinds(&FARM, own), json!({}))
}

/// In the order of the reader: the keys of this kind among those that every kind has.
fn of_all_kinds(keys: &Keys, own: Vec<Field>) -> Vec<Field> {
    let mut fields = vec![
        field("name", name(), "What the module is called.").required(),
        field("kind", word(&KINDS), KIND_ABOUT).required(),
        field("nodes", members(), "Where it runs. Default: on all nodes."),
    ];
    fields.extend(upkeep::fields());
    fields.extend(own);
    let place = |field: &Field| keys.known.iter().position(|key| *key == field.key);
    fields.sort_by_key(|field| place(field).unwrap_or(usize::MAX));
    fields
}

pub(super) fn members() -> Value {
    set(name(), NODES_MAX)
}

fn weights() -> Value {
    json!({ "type": "object", "minProperties": 0, "additionalProperties": whole(0, u64::from(WEIGHT_MAX)) })
}

fn virtual_ip() -> Value {
    mapping(
        &VIRTUAL_IP,
        vec![
            field("address", address(), "Of the clients' network, and of no node.").required(),
            field("interface", interface(), "Where it is, as `ip link` shows it.").required(),
        ],
        json!({}),
    )
}

pub(super) fn interface() -> Value {
    text(&format!("^(?!\\.{{1,2}}$)[!-.0-9;-~]{{1,{INTERFACE_BYTES_MAX}}}$"))
}

fn rule() -> Value {
    let ports = json!({ "anyOf": [port(), text("^(any|\\s*[0-9]+\\s*-\\s*[0-9]+\\s*)$")] });
    let network =
        json!({ "properties": { "balance": { "const": "client_network" } }, "required": ["balance"] });
    mapping(
        &RULE,
        vec![
            field("protocol", word(&PROTOCOLS), "Of the packets.").required(),
            field("port", ports, "A port, a range like 8000-8099, or any. The narrower rule counts.")
                .required(),
            field("balance", word(&BALANCES), "What of the client decides which node serves it.")
                .default("connection"),
            field("prefix", prefix(), "How large a network of clients is."),
            field("nodes", members(), "Only these nodes of the module serve it."),
            field("weights", weights(), "As in the module, for this rule."),
            field("cascade", members(), "The first of these that is there takes all."),
            field("evidence", word(&EVIDENCES), "By what a node knows its own sessions while they move.")
                .default("sockets"),
        ],
        json!({
            "dependentSchemas": { "prefix": network },
            "allOf": [not_together(&["cascade", "nodes"]), not_together(&["cascade", "weights"])],
        }),
    )
}

fn prefix() -> Value {
    mapping(
        &PREFIX,
        vec![
            field("ipv4", whole(1, 32), "Bits of an IPv4 client's network.").default(24),
            field("ipv6", whole(1, 128), "Bits of an IPv6 client's network.").default(64),
        ],
        json!({}),
    )
}
