//! A mirror module on one node, by what the process says that keeps its directories. Pure.
//!
//! What follows for the process itself, when it is started, ended and started again, is in [`keeping`].

pub mod keeping;
mod news;
#[cfg(test)]
mod tests;

pub use news::{News, Weight, news};

use crate::types::mirror::{CopyInfo, MirrorInfo, SyncState};
use crate::types::module::{ModuleInfo, ModuleState, Role, Status};
use crate::types::replica::MirrorRole;
use crate::types::snapshot::Warning;

/// How many causes a module tells.
const CAUSES_MAX: usize = 8;

/// The module does what the least of its copies does: WAIT, then SECOND, ALONE, PRIM.
pub fn state(copies: &[CopyInfo]) -> ModuleState {
    let Some(role) = copies.iter().map(|copy| copy.role).min_by_key(|role| rank(*role)) else {
        return ModuleState::new(Role::Wait, Status::NotReady);
    };
    ModuleState::new(module_role(role), status(copies, role))
}

fn rank(role: MirrorRole) -> u8 {
    match role {
        MirrorRole::Wait => 0,
        MirrorRole::Second => 1,
        MirrorRole::Alone => 2,
        MirrorRole::Prim => 3,
    }
}

const fn module_role(role: MirrorRole) -> Role {
    match role {
        MirrorRole::Wait => Role::Wait,
        MirrorRole::Second => Role::Second,
        MirrorRole::Alone => Role::Alone,
        MirrorRole::Prim => Role::Prim,
    }
}

fn status(copies: &[CopyInfo], lowest: MirrorRole) -> Status {
    // Half of a module that leads while the other half follows serves nobody.
    let together = copies.iter().all(|copy| copy.role.leads() == lowest.leads());
    if lowest == MirrorRole::Wait || !together {
        return Status::NotReady;
    }
    if copies.iter().any(is_on_its_way) {
        return Status::Transient;
    }
    if copies.iter().all(is_at_rest) { Status::Ready } else { Status::NotReady }
}

fn is_on_its_way(copy: &CopyInfo) -> bool {
    copy.frozen || matches!(copy.sync, SyncState::Resynchronising | SyncState::BeingOverwritten)
}

/// In sync, or serving alone as well as one can.
fn is_at_rest(copy: &CopyInfo) -> bool {
    match (copy.role, copy.sync) {
        (MirrorRole::Prim | MirrorRole::Second, SyncState::InSync) | (MirrorRole::Alone, _) => true,
        (MirrorRole::Prim | MirrorRole::Second | MirrorRole::Wait, _) => false,
    }
}

/// What the copies say of themselves; with their directories where they do not all say the same.
pub fn causes(copies: &[CopyInfo]) -> Vec<String> {
    let refusals = copies.iter().filter_map(|copy| Some((copy, copy.cannot_lead.as_ref()?)));
    let mut said: Vec<(&str, String)> = refusals
        .map(|(copy, why)| (copy.directory.as_str(), format!("cannot serve: {why}")))
        .chain(copies.iter().map(|copy| (copy.directory.as_str(), copy.why.clone())))
        .filter(|(_, why)| !why.is_empty())
        .collect();
    let all_alike = |why: &str| said.iter().filter(|(_, other)| other == why).count() == copies.len();
    let alike: Vec<bool> = said.iter().map(|(_, why)| all_alike(why)).collect();
    let mut causes: Vec<String> = said
        .drain(..)
        .zip(alike)
        .map(|((directory, why), alike)| if alike { why } else { format!("{directory}: {why}") })
        .collect();
    causes.dedup();
    causes.truncate(CAUSES_MAX);
    causes
}

/// What leaves this state, as a sentence with the command; `other` is the node with the other copies.
pub fn next_step(module: &str, other: &str, copies: &[CopyInfo]) -> Option<String> {
    if copies.iter().any(|copy| copy.cannot_lead.is_some()) {
        return Some(format!(
            "`safekit second {module}` to follow {other}, or, if what is here is to count, \
             `safekit prim {module} --force`"
        ));
    }
    let ModuleState { role, status } = state(copies);
    let connected = copies.iter().all(|copy| copy.connected);
    match (role, status) {
        (_, Status::Transient) | (Role::Prim | Role::Second, Status::Ready) => None,
        (Role::Alone, _) if connected => Some(format!("`safekit second {module} --node {other}`")),
        (Role::Alone, _) => Some(format!(
            "bring {other} back: `safekit start {module} --node {other}`, then \
             `safekit second {module} --node {other}`"
        )),
        (Role::Second, Status::NotReady) if !connected => {
            Some(format!("bring {other} back, or serve here: `safekit prim {module}`"))
        }
        (Role::Wait | Role::Stop, _) => Some(format!(
            "`safekit prim {module}` on the node that is to serve, `safekit second {module}` on the other"
        )),
        (Role::Prim | Role::Second | Role::Up, _) => Some(format!(
            "`safekit mirror status {module}`, then `safekit prim {module}` or `safekit second {module}`"
        )),
    }
}

/// What somebody should look at. `since_ready`: started is not served, so a copy is missed only where it should be.
pub fn warnings(module: &ModuleInfo, mirror: &MirrorInfo) -> Vec<Warning> {
    let name = &module.name;
    let is_wanted = module.state.role != Role::Stop && module.state.status != Status::Transient;
    if mirror.copies.is_empty() {
        let what = format!("the directories of mirror {name} are not mounted although it is started");
        let remedy = module.next_step.clone().unwrap_or_else(|| format!("`safekit status {name}` says why"));
        return if is_wanted { vec![Warning { what, remedy }] } else { Vec::new() };
    }
    mirror.copies.iter().filter_map(|copy| warning(module, copy)).collect()
}

fn warning(module: &ModuleInfo, copy: &CopyInfo) -> Option<Warning> {
    let (name, directory) = (&module.name, &copy.directory);
    let remedy = || module.next_step.clone().unwrap_or_else(|| format!("`safekit mirror status {name}`"));
    if let Some(why) = &copy.cannot_lead {
        let what = format!("{directory} of mirror {name} cannot serve here: {why}");
        return Some(Warning { what, remedy: remedy() });
    }
    let which = match (copy.role.leads(), copy.sync) {
        (true, SyncState::OutOfDate) => "the other copy",
        (false, SyncState::OutOfDate) => "this copy",
        (true | false, SyncState::InSync | SyncState::Resynchronising | SyncState::BeingOverwritten)
        | (true | false, SyncState::Unknown) => return None,
    };
    Some(Warning { what: format!("{which} of {directory} (mirror {name}) is out of date"), remedy: remedy() })
}

/// `in sync`, for screens and events.
pub const fn sync_word(sync: SyncState) -> &'static str {
    match sync {
        SyncState::InSync => "in sync",
        SyncState::OutOfDate => "out of date",
        SyncState::Resynchronising => "resynchronising",
        SyncState::BeingOverwritten => "being overwritten",
        SyncState::Unknown => "unknown",
    }
}

/// `PRIM`, as modules have it.
pub const fn role_word(role: MirrorRole) -> &'static str {
    module_role(role).word()
}
