//! Whether an external balancer may send clients here, and one sentence why not. Pure.
//!
//! The sentences are made of names of the configuration and words of the program: causes, which may quote what a script
//! printed, are for `safekit status`.

use crate::types::module::{ModuleInfo, ResourceState, Role, Status};
use crate::types::snapshot::{FarmInfo, MemberState, Verdict};
use crate::types::{ModuleState, Snapshot};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) well: bool,
    pub(super) sentence: String,
}

/// Ill only when this node accepts nothing: a node that serves in a degraded cluster is needed most.
pub(super) fn of_daemon(snapshot: &Snapshot) -> Health {
    let (well, word) = match snapshot.verdict {
        Verdict::Converged => (true, "CONVERGED"),
        Verdict::Converging => (true, "CONVERGING"),
        Verdict::Degraded => (true, "DEGRADED"),
        Verdict::Split => (true, "SPLIT"),
        Verdict::Down => (false, "DOWN"),
    };
    Health { well, sentence: format!("{word}: {}", snapshot.summary) }
}

/// None: no module of this name is on this node.
pub(super) fn of_module(snapshot: &Snapshot, name: &str) -> Option<Health> {
    let module = snapshot.modules.iter().find(|module| module.name == name)?;
    let farm = snapshot.farms.iter().find(|farm| farm.module == name);
    let why = not_ready(module).or_else(|| farm.and_then(|farm| no_traffic(snapshot, module, farm)));
    let (well, rest) = match why {
        None => (true, format!("is {}", module.state)),
        Some(why) => (false, why),
    };
    Some(Health { well, sentence: format!("{name} on {} {rest}", snapshot.node) })
}

fn not_ready(module: &ModuleInfo) -> Option<String> {
    let ModuleState { role, status } = module.state;
    match (role, status) {
        (Role::Up | Role::Alone | Role::Prim, Status::Ready) => None,
        // The application goes on while the other copy is brought up to date.
        (Role::Alone | Role::Prim, Status::Transient) if module.kind == "mirror" => None,
        (Role::Second, Status::Ready) => Some("follows another node, which serves".to_owned()),
        (Role::Stop | Role::Wait, _) | (_, Status::NotReady | Status::Transient) => {
            let down = module.resources.iter().filter(|resource| resource.state == ResourceState::Down);
            let down: Vec<&str> = down.map(|resource| resource.name.as_str()).collect();
            let because =
                if down.is_empty() { String::new() } else { format!(", down: {}", down.join(", ")) };
            Some(format!("is {}{because}", module.state))
        }
    }
}

/// Why no new session comes to a farm's application here, which is ready.
fn no_traffic(snapshot: &Snapshot, module: &ModuleInfo, farm: &FarmInfo) -> Option<String> {
    let here = snapshot.nodes.iter().position(|node| node.this)?;
    let groups = &farm.groups;
    let weightless = |group: &crate::types::snapshot::GroupInfo| group.weights.get(here) == Some(&0);
    if snapshot.state == MemberState::Leaving {
        Some("gets no traffic: the node leaves the farm".to_owned())
    } else if snapshot.state != MemberState::Active {
        Some("gets no traffic yet: the node is about to join the farm".to_owned())
    } else if snapshot.verdict == Verdict::Down {
        Some("gets no traffic: the node accepts nothing until its peers answer".to_owned())
    } else if snapshot.nodes[here].drained {
        Some("gets no new sessions: the node is drained".to_owned())
    } else if module.share == Some(0) {
        Some("gets no new sessions: its checks leave it no share".to_owned())
    } else if groups.iter().all(|group| group.share == "weighted" && weightless(group)) {
        Some("gets no new sessions: its weight is 0".to_owned())
    } else if groups.iter().all(|group| group.owned == 0 || group.shares.get(here) == Some(&0)) {
        Some("gets no traffic: it owns no buckets now".to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::snapshot;
    use super::*;

    /// What is changed of a node that serves, and what the sentence then says.
    type Case = (&'static str, fn(&mut Snapshot), &'static str);

    const ILL: &[Case] = &[
        ("stopped", |it| it.modules[0].state = ModuleState::STOPPED, "is STOP (NotReady)"),
        (
            "starting",
            |it| it.modules[0].state = ModuleState::new(Role::Up, Status::Transient),
            "is UP (Transient), down: tcp.http",
        ),
        (
            "following",
            |it| it.modules[0].state = ModuleState::new(Role::Second, Status::Ready),
            "follows another node, which serves",
        ),
        ("joining", |it| it.state = MemberState::Announce, "about to join"),
        ("leaving", |it| it.state = MemberState::Leaving, "leaves the farm"),
        ("lease lost", |it| it.verdict = Verdict::Down, "accepts nothing"),
        ("drained", |it| it.nodes[0].drained = true, "is drained"),
        ("checks", |it| it.modules[0].share = Some(0), "no share"),
        ("weight 0", |it| it.farms[0].groups[0].weights = vec![0, 1], "weight is 0"),
        ("standby", |it| it.farms[0].groups[0].owned = 0, "owns no buckets"),
        ("not in the view's table", |it| it.farms[0].groups[0].shares = vec![0, 65_536], "owns no buckets"),
    ];

    #[test]
    fn only_a_ready_module_that_carries_traffic_is_well() {
        let well = of_module(&snapshot(), "www").expect("the sample has it");
        assert_eq!(well, Health { well: true, sentence: "www on web1 is UP (Ready)".to_owned() });
        for (name, change, expected) in ILL {
            let mut snapshot = snapshot();
            change(&mut snapshot);
            let health = of_module(&snapshot, "www").expect("the sample has it");
            assert!(!health.well && health.sentence.contains(expected), "{name}: {health:?}");
        }
        assert_eq!(of_module(&snapshot(), "ww"), None);
    }

    #[test]
    fn a_mirror_is_well_where_it_serves() {
        for (role, status, well) in [
            (Role::Prim, Status::Ready, true),
            (Role::Alone, Status::Ready, true),
            (Role::Alone, Status::Transient, true),
            (Role::Alone, Status::NotReady, false),
            (Role::Second, Status::Ready, false),
            (Role::Second, Status::Transient, false),
            (Role::Wait, Status::NotReady, false),
            (Role::Stop, Status::NotReady, false),
        ] {
            let mut snapshot = snapshot();
            snapshot.farms.clear();
            snapshot.modules[0].kind = "mirror".to_owned();
            snapshot.modules[0].state = ModuleState::new(role, status);
            let health = of_module(&snapshot, "www").expect("the sample has it");
            assert_eq!(health.well, well, "{role} {status}: {health:?}");
        }
    }

    #[test]
    fn what_scripts_printed_is_not_passed_on() {
        let mut snapshot = snapshot();
        snapshot.modules[0].state = ModuleState::STOPPED;
        snapshot.modules[0].causes = vec!["start_both failed: password=hunter2 in /etc/shop.conf".to_owned()];
        let health = of_module(&snapshot, "www").expect("the sample has it");
        assert_eq!(health.sentence, "www on web1 is STOP (NotReady), down: tcp.http");
    }

    #[test]
    fn a_module_without_traffic_of_its_own_needs_only_be_ready() {
        let mut snapshot = snapshot();
        snapshot.farms.clear();
        snapshot.modules[0].share = None;
        snapshot.verdict = Verdict::Down;
        assert!(of_module(&snapshot, "www").expect("the sample has it").well);
        assert_eq!(of_daemon(&snapshot), Health { well: false, sentence: "DOWN: all is well".to_owned() });
    }
}
