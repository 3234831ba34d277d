//! The keys of a module that are about its application: how it is started, watched, and stopped.

use serde_json::{Value, json};

use super::super::decode::Keys;
use super::super::duration::print;
use super::super::upkeep::{
    ACTIONS, AFTER_MAX_LOOP, BOOTS, CHECK, CHECK_INTERVAL_DEFAULT, CHECK_KINDS, CHECK_TIMEOUT_DEFAULT,
    CHECKS_MAX, COUNT_MAX, DEFAULT_RULES, FAILOVER, FAILOVER_RULE, FAILOVER_RULES_MAX, ON_FAILURE, SCRIPT,
    SCRIPT_TIMEOUT_DEFAULT, SCRIPTS, SERVICES_MAX, START, TRAFFIC, VARIABLES_MAX, WHENS,
};
use super::module::interface;
use super::{
    Field, address, any_text, duration, field, list, mapping, name, not_together, port, set, span, text,
    truth, whole, word,
};

/// Of every kind of module; the caller puts them in the reader's order.
pub(super) fn fields() -> Vec<Field> {
    vec![
        field("start", start(), "What happens when the daemon starts."),
        field(
            "after",
            set(name(), SERVICES_MAX),
            "Modules that are Ready on this node before this one starts.",
        ),
        field("services", services(), "systemd units: started in this order, stopped in the reverse one."),
        field("variables", variables(), "Exported to scripts and custom checks."),
        field("scripts", scripts(), "What starts and stops the application."),
        field("checks", list(check(), CHECKS_MAX), "What watches the application and what it needs."),
        field("max_loop", max_loop(), "How often it is restarted before that ends.").default("3 in 24h"),
        field("after_max_loop", word(&AFTER_MAX_LOOP), "What then.").default("stop"),
        field("failover", failover(), "Rules over what the checks find."),
    ]
}

pub(super) fn start() -> Value {
    let boot = json!({ "enum": BOOTS.iter().map(|(word, _)| json!(word)).chain([json!(true), json!(false)]).collect::<Vec<_>>() });
    mapping(
        &START,
        vec![
            field("boot", boot, "With the daemon, never by itself, or as it was before.").default("on"),
            field("delay", duration(), "Between the daemon's start and the module's.").default("0ms"),
        ],
        json!({}),
    )
}

fn services() -> Value {
    list(text("^(?!-)[A-Za-z0-9:_.\\\\@-]{1,255}$"), SERVICES_MAX)
}

fn variables() -> Value {
    json!({
        "type": "object",
        "maxProperties": VARIABLES_MAX,
        "propertyNames": { "pattern": "^(?!SAFEKIT_)[A-Za-z_][A-Za-z0-9_]*$" },
        "additionalProperties": { "type": ["string", "number", "boolean"] },
    })
}

fn scripts() -> Value {
    let timeout = print(SCRIPT_TIMEOUT_DEFAULT);
    mapping(
        &SCRIPTS,
        vec![
            field("directory", any_text(), "Where they are, and where they run. Default: beside this file."),
            field("timeout", span(), "For one call.").default(timeout),
            field("start", script(), "Starts the application: short for start_both."),
            field("stop", script(), "Stops it: short for stop_both."),
            field("prestart", script(), "Before the start; what fails here keeps the node out."),
            field("poststop", script(), "After the stop."),
            field("transition", script(), "At every change of the role."),
            field("start_both", script(), "Starts what runs in every role."),
            field("stop_both", script(), "Stops what runs in every role."),
        ],
        json!({ "allOf": [not_together(&["start", "start_both"]), not_together(&["stop", "stop_both"])] }),
    )
}

/// For `/bin/sh`.
fn command_line() -> Value {
    text("\\S")
}

fn script() -> Value {
    let with_timeout = mapping(
        &SCRIPT,
        vec![
            field("run", command_line(), "What /bin/sh is to run.").required(),
            field("timeout", span(), "For one call."),
        ],
        json!({}),
    );
    json!({ "anyOf": [command_line(), with_timeout] })
}

fn max_loop() -> Value {
    json!({ "anyOf": [{ "const": false }, text("^(off|\\s*[0-9]+ in \\s*[0-9]+(ms|s|m|h)\\s*)$")] })
}

/// Those that a farm or a light module can do: the reader's own table ends with those of a mirror.
fn action() -> Value {
    word(&ACTIONS[..6])
}

fn failover() -> Value {
    let disable = json!({ "enum": DEFAULT_RULES });
    mapping(
        &FAILOVER,
        vec![
            field("automatic", truth(), "A mirror: take over without an operator.").default(true),
            field(
                "rules",
                list(failover_rule(), FAILOVER_RULES_MAX),
                "Before those that checks bring along.",
            ),
            field("disable", list(disable, FAILOVER_RULES_MAX), "Default rules that do not hold here."),
        ],
        json!({}),
    )
}

fn failover_rule() -> Value {
    mapping(
        &FAILOVER_RULE,
        vec![
            field("name", name(), "What explanations and events call it.").required(),
            field("when", any_text(), "Over resources: `tcp.http == down and remote.state == UP`.")
                .required(),
            field("do", action(), "What is done once it holds.").required(),
        ],
        json!({}),
    )
}

pub(super) fn traffic() -> Value {
    mapping(
        &TRAFFIC,
        vec![
            field("on_failure", word(&ON_FAILURE), "Whether live sessions stay when the application fails.")
                .default("drain"),
            field(
                "slow_start",
                duration(),
                "After a start the share grows from a tenth to the whole over so long.",
            )
            .default("0ms"),
            field("drain_on_stop", truth(), "Wait for connections to end before the stop scripts.")
                .default(true),
        ],
        json!({}),
    )
}

fn check() -> Value {
    let kinds: Vec<Value> = CHECK_KINDS.iter().map(|(word, ..)| json!({ "required": [word] })).collect();
    let mut fields = vec![
        field("name", name(), "What it is called; its resource is its kind and this: tcp.http.").required(),
        field("when", word(&WHENS[..3]), "pre: from the start on, in WAIT too. up: while the module is up."),
        field("action", action(), "What is done when it is down."),
        field("services", services(), "For the action restart_service. Default: those of the module."),
        field(
            "share_when_down",
            whole(0, 100),
            "Percent of the node's share that are left while it is down.",
        ),
    ];
    fields.extend(CHECK_KINDS.iter().map(|(word, keys, ..)| kind(word, keys)));
    mapping(&CHECK, fields, json!({ "oneOf": kinds }))
}

/// The keys of one kind, with those that all kinds end with.
fn kind(word: &'static str, keys: &Keys) -> Field {
    let (about, mut fields, also) = own(word);
    fields.extend([
        field("interval", span(), "Between two looks; 10ms at least.").default(print(CHECK_INTERVAL_DEFAULT)),
        field("timeout", span(), "After which a look counts as a failure.")
            .default(print(CHECK_TIMEOUT_DEFAULT)),
        field("rise", count(1), "Successes in a row after which it is up.").default(1),
        field("fall", count(1), "Failures in a row after which it is down.").default(1),
    ]);
    field(word, mapping(keys, fields, also), about)
}

fn count(least: u64) -> Value {
    whole(least, u64::from(COUNT_MAX))
}

fn url() -> Value {
    text("^https?://[A-Za-z0-9\\[][!-~]*$")
}

fn address_of(about: &str) -> Field {
    field("address", address(), about)
}

fn own(word: &str) -> (&'static str, Vec<Field>, Value) {
    let none = json!({});
    match word {
        "process" => {
            let fields = vec![
                field("name", text("^[^/]+$"), "The program's base name, as `ps -e` shows it.").required(),
                field("arguments", any_text(), "A regular expression over its arguments."),
                field("at_least", count(0), "How many there must be.").default(1),
                field("at_most", count(1), "How many there may be."),
            ];
            ("Processes run; a death is seen at once.", fields, none)
        }
        "tcp" => {
            let fields =
                vec![address_of("Default: 127.0.0.1."), field("port", port(), "Its port.").required()];
            ("A port accepts connections.", fields, none)
        }
        "http" => ("A page is there.", http(), not_both_ways_of_a_url()),
        "ping" => ("An address answers a ping.", vec![address_of("Whose.").required()], none),
        "link" => {
            let fields = vec![field("interface", interface(), "As `ip link` shows it.").required()];
            ("An interface has a carrier.", fields, none)
        }
        "address" => ("An address is configured on this node.", vec![address_of("Which.").required()], none),
        "module" => {
            let fields = vec![
                field("module", name(), "Which.").required(),
                field("node", name(), "On that node. Default: on this one."),
                field("url", url(), "Of another cluster: where it tells its health."),
            ];
            ("Another module is up.", fields, not_together(&["node", "url"]))
        }
        "custom" => {
            let fields = vec![
                field("run", command_line(), "Exit code 0 is up.").required(),
                field("reports", truth(), "It runs on, and reports by `safekit check set`.").default(false),
            ];
            ("A program of your own.", fields, none)
        }
        "witness" => {
            let fields = vec![field("node", name(), "It is heard."), address_of("It answers a ping.")];
            let one = json!({ "oneOf": [{ "required": ["node"] }, { "required": ["address"] }] });
            ("A third party is there.", fields, one)
        }
        other => unreachable!("every kind of check has its part of the schema, and {other} has none"),
    }
}

fn http() -> Vec<Field> {
    let status = json!({ "anyOf": [whole(100, 599), text("^[1-5][0-9]{2}(-[1-5][0-9]{2})?$")] });
    vec![
        field("url", url(), "The whole address, instead of port and path."),
        field("port", port(), "On this node."),
        field("path", any_text(), "Of the page.").default("/"),
        field("status", status, "Accepted codes: one, or a range.").default("200-299"),
        field("body", any_text(), "A regular expression that the page contains."),
        field("verify", truth(), "Whether the certificate of https must be right.").default(true),
    ]
}

fn not_both_ways_of_a_url() -> Value {
    json!({ "oneOf": [
        { "required": ["url"], "not": { "anyOf": [{ "required": ["port"] }, { "required": ["path"] }] } },
        { "required": ["port"], "not": { "required": ["url"] } },
    ] })
}
