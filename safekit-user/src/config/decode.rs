//! From tree nodes to values. Each function returns none after it has reported why, so that reading goes on and one
//! run finds as much as it can.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use super::error::{Findings, closest, meant_or_allowed, quoted};
use super::tree::{Entry, Mark, Node, Value};

/// The keys of one kind of mapping.
pub(super) struct Keys {
    /// With its article: "a rule".
    pub(super) of: &'static str,
    pub(super) known: &'static [&'static str],
    /// Part of the file format, and of a later version of the program.
    pub(super) later: &'static [&'static str],
}

/// A mapping whose keys are known and unique.
pub(super) struct Fields<'t> {
    keys: &'static Keys,
    mark: Mark,
    entries: &'t [Entry],
    /// Known keys that unknown ones were probably meant to be: they are not missed as well.
    misspelt: Vec<&'static str>,
}

impl<'t> Fields<'t> {
    pub(super) fn open(node: &'t Node, keys: &'static Keys, findings: &mut Findings) -> Option<Self> {
        let entries = map(node, keys.of, findings)?;
        let mut misspelt = Vec::new();
        for entry in entries {
            let key = entry.key.as_str();
            if keys.later.contains(&key) {
                let message = format!("`{key}` in {} is not available in this version", keys.of);
                findings.add(entry.key_mark, message, "remove it: this version would not act on it");
            } else if !keys.known.contains(&key) {
                misspelt.extend(closest(key, keys.known.iter().copied()));
                let hint = if key == "<<" {
                    "merge keys are not part of YAML 1.2: write the entries out".to_owned()
                } else {
                    meant_or_allowed(key, keys.known.iter().copied())
                };
                findings.add(entry.key_mark, format!("unknown key {} in {}", quoted(key), keys.of), hint);
            } else if matches!(entry.value.value, Value::Null) {
                let hint = "write the value behind it, or remove the key";
                findings.add(entry.key_mark, format!("`{key}` has no value"), hint);
            }
        }
        Some(Self { keys, mark: node.mark, entries, misspelt })
    }

    /// None also for a key without a value, which has been reported.
    pub(super) fn optional(&self, key: &str) -> Option<&'t Node> {
        debug_assert!(self.keys.known.contains(&key), "only declared keys are read, and `{key}` is not");
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (!matches!(entry.value.value, Value::Null)).then_some(&entry.value)
    }

    pub(super) fn required(&self, key: &str, example: &str, findings: &mut Findings) -> Option<&'t Node> {
        if !self.has(key) && !self.misspelt.contains(&key) {
            let message = format!("{} lacks `{key}`", self.keys.of);
            findings.add(self.mark, message, format!("add it, for example `{example}`"));
        }
        self.optional(key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Whether this kind of mapping has the key at all.
    pub(super) fn known(&self, key: &str) -> bool {
        self.keys.known.contains(&key)
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }
}

/// The entries of a mapping, each key once; `what` with its article.
pub(super) fn map<'t>(node: &'t Node, what: &str, findings: &mut Findings) -> Option<&'t [Entry]> {
    let Value::Map(entries) = &node.value else {
        findings.add(
            node.mark,
            format!("{what} is {} instead of a mapping", kind(node)),
            "write `key: value`",
        );
        return None;
    };
    let mut unique = Unique::default();
    for entry in entries {
        if let Err(first) = unique.insert(entry.key.as_str(), entry.key_mark) {
            let message = format!("{} is twice in {what}", quoted(&entry.key));
            findings.add_duplicate(entry.key_mark, first, message, "keep one of them");
        }
    }
    Some(entries)
}

/// One to `most` items.
pub(super) fn list<'t>(
    node: &'t Node,
    what: &str,
    most: usize,
    example: &str,
    findings: &mut Findings,
) -> Option<&'t [Node]> {
    let Value::List(items) = &node.value else {
        findings.add(
            node.mark,
            format!("`{what}` is {} instead of a list", kind(node)),
            format!("write `- {example}`"),
        );
        return None;
    };
    if items.is_empty() {
        findings.add(
            node.mark,
            format!("`{what}` is empty"),
            format!("at least one is needed, for example `- {example}`"),
        );
        return None;
    }
    if let Some(surplus) = items.get(most) {
        findings.add(
            surplus.mark,
            format!("{} entries in `{what}`", items.len()),
            format!("at most {most} are allowed"),
        );
        return None;
    }
    Some(items)
}

pub(super) fn text<'t>(node: &'t Node, what: &str, findings: &mut Findings) -> Option<&'t str> {
    let hint = match &node.value {
        Value::Text(text) => return Some(text),
        Value::Integer(_) | Value::Fraction(_) | Value::Bool(_) => "put it in quotes to make it text",
        Value::Null | Value::List(_) | Value::Map(_) => "write one word",
    };
    findings.add(node.mark, format!("{what} is {} instead of text", kind(node)), hint);
    None
}

/// Longest name of anything, as for a label of the DNS.
pub(super) const NAME_BYTES_MAX: usize = 63;

/// A name of a cluster, node, network or module.
pub(super) fn name(node: &Node, what: &str, findings: &mut Findings) -> Option<String> {
    let name = text(node, what, findings)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let starts_well = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !starts_well || !name.chars().all(plain) || name.len() > NAME_BYTES_MAX {
        let hint = format!(
            "letters, digits, `-`, `_` and `.` are allowed, a letter or digit first, {NAME_BYTES_MAX} in all"
        );
        findings.add(node.mark, format!("{} cannot be {what}", quoted(name)), hint);
        return None;
    }
    Some(name.to_owned())
}

pub(super) fn port(node: &Node, findings: &mut Findings) -> Option<u16> {
    let message = match &node.value {
        Value::Integer(number) => match u16::try_from(*number) {
            Ok(port) if port > 0 => return Some(port),
            Ok(_) | Err(_) => format!("{number} is no port"),
        },
        Value::Fraction(number) => format!("{number} is no port"),
        Value::Text(text) => format!("{} is no port", quoted(text)),
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => {
            format!("a port is {} instead of a number", kind(node))
        }
    };
    findings.add(node.mark, message, "write a number from 1 to 65535");
    None
}

pub(super) fn ip(node: &Node, findings: &mut Findings) -> Option<IpAddr> {
    let text = text(node, "an address", findings)?;
    let Ok(address) = text.parse() else {
        let hint = if text.contains('/') {
            "write the address alone, without the length of its network"
        } else {
            "write an IPv4 address like 10.99.0.1 or an IPv6 address like fd00::1"
        };
        findings.add(node.mark, format!("{} is no IP address", quoted(text)), hint);
        return None;
    };
    if let Some(why) = unusable(address) {
        findings.add(node.mark, format!("{address} is {why}"), "write an address of one host");
        return None;
    }
    Some(address)
}

fn unusable(address: IpAddr) -> Option<&'static str> {
    let limited_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    match () {
        () if address.is_unspecified() => Some("the address of no host"),
        () if address.is_multicast() => Some("a multicast address"),
        () if limited_broadcast => Some("the broadcast address"),
        () if link_local => Some("link-local, and means nothing without an interface"),
        () if mapped => Some("an IPv4 address in IPv6 clothes"),
        () => None,
    }
}

/// The longest span that anything here may take.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) fn duration(node: &Node, what: &str, findings: &mut Findings) -> Option<Duration> {
    let bare = |number: &dyn std::fmt::Display| {
        (
            format!("`{what}` is {number} without a unit"),
            format!("did you mean `{number}ms`, or `{number}s`?"),
        )
    };
    let (message, hint) = match &node.value {
        Value::Integer(number) => bare(number),
        Value::Text(text) => match super::duration::parse(text) {
            Ok(span) if span <= DURATION_MAX => return Some(span),
            _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => bare(text),
            Ok(_) | Err(_) => (
                format!("{} is no duration", quoted(text)),
                "write a whole number and a unit: `250ms`, `2s`, `1m` or `1h`".to_owned(),
            ),
        },
        Value::Null | Value::Bool(_) | Value::Fraction(_) | Value::List(_) | Value::Map(_) => (
            format!("`{what}` is {} instead of a duration", kind(node)),
            "write a whole number and a unit: `250ms`, `2s`, `1m` or `1h`".to_owned(),
        ),
    };
    findings.add(node.mark, message, hint);
    None
}

/// One word of a table. A word of `later` is part of the format and of a later version.
pub(super) fn choice<T: Copy>(
    node: &Node,
    what: &str,
    words: &[(&'static str, T)],
    later: &[&'static str],
    findings: &mut Findings,
) -> Option<T> {
    let word = text(node, &format!("`{what}`"), findings)?;
    if let Some((_, value)) = words.iter().find(|(known, _)| *known == word) {
        return Some(*value);
    }
    let known = words.iter().map(|(known, _)| *known);
    if later.contains(&word) {
        let hint = meant_or_allowed("", known);
        findings.add(node.mark, format!("`{what}: {word}` is not available in this version"), hint);
    } else {
        findings.add(node.mark, format!("{} is no `{what}`", quoted(word)), meant_or_allowed(word, known));
    }
    None
}

/// The table's word for a value: the other direction of [`choice`].
pub(super) fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).expect("every value has its word in the table").0
}

/// What was seen where.
pub(super) struct Unique<T>(HashMap<T, Mark>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Unique<T> {
    /// The place of the first when this is not the first.
    pub(super) fn insert(&mut self, thing: T, mark: Mark) -> Result<(), Mark> {
        match self.0.entry(thing) {
            std::collections::hash_map::Entry::Occupied(seen) => Err(*seen.get()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(mark);
                Ok(())
            }
        }
    }

    pub(super) fn first(&self, thing: &T) -> Option<Mark> {
        self.0.get(thing).copied()
    }
}

fn kind(node: &Node) -> String {
    match &node.value {
        Value::Null => "empty".to_owned(),
        Value::Bool(value) => format!("the truth value {value}"),
        Value::Integer(value) => format!("the number {value}"),
        Value::Fraction(value) => format!("the number {value}"),
        Value::Text(value) => format!("the text {}", quoted(value)),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}
