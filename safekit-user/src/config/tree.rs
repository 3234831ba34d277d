//! YAML text as a tree whose every key and value knows its place in the file.
//!
//! The parser tells positions only with errors. So a [`Mark`] is the ordinal of a key or value in reading order, and
//! [`locate`] reads the text once more and fails on purpose at that ordinal: the error then carries line and column.
//! That costs one pass for each message shown, and nothing at all for a correct file.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Visitor};

/// Which key or value: the n-th in reading order. Ordered as the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u32);

#[derive(Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Fraction(f64),
    Text(String),
    List(Vec<Node>),
    /// Every entry, also those whose key came before.
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_mark: Mark,
    pub(super) value: Node,
}

/// 1-based, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

#[derive(Debug)]
pub(super) enum TreeError {
    /// The parser's words, where it stopped if it knows, and where the thing began that it was reading.
    Syntax { message: String, place: Option<Place>, began: Option<Place> },
    /// Anchors and aliases that expand to more than [`TREE_COST_MAX`].
    TooMuch { place: Option<Place> },
}

/// What a tree may cost, in bytes: the parser bounds the number of aliases, not what they expand to.
const TREE_COST_MAX: usize = 16 << 20;
const NODE_COST: usize = size_of::<Entry>();

pub(super) fn read(text: &str) -> Result<Node, TreeError> {
    let reading = Reading::new(None);
    reading.node(text).map_err(|error| {
        let place = place(&error);
        if reading.spent.get() > TREE_COST_MAX {
            return TreeError::TooMuch { place };
        }
        let (message, began) = without_places(&error.to_string());
        TreeError::Syntax { message, place, began }
    })
}

/// Where `mark` stands in the text that it was read from. Inside of an alias: where the anchor is.
pub(super) fn locate(text: &str, mark: Mark) -> Place {
    let stopped = Reading::new(Some(mark)).node(text);
    stopped.err().as_ref().and_then(place).unwrap_or(Place { line: 1, column: 1 })
}

fn place(error: &serde_yaml::Error) -> Option<Place> {
    error.location().map(|at| Place { line: at.line().max(1), column: at.column().max(1) })
}

/// The parser writes `path: problem at line 3 column 1, while reading what at line 2 column 9`. Our positions stand in
/// front of the sentence; the second one is the only way to know where an open bracket is.
fn without_places(message: &str) -> (String, Option<Place>) {
    let (problem, context) = message.split_once(", while ").unwrap_or((message, ""));
    let problem = problem.split(" at line ").next().unwrap_or_default();
    let problem = match problem.split_once(": ") {
        Some((path, rest)) if !path.contains(' ') => rest,
        Some(_) | None => problem,
    };
    let (doing, at) = context.split_once(" at line ").unwrap_or((context, ""));
    let began = at
        .split_once(" column ")
        .and_then(|(line, column)| Some(Place { line: line.parse().ok()?, column: column.parse().ok()? }));
    if doing.is_empty() { (problem.to_owned(), began) } else { (format!("{problem} while {doing}"), began) }
}

/// One pass over the text.
struct Reading {
    next: Cell<u32>,
    spent: Cell<usize>,
    stop_at: Option<Mark>,
}

impl Reading {
    fn new(stop_at: Option<Mark>) -> Self {
        Self { next: Cell::new(0), spent: Cell::new(0), stop_at }
    }

    fn node(&self, text: &str) -> Result<Node, serde_yaml::Error> {
        NodeSeed(self).deserialize(serde_yaml::Deserializer::from_str(text))
    }

    fn mark<E: de::Error>(&self, bytes: usize) -> Result<Mark, E> {
        let mark = Mark(self.next.get());
        if self.stop_at == Some(mark) {
            return Err(E::custom("here"));
        }
        self.next.set(mark.0 + 1);
        self.spent.set(self.spent.get() + NODE_COST + bytes);
        if self.spent.get() > TREE_COST_MAX {
            return Err(E::custom("too much"));
        }
        Ok(mark)
    }

    fn scalar<E: de::Error>(&self, value: Value) -> Result<Node, E> {
        Ok(Node { mark: self.mark(0)?, value })
    }
}

#[derive(Clone, Copy)]
struct NodeSeed<'r>(&'r Reading);

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, a list or a mapping")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        self.0.scalar(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        self.0.scalar(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        self.0.scalar(Value::Integer(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        self.0.scalar(Value::Integer(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Node, E> {
        self.0.scalar(Value::Integer(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Node, E> {
        self.0.scalar(Value::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        self.0.scalar(Value::Fraction(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node { mark: self.0.mark(value.len())?, value: Value::Text(value.to_owned()) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mark = self.0.mark(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Node { mark, value: Value::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mark = self.0.mark(0)?;
        let mut entries = Vec::new();
        while let Some((key, key_mark)) = items.next_key_seed(KeySeed(self.0))? {
            entries.push(Entry { key, key_mark, value: items.next_value_seed(self)? });
        }
        Ok(Node { mark, value: Value::Map(entries) })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(de::Error::custom("a YAML tag (`!name`) has no meaning here"))
    }
}

/// How the parser's complaint about a list or mapping as a key ends.
pub(super) const KEY_EXPECTED: &str = "a key of one word";

struct KeySeed<'r>(&'r Reading);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = (String, Mark);
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = (String, Mark);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KEY_EXPECTED)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok((value.to_owned(), self.0.mark(value.len())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key and value in reading order, with its place.
    fn places(text: &str) -> Vec<(String, usize, usize)> {
        fn walk(node: &Node, text: &str, out: &mut Vec<(String, usize, usize)>) {
            let mut push = |what: String, mark| {
                let at = locate(text, mark);
                out.push((what, at.line, at.column));
            };
            match &node.value {
                Value::Null => push("null".into(), node.mark),
                Value::Bool(value) => push(value.to_string(), node.mark),
                Value::Integer(value) => push(value.to_string(), node.mark),
                Value::Fraction(value) => push(value.to_string(), node.mark),
                Value::Text(value) => push(format!("{value:?}"), node.mark),
                Value::List(items) => {
                    push("list".into(), node.mark);
                    items.iter().for_each(|item| walk(item, text, out));
                }
                Value::Map(entries) => {
                    push("map".into(), node.mark);
                    for entry in entries {
                        let at = locate(text, entry.key_mark);
                        out.push((entry.key.clone(), at.line, at.column));
                        walk(&entry.value, text, out);
                    }
                }
            }
        }
        let mut out = Vec::new();
        walk(&read(text).unwrap(), text, &mut out);
        out
    }

    fn check(text: &str, expected: &[(&str, usize, usize)]) {
        let found = places(text);
        let found: Vec<_> =
            found.iter().map(|(what, line, column)| (what.as_str(), *line, *column)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn every_key_and_value_has_its_own_place() {
        check(
            "a: 1\nb: [x, 2.5]\n",
            &[
                ("map", 1, 1),
                ("a", 1, 1),
                ("1", 1, 4),
                ("b", 2, 1),
                ("list", 2, 4),
                ("\"x\"", 2, 5),
                ("2.5", 2, 8),
            ],
        );
        check(
            "- {k: ~}\n-\n  k: 'no'\n  k: no\n",
            &[
                ("list", 1, 1),
                ("map", 1, 3),
                ("k", 1, 4),
                ("null", 1, 7),
                ("map", 3, 3),
                ("k", 3, 3),
                ("\"no\"", 3, 6),
                ("k", 4, 3),
                ("\"no\"", 4, 6),
            ],
        );
    }

    #[test]
    fn an_alias_points_at_its_anchor() {
        check("a: &x 7\nb: *x\n", &[("map", 1, 1), ("a", 1, 1), ("7", 1, 4), ("b", 2, 1), ("7", 1, 4)]);
    }

    #[test]
    fn columns_count_characters() {
        check("ä: ö\n", &[("map", 1, 1), ("ä", 1, 1), ("\"ö\"", 1, 4)]);
    }

    #[test]
    fn few_aliases_of_something_large_are_bounded_too() {
        let large = "x, ".repeat(20_000);
        let text = format!("a: &a [{large}]\nb: [{}]\n", "*a, ".repeat(20_000));
        assert!(matches!(read(&text), Err(TreeError::TooMuch { .. })));
    }
}
