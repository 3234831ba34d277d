//! Which scripts run at which change of the role, in which order.
//!
//! The stop of what was started comes first, the start of what is needed last, and `transition` in between. Only the
//! scripts that a module has are run.

use crate::types::module::Role;
use crate::types::module::Script::{
    self, Poststop, Prestart, StartBoth, StartPrim, StartSec, StartSecond, StopBoth, StopPrim, StopSec,
    StopSecond, Transition,
};

/// From a role to another. Roles that never follow each other have none.
pub fn scripts(from: Role, to: Role) -> &'static [Script] {
    match (from, to) {
        (Role::Stop, Role::Wait) => &[Transition, Prestart],
        (Role::Wait, Role::Stop) => &[Poststop, Transition],
        (Role::Wait, Role::Alone | Role::Up) => &[Transition, StartBoth, StartPrim, StartSec],
        (Role::Wait, Role::Prim) => &[Transition, StartBoth, StartPrim],
        (Role::Wait, Role::Second) => &[Transition, StartBoth, StartSecond, StartSec],
        (Role::Alone | Role::Up, Role::Wait) => &[StopSec, StopPrim, StopBoth, Transition],
        (Role::Prim, Role::Wait) => &[StopPrim, StopBoth, Transition],
        (Role::Second, Role::Wait) => &[StopSec, StopSecond, StopBoth, Transition],
        (Role::Alone, Role::Prim) => &[StopSec, Transition],
        (Role::Prim, Role::Alone) => &[Transition, StartSec],
        (Role::Alone, Role::Second) => &[StopPrim, Transition, StartSecond],
        (Role::Second, Role::Alone) => &[StopSecond, Transition, StartPrim],
        (Role::Prim, Role::Second) => &[StopPrim, Transition, StartSecond, StartSec],
        (Role::Second, Role::Prim) => &[StopSec, StopSecond, Transition, StartPrim],
        (Role::Stop | Role::Wait | Role::Up | Role::Alone | Role::Prim | Role::Second, _) => &[],
    }
}

/// Down and up again in one role: what to stop, and what to start.
pub fn restart(role: Role) -> (&'static [Script], &'static [Script]) {
    match role {
        Role::Alone | Role::Up => (&[StopSec, StopPrim, StopBoth], &[StartBoth, StartPrim, StartSec]),
        Role::Prim => (&[StopPrim, StopBoth], &[StartBoth, StartPrim]),
        Role::Second => (&[StopSec, StopSecond, StopBoth], &[StartBoth, StartSecond, StartSec]),
        Role::Stop | Role::Wait => (&[], &[]),
    }
}

/// Whatever may run: when nobody knows any more what does.
pub const STOP_ALL: &[Script] = &[StopSec, StopPrim, StopSecond, StopBoth];

pub fn is_start(script: Script) -> bool {
    matches!(script, StartBoth | StartPrim | StartSec | StartSecond)
}

pub fn is_stop(script: Script) -> bool {
    matches!(script, StopBoth | StopPrim | StopSec | StopSecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_starts_its_reverse_stops() {
        let pair = |script| match script {
            StartBoth => StopBoth,
            StartPrim => StopPrim,
            StartSec => StopSec,
            StartSecond => StopSecond,
            Prestart | Poststop | Transition | StopBoth | StopPrim | StopSec | StopSecond => script,
        };
        for role in [Role::Up, Role::Alone, Role::Prim, Role::Second] {
            let mut started: Vec<Script> =
                scripts(Role::Wait, role).iter().copied().filter(|it| is_start(*it)).map(pair).collect();
            let mut stopped: Vec<Script> =
                scripts(role, Role::Wait).iter().copied().filter(|it| is_stop(*it)).collect();
            started.sort_unstable();
            stopped.sort_unstable();
            assert_eq!(started, stopped, "{role}");
            let (stop, start) = restart(role);
            let mut again: Vec<Script> = start.iter().copied().map(pair).collect();
            again.reverse();
            assert_eq!(stop, again, "{role}: the reverse order");
        }
    }

    #[test]
    fn every_change_of_a_role_is_told_to_the_transition_script() {
        let roles = [Role::Stop, Role::Wait, Role::Up, Role::Alone, Role::Prim, Role::Second];
        let pairs = roles.iter().flat_map(|from| roles.iter().map(move |to| (*from, *to)));
        let changes = pairs.filter(|(from, to)| !scripts(*from, *to).is_empty());
        assert!(changes.clone().count() == 16);
        assert!(changes.into_iter().all(|(from, to)| scripts(from, to).contains(&Transition)));
    }
}
