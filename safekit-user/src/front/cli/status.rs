//! `safekit status`: one word, one sentence, then the nodes and the farms.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use super::place::{Where, ask_nodes, json_by_node, on_nodes, refused};
use super::{Asking, Format, module};
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::snapshot::{DrainInfo, FarmInfo, GroupInfo, MemberState, NodeInfo, Verdict};
use crate::types::{Command, Departure, Reply, Snapshot};

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Only this module.
    pub module: Option<String>,
    /// Go on, and show every change.
    #[arg(long, conflicts_with_all = ["nodes", "all"])]
    pub watch: bool,
    #[command(flatten)]
    pub place: Where,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

/// While watching, a daemon that says nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(5);

pub fn run(args: &StatusArgs) -> Exit {
    match show(args) {
        Ok(exit) => exit,
        Err(error) => error.report(),
    }
}

fn show(args: &StatusArgs) -> Result<Exit, Error> {
    if !args.watch {
        return if args.output == Format::Json && !args.place.is_here() {
            print_json_by_node(args)
        } else {
            let status = Command::Status;
            on_nodes(&args.asking, &args.place, &status, |reply| print(args, reply, &mut std::io::stdout()))
        };
    }
    let mut client = Client::connect(&args.asking.socket())?;
    client.send(&Command::Watch)?;
    loop {
        let reply = client.receive(SILENCE_MAX)?;
        let mut screen = std::io::stdout().lock();
        if args.output == Format::Table && screen.is_terminal() {
            // Home and clear: the newest state is always at the top. A closed terminal ends us by the print below.
            let _closed = write!(screen, "\x1b[H\x1b[2J");
        }
        let exit = print(args, reply, &mut screen)?;
        if exit == Exit::Failed {
            return Ok(exit);
        }
    }
}

fn print_json_by_node(args: &StatusArgs) -> Result<Exit, Error> {
    let answers = match ask_nodes(&args.asking, &args.place, &Command::Status)? {
        Ok(answers) => answers,
        Err(refused) => return Ok(refused),
    };
    let (text, exit) = json_by_node(answers, |reply| match reply {
        Reply::Status { snapshot } => {
            let exit = exit_of(snapshot.verdict);
            (serde_json::to_value(snapshot).expect("a snapshot is plain data"), exit)
        }
        other => (serde_json::to_value(other).expect("a reply is plain data"), Exit::Failed),
    });
    super::out(&text);
    Ok(exit)
}

fn print(args: &StatusArgs, reply: Reply, out: &mut impl Write) -> Result<Exit, Error> {
    let mut snapshot = match reply {
        Reply::Status { snapshot } => *snapshot,
        Reply::Refused { error, next_step } => {
            eprintln!("error: {error}\nnext: {next_step}");
            return Ok(Exit::Failed);
        }
        _ => return Err(Error::Unexpected),
    };
    if let Some(module) = &args.module {
        let known: Vec<String> = names(&snapshot);
        snapshot.farms.retain(|farm| farm.module == *module);
        snapshot.modules.retain(|it| it.name == *module);
        snapshot.mirrors.retain(|it| it.module == *module);
        if !known.contains(module) {
            return Ok(refused(
                &format!("there is no module {module} on this node"),
                &format!("name one of: {}", known.join(", ")),
            ));
        }
    }
    let text = match args.output {
        Format::Table => table(&snapshot),
        Format::Json => serde_json::to_string_pretty(&snapshot).expect("a snapshot is plain data") + "\n",
    };
    out.write_all(text.as_bytes()).map_err(Error::Print)?;
    Ok(exit_of(snapshot.verdict))
}

/// Of the modules that this node knows of.
pub fn names(snapshot: &Snapshot) -> Vec<String> {
    let mut names: Vec<String> = snapshot.modules.iter().map(|module| module.name.clone()).collect();
    let farms = snapshot.farms.iter().map(|farm| &farm.module);
    names.extend(farms.filter(|farm| !snapshot.modules.iter().any(|module| module.name == **farm)).cloned());
    names
}

fn exit_of(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Converged | Verdict::Converging => Exit::Done,
        Verdict::Degraded | Verdict::Split | Verdict::Down => Exit::Degraded,
    }
}

/// The whole status as text, ending with a newline.
pub fn table(snapshot: &Snapshot) -> String {
    let word = verdict_word(snapshot.verdict);
    let mut text = format!("{word}  {}\n\n", snapshot.summary);
    for warning in &snapshot.warnings {
        text += &format!("WARNING  {}\n  {}\n", warning.what, warning.remedy);
    }
    if !snapshot.warnings.is_empty() {
        text += "\n";
    }
    text += &nodes(snapshot);
    if !snapshot.modules.is_empty() {
        text += "\n";
        text += module::section(snapshot).trim_end_matches('\n');
        text += "\n";
    }
    for farm in &snapshot.farms {
        text += "\n";
        text += &farm_text(farm, &snapshot.nodes);
    }
    text += "\n";
    text += &heartbeat(snapshot);
    for refused in &snapshot.links.refused {
        text += &format!(
            "refused connections of nodes: {} times {}, last of {}\n",
            refused.count, refused.reason, refused.last
        );
    }
    text
}

pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Converged => "CONVERGED",
        Verdict::Converging => "CONVERGING",
        Verdict::Degraded => "DEGRADED",
        Verdict::Split => "SPLIT",
        Verdict::Down => "DOWN",
    }
}

fn nodes(snapshot: &Snapshot) -> String {
    let mut table = plain_table(&["NODE", "STATE", "HEARD", "CONNECTIONS", "NOTE"]);
    if let Some(column) = table.column_mut(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let silence = snapshot.heartbeat.timeout_ms;
    for node in &snapshot.nodes {
        let heard = match (node.this, node.heard_ms) {
            (true, _) => "this node".to_owned(),
            (false, Some(ms)) => format!("{} ago", span(Duration::from_millis(ms))),
            (false, None) => "never".to_owned(),
        };
        let connections = node.connections.map_or_else(String::new, grouped);
        table.add_row([
            node.name.clone(),
            state_word(node, silence).to_owned(),
            heard,
            connections,
            note(node, silence),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}

/// The words that operators know from other products: UP serves, WAIT is on its way, STOP is out.
fn state_word(node: &NodeInfo, silence: u64) -> &'static str {
    match node.state {
        _ if node.member && node.state == Some(MemberState::Active) => "UP",
        Some(MemberState::Joining | MemberState::Announce) if is_silent(node, silence) => "unknown",
        Some(MemberState::Joining | MemberState::Announce) => "WAIT",
        Some(MemberState::Leaving) => "STOP",
        // Never a last-known UP for a node that is out of the view.
        Some(MemberState::Active) | None => "unknown",
    }
}

/// What it said last is over by now.
fn is_silent(node: &NodeInfo, silence: u64) -> bool {
    !node.this && node.heard_ms.is_none_or(|ms| ms > silence)
}

fn note(node: &NodeInfo, silence: u64) -> String {
    if node.same_config == Some(false) {
        return "runs with another configuration".to_owned();
    }
    match node.departed {
        _ if node.member && node.drained => drain_note(node),
        _ if node.member => String::new(),
        Some(Departure::Silence) => "silent: dead or cut off".to_owned(),
        Some(Departure::Obituary) => "its daemon died".to_owned(),
        Some(Departure::Leave) => "left cleanly".to_owned(),
        Some(Departure::Deaf) if is_silent(node, silence) => {
            "silent; heard nothing before: look at its network".to_owned()
        }
        Some(Departure::Deaf) => "hears nothing: look at its network".to_owned(),
        Some(Departure::Changed) => "started anew or changed".to_owned(),
        None if node.this => String::new(),
        None => "not seen since this node started".to_owned(),
    }
}

fn drain_note(node: &NodeInfo) -> String {
    match node.drain {
        Some(DrainInfo { left: 0, of }) => {
            format!("drained: 0 of {} connections left; it can be stopped", grouped(of))
        }
        Some(DrainInfo { left, of }) => {
            format!("drained: {} of {} connections left", grouped(left), grouped(of))
        }
        None => "drained: counting its connections".to_owned(),
    }
}

/// `3,118`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    groups.join(",")
}

fn farm_text(farm: &FarmInfo, nodes: &[NodeInfo]) -> String {
    let mut text = format!("FARM {}, delivery {}\n", farm.module, farm.delivery);
    for vip in &farm.virtual_ips {
        text += &format!(
            "  virtual IP {} on {} as {}, XDP {}: {}\n",
            vip.address, vip.interface, vip.mac, vip.xdp_mode, vip.xdp_reason
        );
    }
    for group in &farm.groups {
        text += &group_text(farm, group, nodes);
    }
    let counted = farm.counters.iter().filter(|counter| counter.packets > 0);
    let counted: Vec<String> =
        counted.map(|counter| format!("{} {}", counter.reason, counter.packets)).collect();
    if !counted.is_empty() {
        text += &format!("  packets: {}\n", counted.join(", "));
    }
    text
}

/// The rules that share in one way, and how their buckets are shared out.
fn group_text(farm: &FarmInfo, group: &GroupInfo, nodes: &[NodeInfo]) -> String {
    let rules = farm.rules.iter().filter(|rule| rule.group == group.group);
    let mut text: String = rules
        .map(|rule| {
            let evidence = if rule.evidence == "flows" { ", evidence flows" } else { "" };
            format!("  rule {} {}, balance {}{evidence}\n", rule.protocol, rule.port, rule.balance)
        })
        .collect();
    if text.is_empty() {
        text += "  ARP, neighbour discovery and echo\n";
    }
    let weights = if group.share == "cascade" { "IN LINE" } else { "WEIGHT" };
    let mut table = plain_table(&["  NODE", weights, "SHARE", "BUCKETS", ""]);
    for index in 1..=3 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for ((node, buckets), weight) in nodes.iter().zip(&group.shares).zip(&group.weights) {
        let share = f64::from(*buckets) / f64::from(group.buckets.max(1));
        let bar = "█".repeat((share * 30.0).round() as usize);
        table.add_row([
            format!("  {}", node.name),
            weight.to_string(),
            format!("{:.1} %", share * 100.0),
            buckets.to_string(),
            bar,
        ]);
    }
    text += &format!("{}\n", table.trim_fmt());
    text += &format!(
        "  in transition: {} buckets, {} connections of this node live in buckets of others\n",
        group.transitional,
        grouped(group.held_connections)
    );
    text
}

fn heartbeat(snapshot: &Snapshot) -> String {
    let heartbeat = &snapshot.heartbeat;
    let priority = if heartbeat.realtime { "real-time" } else { "ordinary priority" };
    format!(
        "heartbeat every {} ms, silence limit {} ms, lease {} ms; {priority}, at most {:.1} ms late; {} rejected\n",
        heartbeat.interval_ms,
        heartbeat.timeout_ms,
        heartbeat.lease_ms,
        heartbeat.lateness_max_us as f64 / 1000.0,
        heartbeat.rejected
    )
}

pub fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

/// Without blanks at the ends of lines.
pub fn trimmed(table: &Table) -> String {
    table.trim_fmt()
}

/// A span as people say it: `12 ms`, `3.4 s`, `5 min`, `2 h`.
pub fn span(span: Duration) -> String {
    match span.as_millis() {
        millis @ 0..1000 => format!("{millis} ms"),
        millis @ 1000..60_000 => format!("{:.1} s", millis as f64 / 1000.0),
        millis @ 60_000..3_600_000 => format!("{} min", millis / 60_000),
        millis => format!("{} h", millis / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node whose cable was cut says last that it hears nothing; what it said is true only while it is heard.
    #[test]
    fn what_a_silent_node_said_last_is_not_its_state() {
        let said = |state, departed, heard_ms| NodeInfo {
            name: "web2".into(),
            this: false,
            member: false,
            state: Some(state),
            heard_ms: Some(heard_ms),
            departed: Some(departed),
            same_config: Some(true),
            drained: false,
            connections: None,
            drain: None,
        };
        for (state, departed, heard_ms, expected) in [
            (MemberState::Announce, Departure::Deaf, 100, "WAIT"),
            (MemberState::Announce, Departure::Deaf, 15_000, "unknown"),
            (MemberState::Joining, Departure::Changed, 15_000, "unknown"),
            (MemberState::Active, Departure::Silence, 300, "unknown"),
            (MemberState::Leaving, Departure::Leave, 15_000, "STOP"),
        ] {
            let node = said(state, departed, heard_ms);
            assert_eq!(state_word(&node, 200), expected, "{state:?}, {departed:?}, {heard_ms} ms ago");
            assert_eq!(
                note(&node, 200).starts_with("silent"),
                expected == "unknown" && departed != Departure::Changed
            );
        }
    }
}
