//! `safekit wait MODULE --for converged`: for scripts, instead of a sleep.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::place::refused;
use super::{Asking, status};
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::module::{Role, Status};
use crate::types::snapshot::{MemberState, Verdict};
use crate::types::{Command, ModuleState, Reply, Snapshot};

#[derive(Args, Debug)]
pub struct WaitArgs {
    /// The module to wait for.
    pub module: String,
    /// The state to wait for.
    #[arg(long = "for", value_enum, ignore_case = true, value_name = "STATE")]
    pub goal: Goal,
    /// Give up after this long.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = crate::config::duration::parse)]
    pub timeout: Duration,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Goal {
    /// The module is up on this node; of a farm, it serves its share.
    #[value(name = "UP")]
    Up,
    /// The mirror serves here, and the other copy is in sync.
    #[value(name = "PRIM")]
    Prim,
    /// The mirror follows the other node, and is in sync.
    #[value(name = "SECOND")]
    Second,
    /// The mirror serves here, whether or not the other copy is being brought up to date.
    #[value(name = "ALONE")]
    Alone,
    /// All nodes of the cluster are members, they agree, and every bucket has its owner.
    #[value(name = "converged")]
    Converged,
}

/// How long to wait before the daemon is asked for again that was not there yet.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

pub fn run(args: &WaitArgs) -> Exit {
    let deadline = crate::driver::clock::now() + args.timeout;
    let mut last = None;
    loop {
        match follow(args, deadline, &mut last) {
            Ok(exit) => return exit,
            Err(error) if crate::driver::clock::now() >= deadline => {
                return match last {
                    Some(seen) => give_up(args, &seen),
                    None => error.report(),
                };
            }
            // Not up yet, or restarted meanwhile: that is what waiting is for.
            Err(_) => std::thread::sleep(RETRY_PAUSE),
        }
    }
}

fn follow(
    args: &WaitArgs,
    deadline: crate::types::Instant,
    last: &mut Option<Snapshot>,
) -> Result<Exit, Error> {
    let mut client = Client::connect(&args.asking.socket())?;
    client.send(&Command::Watch)?;
    loop {
        let left = deadline.since(crate::driver::clock::now());
        let Reply::Status { snapshot } = client.receive(left)? else { return Err(Error::Unexpected) };
        let known = status::names(&snapshot);
        if !known.contains(&args.module) {
            return Ok(refused(
                &format!("there is no module {} on this node", args.module),
                &format!("name one of: {}", known.join(", ")),
            ));
        }
        if reached(args, &snapshot) {
            println!("{}", sentence(args, &snapshot));
            return Ok(Exit::Done);
        }
        if left.is_zero() {
            return Ok(give_up(args, &snapshot));
        }
        *last = Some(*snapshot);
    }
}

fn reached(args: &WaitArgs, snapshot: &Snapshot) -> bool {
    let serves = snapshot.state == MemberState::Active && snapshot.verdict != Verdict::Down;
    let is_farm = snapshot.farms.iter().any(|farm| farm.module == args.module);
    let module = snapshot.modules.iter().find(|module| module.name == args.module);
    let is_up = module.is_none_or(|module| module.state == ModuleState::new(Role::Up, Status::Ready));
    match args.goal {
        Goal::Up => is_up && (serves || !is_farm),
        Goal::Prim => module.is_some_and(|it| it.state == ModuleState::new(Role::Prim, Status::Ready)),
        Goal::Second => module.is_some_and(|it| it.state == ModuleState::new(Role::Second, Status::Ready)),
        Goal::Alone => {
            module.is_some_and(|it| it.state.role == Role::Alone && it.state.status != Status::NotReady)
        }
        Goal::Converged => snapshot.verdict == Verdict::Converged,
    }
}

/// What was waited for, as it is now.
fn sentence(args: &WaitArgs, seen: &Snapshot) -> String {
    let module = seen.modules.iter().find(|module| module.name == args.module);
    match (args.goal, module) {
        (Goal::Up | Goal::Prim | Goal::Second | Goal::Alone, Some(module)) => {
            format!("{}: {}", module.name, module.state)
        }
        (Goal::Up | Goal::Prim | Goal::Second | Goal::Alone, None) | (Goal::Converged, _) => {
            format!("{}  {}", status::verdict_word(seen.verdict), seen.summary)
        }
    }
}

fn give_up(args: &WaitArgs, seen: &Snapshot) -> Exit {
    eprintln!(
        "error: {} is not {} after {}: {}",
        args.module,
        args.goal.to_possible_value().expect("no goal is hidden").get_name(),
        status::span(args.timeout),
        sentence(args, seen)
    );
    eprintln!("next: `safekit status --run-dir {}`", args.asking.run_dir.display());
    Exit::Failed
}
