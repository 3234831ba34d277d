//! `safekit drain`, `safekit undrain`, `safekit weight`: another share of the traffic, without breaking a connection.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;

use super::status::grouped;
use super::{Asking, Format, err, out, status};
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::command::{Move, Preview};
use crate::types::snapshot::{API_VERSION, NodeInfo};
use crate::types::{Command, Instant, Reply, Snapshot, Wish};

#[derive(Args, Debug)]
pub struct DrainArgs {
    /// A node, or a module on this node: it takes no new session and keeps its connections.
    pub target: String,
    /// The module on that node, instead of the one that is asked.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Wait so long for the last connection.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = crate::config::duration::parse)]
    pub timeout: Duration,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args, Debug)]
pub struct UndrainArgs {
    /// What was drained.
    pub target: String,
    /// The module on that node, instead of the one that is asked.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args, Debug)]
pub struct WeightArgs {
    /// The module.
    pub module: String,
    /// The node whose part it is.
    pub node: String,
    /// 0 to 1000, or `default` for what the configuration says.
    #[arg(value_parser = parse_weight)]
    pub weight: Weight,
    /// Only this rule, and those that share with it: `tcp/443`.
    #[arg(long)]
    pub rule: Option<String>,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args, Debug)]
pub struct How {
    /// Say what would move, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Return when the daemon has taken the wish.
    #[arg(long)]
    pub no_wait: bool,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

/// A weight of the configuration, or one instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Configured,
    Own(u32),
}

fn parse_weight(text: &str) -> Result<Weight, String> {
    if text == "default" {
        return Ok(Weight::Configured);
    }
    text.parse().map(Weight::Own).map_err(|_| "neither a whole number nor `default`".to_owned())
}

/// Two rounds of heartbeats among members; longer means that they do not agree.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(10);

pub fn drain(args: &DrainArgs) -> Exit {
    let wish = Wish::Drain { target: args.target.clone() };
    let waited = run(&args.how, args.node.as_deref(), wish, |client, at| {
        wait_for(client, at, &args.target, |now| is_drained(now, &args.target))?;
        wait_for_connections(client, args)
    });
    waited.unwrap_or_else(|error| error.report())
}

pub fn undrain(args: &UndrainArgs) -> Exit {
    let wish = Wish::Undrain { target: args.target.clone() };
    let waited = run(&args.how, args.node.as_deref(), wish, |client, at| {
        let back = wait_for(client, at, &args.target, |now| !is_drained(now, &args.target))?;
        out(&format!("{} takes new sessions again; {}", args.target, back.summary));
        Ok(Exit::Done)
    });
    waited.unwrap_or_else(|error| error.report())
}

pub fn weight(args: &WeightArgs) -> Exit {
    let WeightArgs { module, node, weight, rule, how } = args;
    let weight = match weight {
        Weight::Configured => None,
        Weight::Own(weight) => Some(*weight),
    };
    let wish = Wish::Weight { module: module.clone(), node: node.clone(), weight, rule: rule.clone() };
    let waited = run(how, None, wish, |client, at| {
        let done = wait_for(client, at, node, |now| has_weight(now, args, weight))?;
        for line in shares(&done, module) {
            out(&line);
        }
        Ok(Exit::Done)
    });
    waited.unwrap_or_else(|error| error.report())
}

/// Asks, and waits for the effect unless told not to.
fn run(
    how: &How,
    node: Option<&str>,
    wish: Wish,
    wait: impl FnOnce(&mut Client, Instant) -> Result<Exit, Error>,
) -> Result<Exit, Error> {
    let mut client = Client::connect(&how.asking.socket())?.at(node);
    match client.ask(&Command::Adjust { wish, dry_run: how.dry_run })? {
        Reply::Refused { error, next_step } => {
            err(&format!("error: {error}\nnext: {next_step}"));
            Ok(Exit::Failed)
        }
        Reply::Preview { preview } => {
            out(&previewed(&preview, how.output));
            Ok(Exit::Done)
        }
        Reply::Accepted { .. } if how.no_wait => Ok(Exit::Done),
        Reply::Accepted { at } => wait(&mut client, at),
        _ => Err(Error::Unexpected),
    }
}

/// A status that was taken after `accepted`, shows the effect, and says that no change is under way.
fn wait_for(
    client: &mut Client,
    accepted: Instant,
    what: &str,
    reached: impl Fn(&Snapshot) -> bool,
) -> Result<Snapshot, Error> {
    let deadline = now() + EFFECT_TIMEOUT;
    loop {
        let Reply::Status { snapshot } = client.ask(&Command::Status)? else { return Err(Error::Unexpected) };
        if snapshot.taken > accepted && !snapshot.changing && reached(&snapshot) {
            return Ok(*snapshot);
        }
        if now() >= deadline {
            return Err(Error::NoEffect { what: what.to_owned(), waited: EFFECT_TIMEOUT });
        }
        std::thread::sleep(POLL);
    }
}

const POLL: Duration = Duration::from_millis(50);

fn wait_for_connections(client: &mut Client, args: &DrainArgs) -> Result<Exit, Error> {
    let deadline = now() + args.timeout;
    let mut line = Progress::default();
    loop {
        let Reply::Status { snapshot } = client.ask(&Command::Status)? else { return Err(Error::Unexpected) };
        let progress = progress(&snapshot, &args.target);
        if let Some((0, of)) = progress {
            line.end(&drained(args, of));
            return Ok(Exit::Done);
        }
        let left = progress.map_or("counting its connections".to_owned(), |(left, of)| {
            format!("{} of {} connections left", grouped(left), grouped(of))
        });
        if now() >= deadline {
            line.end(&format!("{}: {left}", args.target));
            err(&format!(
                "error: not drained after {}; it still takes no new session\nnext: wait longer \
                 (`safekit drain {} --timeout …`), or take it back (`safekit undrain {}`)",
                status::span(args.timeout),
                args.target,
                args.target
            ));
            return Ok(Exit::Failed);
        }
        line.show(&format!("{}: {left}", args.target));
        std::thread::sleep(POLL);
    }
}

fn drained(args: &DrainArgs, of: u64) -> String {
    format!("{}: drained, 0 of {} connections left; it can be stopped", args.target, grouped(of))
}

/// Connections left, of how many. None until they have been counted.
fn progress(snapshot: &Snapshot, target: &str) -> Option<(u64, u64)> {
    match snapshot.nodes.iter().find(|node| node.name == target) {
        Some(node) => node.drain.map(|drain| (drain.left, drain.of)),
        None => {
            let farm = snapshot.farms.iter().find(|farm| farm.module == target)?;
            let left: u64 = farm.groups.iter().map(|group| group.held_connections).sum();
            Some((left, left))
        }
    }
}

fn is_drained(snapshot: &Snapshot, target: &str) -> bool {
    match snapshot.nodes.iter().find(|node| node.name == target) {
        Some(node) => node.drained,
        None => weights_of(snapshot, target, None, |node| node.this).all(|weight| weight == 0),
    }
}

fn has_weight(snapshot: &Snapshot, args: &WeightArgs, weight: Option<u32>) -> bool {
    let Some(weight) = weight else { return true };
    weights_of(snapshot, &args.module, args.rule.as_deref(), |node| node.name == args.node)
        .all(|known| known == weight)
}

/// Of one node, in the weighted groups of a module, or in the group of one of its rules.
fn weights_of<'s>(
    snapshot: &'s Snapshot,
    module: &str,
    rule: Option<&str>,
    node: impl Fn(&NodeInfo) -> bool,
) -> impl Iterator<Item = u32> + 's {
    let place = snapshot.nodes.iter().position(node).unwrap_or(usize::MAX);
    let farm = snapshot.farms.iter().find(|farm| farm.module == *module);
    let only = farm.zip(rule).and_then(|(farm, name)| {
        let rules = farm.rules.iter();
        rules.filter(|rule| format!("{}/{}", rule.protocol, rule.port) == name).map(|rule| rule.group).next()
    });
    let groups = farm.into_iter().flat_map(|farm| &farm.groups);
    let wanted =
        groups.filter(move |group| group.share == "weighted" && only.is_none_or(|only| only == group.group));
    wanted.filter_map(move |group| group.weights.get(place).copied())
}

fn shares(snapshot: &Snapshot, module: &str) -> Vec<String> {
    let farm = snapshot.farms.iter().find(|farm| farm.module == module);
    let groups = farm.into_iter().flat_map(|farm| &farm.groups).filter(|group| group.share == "weighted");
    let line = |group: &crate::types::snapshot::GroupInfo| {
        let parts =
            snapshot.nodes.iter().zip(&group.weights).zip(&group.shares).map(|((node, weight), share)| {
                let percent = f64::from(*share) * 100.0 / f64::from(group.buckets.max(1));
                format!("{} weight {weight} ({percent:.1} %)", node.name)
            });
        format!("{module} group {}: {}", group.group, parts.collect::<Vec<_>>().join(", "))
    };
    groups.map(line).collect()
}

fn previewed(preview: &Preview, output: Format) -> String {
    if output == Format::Json {
        let object = serde_json::json!({ "apiVersion": API_VERSION, "preview": preview });
        return format!("{object:#}");
    }
    if preview.moves.is_empty() {
        return "nothing would move".to_owned();
    }
    let total: u32 = preview.moves.iter().map(|it| it.buckets).sum();
    let percent = f64::from(total) * 100.0 / f64::from(preview.buckets.max(1));
    let mut lines = vec![format!("{total} of {} buckets would move ({percent:.1} %):", preview.buckets)];
    lines.extend(preview.moves.iter().map(one_move));
    lines.push(
        "connections that live there stay where they are until they end; nothing was changed".to_owned(),
    );
    lines.join("\n")
}

fn one_move(it: &Move) -> String {
    let nobody = || "nobody".to_owned();
    let (from, to) = (it.from.clone().unwrap_or_else(nobody), it.to.clone().unwrap_or_else(nobody));
    let on_them = match it.connections {
        Some(connections) => format!(", with about {} connections on them", grouped(connections)),
        None => String::new(),
    };
    format!("  {} {}: {from} -> {to}, {} buckets{on_them}", it.module, it.rules, it.buckets)
}

fn now() -> Instant {
    crate::driver::clock::now()
}

/// One line that changes in place on a terminal, and lines below each other elsewhere.
#[derive(Default)]
pub(super) struct Progress {
    shown: String,
}

impl Progress {
    pub(super) fn show(&mut self, text: &str) {
        if self.shown == text {
            return;
        }
        text.clone_into(&mut self.shown);
        let mut screen = std::io::stdout().lock();
        // A reader that has gone ends us at the end of the pipe.
        let _gone = if screen.is_terminal() {
            write!(screen, "\r\x1b[K{text}").and_then(|()| screen.flush())
        } else {
            writeln!(screen, "{text}")
        };
    }

    pub(super) fn end(&mut self, text: &str) {
        self.show(text);
        if std::io::stdout().is_terminal() {
            out("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_number_or_the_configured_one() {
        assert_eq!(parse_weight("default"), Ok(Weight::Configured));
        assert_eq!(parse_weight("12"), Ok(Weight::Own(12)));
        assert!(parse_weight("-1").is_err() && parse_weight("much").is_err());
    }

    #[test]
    fn a_preview_says_what_moves_and_what_stays() {
        let one = Move {
            module: "www".into(),
            rules: "tcp/80".into(),
            from: Some("web1".into()),
            to: Some("web2".into()),
            buckets: 100,
            connections: Some(1234),
        };
        let text = previewed(&Preview { moves: vec![one], buckets: 65_536 }, Format::Table);
        assert_eq!(
            text,
            "100 of 65536 buckets would move (0.2 %):\n  www tcp/80: web1 -> web2, 100 buckets, with about \
             1,234 connections on them\nconnections that live there stay where they are until they end; nothing \
             was changed"
        );
        let json = previewed(&Preview { moves: vec![], buckets: 65_536 }, Format::Json);
        assert!(json.contains("\"apiVersion\": \"v1\""), "{json}");
    }
}
