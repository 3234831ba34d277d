//! `safekit reload`: the program and the configuration of today, under traffic.

use std::time::Duration;

use clap::Args;

use super::{Asking, err, out, status};
use crate::driver::clock;
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::snapshot::MemberState;
use crate::types::{Command, Reply, Snapshot};

#[derive(Args, Debug)]
pub struct ReloadArgs {
    /// Give up after this long.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::config::duration::parse)]
    pub timeout: Duration,
    /// Return when the daemon has been asked.
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub asking: Asking,
}

const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub fn run(args: &ReloadArgs) -> Exit {
    reload(args).unwrap_or_else(|error| error.report())
}

fn reload(args: &ReloadArgs) -> Result<Exit, Error> {
    let socket = args.asking.socket();
    let before = snapshot(&mut Client::connect(&socket)?)?;
    match Client::connect(&socket)?.ask(&Command::Reload)? {
        Reply::Accepted { .. } => {}
        Reply::Refused { error, next_step } => {
            err(&format!("error: {error}\nnext: {next_step}"));
            return Ok(Exit::Failed);
        }
        _ => return Err(Error::Unexpected),
    }
    if args.no_wait {
        return Ok(Exit::Done);
    }
    let deadline = clock::now() + args.timeout;
    loop {
        std::thread::sleep(RETRY_PAUSE);
        let now = Client::connect(&socket).and_then(|mut client| snapshot(&mut client));
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
