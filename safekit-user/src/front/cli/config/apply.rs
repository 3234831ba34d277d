//! `safekit config apply | diff | history | rollback`: one configuration for all nodes, everywhere or nowhere.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::super::place::refused;
use super::super::{Asking, Format, err, out, status};
use crate::config::change::diff;
use crate::config::{Config, load, parse};
use crate::driver::clock;
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::cluster::{ConfigEntry, Effect};
use crate::types::snapshot::{API_VERSION, MemberState};
use crate::types::{Command, Reply};

#[derive(Args, Debug)]
pub(super) struct ApplyArgs {
    /// The configuration that all nodes are to have
    file: PathBuf,
    #[command(flatten)]
    how: How,
}

#[derive(Args, Debug)]
pub(super) struct DiffArgs {
    /// Compared with the configuration in force
    file: PathBuf,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Args, Debug)]
pub(super) struct HistoryArgs {
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Args, Debug)]
pub(super) struct RollbackArgs {
    /// A version of `safekit config history`; without it, the one before the present one
    #[arg(value_name = "VERSION")]
    number: Option<u64>,
    #[command(flatten)]
    how: How,
}

#[derive(Args, Debug)]
struct How {
    /// Ask every node, say what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    asking: Asking,
}

/// The daemon asks all nodes twice, each time with a deadline of its own.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// For the daemon of this node to serve again after it was started anew.
const BACK_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub(super) fn apply(args: &ApplyArgs) -> Exit {
    let text = match read(&args.file) {
        Ok(text) => text,
        Err(exit) => return exit,
    };
    change(&args.how, &text).unwrap_or_else(|error| error.report())
}

/// A faulty file is told here, with lines and columns, before any node hears of it.
fn read(file: &Path) -> Result<String, Exit> {
    if let Err(errors) = load(file) {
        err(&errors.to_string());
        return Err(Exit::Failed);
    }
    std::fs::read_to_string(file)
        .map_err(|error| refused(&format!("cannot read {}: {error}", file.display()), "run it again"))
}

pub(super) fn show_diff(args: &DiffArgs) -> Exit {
    let compare = || -> Result<Exit, Error> {
        let text = match read(&args.file) {
            Ok(text) => text,
            Err(exit) => return Ok(exit),
        };
        let mut client = Client::connect(&args.asking.socket())?;
        match differences(&mut client, &text)? {
            Ok(lines) if lines.is_empty() => out("no difference: it says what is in force"),
            Ok(lines) => out(&lines.join("\n")),
            Err(exit) => return Ok(exit),
        }
        Ok(Exit::Done)
    };
    compare().unwrap_or_else(|error| error.report())
}

pub(super) fn history(args: &HistoryArgs) -> Exit {
    let list = || -> Result<Exit, Error> {
        let entries = match Client::connect(&args.asking.socket())?.ask(&Command::ConfigHistory)? {
            Reply::ConfigHistory { entries } => entries,
            Reply::Refused { error, next_step } => return Ok(refused(&error, &next_step)),
            _ => return Err(Error::Unexpected),
        };
        match args.output {
            Format::Json => {
                let object = serde_json::json!({ "apiVersion": API_VERSION, "history": entries });
                out(&format!("{object:#}"));
            }
            Format::Table if entries.is_empty() => {
                out("nothing has been applied yet: the file is as it came");
            }
            Format::Table => entries.iter().for_each(|entry| out(&history_line(entry))),
        }
        Ok(Exit::Done)
    };
    list().unwrap_or_else(|error| error.report())
}

fn history_line(entry: &ConfigEntry) -> String {
    let mark = if entry.in_force { "*" } else { " " };
    format!("{mark} {:>4}  {}  by {}", entry.version.number, date(entry.at), entry.user)
}

/// UTC, `2026-11-23 08:15:00Z`: civil date from days since 1970.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years: months then begin with March, and leap days come last.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

pub(super) fn rollback(args: &RollbackArgs) -> Exit {
    let back = || -> Result<Exit, Error> {
        let mut client = Client::connect(&args.how.asking.socket())?;
        let number = match args.number {
            Some(number) => number,
            None => match client.ask(&Command::ConfigHistory)? {
                Reply::ConfigHistory { entries } => match entries.iter().skip_while(|it| !it.in_force).nth(1)
                {
                    Some(before) => before.version.number,
                    None => {
                        let next = "`safekit config history` lists the versions that are kept";
                        return Ok(refused("there is no version before the present one", next));
                    }
                },
                Reply::Refused { error, next_step } => return Ok(refused(&error, &next_step)),
                _ => return Err(Error::Unexpected),
            },
        };
        match client.ask(&Command::ConfigText { number: Some(number) })? {
            Reply::ConfigText { text, .. } => {
                out(&format!("back to version {number}"));
                change(&args.how, &text)
            }
            Reply::Refused { error, next_step } => Ok(refused(&error, &next_step)),
            _ => Err(Error::Unexpected),
        }
    };
    back().unwrap_or_else(|error| error.report())
}

/// Shows what would happen, asks, and does it.
fn change(how: &How, text: &str) -> Result<Exit, Error> {
    let socket = how.asking.socket();
    let mut client = Client::connect(&socket)?;
    match differences(&mut client, text)? {
        Ok(lines) if lines.is_empty() => out("no difference: it says what is in force"),
        Ok(lines) => out(&lines.join("\n")),
        Err(exit) => return Ok(exit),
    }
    let ask = |dry_run| Command::ConfigApply { text: text.to_owned(), dry_run, by: String::new() };
    match client.ask_within(&ask(true), ANSWER_TIMEOUT)? {
        Reply::ConfigPlan { effects } => out(&plan(&effects)),
        Reply::Refused { error, next_step } => return Ok(refused(&error, &next_step)),
        _ => return Err(Error::Unexpected),
    }
    if how.dry_run {
        out("nothing was changed");
        return Ok(Exit::Done);
    }
    if !how.yes && !confirmed() {
        return Ok(refused(
            "not confirmed; nothing was changed",
            "give --yes to apply it without a question",
        ));
    }
    let before = boot(&mut client)?;
    match client.ask_within(&ask(false), ANSWER_TIMEOUT)? {
        Reply::ConfigApplied { version, missing, hand_over } => {
            out(&format!("version {} is in force", version.number));
            if hand_over {
                wait_back(&socket, &before)?;
            }
            if missing.is_empty() {
                return Ok(Exit::Done);
            }
            err(&format!("not confirmed by {}; it follows as soon as it can be reached", missing.join(", ")));
            Ok(Exit::Unreachable)
        }
        Reply::Refused { error, next_step } => Ok(refused(&error, &next_step)),
        _ => Err(Error::Unexpected),
    }
}

/// Nodes on which the same happens share a line.
fn plan(effects: &[(String, Effect)]) -> String {
    let mut groups: Vec<(Vec<&str>, &[String])> = Vec::new();
    for (node, effect) in effects {
        match groups.iter_mut().find(|(_, lines)| *lines == effect.lines) {
            Some((nodes, _)) => nodes.push(node),
            None => groups.push((vec![node], &effect.lines)),
        }
    }
    let text = |(nodes, lines): (Vec<&str>, &[String])| {
        let lines: String = lines.iter().map(|line| format!("\n  {line}")).collect();
        format!("{}:{lines}", nodes.join(", "))
    };
    groups.into_iter().map(text).collect::<Vec<_>>().join("\n")
}

fn confirmed() -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    let mut screen = std::io::stdout().lock();
    // A terminal that has gone answers nothing below.
    let _gone = write!(screen, "apply it on all nodes? [y/N] ").and_then(|()| screen.flush());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok() && matches!(line.trim(), "y" | "yes")
}

fn boot(client: &mut Client) -> Result<String, Error> {
    match client.ask(&Command::Status)? {
        Reply::Status { snapshot } => Ok(snapshot.boot),
        _ => Err(Error::Unexpected),
    }
}

fn wait_back(socket: &Path, before: &str) -> Result<(), Error> {
    let deadline = clock::now() + BACK_TIMEOUT;
    loop {
        std::thread::sleep(RETRY_PAUSE);
        let now = Client::connect(socket).and_then(|mut client| client.ask(&Command::Status));
        if let Ok(Reply::Status { snapshot }) = now
            && snapshot.boot != before
            && snapshot.state == MemberState::Active
        {
            out(&format!("{}  {}", status::verdict_word(snapshot.verdict), snapshot.summary));
            return Ok(());
        }
        if clock::now() >= deadline {
            return Err(Error::NoEffect { what: "the daemon of this node".to_owned(), waited: BACK_TIMEOUT });
        }
    }
}

/// What of this text differs from the configuration in force; or how it ended, which has been told.
fn differences(client: &mut Client, text: &str) -> Result<Result<Vec<String>, Exit>, Error> {
    let (old, file) = match client.ask(&Command::ConfigText { number: None })? {
        Reply::ConfigText { text, file, .. } => (text, file),
        Reply::Refused { error, next_step } => return Ok(Err(refused(&error, &next_step))),
        _ => return Err(Error::Unexpected),
    };
    let read = |text: &str| -> Option<Config> { parse(text, &file).ok() };
    Ok(Ok(match (read(&old), read(text)) {
        (Some(old), Some(new)) => diff(&old, &new),
        // The nodes say what is wrong with it.
        _ => vec!["(the two cannot be compared)".to_owned()],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399, "2000-02-28 23:59:59Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_709_164_800, "2024-02-29 00:00:00Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn nodes_on_which_the_same_happens_share_a_line() {
        let effect = |line: &str| Effect { hand_over: None, lines: vec![line.to_owned()] };
        let effects = [("web1", effect("a")), ("web2", effect("b")), ("web3", effect("a"))]
            .map(|(n, e)| (n.to_owned(), e));
        assert_eq!(plan(&effects), "web1, web3:\n  a\nweb2:\n  b");
    }
}
