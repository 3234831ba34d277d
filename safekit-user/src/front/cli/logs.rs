//! `safekit logs`: what a module's scripts have printed, run by run.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::status::{grouped, plain_table, span, trimmed};
use super::{Asking, Format, err, out};
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::logs::{LogPage, ScriptRun, sentence};
use crate::types::snapshot::API_VERSION;
use crate::types::{Command, Reply};

#[derive(Args, Debug)]
pub struct LogsArgs {
    /// The module.
    pub module: String,
    /// What this script has printed: `start_both`, `stop_prim`; `start` means all that start something.
    #[arg(long, value_name = "NAME")]
    pub script: Option<String>,
    /// What the last N runs have printed. Default: the last one, or a list of runs when no script is named.
    #[arg(long, value_name = "N")]
    pub last: Option<u32>,
    /// Go on with what is printed from now on.
    #[arg(short, long)]
    pub follow: bool,
    /// On this node instead of the one that is asked.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

/// Runs in the list: as many as a node keeps.
const LISTED: u32 = 50;
const FOLLOW_INTERVAL: Duration = Duration::from_millis(300);

pub fn run(args: &LogsArgs) -> Exit {
    match show(args) {
        Ok(exit) => exit,
        Err(error) => error.report(),
    }
}

fn show(args: &LogsArgs) -> Result<Exit, Error> {
    let mut client = Client::connect(&args.asking.socket())?.at(args.node.as_deref());
    let lists = args.script.is_none() && args.last.is_none() && !args.follow;
    let last = if lists { LISTED } else { args.last.unwrap_or(1) };
    let Some(runs) = runs(&mut client, args, last)? else { return Ok(Exit::Failed) };
    if lists {
        out(&listed(&args.module, &runs, args.output));
        return Ok(Exit::Done);
    }
    if runs.is_empty() && !args.follow && args.output == Format::Table {
        out(&none(args));
    }
    if args.follow {
        return follow(&mut client, args, &runs);
    }
    let mut objects = Vec::new();
    for run in &runs {
        match args.output {
            Format::Table => {
                out(&heading(run));
                pages(&mut client, args, &run.name, 0, plain)?;
            }
            Format::Json => {
                let mut text = String::new();
                pages(&mut client, args, &run.name, 0, |page| text.push_str(&page.text))?;
                let mut object = serde_json::to_value(run).expect("a run is plain data");
                object["output"] = text.into();
                objects.push(object);
            }
        }
    }
    if args.output == Format::Json {
        out(&format!("{:#}", json!({ "apiVersion": API_VERSION, "module": args.module, "runs": objects })));
    }
    Ok(Exit::Done)
}

/// None: refused, and that has been said.
fn runs(client: &mut Client, args: &LogsArgs, last: u32) -> Result<Option<Vec<ScriptRun>>, Error> {
    let command = Command::Logs { module: args.module.clone(), script: args.script.clone(), last };
    match client.ask(&command)? {
        Reply::Runs { runs } => Ok(Some(runs)),
        Reply::Refused { error, next_step } => {
            err(&format!("error: {error}\nnext: {next_step}"));
            Ok(None)
        }
        _ => Err(Error::Unexpected),
    }
}

/// What there is of a run from a byte on; says where it ends.
fn pages(
    client: &mut Client,
    args: &LogsArgs,
    run: &str,
    mut from: u64,
    mut show: impl FnMut(&LogPage),
) -> Result<u64, Error> {
    loop {
        let command = Command::LogPage { module: args.module.clone(), run: run.to_owned(), from };
        match client.ask(&command)? {
            Reply::LogPage { page } => {
                show(&page);
                from = page.next;
                if page.is_last {
                    return Ok(from);
                }
            }
            // It was the oldest, and has been dropped meanwhile.
            Reply::Refused { .. } => return Ok(from),
            _ => return Err(Error::Unexpected),
        }
    }
}

/// Until the reader goes away, or the daemon does.
fn follow(client: &mut Client, args: &LogsArgs, begin: &[ScriptRun]) -> Result<Exit, Error> {
    let mut shown: Option<(String, u64)> = None;
    let mut todo = begin.to_vec();
    loop {
        for run in &todo {
            let from = match &shown {
                Some((name, from)) if *name == run.name => *from,
                Some(_) | None => {
                    if args.output == Format::Table {
                        out(&heading(run));
                    }
                    0
                }
            };
            let next = pages(client, args, &run.name, from, |page| match args.output {
                Format::Table => plain(page),
                Format::Json if page.text.is_empty() => {}
                Format::Json => {
                    out(&json!({ "apiVersion": API_VERSION, "run": page.run, "text": page.text }).to_string());
                }
            })?;
            shown = Some((run.name.clone(), next));
        }
        std::thread::sleep(FOLLOW_INTERVAL);
        let Some(now) = runs(client, args, LISTED)? else { return Ok(Exit::Failed) };
        // The one that was shown last may have printed more; then those that have begun since.
        todo = match &shown {
            Some((name, _)) => now.into_iter().filter(|run| run.name >= *name).collect(),
            None => now,
        };
    }
}

fn plain(page: &LogPage) {
    let mut screen = std::io::stdout().lock();
    // A reader that has gone ends us at the end of the pipe.
    let _gone = screen.write_all(page.text.as_bytes()).and_then(|()| screen.flush());
}

fn none(args: &LogsArgs) -> String {
    match &args.script {
        Some(script) => {
            format!("{}: no run of {script} yet; `safekit logs {}` lists all", args.module, args.module)
        }
        None => format!("{}: no script has run yet", args.module),
    }
}

fn heading(run: &ScriptRun) -> String {
    format!("── {} {}{}: {}", run.started, run.script, forced(run), ended(run))
}

fn forced(run: &ScriptRun) -> &'static str {
    if run.force { " (forced)" } else { "" }
}

fn ended(run: &ScriptRun) -> String {
    let end = run.end.as_ref().map_or_else(|| "is under way".to_owned(), sentence);
    match run.took_ms {
        Some(took) => format!("{end} (after {})", span(Duration::from_millis(took))),
        None => end,
    }
}

fn listed(module: &str, runs: &[ScriptRun], output: Format) -> String {
    if output == Format::Json {
        return format!("{:#}", json!({ "apiVersion": API_VERSION, "module": module, "runs": runs }));
    }
    if runs.is_empty() {
        return format!("{module}: no script has run yet");
    }
    let mut table = plain_table(&["STARTED (UTC)", "SCRIPT", "CHANGE", "TOOK", "BYTES", "END"]);
    for run in runs {
        let change =
            if run.from.is_empty() { run.action.clone() } else { format!("{} -> {}", run.from, run.to) };
        let took = run.took_ms.map_or_else(|| "-".to_owned(), |took| span(Duration::from_millis(took)));
        let end = run.end.as_ref().map_or_else(|| "is under way".to_owned(), sentence);
        table.add_row([
            run.started.clone(),
            format!("{}{}", run.script, forced(run)),
            change,
            took,
            grouped(run.bytes),
            end,
        ]);
    }
    format!("{}\n\n`safekit logs {module} --script NAME` shows what a script has printed", trimmed(&table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::module::ScriptEnd;

    fn run(script: &str, end: Option<ScriptEnd>) -> ScriptRun {
        ScriptRun {
            name: format!("20261123T080320.007Z_{script}"),
            script: script.to_owned(),
            force: script.starts_with("stop"),
            from: "WAIT".to_owned(),
            to: "UP".to_owned(),
            action: "start".to_owned(),
            cause: "asked by root".to_owned(),
            started: "2026-11-23T08:03:20.007Z".to_owned(),
            took_ms: end.as_ref().map(|_| 1234),
            end,
            bytes: 4321,
            dropped: 0,
            path: "/var/lib/safekit/modules/www/scripts/a.log".to_owned(),
        }
    }

    #[test]
    fn a_list_says_what_ran_and_how_it_ended() {
        let failed = ScriptEnd::Failed { code: Some(3), last_line: "no disk".to_owned() };
        let runs = [run("start_both", Some(failed)), run("stop_both", None)];
        assert_eq!(
            listed("www", &runs, Format::Table).lines().map(str::trim_end).collect::<Vec<_>>(),
            [
                " STARTED (UTC)             SCRIPT              CHANGE      TOOK   BYTES  END",
                " 2026-11-23T08:03:20.007Z  start_both          WAIT -> UP  1.2 s  4,321  failed with exit code 3: no disk",
                " 2026-11-23T08:03:20.007Z  stop_both (forced)  WAIT -> UP  -      4,321  is under way",
                "",
                "`safekit logs www --script NAME` shows what a script has printed",
            ]
        );
        assert_eq!(listed("www", &[], Format::Table), "www: no script has run yet");
    }

    #[test]
    fn the_json_of_a_list_has_every_fact() {
        let text = listed("www", &[run("start_both", Some(ScriptEnd::TimedOut))], Format::Json);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["apiVersion"], "v1");
        let run = &object["runs"][0];
        assert_eq!((run["script"].as_str(), run["tookMs"].as_u64()), (Some("start_both"), Some(1234)));
        assert_eq!(run["end"]["end"], "timed_out");
        assert_eq!(run["cause"], "asked by root");
    }

    #[test]
    fn a_heading_says_how_a_run_ended() {
        let text = heading(&run("start_both", Some(ScriptEnd::Done)));
        assert_eq!(text, "── 2026-11-23T08:03:20.007Z start_both: ended well (after 1.2 s)");
        assert!(heading(&run("stop_both", None)).ends_with("stop_both (forced): is under way"));
    }
}
