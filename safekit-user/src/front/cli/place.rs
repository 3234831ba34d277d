//! `--node NAME` and `--all`: on which nodes a command is to be done, and how their answers are shown.
//!
//! For a verb that says the same to each node, all of it is one line:
//! `on_nodes(&args.asking, &args.place, &command, |reply| …print it, say how it ended…)`.

use clap::Args;
use serde_json::json;

use super::{Asking, Format, err, out};
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::command::{Answer, NodeAnswer};
use crate::types::snapshot::API_VERSION;
use crate::types::{Command, Instant, ModuleInfo, Reply};

#[derive(Args, Clone, Debug, Default)]
pub struct Where {
    /// On this node instead of the one that is asked; may be given several times.
    #[arg(long = "node", value_name = "NAME", conflicts_with = "all")]
    pub nodes: Vec<String>,
    /// On every node of the cluster.
    #[arg(long)]
    pub all: bool,
}

impl Where {
    /// On the node that is asked, and no other.
    pub fn is_here(&self) -> bool {
        self.nodes.is_empty() && !self.all
    }
}

/// Has each of these nodes answer, and shows the answers in groups under the nodes' names. `show` prints one and says how
/// it ended.
pub fn on_nodes(
    asking: &Asking,
    place: &Where,
    each: &Command,
    mut show: impl FnMut(Reply) -> Result<Exit, Error>,
) -> Result<Exit, Error> {
    if place.is_here() {
        return show(Client::connect(&asking.socket())?.ask(each)?);
    }
    let answers = match ask_nodes(asking, place, each)? {
        Ok(answers) => answers,
        Err(refused) => return Ok(refused),
    };
    let mut exits = Vec::new();
    for NodeAnswer { node, answer } in answers {
        match answer {
            Answer::Said(reply) => {
                out(&format!("── {node}"));
                exits.push(show(reply)?);
            }
            Answer::Unreachable(why) => {
                out(&format!("── {node}\nunreachable: {why}"));
                exits.push(Exit::Unreachable);
            }
        }
    }
    Ok(worst(&exits))
}

/// What a node answered, for people and for programs.
pub struct Told {
    /// Nothing to print where it is empty.
    pub text: String,
    /// An object: its keys stand beside `apiVersion`.
    pub value: serde_json::Value,
    pub exit: Exit,
}

impl Told {
    /// It has been done, and there is nothing to say.
    pub fn done() -> Self {
        Self { text: String::new(), value: json!({}), exit: Exit::Done }
    }
}

/// One command to the nodes that `place` names, their answers in `output`'s form. `read` gets what is no refusal.
pub fn tell_each(
    asking: &Asking,
    place: &Where,
    output: Format,
    each: &Command,
    mut read: impl FnMut(Reply) -> Result<Told, Error>,
) -> Result<Exit, Error> {
    if !place.is_here() && output == Format::Json {
        let answers = match ask_nodes(asking, place, each)? {
            Ok(answers) => answers,
            Err(refused) => return Ok(refused),
        };
        let (text, exit) = json_by_node(answers, |reply| match reply {
            Reply::Refused { error, next_step } => {
                (json!({ "error": error, "nextStep": next_step }), Exit::Failed)
            }
            reply => match read(reply) {
                Ok(told) => (told.value, told.exit),
                Err(error) => (json!({ "error": error.to_string() }), Exit::Failed),
            },
        });
        out(&text);
        return Ok(exit);
    }
    on_nodes(asking, place, each, |reply| {
        if let Reply::Refused { error, next_step } = reply {
            return Ok(refused(&error, &next_step));
        }
        let mut told = read(reply)?;
        match output {
            Format::Table if told.text.is_empty() => {}
            Format::Table => out(&told.text),
            Format::Json => {
                told.value["apiVersion"] = API_VERSION.into();
                out(&format!("{:#}", told.value));
            }
        }
        Ok(told.exit)
    })
}

/// What `show` makes of one module on these nodes, as text and as an object.
pub fn of_module(
    asking: &Asking,
    place: &Where,
    output: Format,
    name: &str,
    show: impl Fn(&ModuleInfo, Instant) -> (String, serde_json::Value),
) -> Result<Exit, Error> {
    tell_each(asking, place, output, &Command::Status, |reply| {
        let Reply::Status { snapshot } = reply else { return Err(Error::Unexpected) };
        if let Some(module) = snapshot.modules.iter().find(|module| module.name == name) {
            let (text, value) = show(module, snapshot.taken);
            return Ok(Told { text, value, exit: Exit::Done });
        }
        let error = format!("there is no module {name} on this node");
        if place.all {
            // Not every module is on every node.
            return Ok(Told { text: error.clone(), value: json!({ "error": error }), exit: Exit::Done });
        }
        let known: Vec<&str> = snapshot.modules.iter().map(|module| module.name.as_str()).collect();
        let exit = refused(&error, &format!("name one of: {}", known.join(", ")));
        Ok(Told { text: String::new(), value: json!({ "error": error }), exit })
    })
}

/// The answers as they are; or how it ended, when the daemon refused to ask and that has been told.
pub fn ask_nodes(
    asking: &Asking,
    place: &Where,
    each: &Command,
) -> Result<Result<Vec<NodeAnswer>, Exit>, Error> {
    let command = Command::On { nodes: place.nodes.clone(), each: Box::new(each.clone()), by: String::new() };
    match Client::connect(&asking.socket())?.ask(&command)? {
        Reply::ByNode { answers } => Ok(Ok(answers)),
        Reply::Refused { error, next_step } => Ok(Err(refused(&error, &next_step))),
        _ => Err(Error::Unexpected),
    }
}

/// One object for all answers, for `-o json`.
pub fn json_by_node(
    answers: Vec<NodeAnswer>,
    mut value: impl FnMut(Reply) -> (serde_json::Value, Exit),
) -> (String, Exit) {
    let mut exits = Vec::new();
    let nodes: Vec<_> = answers
        .into_iter()
        .map(|NodeAnswer { node, answer }| match answer {
            Answer::Said(reply) => {
                let (answer, exit) = value(reply);
                exits.push(exit);
                json!({ "node": node, "answer": answer })
            }
            Answer::Unreachable(why) => {
                exits.push(Exit::Unreachable);
                json!({ "node": node, "unreachable": why })
            }
        })
        .collect();
    (format!("{:#}", json!({ "apiVersion": API_VERSION, "nodes": nodes })), worst(&exits))
}

/// What a refusal looks like, everywhere.
pub fn refused(error: &str, next_step: &str) -> Exit {
    err(&format!("error: {error}\nnext: {next_step}"));
    Exit::Failed
}

/// Of several ends the one that somebody has to do the most about.
pub fn worst(exits: &[Exit]) -> Exit {
    let order = [Exit::Unreachable, Exit::Usage, Exit::Failed, Exit::Degraded];
    order.into_iter().find(|exit| exits.contains(exit)).unwrap_or(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_node_counts_most() {
        assert_eq!(worst(&[]), Exit::Done);
        assert_eq!(worst(&[Exit::Done, Exit::Degraded]), Exit::Degraded);
        assert_eq!(worst(&[Exit::Failed, Exit::Unreachable, Exit::Done]), Exit::Unreachable);
    }

    #[test]
    fn answers_by_node_are_one_object() {
        let answers = vec![
            NodeAnswer { node: "web1".into(), answer: Answer::Said(Reply::Accepted { at: Instant(1) }) },
            NodeAnswer { node: "web2".into(), answer: Answer::Unreachable("no route".into()) },
        ];
        let (text, exit) = json_by_node(answers, |_| (json!("done"), Exit::Done));
        let object: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let expected = json!({ "apiVersion": "v1", "nodes": [
            { "node": "web1", "answer": "done" }, { "node": "web2", "unreachable": "no route" },
        ] });
        assert_eq!((object, exit), (expected, Exit::Unreachable));
    }
}
