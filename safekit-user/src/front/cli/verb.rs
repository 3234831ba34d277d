//! `safekit start`, `stop`, `restart`, `stopstart`, `forcestop`: the verbs of a module, and waiting for what follows.

use std::time::Duration;

use clap::Args;

use super::place::{Where, ask_nodes, refused, worst};
use super::status::span;
use super::{Asking, err, out};
use crate::driver::clock;
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::command::{Answer, NodeAnswer};
use crate::types::mirror::MirrorInfo;
use crate::types::module::{ModuleInfo, ModuleState, Role, Status, Verb};
use crate::types::{Command, Instant, Reply, Snapshot};

#[derive(Args, Debug)]
pub struct VerbArgs {
    /// Its name in the configuration.
    pub module: String,
    /// Give up waiting after so long; the module goes on.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = crate::config::duration::parse)]
    pub timeout: Duration,
    /// Return when the daemon has taken the command.
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub place: Where,
    #[command(flatten)]
    pub asking: Asking,
}

/// Of this node's daemon while it is watched, and of another one while it is asked again and again.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Other nodes are asked how it goes so often.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// Asks, then waits until the module has come to rest.
pub fn run(args: &VerbArgs, verb: Verb) -> Exit {
    let result = if args.place.is_here() { here(args, verb) } else { on_nodes(args, verb) };
    result.unwrap_or_else(|error| error.report())
}

fn here(args: &VerbArgs, verb: Verb) -> Result<Exit, Error> {
    let mut client = Client::connect(&args.asking.socket())?;
    let accepted = match client.ask(&Command::Module { module: args.module.clone(), verb })? {
        Reply::Accepted { at } => at,
        Reply::Refused { error, next_step } => return Ok(refused(&error, &next_step)),
        _ => return Err(Error::Unexpected),
    };
    if args.no_wait {
        return Ok(Exit::Done);
    }
    let deadline = clock::now() + args.timeout;
    client.send(&Command::Watch)?;
    let mut followed = Followed::new(None, accepted);
    loop {
        let Reply::Status { snapshot } = client.receive(SILENCE_MAX)? else { return Err(Error::Unexpected) };
        followed.look(&snapshot, args, verb);
        if let Some(exit) = followed.exit {
            return Ok(exit);
        }
        if clock::now() >= deadline {
            return Ok(followed.give_up(args));
        }
    }
}

/// The same on several nodes at once: their lines are told apart by the nodes' names.
fn on_nodes(args: &VerbArgs, verb: Verb) -> Result<Exit, Error> {
    let command = Command::Module { module: args.module.clone(), verb };
    let answers = match ask_nodes(&args.asking, &args.place, &command)? {
        Ok(answers) => answers,
        Err(refused) => return Ok(refused),
    };
    let mut all: Vec<Followed> = answers.into_iter().map(taken).collect::<Result<_, _>>()?;
    let deadline = clock::now() + args.timeout;
    while !args.no_wait && all.iter().any(|it| it.exit.is_none()) {
        std::thread::sleep(ASK_INTERVAL);
        let open = |it: &&Followed| it.exit.is_none();
        let nodes = all.iter().filter(open).filter_map(|it| it.node.clone()).collect();
        let place = Where { nodes, all: false };
        let answers = match ask_nodes(&args.asking, &place, &Command::Status)? {
            Ok(answers) => answers,
            Err(refused) => return Ok(refused),
        };
        for NodeAnswer { node, answer } in answers {
            let Some(followed) = all.iter_mut().find(|it| it.node.as_ref() == Some(&node)) else { continue };
            match answer {
                Answer::Said(Reply::Status { snapshot }) => followed.look(&snapshot, args, verb),
                Answer::Said(_) => return Err(Error::Unexpected),
                Answer::Unreachable(why) => followed.miss(&why),
            }
        }
        if clock::now() >= deadline {
            for followed in all.iter_mut().filter(|it| it.exit.is_none()) {
                followed.exit = Some(followed.give_up(args));
            }
        }
    }
    let exits: Vec<Exit> = all.iter().map(|it| it.exit.unwrap_or(Exit::Done)).collect();
    Ok(worst(&exits))
}

fn taken(NodeAnswer { node, answer }: NodeAnswer) -> Result<Followed, Error> {
    let mut followed = Followed::new(Some(node), Instant(0));
    match answer {
        Answer::Said(Reply::Accepted { at }) => followed.accepted = at,
        Answer::Said(Reply::Refused { error, next_step }) => {
            err(&format!("error: {}{error}\nnext: {next_step}", followed.mark()));
            followed.exit = Some(Exit::Failed);
        }
        Answer::Said(_) => return Err(Error::Unexpected),
        Answer::Unreachable(why) => {
            out(&format!("{}unreachable: {why}", followed.mark()));
            followed.exit = Some(Exit::Unreachable);
        }
    }
    Ok(followed)
}

/// A module on one node, on its way.
struct Followed {
    /// None: the one that is asked.
    node: Option<String>,
    /// By that node's clock.
    accepted: Instant,
    last: Option<ModuleState>,
    heard: Instant,
    exit: Option<Exit>,
}

impl Followed {
    fn new(node: Option<String>, accepted: Instant) -> Self {
        Self { node, accepted, last: None, heard: clock::now(), exit: None }
    }

    fn mark(&self) -> String {
        self.node.as_ref().map(|node| format!("{node}: ")).unwrap_or_default()
    }

    fn look(&mut self, snapshot: &Snapshot, args: &VerbArgs, verb: Verb) {
        self.heard = clock::now();
        let module = snapshot.modules.iter().find(|module| module.name == args.module);
        let Some(module) = module.filter(|_| snapshot.taken > self.accepted) else { return };
        if self.last.replace(module.state) != Some(module.state) {
            out(&format!("{}{}: {}{}", self.mark(), module.name, module.state, because(module)));
        }
        let mirror = snapshot.mirrors.iter().find(|mirror| mirror.module == args.module);
        self.exit = match mirror {
            Some(mirror) => outcome_of_mirror(module, mirror, verb),
            None => outcome(module, verb),
        };
        let says_what_next = match self.exit {
            Some(Exit::Failed) => true,
            // Started, a mirror waits to be told what to do.
            Some(_) => mirror.is_some() && !matches!(verb, Verb::Stop | Verb::Forcestop),
            None => false,
        };
        if let Some(next_step) = module.next_step.as_ref().filter(|_| says_what_next) {
            err(&format!("{}next: {next_step}", self.mark()));
        }
    }

    /// It may be on its way back.
    fn miss(&mut self, why: &str) {
        if clock::now().since(self.heard) >= SILENCE_MAX {
            out(&format!("{}unreachable: {why}", self.mark()));
            self.exit = Some(Exit::Unreachable);
        }
    }

    fn give_up(&self, args: &VerbArgs) -> Exit {
        let (mark, module, waited) = (self.mark(), &args.module, span(args.timeout));
        let state = self.last.map_or_else(|| "not known".to_owned(), |state| state.to_string());
        err(&format!(
            "error: {mark}{module} is {state} after {waited}\nnext: `safekit status {module}`, or wait longer with --timeout"
        ));
        Exit::Failed
    }
}

/// None while scripts run.
fn outcome(module: &ModuleInfo, verb: Verb) -> Option<Exit> {
    let wants_down = matches!(verb, Verb::Stop | Verb::Forcestop);
    match (module.state.role, module.state.status) {
        (_, Status::Transient) => None,
        (Role::Stop, Status::NotReady | Status::Ready) if wants_down => Some(Exit::Done),
        (Role::Up | Role::Alone | Role::Prim | Role::Second, Status::Ready) if !wants_down => {
            Some(Exit::Done)
        }
        // Blocked, or given up: it does not go on by itself at once.
        (Role::Stop | Role::Wait, Status::NotReady | Status::Ready) if !wants_down => Some(Exit::Failed),
        (Role::Stop | Role::Wait | Role::Up | Role::Alone | Role::Prim | Role::Second, _) => None,
    }
}

/// A mirror is started once its directories are there, whatever they are to do: that is said by other commands.
fn outcome_of_mirror(module: &ModuleInfo, mirror: &MirrorInfo, verb: Verb) -> Option<Exit> {
    let wants_down = matches!(verb, Verb::Stop | Verb::Forcestop);
    match (module.state.role, module.state.status) {
        (Role::Stop, _) if wants_down => Some(Exit::Done),
        (_, _) if wants_down => None,
        (Role::Stop | Role::Wait, Status::Transient) => None,
        (_, _) if !mirror.copies.is_empty() => Some(Exit::Done),
        // Its process does not live, or says nothing.
        (Role::Stop | Role::Wait | Role::Up | Role::Alone | Role::Prim | Role::Second, _) => {
            Some(Exit::Failed)
        }
    }
}

fn because(module: &ModuleInfo) -> String {
    match module.causes.first() {
        Some(cause) => format!(", because {cause}"),
        None => String::new(),
    }
}
