//! Failover rules of any text: what the fuzzer and the property test both ask.

use safekit::config::upkeep::{Expression, FailoverRule};
use safekit::config::{Kind, Module, Upkeep};
use safekit::engine::rules::{Book, RemoteState, Resources, Sight};
use safekit::types::module::{Action, ModuleState, ResourceState, Role, Status};
use safekit::types::{Instant, NodeId};

/// Nothing panics; what is read is shown so that it reads the same; every rule holds, does not, or is undecided, its
/// opposite accordingly, and all who ask get the same answer. The first byte sets the scene. Whether it was a rule.
pub fn check(bytes: &[u8]) -> bool {
    let (scene, text) = bytes.split_first().unwrap_or((&0, &[]));
    let Ok(when) = Expression::parse(&String::from_utf8_lossy(text)) else { return false };
    assert_eq!(Expression::parse(&when.to_string()).as_ref(), Ok(&when), "what is shown reads the same");
    let opposite = Expression::Not(Box::new(when.clone()));
    let book = Book::new(&module([("it", when), ("opposite", opposite)]));
    let resources = resources(*scene);
    let remotes = [remote(*scene), RemoteState::default()];
    let state = ModuleState::new(role(*scene), Status::Ready);
    let sight = Sight { resources: &resources, state, remotes: &remotes[..usize::from(scene >> 6 & 1) + 1] };
    let told = book.explain(sight);
    let holds = |name: &str| told.iter().find(|rule| rule.name == name).expect("every rule is told of").holds;
    assert_eq!(holds("opposite"), holds("it").map(|holds| !holds), "the opposite of {}", told[0].when);
    let holding = book.evaluate(sight);
    let undecided = book.undecided_waits(sight).len();
    assert_eq!(holding.len(), told.iter().filter(|rule| rule.holds == Some(true)).count());
    assert_eq!(undecided, told.iter().filter(|rule| rule.holds.is_none()).count(), "all of them wait");
    true
}

fn module(rules: [(&str, Expression); 2]) -> Module {
    let mut upkeep = Upkeep::default();
    upkeep.failover.rules =
        rules.map(|(name, when)| FailoverRule { name: name.into(), when, action: Action::Wait }).into();
    // Without the defaults every rule of the book waits.
    upkeep.failover.disabled = safekit::config::upkeep::DEFAULT_RULES.map(str::to_owned).into();
    Module { name: "www".into(), nodes: vec![NodeId(0)], upkeep, kind: Kind::Light }
}

const STATES: [ResourceState; 4] =
    [ResourceState::Up, ResourceState::Down, ResourceState::Init, ResourceState::Unknown];

fn state(scene: u8, which: u8) -> ResourceState {
    STATES[usize::from(scene >> which & 3)]
}

fn role(scene: u8) -> Role {
    if scene & 1 == 0 { Role::Up } else { Role::Wait }
}

fn resources(scene: u8) -> Resources {
    let mut resources = Resources::default();
    for (which, name) in ["tcp.http", "tcp.ssh", "link.lan"].into_iter().enumerate() {
        let state = state(scene, which as u8 * 2);
        resources.set(name, state, "check", Instant(1)).expect("it is the name of a resource");
    }
    resources
}

fn remote(scene: u8) -> RemoteState {
    let state = ModuleState::new(role(scene >> 1), Status::Ready);
    RemoteState { state: Some(state), resources: vec![("tcp.http".into(), self::state(scene, 3))] }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const PIECES: [&str; 24] = [
        "tcp.http", "tcp.*", "*.*", "link.lan", "remote.", "state", " == ", " != ", "up", "down", "init",
        "unknown", "UP", "WAIT", " and ", " or ", "not ", "(", ")", "user.x", "?", "é", "=", "\u{0}",
    ];

    /// Half of it in the order of a rule, so that many are read, and the rest at random.
    #[test]
    fn any_text_is_a_rule_or_is_refused() {
        let mut random = fastrand::Rng::with_seed(11);
        let (mut read, mut refused) = (0, 0);
        for _ in 0..30_000 {
            let mut text = vec![random.u8(..)];
            for _ in 0..random.usize(1..6) {
                let parts = [
                    ["", "not ", "(", ""][random.usize(..4)],
                    ["tcp.http", "tcp.*", "link.lan", "user.x", "remote.tcp.*", "remote.x.y"]
                        [random.usize(..6)],
                    [" == ", " != "][random.usize(..2)],
                    ["up", "down", "init", "unknown"][random.usize(..4)],
                    ["", ")", "", ""][random.usize(..4)],
                    [" and ", " or ", ""][random.usize(..3)],
                ];
                text.extend(parts.concat().bytes());
            }
            if random.bool() {
                let end = text.len();
                text.splice(random.usize(1..=end)..end, PIECES[random.usize(..PIECES.len())].bytes());
            }
            if check(&text) { read += 1 } else { refused += 1 }
        }
        assert!(read > 1_000 && refused > 1_000, "{read} read, {refused} refused");
    }

    /// By name: what begins with `rule` is one, the rest is none.
    #[test]
    fn the_corpus_is_judged_as_its_names_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/rules");
        let mut files = 0;
        for entry in std::fs::read_dir(&folder).expect("the corpus is there") {
            let path = entry.expect("it can be listed").path();
            let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
            assert_eq!(
                check(&std::fs::read(&path).expect("it can be read")),
                name.starts_with("rule"),
                "{name}"
            );
            files += 1;
        }
        assert!(files >= 12, "the corpus has {files} files");
    }
}
