//! Lines of the control socket, under any bytes: what the fuzzer and the property test both ask.

use safekit::types::{Command, Reply};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A line is a command to the daemon and a reply to the command line: both read what is not theirs. Nothing panics, and
/// what is understood is understood the same way after it was sent again. Whether either understood it.
pub fn check(bytes: &[u8]) -> bool {
    let command = check_as::<Command>(bytes);
    let reply = check_as::<Reply>(bytes);
    command || reply
}

fn check_as<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = serde_json::from_slice::<T>(bytes) else { return false };
    let again = serde_json::to_vec(&message).expect("what was read can be written");
    assert!(!again.contains(&b'\n'), "a message is one line");
    assert_eq!(serde_json::from_slice::<T>(&again).ok(), Some(message));
    true
}

/// One of most kinds.
pub fn seeds() -> Vec<Vec<u8>> {
    use safekit::types::Instant;
    use safekit::types::command::{Answer, NodeAnswer, Wish};
    use safekit::types::mirror::MirrorOrder;
    use safekit::types::module::{ResourceState, Verb};
    let module = || "www".to_owned();
    let commands = [
        Command::Status,
        Command::Watch,
        Command::Explain { client: [192, 0, 2, 1].into(), port: Some(80) },
        Command::Adjust {
            wish: Wish::Weight {
                module: module(),
                node: "n1".into(),
                weight: Some(3),
                rule: Some("tcp/80".into()),
            },
            dry_run: true,
        },
        Command::Module { module: module(), verb: Verb::Stopstart },
        Command::Mirror { module: module(), order: MirrorOrder::Prim { force: true } },
        Command::SetResource { module: module(), name: "custom.a".into(), state: ResourceState::Down },
        Command::Checks { module: module(), on: false, for_ms: Some(1) },
        Command::LogPage { module: module(), run: "20261123T080320.007Z_start_both".into(), from: 7 },
        Command::On { nodes: vec!["n1".into()], each: Box::new(Command::Reload), by: "root".into() },
        Command::ConfigApply { text: "cluster: {}\n".into(), dry_run: false, by: String::new() },
        Command::ConfigText { number: None },
        Command::KeyRotate,
    ];
    let said = Answer::Said(Reply::Accepted { at: Instant(1) });
    let replies = [
        Reply::Refused { error: "no".into(), next_step: "ask".into() },
        Reply::ByNode { answers: vec![NodeAnswer { node: "n1".into(), answer: said }] },
    ];
    let commands = commands.iter().map(serde_json::to_vec);
    let lines = commands.chain(replies.iter().map(serde_json::to_vec));
    lines.map(|line| line.expect("it is plain data")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: u64 = 50_000;

    #[test]
    fn the_seeds_are_understood() {
        for seed in seeds() {
            assert!(check(&seed), "{}", String::from_utf8_lossy(&seed));
        }
    }

    #[test]
    fn any_line_is_refused_or_understood() {
        let seeds = seeds();
        let mut random = fastrand::Rng::with_seed(6);
        let (mut understood, mut refused) = (0, 0);
        for _ in 0..ROUNDS {
            let mut bytes = seeds[random.usize(..seeds.len())].clone();
            for _ in 0..random.usize(..4) {
                let place = random.usize(..bytes.len());
                match random.u8(..3) {
                    0 => bytes[place] = random.u8(..),
                    1 => bytes.insert(place, random.u8(..)),
                    _ => bytes.truncate(place.max(1)),
                }
            }
            if check(&bytes) { understood += 1 } else { refused += 1 }
        }
        assert!(
            understood > ROUNDS / 10 && refused > ROUNDS / 10,
            "{understood} understood, {refused} refused"
        );
    }

    /// Commands that carry commands, and lists that carry lists: deeper than any stack, were it followed.
    #[test]
    fn a_deep_line_is_refused() {
        for depth in [100, 200, 10_000, 400_000] {
            let nested = r#"{"command":"on","nodes":[],"each":"#.repeat(depth);
            check(format!("{nested}{}{}", r#"{"command":"status"}"#, "}".repeat(depth)).as_bytes());
            check("[".repeat(depth).as_bytes());
        }
        let line = r#"{"command":"on","nodes":[],"each":"#.repeat(1000)
            + r#"{"command":"status"}"#
            + &"}".repeat(1000);
        assert!(!check(line.as_bytes()), "nobody nests so deeply");
    }
}
