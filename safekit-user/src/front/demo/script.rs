//! What shall happen, in which order, to whom.

use crate::types::NodeId;

use super::topology::node_name;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Power off.
    Kill,
    /// The daemon dies, its machine and its parent live.
    Crash,
    /// Power on after a kill.
    Revive,
    /// The operator stops the daemon.
    Stop,
    /// The operator starts it again.
    Start,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub action: Action,
    pub node: NodeId,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "{0} is no step; the steps are kill, crash, revive, stop and start, each with :NODE if it matters"
    )]
    Unknown(String),
    #[error("there is no node {name}; the nodes are n1 to n{nodes}")]
    NoNode { name: String, nodes: usize },
    #[error("step {number}, {action}: {node} is {state} then")]
    Impossible { number: usize, action: &'static str, node: String, state: &'static str },
    #[error("step {number}, {action}: no node is {wanted} then")]
    Nobody { number: usize, action: &'static str, wanted: &'static str },
    #[error("step {number}, {action}: no node would be left")]
    Last { number: usize, action: &'static str },
}

impl Action {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Crash => "crash",
            Self::Revive => "revive",
            Self::Stop => "stop",
            Self::Start => "start",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Kill, Self::Crash, Self::Revive, Self::Stop, Self::Start]
            .into_iter()
            .find(|it| it.word() == word)
    }

    /// What a node must be for it, and what it is afterwards.
    const fn states(self) -> (State, State) {
        match self {
            Self::Kill => (State::Up, State::Off),
            Self::Crash => (State::Up, State::Up),
            Self::Revive => (State::Off, State::Up),
            Self::Stop => (State::Up, State::Stopped),
            Self::Start => (State::Stopped, State::Up),
        }
    }

    /// The last node dies, the second is stopped, the first one's daemon crashes: three places on the screen.
    fn favourite(self, nodes: usize) -> usize {
        match self {
            Self::Kill | Self::Revive => nodes - 1,
            Self::Stop | Self::Start => 1,
            Self::Crash => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Off,
    Stopped,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Off => "powered off",
            Self::Stopped => "stopped",
        }
    }
}

/// Reads `kill,revive,stop:n1,start`. A step without a node takes the favourite one that it can be done to. What
/// cannot work is refused before anything is built.
pub fn parse(text: &str, nodes: usize) -> Result<Vec<Step>, Error> {
    let mut states = vec![State::Up; nodes];
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.enumerate().map(|(index, word)| step(index + 1, word, &mut states)).collect()
}

fn step(number: usize, word: &str, states: &mut [State]) -> Result<Step, Error> {
    let (verb, name) = word.split_once(':').map_or((word, None), |(verb, name)| (verb, Some(name)));
    let action = Action::parse(verb).ok_or_else(|| Error::Unknown(word.to_owned()))?;
    let (before, after) = action.states();
    let node = match name {
        Some(name) => named(name, states.len())?,
        None => favourite(action, states).ok_or(Error::Nobody {
            number,
            action: action.word(),
            wanted: before.word(),
        })?,
    };
    if states[node] != before {
        let (action, state) = (action.word(), states[node].word());
        return Err(Error::Impossible { number, action, node: node_name(NodeId(node as u8)), state });
    }
    let others_up = states.iter().enumerate().any(|(index, state)| index != node && *state == State::Up);
    if before == State::Up && !others_up {
        return Err(Error::Last { number, action: action.word() });
    }
    states[node] = after;
    Ok(Step { action, node: NodeId(node as u8) })
}

fn named(name: &str, nodes: usize) -> Result<usize, Error> {
    let node = (0..nodes).find(|index| node_name(NodeId(*index as u8)) == name);
    node.ok_or_else(|| Error::NoNode { name: name.to_owned(), nodes })
}

fn favourite(action: Action, states: &[State]) -> Option<usize> {
    let (before, _) = action.states();
    let favourite = action.favourite(states.len());
    let others = (0..states.len()).filter(|node| *node != favourite);
    std::iter::once(favourite).chain(others).find(|node| states[*node] == before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> String {
        match parse(text, 3) {
            Ok(steps) => {
                let words =
                    steps.iter().map(|step| format!("{} {}", step.action.word(), node_name(step.node)));
                words.collect::<Vec<_>>().join(", ")
            }
            Err(error) => format!("{error}"),
        }
    }

    #[test]
    fn a_script_says_what_happens_to_whom() {
        for (script, expected) in [
            ("", ""),
            ("kill,revive,stop,start", "kill n3, revive n3, stop n2, start n2"),
            ("kill, crash", "kill n3, crash n1"),
            ("kill,kill:n1", "kill n3, kill n1"),
            ("kill:n1,revive", "kill n1, revive n1"),
            ("stop:n3,kill", "stop n3, kill n1"),
            (
                "dance",
                "dance is no step; the steps are kill, crash, revive, stop and start, each with :NODE if it matters",
            ),
            ("kill:n9", "there is no node n9; the nodes are n1 to n3"),
            ("revive", "step 1, revive: no node is powered off then"),
            ("stop,kill:n2", "step 2, kill: n2 is stopped then"),
            ("kill,stop,kill", "step 3, kill: no node would be left"),
        ] {
            assert_eq!(steps(script), expected, "{script}");
        }
    }
}
