//! Failover rules: what the resources of a module say, and which action follows. Pure.
//!
//! Three kinds of rules in one language: those of the configuration, one for each check (`tcp_http: tcp.http == down`),
//! and the default ones. A rule over a resource that is not known yet is undecided: a wait rule then keeps the module
//! from starting, another does nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::config::Module;
use crate::config::upkeep::Expression;
use crate::config::upkeep::expression::{Name, matches};
use crate::types::Instant;
use crate::types::command::{ResourceChange, RuleState};
use crate::types::module::{Action, ModuleState, ResourceInfo, ResourceState};

/// Changes of one resource that are remembered.
const HISTORY_MAX: usize = 32;
/// Resources of one module, those that operators have set included.
const RESOURCES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 128;

/// Written in the language of operators. The checks of these kinds have no rule of their own.
const DEFAULTS: [(&str, &str, Action); 4] = [
    ("module_failure", "module.* == down", Action::Wait),
    ("link_failure", "link.* == down", Action::Wait),
    ("address_failure", "address.* == down", Action::Stopstart),
    ("witness_failure", "witness.* == down", Action::Wait),
];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("`{0}` is no name of a resource")]
    Name(String),
    #[error("there are {RESOURCES_MAX} resources already")]
    Full,
}

#[derive(Clone, Debug)]
struct Resource {
    state: ResourceState,
    since: Instant,
    by: String,
    history: VecDeque<ResourceChange>,
}

/// What is known of a module.
#[derive(Clone, Debug, Default)]
pub struct Resources(BTreeMap<String, Resource>);

impl Resources {
    pub fn set(&mut self, name: &str, state: ResourceState, by: &str, now: Instant) -> Result<(), Error> {
        let sound = name.split_once('.').is_some_and(|(class, id)| !class.is_empty() && !id.is_empty());
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !sound || !plain || name.len() > NAME_BYTES_MAX {
            return Err(Error::Name(name.to_owned()));
        }
        if self.0.len() >= RESOURCES_MAX && !self.0.contains_key(name) {
            return Err(Error::Full);
        }
        let fresh = || Resource { state, since: now, by: by.to_owned(), history: VecDeque::new() };
        let resource = self.0.entry(name.to_owned()).or_insert_with(fresh);
        if resource.state != state || resource.history.is_empty() {
            if resource.history.len() == HISTORY_MAX {
                resource.history.pop_front();
            }
            resource.history.push_back(ResourceChange { at: now, state, by: by.to_owned() });
            (resource.state, resource.since, resource.by) = (state, now, by.to_owned());
        }
        Ok(())
    }

    /// Of what nobody has said anything about: not known yet.
    pub fn state(&self, name: &str) -> ResourceState {
        self.0.get(name).map_or(ResourceState::Init, |resource| resource.state)
    }

    pub fn all(&self) -> impl Iterator<Item = ResourceInfo> + '_ {
        self.0.iter().map(|(name, resource)| info(name, resource))
    }

    pub fn look_up(&self, name: &str) -> Option<(ResourceInfo, Vec<ResourceChange>)> {
        let resource = self.0.get(name)?;
        Some((info(name, resource), resource.history.iter().cloned().collect()))
    }

    /// Those of a configuration that is over.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    fn matching(&self, pattern: &str) -> Vec<(String, ResourceState)> {
        let found = self.0.iter().filter(|(name, _)| matches(pattern, name));
        found.map(|(name, resource)| (name.clone(), resource.state)).collect()
    }
}

fn info(name: &str, resource: &Resource) -> ResourceInfo {
    ResourceInfo {
        name: name.to_owned(),
        state: resource.state,
        since: resource.since,
        by: resource.by.clone(),
    }
}

/// The same module on another node, as it said last; one that has fallen silent is unknown.
#[derive(Clone, Debug, Default)]
pub struct RemoteState {
    pub state: Option<ModuleState>,
    pub resources: Vec<(String, ResourceState)>,
}

/// Everything that a rule may look at.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'s> {
    pub resources: &'s Resources,
    pub state: ModuleState,
    pub remotes: &'s [RemoteState],
}

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    origin: &'static str,
    when: Expression,
    action: Action,
    services: Vec<String>,
}

/// The rules of one module.
#[derive(Clone, Debug)]
pub struct Book(Vec<Rule>);

/// A rule that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub rule: String,
    pub action: Action,
    pub services: Vec<String>,
    /// The sentence for people.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Undecided,
}

impl Truth {
    fn of(value: bool) -> Self {
        if value { Self::Yes } else { Self::No }
    }

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Undecided => Self::Undecided,
        }
    }

    /// Kleene's: one that is sure decides.
    fn any(all: impl Iterator<Item = Self>) -> Self {
        all.fold(Self::No, |so_far, next| match (so_far, next) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::Undecided, _) | (_, Self::Undecided) => Self::Undecided,
            (Self::No, Self::No) => Self::No,
        })
    }
}

impl Book {
    pub fn new(module: &Module) -> Self {
        let upkeep = &module.upkeep;
        let configured = upkeep.failover.rules.iter().map(|rule| Rule {
            name: rule.name.clone(),
            origin: "configured",
            when: rule.when.clone(),
            action: rule.action,
            services: Vec::new(),
        });
        let of_check = upkeep.checks.iter().filter(|check| check.action != Action::None).map(|check| Rule {
            name: format!("{}_{}", check.kind.class(), check.name),
            origin: "check",
            when: is_down(&check.resource()),
            action: check.action,
            services: check.services.clone(),
        });
        // A check that says itself what follows needs no default.
        let default =
            DEFAULTS.iter().filter(|(name, ..)| !upkeep.failover.disabled.iter().any(|it| it == name));
        let default = default.map(|(name, when, action)| Rule {
            name: (*name).to_owned(),
            origin: "default",
            when: Expression::parse(when).expect("the default rules are right"),
            action: *action,
            services: Vec::new(),
        });
        let covered: Vec<String> = upkeep.checks.iter().map(|check| check.kind.class().to_owned()).collect();
        let default = default.filter(|rule| {
            let class = rule.name.trim_end_matches("_failure");
            !covered.iter().any(|it| it == class)
        });
        let disabled = &upkeep.failover.disabled;
        let of_check = of_check.filter(|rule| {
            let class = rule.name.split('_').next().unwrap_or_default();
            !disabled.contains(&format!("{class}_failure"))
        });
        Self(configured.chain(of_check).chain(default).collect())
    }

    /// Those that hold, the one that asks for the most first.
    pub fn evaluate(&self, sight: Sight<'_>) -> Vec<Holding> {
        let mut holding: Vec<Holding> = self
            .0
            .iter()
            .filter(|rule| truth(&rule.when, sight) == Truth::Yes)
            .map(|rule| Holding {
                rule: rule.name.clone(),
                action: rule.action,
                services: rule.services.clone(),
                why: format!("rule {}: {}", rule.name, reasons(&rule.when, sight).join(", ")),
            })
            .collect();
        holding.sort_by_key(|it| rank(it.action));
        holding
    }

    /// Wait rules over what is not known yet.
    pub fn undecided_waits(&self, sight: Sight<'_>) -> Vec<String> {
        let waits = self.0.iter().filter(|rule| rule.action == Action::Wait);
        let open = waits.filter(|rule| truth(&rule.when, sight) == Truth::Undecided);
        open.map(|rule| format!("rule {} is undecided: {}", rule.name, reasons(&rule.when, sight).join(", ")))
            .collect()
    }

    pub fn explain(&self, sight: Sight<'_>) -> Vec<RuleState> {
        let state = |rule: &Rule| RuleState {
            name: rule.name.clone(),
            origin: rule.origin.to_owned(),
            when: rule.when.to_string(),
            action: rule.action,
            holds: match truth(&rule.when, sight) {
                Truth::Yes => Some(true),
                Truth::No => Some(false),
                Truth::Undecided => None,
            },
            because: reasons(&rule.when, sight),
        };
        self.0.iter().map(state).collect()
    }
}

fn is_down(resource: &str) -> Expression {
    let name = Name { remote: false, pattern: resource.to_owned() };
    Expression::Is { name, word: ResourceState::Down.word().to_owned(), negated: false }
}

/// What asks for the most comes first.
fn rank(action: Action) -> u8 {
    match action {
        Action::Stop => 0,
        Action::Swap => 1,
        Action::Stopstart => 2,
        Action::Wait => 3,
        Action::Restart => 4,
        Action::RestartService => 5,
        Action::None => 6,
    }
}

fn truth(expression: &Expression, sight: Sight<'_>) -> Truth {
    match expression {
        Expression::Not(inner) => truth(inner, sight).not(),
        Expression::Or(any) => Truth::any(any.iter().map(|part| truth(part, sight))),
        Expression::And(all) => Truth::any(all.iter().map(|part| truth(part, sight).not())).not(),
        Expression::Is { name, word, negated } => {
            let asks_for_init = word == ResourceState::Init.word();
            let compare = |value: &str| match value {
                "init" if !asks_for_init => Truth::Undecided,
                value => Truth::of((value == word) != *negated),
            };
            Truth::any(operands(name, sight).iter().map(|(_, value)| compare(value)))
        }
    }
}

/// Each once: several nodes may be in one state.
fn reasons(when: &Expression, sight: Sight<'_>) -> Vec<String> {
    let mut reasons = values(when, sight);
    let mut known = BTreeSet::new();
    reasons.retain(|reason| known.insert(reason.clone()));
    reasons
}

fn values(expression: &Expression, sight: Sight<'_>) -> Vec<String> {
    match expression {
        Expression::Not(inner) => values(inner, sight),
        Expression::Or(all) | Expression::And(all) => {
            all.iter().flat_map(|part| values(part, sight)).collect()
        }
        Expression::Is { name, .. } => {
            let found = operands(name, sight);
            if found.is_empty() {
                return vec![format!("there is no {name}")];
            }
            found.into_iter().map(|(name, value)| format!("{name} is {value}")).collect()
        }
    }
}

/// What a name stands for, with the values.
fn operands(name: &Name, sight: Sight<'_>) -> Vec<(String, String)> {
    let wild = name.pattern.contains(['*', '?']);
    match (name.remote, name.is_state()) {
        (false, true) => vec![("state".to_owned(), sight.state.role.word().to_owned())],
        (true, true) => {
            let word = |it: &RemoteState| it.state.map_or("unknown", |state| state.role.word()).to_owned();
            sight.remotes.iter().map(|it| ("remote.state".to_owned(), word(it))).collect()
        }
        (false, false) => {
            let mut found = sight.resources.matching(&name.pattern);
            if found.is_empty() && !wild {
                found.push((name.pattern.clone(), ResourceState::Init));
            }
            found.into_iter().map(|(name, state)| (name, state.word().to_owned())).collect()
        }
        (true, false) => {
            let of = |remote: &RemoteState| -> Vec<(String, String)> {
                let known = remote.resources.iter().filter(|(known, _)| matches(&name.pattern, known));
                let mut found: Vec<_> =
                    known.map(|(name, state)| (format!("remote.{name}"), state.word().to_owned())).collect();
                if found.is_empty() && !wild {
                    found.push((name.to_string(), ResourceState::Unknown.word().to_owned()));
                }
                found
            };
            sight.remotes.iter().flat_map(of).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::module::{Role, Status};

    const UP: ModuleState = ModuleState::new(Role::Up, Status::Ready);

    fn resources(of: &[(&str, ResourceState)]) -> Resources {
        let mut resources = Resources::default();
        for (name, state) in of {
            resources.set(name, *state, "test", Instant(1)).expect("a name");
        }
        resources
    }

    #[test]
    fn comparisons_hold_fail_or_stay_open() {
        use ResourceState::{Down, Init, Up};
        let resources = resources(&[("tcp.http", Down), ("tcp.ssh", Up), ("ping.gw", Init)]);
        let remotes = [RemoteState { state: Some(UP), resources: vec![("tcp.http".into(), Up)] }];
        let sight = Sight { resources: &resources, state: UP, remotes: &remotes };
        for (text, expected) in [
            ("tcp.http == down", Truth::Yes),
            ("tcp.http != down", Truth::No),
            ("tcp.* == down", Truth::Yes),
            ("tcp.x* == down", Truth::No),
            ("tcp.http == down and remote.state == UP", Truth::Yes),
            ("remote.tcp.http == up and state == UP", Truth::Yes),
            ("remote.ping.gw == unknown", Truth::Yes),
            ("ping.gw == down", Truth::Undecided),
            ("ping.gw == init", Truth::Yes),
            ("ping.gw == down or tcp.http == down", Truth::Yes),
            ("ping.gw == down and tcp.http == up", Truth::No),
            ("not ping.gw == down", Truth::Undecided),
            ("never.heard == down", Truth::Undecided),
        ] {
            let expression = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(truth(&expression, sight), expected, "{text}");
        }
    }

    #[test]
    fn resources_remember_and_are_bounded() {
        let mut some = resources(&[("tcp.http", ResourceState::Init)]);
        for turn in 0..100 {
            let state = if turn % 2 == 0 { ResourceState::Up } else { ResourceState::Down };
            some.set("tcp.http", state, "check", Instant(turn)).expect("a name");
        }
        let (info, history) = some.look_up("tcp.http").expect("it is there");
        assert_eq!((info.state, history.len()), (ResourceState::Down, HISTORY_MAX));
        assert_eq!(some.set("http", ResourceState::Up, "ann", Instant(1)), Err(Error::Name("http".into())));
        assert!(some.set("a.b c", ResourceState::Up, "ann", Instant(1)).is_err());
        for number in 0..300 {
            let _full = some.set(&format!("custom.n{number}"), ResourceState::Up, "ann", Instant(1));
        }
        assert_eq!(some.all().count(), RESOURCES_MAX);
    }
}
