//! The JSON schema of the configuration file (draft 2020-12), for editors: they complete keys and mark mistakes.
//!
//! Which keys a mapping has, which words a key takes and how long a list may be is the reader's own: [`mapping`] refuses
//! to build where the two differ. What one value says about another (names that exist, addresses that are free) is
//! beyond a schema; `safekit config check` says it.

mod cluster;
mod module;
mod upkeep;

use serde_json::{Map, Value, json};

use super::decode::{Keys, NAME_BYTES_MAX};

/// The whole schema.
pub fn schema() -> Value {
    let mut schema = mapping(
        &super::load::FILE,
        vec![
            field("cluster", cluster::cluster(), "Who is there, and how they reach each other.").required(),
            field("modules", module::modules(), "What the cluster keeps available.").required(),
            field(
                "console",
                console(),
                "Where each node answers over HTTP: figures, and health for balancers.",
            ),
        ],
        json!({}),
    );
    let head = schema.as_object_mut().expect("a mapping is an object");
    head.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    head.insert("title".into(), "safekit.yaml".into());
    head.insert("description".into(), "A cluster and its modules; the same file on every node.".into());
    schema
}

fn console() -> Value {
    let listen =
        field("listen", any_text(), "An address and a port of this node: `0.0.0.0:9010`, `[::]:9010`.");
    mapping(&super::console::CONSOLE, vec![listen.required()], json!({}))
}

/// One key of a mapping.
struct Field {
    key: &'static str,
    schema: Value,
    is_required: bool,
}

/// `about` is what an editor shows beside the key.
fn field(key: &'static str, mut schema: Value, about: &str) -> Field {
    let object = schema.as_object_mut().expect("the schema of a value is an object");
    object.insert("description".into(), about.into());
    Field { key, schema, is_required: false }
}

impl Field {
    fn required(self) -> Self {
        Self { is_required: true, ..self }
    }

    /// What holds where the key is missing.
    fn default(mut self, value: impl Into<Value>) -> Self {
        self.schema["default"] = value.into();
        self
    }
}

/// A mapping of the reader; `also` holds what its keys demand of each other.
fn mapping(keys: &Keys, fields: Vec<Field>, also: Value) -> Value {
    let names: Vec<&str> = fields.iter().map(|field| field.key).collect();
    assert_eq!(names, keys.known, "the schema of {} has the keys of its reader", keys.of);
    let required: Vec<&str> =
        fields.iter().filter(|field| field.is_required).map(|field| field.key).collect();
    let properties: Map<String, Value> =
        fields.into_iter().map(|field| (field.key.to_owned(), field.schema)).collect();
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    let Value::Object(also) = also else { unreachable!("what keys demand of each other is an object") };
    for (word, value) in also {
        let before = schema.as_object_mut().expect("made above").insert(word, value);
        assert!(before.is_none(), "nothing of the mapping itself is replaced");
    }
    schema
}

/// One to `most` of them.
fn list(items: Value, most: usize) -> Value {
    let mut schema = json!({ "type": "array", "minItems": 1, "maxItems": most });
    schema["items"] = items;
    schema
}

/// The same, and none twice.
fn set(items: Value, most: usize) -> Value {
    let mut schema = list(items, most);
    schema["uniqueItems"] = true.into();
    schema
}

fn text(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

fn any_text() -> Value {
    json!({ "type": "string" })
}

/// Of a cluster, node, network, module, check or rule.
fn name() -> Value {
    text(&format!("^[A-Za-z0-9][A-Za-z0-9_.-]{{0,{}}}$", NAME_BYTES_MAX - 1))
}

/// A table of the reader.
fn word<T>(words: &[(&'static str, T)]) -> Value {
    json!({ "enum": words.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
}

fn whole(least: u64, most: u64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

fn port() -> Value {
    whole(1, u64::from(u16::MAX))
}

fn address() -> Value {
    // Editors may ignore a format; a pattern they know.
    let v4 = json!({ "format": "ipv4", "pattern": "^[0-9.]+$" });
    let v6 = json!({ "format": "ipv6", "pattern": "^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$" });
    json!({ "type": "string", "anyOf": [v4, v6] })
}

fn duration() -> Value {
    text("^[0-9]+(ms|s|m|h)$")
}

/// A duration that is not nothing.
fn span() -> Value {
    text("^0*[1-9][0-9]*(ms|s|m|h)$")
}

fn truth() -> Value {
    json!({ "enum": [true, false, "on", "off", "yes", "no"] })
}

/// At most one of these keys may be there.
fn not_together(keys: &[&str]) -> Value {
    let pairs: Vec<Value> = keys
        .iter()
        .enumerate()
        .flat_map(|(index, one)| {
            keys[index + 1..].iter().map(move |other| json!({ "required": [one, other] }))
        })
        .collect();
    json!({ "not": { "anyOf": pairs } })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every mapping of fixed keys has been compared with its reader where this returns at all.
    #[test]
    fn the_schema_has_the_keys_of_the_reader() {
        let schema = schema();
        assert_eq!(schema["required"], json!(["cluster", "modules"]));
        assert_eq!(schema["properties"]["cluster"]["properties"]["networks"]["maxItems"], 8);
    }

    #[test]
    #[should_panic(expected = "the schema of a thing has the keys of its reader")]
    fn a_key_that_only_the_reader_knows_is_found() {
        let keys = Keys { of: "a thing", known: &["name", "new"], later: &[] };
        mapping(&keys, vec![field("name", name(), "Its name.")], json!({}));
    }

    #[test]
    #[should_panic(expected = "the schema of a thing has the keys of its reader")]
    fn a_key_that_only_the_schema_knows_is_found() {
        let keys = Keys { of: "a thing", known: &["name"], later: &[] };
        mapping(&keys, vec![field("name", name(), "Its name."), field("old", truth(), "Gone.")], json!({}));
    }
}
