//! What may leave this machine in a support bundle: text and JSON without secrets, and on demand without names. Pure.
//!
//! ```text
//! Item ──Secrets──▶ without passwords, tokens, keys ──Names──▶ without addresses, hosts, nodes, cluster ──▶ archive
//!                                                    └ learned from all items first, so that no replacement is the
//!                                                      original of another
//! ```

mod addresses;
pub mod names;
pub mod secrets;

use serde_json::{Map, Value};

use crate::types::bundle::Item;
use names::Names;
use secrets::Secrets;

/// The items as they may be given away. `names`: what of this cluster is replaced as well.
pub fn prepare(items: Vec<Item>, secrets: &Secrets, names: Option<Names>) -> Vec<Item> {
    let mut clean: Vec<Item> = items.into_iter().map(|item| without_secrets(item, secrets)).collect();
    let Some(mut names) = names else { return clean };
    for item in &clean {
        for text in [&item.path, &item.text].into_iter().chain(&item.note) {
            names.learn(text);
        }
    }
    names.settle();
    for item in &mut clean {
        item.path = names.replaced(&item.path);
        item.text = names.replaced(&item.text);
        item.note = item.note.as_deref().map(|note| names.replaced(note));
    }
    clean
}

fn without_secrets(item: Item, secrets: &Secrets) -> Item {
    if item.path.ends_with(".yaml") && !item.text.is_empty() {
        return configuration(item, secrets);
    }
    let whole = |text: &str| serde_json::from_str::<Value>(text).ok();
    let text = if item.path.ends_with(".jsonl") {
        let line = |line: &str| match whole(line) {
            Some(value) => format!("{}\n", secrets.of_value(value)),
            None => format!("{}\n", secrets.of_text(line)),
        };
        item.text.lines().map(line).collect()
    } else if let Some(value) = whole(&item.text).filter(|_| item.path.ends_with(".json")) {
        format!("{:#}\n", secrets.of_value(value))
    } else {
        secrets.of_text(&item.text)
    };
    Item {
        path: secrets.of_text(&item.path),
        text,
        note: item.note.as_deref().map(|note| secrets.of_text(note)),
    }
}

/// Without comments, which may hold anything, and as a whole or not at all.
fn configuration(item: Item, secrets: &Secrets) -> Item {
    let clean = serde_yaml::from_str::<Value>(&item.text).ok().map(|value| secrets.of_value(value));
    match clean.and_then(|value| serde_yaml::to_string(&value).ok()) {
        Some(text) => Item { text, ..item },
        None => Item::lacking(item.path, "it is no YAML, so that secrets could not be told apart"),
    }
}

/// Every text of a tree, keys included, made anew; a key may decide about its value.
fn map_texts(value: Value, text: &impl Fn(&str) -> String, hides: &impl Fn(&str) -> Option<Value>) -> Value {
    match value {
        Value::String(word) => Value::String(text(&word)),
        Value::Array(items) => items.into_iter().map(|item| map_texts(item, text, hides)).collect(),
        Value::Object(entries) => {
            let entries = entries.into_iter().map(|(key, value)| {
                let value = hides(&key).unwrap_or_else(|| map_texts(value, text, hides));
                (text(&key), value)
            });
            Value::Object(entries.collect::<Map<_, _>>())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}
