//! `safekit events` and `safekit audit`: what happened, why, and who ordered what.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::status::{plain_table, span, trimmed};
use super::{Asking, Format, err, out};
use crate::driver::clock;
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::journal::{Act, Entry, Level, Wanted};
use crate::types::snapshot::API_VERSION;
use crate::types::{Command, Instant, Reply, WallTime};

#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Only events of this module.
    pub module: Option<String>,
    /// Go on, and show each event when it comes.
    #[arg(short, long)]
    pub follow: bool,
    /// Only events that are not older: `90s`, `15m`, `1h`.
    #[arg(long, value_name = "DURATION", value_parser = crate::config::duration::parse)]
    pub since: Option<Duration>,
    /// Only events that matter at least so much.
    #[arg(long, value_enum, default_value = "info")]
    pub level: Least,
    /// The newest so many, 2000 at most.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    pub count: usize,
    #[command(flatten)]
    pub look: Look,
}

#[derive(Args, Debug)]
pub struct AuditArgs {
    /// The newest so many, 2000 at most.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    pub count: usize,
    #[command(flatten)]
    pub look: Look,
}

/// How to show it, and where it lies when no daemon answers.
#[derive(Args, Debug)]
pub struct Look {
    /// Times in UTC, instead of this machine's time zone.
    #[arg(long)]
    pub utc: bool,
    /// The daemon's state directory: read when no daemon answers.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/safekit")]
    pub state_dir: PathBuf,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Least {
    Error,
    Warning,
    Info,
    Debug,
}

impl From<Least> for Level {
    fn from(least: Least) -> Self {
        match least {
            Least::Error => Self::Error,
            Least::Warning => Self::Warning,
            Least::Info => Self::Info,
            Least::Debug => Self::Debug,
        }
    }
}

/// Answers [`Command::Events`] and [`Command::Audit`] from the files that a dead daemon left.
pub type Leftover = fn(&std::path::Path, &Command) -> Reply;

/// The daemon waits a second for news before it says that there are none.
const NEWS_SILENCE_MAX: Duration = Duration::from_secs(5);
/// A daemon that died is started again within half a minute at most, unless somebody has stopped it.
const RETURN_TIMEOUT: Duration = Duration::from_secs(60);
const RETURN_PAUSE: Duration = Duration::from_millis(100);

pub fn events(args: &EventsArgs, leftover: Leftover) -> Exit {
    let command = Command::Events { wanted: wanted(args), after: None };
    let shown = if args.follow { follow(args) } else { look(&args.look, &command, leftover) };
    shown.unwrap_or_else(|error| error.report())
}

pub fn audit(args: &AuditArgs, leftover: Leftover) -> Exit {
    let command = Command::Audit { count: args.count };
    look(&args.look, &command, leftover).unwrap_or_else(|error| error.report())
}

fn wanted(args: &EventsArgs) -> Wanted {
    Wanted {
        module: args.module.clone(),
        level: args.level.into(),
        since: args.since.map(|span| clock::wall().before(span)),
        count: args.count,
    }
}

fn look(look: &Look, command: &Command, leftover: Leftover) -> Result<Exit, Error> {
    match Client::connect(&look.asking.socket()).and_then(|mut client| client.ask(command)) {
        Ok(reply) => show(look, reply),
        // What happened before the daemon died is what somebody wants to know now.
        Err(error @ Error::Connect { .. }) if !error.is_denied() => {
            err(&format!("{error}; this is what it left in {}", look.state_dir.display()));
            show(look, leftover(&look.state_dir, command))
        }
        Err(error) => Err(error),
    }
}

/// Goes on over restarts of the daemon: who follows wants to see them most of all.
fn follow(args: &EventsArgs) -> Result<Exit, Error> {
    let mut place = Place { wanted: wanted(args), after: None };
    let mut heard = clock::now();
    loop {
        let error = match listen(args, &mut place, &mut heard) {
            Ok(exit) => return Ok(exit),
            Err(error) => error,
        };
        let is_back_soon =
            matches!(error, Error::Connect { .. } | Error::Broken { .. } | Error::Closed { .. });
        // One that was never there is told at once.
        if !is_back_soon || place.after.is_none() || clock::now().since(heard) > RETURN_TIMEOUT {
            return Err(error);
        }
        std::thread::sleep(RETURN_PAUSE);
    }
}

/// How far it was followed.
struct Place {
    wanted: Wanted,
    after: Option<u64>,
}

/// Each answer says how far it goes, so the next question starts behind it and nothing is shown twice.
fn listen(args: &EventsArgs, place: &mut Place, heard: &mut Instant) -> Result<Exit, Error> {
    let mut client = Client::connect(&args.look.asking.socket())?;
    loop {
        client.send(&Command::Events { wanted: place.wanted.clone(), after: place.after })?;
        let reply = client.receive(NEWS_SILENCE_MAX)?;
        *heard = clock::now();
        match reply {
            Reply::Events { entries, last } => {
                place.after = Some(last);
                // From now on everything counts, not only the newest few.
                place.wanted.count = usize::MAX;
                for entry in &entries {
                    match args.look.output {
                        Format::Table => out(&line(entry, args.look.utc)),
                        Format::Json => out(&serde_json::to_string(entry).expect("plain data")),
                    }
                }
            }
            Reply::Refused { error, next_step } => return Ok(refused(&error, &next_step)),
            _ => return Err(Error::Unexpected),
        }
    }
}

fn show(look: &Look, reply: Reply) -> Result<Exit, Error> {
    let text = match (reply, look.output) {
        (Reply::Events { entries, .. }, Format::Table) => events_table(&entries, clock::wall(), look.utc),
        (Reply::Audit { acts }, Format::Table) => audit_table(&acts, clock::wall(), look.utc),
        (Reply::Events { entries, .. }, Format::Json) => {
            format!("{:#}", serde_json::json!({ "apiVersion": API_VERSION, "events": entries }))
        }
        (Reply::Audit { acts }, Format::Json) => {
            format!("{:#}", serde_json::json!({ "apiVersion": API_VERSION, "commands": acts }))
        }
        (Reply::Refused { error, next_step }, _) => return Ok(refused(&error, &next_step)),
        _ => return Err(Error::Unexpected),
    };
    out(&text);
    Ok(Exit::Done)
}

fn refused(error: &str, next_step: &str) -> Exit {
    err(&format!("error: {error}\nnext: {next_step}"));
    Exit::Failed
}

/// Newest last, as a log is.
pub fn events_table(entries: &[Entry], now: WallTime, utc: bool) -> String {
    if entries.is_empty() {
        return "no events".to_owned();
    }
    let mut table = plain_table(&[zone(utc), "AGE", "LEVEL", "MODULE", "WHAT"]);
    for entry in entries {
        let module = entry.module.clone().unwrap_or_else(|| "-".to_owned());
        let (time, age) = (time(entry.time, utc), span(now.since(entry.time)));
        table.add_row([time, age, entry.level.to_string(), module, sentence(entry)]);
    }
    trimmed(&table)
}

pub fn audit_table(acts: &[Act], now: WallTime, utc: bool) -> String {
    if acts.is_empty() {
        return "no commands".to_owned();
    }
    let mut table = plain_table(&[zone(utc), "AGE", "WHO", "FROM", "COMMAND", "TOOK", "RESULT"]);
    for act in acts {
        let took = span(act.ended.since(act.began));
        let (time, age) = (time(act.began, utc), span(now.since(act.began)));
        let (who, from, what) = (act.who.to_string(), act.who.from.clone(), act.what.clone());
        table.add_row([time, age, who, from, what, took, act.result.to_string()]);
    }
    trimmed(&table)
}

fn line(entry: &Entry, utc: bool) -> String {
    let module = entry.module.as_deref().unwrap_or("-");
    format!("{}  {:<7}  {module}  {}", time(entry.time, utc), entry.level, sentence(entry))
}

fn sentence(entry: &Entry) -> String {
    match &entry.cause {
        Some(cause) => format!("{}: {cause}", entry.text),
        None => entry.text.clone(),
    }
}

fn zone(utc: bool) -> &'static str {
    if utc { "TIME (UTC)" } else { "TIME (LOCAL)" }
}

fn time(time: WallTime, utc: bool) -> String {
    if utc { time.to_string() } else { time.local() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Access;
    use crate::types::journal::{ActResult, Actor};

    fn at(ms: i64) -> WallTime {
        WallTime::of_unix_ms(1_795_421_917_042 + ms).expect("within the calendar")
    }

    fn entry(ms: i64, module: Option<&str>, level: Level, text: &str, cause: Option<&str>) -> Entry {
        let (module, cause) = (module.map(str::to_owned), cause.map(str::to_owned));
        let (number, node, kind) = (1, "web1".to_owned(), "state".to_owned());
        Entry { number, time: at(ms), node, module, level, kind, text: text.to_owned(), cause }
    }

    #[test]
    fn events_read_as_a_log() {
        let entries = [
            entry(0, None, Level::Info, "web2 joined", None),
            entry(61_000, Some("www"), Level::Error, "STOP", Some("start_both failed with exit code 3")),
        ];
        let expected = [
            " TIME (UTC)                AGE    LEVEL  MODULE  WHAT",
            " 2026-11-23T08:18:37.042Z  1 min  info   -       web2 joined",
            " 2026-11-23T08:19:38.042Z  1.5 s  error  www     STOP: start_both failed with exit code 3",
        ];
        assert_eq!(events_table(&entries, at(62_500), true), expected.join("\n"));
        assert_eq!(events_table(&[], at(0), true), "no events");
    }

    #[test]
    fn commands_read_as_a_list() {
        let who = Actor { uid: Some(0), user: Some("root".into()), from: "control socket".into() };
        let act = |ms, what: &str, result| Act {
            began: at(ms),
            ended: at(ms + 12),
            node: "web1".into(),
            who: who.clone(),
            what: what.into(),
            result,
        };
        let acts = [
            act(0, "drain web2", ActResult::Done),
            act(1000, "reload", ActResult::Denied { needs: Access::Admin }),
        ];
        let expected = [
            " TIME (UTC)                AGE    WHO   FROM            COMMAND     TOOK   RESULT",
            " 2026-11-23T08:18:37.042Z  2.0 s  root  control socket  drain web2  12 ms  done",
            " 2026-11-23T08:18:38.042Z  1.0 s  root  control socket  reload      12 ms  denied: it needs the role admin",
        ];
        assert_eq!(audit_table(&acts, at(2000), true), expected.join("\n"));
    }
}
