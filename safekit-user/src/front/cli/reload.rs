//! `safekit reload`: the program and the configuration of today, under traffic.

use std::time::Duration;

use clap::Args;

use super::place::{Where, refused, worst};
use super::{Asking, err, out, status};
use crate::driver::clock;
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::snapshot::MemberState;
use crate::types::{Command, Reply, Snapshot};

#[derive(Args, Debug)]
pub struct ReloadArgs {
    /// Give up after this long; for each node.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::config::duration::parse)]
    pub timeout: Duration,
    /// Return when the daemon has been asked.
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub place: Where,
    #[command(flatten)]
    pub asking: Asking,
}

const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub fn run(args: &ReloadArgs) -> Exit {
    reload(args).unwrap_or_else(|error| error.report())
}

/// One node after the other, the one that is asked last: the others go on meanwhile.
fn reload(args: &ReloadArgs) -> Result<Exit, Error> {
    if args.place.is_here() {
        return reload_one(args, None);
    }
    let asked = snapshot(&mut Client::connect(&args.asking.socket())?)?;
    let (last, others): (Vec<_>, Vec<_>) = asked.nodes.iter().partition(|node| node.this);
    let known = others.into_iter().chain(last).map(|node| node.name.as_str());
    let wanted: Vec<&str> = match &args.place.nodes[..] {
        [] => known.collect(),
        names => known.filter(|name| names.iter().any(|it| it == name)).collect(),
    };
    if let Some(unknown) = args.place.nodes.iter().find(|name| !wanted.contains(&name.as_str())) {
        return Ok(refused(&format!("there is no node {unknown}"), "`safekit status` lists them"));
    }
    let mut exits = Vec::new();
    for node in wanted {
        out(&format!("── {node}"));
        match reload_one(args, Some(node)) {
            Ok(Exit::Failed) => {
                err("the nodes after it are as before");
                return Ok(Exit::Failed);
            }
            Ok(exit) => exits.push(exit),
            Err(Error::Unreachable { why, .. }) => {
                out(&format!("unreachable: {why}"));
                exits.push(Exit::Unreachable);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(worst(&exits))
}

fn reload_one(args: &ReloadArgs, node: Option<&str>) -> Result<Exit, Error> {
    let socket = args.asking.socket();
    let before = snapshot(&mut Client::connect(&socket)?.at(node))?;
    match Client::connect(&socket)?.at(node).ask(&Command::Reload)? {
        Reply::Accepted { .. } => {}
        Reply::Refused { error, next_step } => return Ok(refused(&error, &next_step)),
        _ => return Err(Error::Unexpected),
    }
    if args.no_wait {
        return Ok(Exit::Done);
    }
    let deadline = clock::now() + args.timeout;
    loop {
        std::thread::sleep(RETRY_PAUSE);
        let now = Client::connect(&socket).and_then(|client| snapshot(&mut client.at(node)));
        if let Ok(now) = &now
            && now.boot != before.boot
            && now.state == MemberState::Active
        {
            out(&format!("{}  {}", status::verdict_word(now.verdict), now.summary));
            return Ok(Exit::Done);
        }
        if clock::now() >= deadline {
            // Without a successor the old one is still there: it refuses a configuration that it cannot run.
            err(&format!("error: no new daemon serves after {}", status::span(args.timeout)));
            err("next: `safekit config check`, then the daemon's log");
            return Ok(Exit::Failed);
        }
    }
}

fn snapshot(client: &mut Client) -> Result<Snapshot, Error> {
    match client.ask(&Command::Status)? {
        Reply::Status { snapshot } => Ok(*snapshot),
        _ => Err(Error::Unexpected),
    }
}
