//! Orders to the copies of a mirror, and waiting for what follows from them.

use std::time::Duration;

use super::show::{bytes, verification};
use super::{How, PrimArgs, SecondArgs, VerifyArgs};
use crate::driver::clock;
use crate::front::cli::adjust::Progress;
use crate::front::cli::place::refused;
use crate::front::cli::status::{grouped, span};
use crate::front::cli::{err, out};
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::mirror::{CopyInfo, MirrorInfo, MirrorOrder, VerificationInfo};
use crate::types::module::{ModuleInfo, ModuleState};
use crate::types::replica::MirrorRole;
use crate::types::{Command, Instant, Reply, Snapshot};

const POLL: Duration = Duration::from_millis(100);
/// Copies are reported every second: what is shown so long after an order was said after it.
const REPORTED: Duration = Duration::from_millis(1500);

pub fn prim(args: &PrimArgs) -> Exit {
    let order = MirrorOrder::Prim { force: args.force };
    let leads = |copy: &CopyInfo| copy.role.leads();
    let refuses = |copy: &CopyInfo| copy.cannot_lead.clone();
    run(&args.module, &args.how, order, |client, at| {
        wait(client, at, &args.module, &args.how, leads, refuses)
    })
}

pub fn second(args: &SecondArgs) -> Exit {
    let order = MirrorOrder::Second { full_sync: args.full_sync };
    let follows = |copy: &CopyInfo| copy.role == MirrorRole::Second && copy.connected;
    run(&args.module, &args.how, order, |client, at| {
        wait(client, at, &args.module, &args.how, follows, |_| None)
    })
}

pub(super) fn verify(args: &VerifyArgs) -> Exit {
    let before = |mirror: &MirrorInfo| -> Vec<Option<Instant>> {
        mirror.copies.iter().map(|copy| copy.verification.as_ref().map(|it| it.since)).collect()
    };
    let asked = || -> Result<Exit, Error> {
        let mut client = Client::connect(&args.how.asking.socket())?.at(args.how.node.as_deref());
        // Which verifications are not the one that is ordered now.
        let known = match client.ask(&Command::Status)? {
            Reply::Status { snapshot } => of(&snapshot, &args.module).map(|(_, mirror)| before(mirror)),
            Reply::Refused { error, next_step } => return Ok(refused(&error, &next_step)),
            _ => return Err(Error::Unexpected),
        };
        Ok(run(&args.module, &args.how, MirrorOrder::Verify, |client, _| {
            wait_for_verification(client, args, known.as_deref().unwrap_or_default())
        }))
    };
    asked().unwrap_or_else(|error| error.report())
}

fn run(
    module: &str,
    how: &How,
    order: MirrorOrder,
    wait: impl FnOnce(&mut Client, Instant) -> Result<Exit, Error>,
) -> Exit {
    let ordered = || -> Result<Exit, Error> {
        let mut client = Client::connect(&how.asking.socket())?.at(how.node.as_deref());
        match client.ask(&Command::Mirror { module: module.to_owned(), order })? {
            Reply::Accepted { .. } if how.no_wait => Ok(Exit::Done),
            Reply::Accepted { at } => wait(&mut client, at),
            Reply::Refused { error, next_step } => Ok(refused(&error, &next_step)),
            _ => Err(Error::Unexpected),
        }
    };
    ordered().unwrap_or_else(|error| error.report())
}

/// Until all copies are as ordered, or one of them says why it cannot be.
fn wait(
    client: &mut Client,
    accepted: Instant,
    name: &str,
    how: &How,
    reached: impl Fn(&CopyInfo) -> bool,
    refuses: impl Fn(&CopyInfo) -> Option<String>,
) -> Result<Exit, Error> {
    let deadline = clock::now() + how.timeout;
    let mut last = None;
    loop {
        let Reply::Status { snapshot } = client.ask(&Command::Status)? else { return Err(Error::Unexpected) };
        if let Some((module, mirror)) = of(&snapshot, name).filter(|_| snapshot.taken > accepted) {
            if last.replace(module.state) != Some(module.state) {
                out(&line(module));
            }
            if !mirror.copies.is_empty() && mirror.copies.iter().all(&reached) {
                return Ok(Exit::Done);
            }
            let refusal = mirror.copies.iter().find_map(|copy| Some((copy, refuses(copy)?)));
            if let Some((copy, why)) = refusal.filter(|_| snapshot.taken > accepted + REPORTED) {
                let step =
                    module.next_step.clone().unwrap_or_else(|| format!("`safekit mirror status {name}`"));
                return Ok(refused(&format!("{} cannot serve: {why}", copy.directory), &step));
            }
        }
        if clock::now() >= deadline {
            return Ok(give_up(name, how, last));
        }
        std::thread::sleep(POLL);
    }
}

fn give_up(name: &str, how: &How, last: Option<ModuleState>) -> Exit {
    let state = last.map_or_else(|| "not known".to_owned(), |state| state.to_string());
    err(&format!(
        "error: {name} is {state} after {}; the order stays\nnext: `safekit mirror status {name}`, or wait longer with --timeout",
        span(how.timeout)
    ));
    Exit::Failed
}

fn of<'s>(snapshot: &'s Snapshot, name: &str) -> Option<(&'s ModuleInfo, &'s MirrorInfo)> {
    let module = snapshot.modules.iter().find(|module| module.name == name)?;
    let mirror = snapshot.mirrors.iter().find(|mirror| mirror.module == name)?;
    Some((module, mirror))
}

fn line(module: &ModuleInfo) -> String {
    let because = module.causes.first().map(|cause| format!(", because {cause}")).unwrap_or_default();
    format!("{}: {}{because}", module.name, module.state)
}

/// Until each copy has had one that is not among the `known`.
fn wait_for_verification(
    client: &mut Client,
    args: &VerifyArgs,
    known: &[Option<Instant>],
) -> Result<Exit, Error> {
    let deadline = clock::now() + args.how.timeout;
    let mut progress = Progress::default();
    loop {
        let Reply::Status { snapshot } = client.ask(&Command::Status)? else { return Err(Error::Unexpected) };
        let copies =
            of(&snapshot, &args.module).map(|(_, mirror)| mirror.copies.as_slice()).unwrap_or_default();
        let new: Vec<Option<&VerificationInfo>> = copies
            .iter()
            .enumerate()
            .map(|(index, copy)| {
                let old = known.get(index).copied().flatten();
                copy.verification.as_ref().filter(|it| Some(it.since) != old)
            })
            .collect();
        let is_over = |it: &Option<&VerificationInfo>| it.is_some_and(|it| it.ended.is_some());
        if !new.is_empty() && new.iter().all(is_over) {
            progress.end(&so_far(&args.module, &new));
            let all = copies.iter().zip(new.into_iter().flatten());
            return Ok(verified(all, snapshot.taken));
        }
        if clock::now() >= deadline {
            progress.end(&so_far(&args.module, &new));
            let (name, waited) = (&args.module, span(args.how.timeout));
            err(&format!(
                "error: the verification of {name} has not ended after {waited}; it goes on\nnext: `safekit mirror status {name}`"
            ));
            return Ok(Exit::Failed);
        }
        progress.show(&so_far(&args.module, &new));
        std::thread::sleep(POLL);
    }
}

fn so_far(name: &str, all: &[Option<&VerificationInfo>]) -> String {
    let sum = |of: fn(&VerificationInfo) -> u64| all.iter().flatten().map(|it| of(it)).sum();
    let (objects, size, differing): (u64, u64, u64) =
        (sum(|it| it.objects), sum(|it| it.bytes), sum(|it| it.differing));
    format!("{name}: {} objects, {} compared, {} differ", grouped(objects), bytes(size), grouped(differing))
}

fn verified<'s>(all: impl Iterator<Item = (&'s CopyInfo, &'s VerificationInfo)>, taken: Instant) -> Exit {
    let mut exit = Exit::Done;
    for (copy, it) in all {
        out(&format!("{}: {}", copy.directory, verification(it, taken)));
        if !it.complete {
            err(&format!(
                "error: the verification of {} was broken off\nnext: `safekit mirror verify` again once both nodes are connected",
                copy.directory
            ));
            return Exit::Failed;
        }
        if it.differing > 0 {
            exit = Exit::Degraded;
        }
    }
    exit
}
