//! The JSON schema that `safekit config schema` prints, judged by a validator that knows nothing of safekit.

use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::faulty::{GOOD, faulty_files};
use super::{Folder, text};

/// What a schema cannot see, because it compares two places of the file or needs more than a pattern.
const BEYOND_A_SCHEMA: [&str; 32] = [
    "key twice in a mapping of fixed keys",
    "key twice in a mapping of names",
    "multicast address",
    "link-local address",
    "loopback as virtual IP",
    "lease too short",
    "lease too long",
    "timeout too short",
    "range backwards",
    "ranges that overlap",
    "weights of a stranger",
    "only weights of 0",
    "rule's node outside of the module",
    "network twice",
    "node twice",
    "module twice",
    "virtual IP twice",
    "rule twice",
    "unknown network",
    "unknown member",
    "address twice",
    "address families mixed",
    "virtual IP of a node",
    "failover",
    "mirror of all three nodes",
    "directory twice",
    "directory within another",
    "mirror over an unknown network",
    "mirror over a network of one node",
    "mirror on the heartbeats' port",
    "stall too short",
    "port of two mirrors",
];

#[test]
fn the_schema_beside_the_samples_is_current() {
    let printed = printed();
    let path = configs().join("safekit.schema.json");
    if std::env::var_os("SAFEKIT_BLESS").is_some() {
        std::fs::write(&path, &printed).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(kept == printed, "{} is not what `safekit config schema` prints: copy it there", path.display());
    let schema: Value = serde_json::from_str(&printed).unwrap();
    assert!(jsonschema::meta::is_valid(&schema), "it is a schema of its draft");
}

#[test]
fn every_sample_names_the_schema_and_keeps_to_it() {
    let validator = validator();
    let mut samples = 0;
    for (path, content) in samples_of(&configs()) {
        assert!(
            content.starts_with("# yaml-language-server: $schema=safekit.schema.json\n"),
            "{} names the schema for editors",
            path.display()
        );
        accept(&validator, &read(&content).unwrap(), &path.display().to_string());
        let shown = Folder::new().safekit(&["config", "show", path.to_str().unwrap()]);
        accept(&validator, &read(&text(&shown.stdout)).unwrap(), "what config show makes of it");
        samples += 1;
    }
    assert!(samples >= 4, "{samples} samples");
    accept(&validator, &read(GOOD).unwrap(), "the good file");
}

#[test]
fn a_fault_that_a_schema_can_see_is_refused() {
    let validator = validator();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for fault in faulty_files() {
        let Some(value) = std::str::from_utf8(&fault.content).ok().and_then(read) else { continue };
        seen += 1;
        if validator.is_valid(&value) != BEYOND_A_SCHEMA.contains(&fault.name) {
            wrong.push(fault.name);
        }
    }
    assert!(seen > 60, "{seen} of the faulty files are YAML");
    assert_eq!(wrong, Vec::<&str>::new(), "the schema and the list disagree about these");
}

/// Each value of each sample is replaced by something of another kind, each mapping gets a key too many, and each key is
/// taken away: whatever the reader takes the schema takes, and of another kind both take the same.
#[test]
fn reader_and_schema_agree_about_what_belongs_where() {
    let validator = validator();
    let mut tried = 0;
    let mut wrong = Vec::new();
    for (path, content) in samples_of(&configs()) {
        let whole = read(&content).unwrap();
        let mut places = Vec::new();
        walk(&whole, String::new(), &mut places);
        for place in places {
            for change in Change::ALL {
                let Some(changed) = change.at(&whole, &place) else { continue };
                let by_schema = validator.is_valid(&changed);
                let by_reader = safekit::config::parse(&changed.to_string(), "changed.yaml").is_ok();
                tried += 1;
                if by_reader != by_schema && (by_reader || change.is_structural(&place)) {
                    let name = path.file_name().unwrap().to_string_lossy();
                    wrong.push(format!("{name} {place} {change:?}: reader {by_reader}, schema {by_schema}"));
                }
            }
        }
    }
    assert!(tried > 1000, "{tried} changes tried");
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Null,
    EmptyList,
    EmptyMapping,
    StrangeKey,
    Truth,
    Number,
    Word,
    Removed,
}

impl Change {
    const ALL: [Self; 8] = [
        Self::Null,
        Self::EmptyList,
        Self::EmptyMapping,
        Self::StrangeKey,
        Self::Truth,
        Self::Number,
        Self::Word,
        Self::Removed,
    ];

    /// The reader refuses the others also for what a value means; the keys of `weights` are names of nodes.
    fn is_structural(self, place: &str) -> bool {
        match self {
            Self::Null | Self::EmptyList | Self::EmptyMapping => true,
            Self::StrangeKey => !place.ends_with("/weights"),
            Self::Truth | Self::Number | Self::Word | Self::Removed => false,
        }
    }

    fn at(self, whole: &Value, place: &str) -> Option<Value> {
        let mut changed = whole.clone();
        let value = changed.pointer_mut(place).expect("places are those of the file");
        let other = match self {
            Self::Null => Value::Null,
            Self::EmptyList => json!([]),
            Self::EmptyMapping => json!({}),
            Self::Truth => json!(true),
            Self::Number => json!(17),
            Self::Word => json!("stranger"),
            Self::StrangeKey => {
                value.as_object_mut()?.insert("a-key-too-many".to_owned(), json!(1));
                return Some(changed);
            }
            Self::Removed => {
                let (parent, key) = place.rsplit_once('/')?;
                changed.pointer_mut(parent)?.as_object_mut()?.remove(key)?;
                return Some(changed);
            }
        };
        *value = other;
        Some(changed)
    }
}

/// The place of every value, as JSON pointers have it.
fn walk(value: &Value, place: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| walk(value, format!("{place}/{key}"), places));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| walk(item, format!("{place}/{index}"), places));
        }
        _ => {}
    }
    places.push(place);
}

fn accept(validator: &Validator, value: &Value, what: &str) {
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}");
}

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(&printed()).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

fn printed() -> String {
    let output = Folder::new().safekit(&["config", "schema"]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    text(&output.stdout)
}

/// As an editor reads it: none where it is no YAML.
fn read(text: &str) -> Option<Value> {
    serde_yaml::from_str(text).ok()
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn samples_of(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let yaml = entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    yaml.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}
