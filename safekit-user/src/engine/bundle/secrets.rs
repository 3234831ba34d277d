//! Finds what looks like a secret, by its name or its form, and what the configuration hands to scripts.
//!
//! When in doubt it is removed: a bundle that lacks a word is still useful, one that has a password is not to be sent.

use regex::{Captures, Regex};
use serde_json::{Value, json};

use super::map_texts;

pub const REMOVED: &str = "(removed)";
/// Shorter values of variables are everywhere by chance.
const VALUE_CHARS_MIN: usize = 4;

/// Words of names whose values are secret, wherever they stand in the name.
const WORDS: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pass",
    "pwd",
    "pw",
    "secret",
    "secrets",
    "token",
    "tokens",
    "key",
    "apikey",
    "auth",
    "authorization",
    "credential",
    "credentials",
];
/// These also as a part of a word: `PGPASSWORD`, `mytoken`.
const PARTS: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "credential",
    "authorization",
    "privatekey",
];
/// A name that ends so says where something is, not what it is.
const PLACES: [&str; 5] = ["file", "path", "dir", "directory", "mode"];

pub struct Secrets {
    /// `NAME=value`, `name: value`, `"name": "value"`, `--name value`.
    assignment: Regex,
    /// `Authorization: Bearer …`, to the end of the line.
    header: Regex,
    /// `Bearer …`, `Basic …`
    scheme: Regex,
    /// `https://user:password@host`
    user_info: Regex,
    pem: Regex,
    /// 32 bytes or more in hex: as a cluster key is written.
    hex: Regex,
    /// Values of variables, the longest first, and whether they are removed inside of words too.
    values: Vec<(String, bool)>,
}

impl Secrets {
    /// `variables` of all modules: names and values.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let compiled = |pattern: &str| Regex::new(pattern).expect("a pattern of this file is right");
        let mut values: Vec<(String, bool)> = variables
            .into_iter()
            .map(|(name, value)| (value, is_secret(&name)))
            .filter(|(value, secret)| {
                let plain_number = value.chars().all(|c| c.is_ascii_digit());
                value.chars().count() >= VALUE_CHARS_MIN && (*secret || !plain_number)
            })
            .collect();
        values.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        values.dedup();
        Self {
            assignment: compiled(
                r#"(?P<quote>\\?["']?)(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)\\?["']?(?P<sign>[ ]*[=:][ ]*|[ ]+)(?P<value>"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\S+)"#,
            ),
            header: compiled(
                r#"((?i-u:(?:proxy-)?authorization|(?:set-)?cookie|x-api-key))(\\?["']?\s*[:=]\s*\\?["']?)[^\n\r]+"#,
            ),
            scheme: compiled(r"\b((?i-u:bearer|basic))[ ]+[A-Za-z0-9._~+/=-]{6,}"),
            user_info: compiled(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@:]*:[^\s/@]*@"),
            pem: compiled(
                r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
            ),
            hex: compiled(r"\b[0-9A-Fa-f]{64,}\b"),
            values,
        }
    }

    /// Any text: a log, an answer of a program, a line of a shell.
    pub fn of_text(&self, text: &str) -> String {
        let text = self.pem.replace_all(text, REMOVED);
        let text = self
            .header
            .replace_all(&text, |found: &Captures<'_>| format!("{}{}{REMOVED}", &found[1], &found[2]));
        let text = self.scheme.replace_all(&text, |found: &Captures<'_>| format!("{} {REMOVED}", &found[1]));
        let text =
            self.user_info.replace_all(&text, |found: &Captures<'_>| format!("{}{REMOVED}@", &found[1]));
        let text = self.hex.replace_all(&text, REMOVED);
        self.without_values(&self.without_assignments(&text))
    }

    /// By hand instead of `replace_all`: a name that is none leaves its value to be a name of the next.
    fn without_assignments(&self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        let mut at = 0;
        while let Some(found) = self.assignment.captures_at(text, at) {
            let (name, sign, value) =
                (&found["name"], &found["sign"], found.name("value").expect("always there"));
            let from = found.get(0).expect("the whole").start();
            // `--token abc`; without an equals sign only an option has a value.
            let is_option = text[..from].ends_with("--") || (text[..from].ends_with('-') && name.len() > 1);
            let is_assigned = sign.trim() != "" || is_option;
            if is_assigned && is_secret(name) && value.as_str() != REMOVED {
                clean.push_str(&text[at..value.start()]);
                let quote = value.as_str().chars().next().filter(|c| matches!(c, '"' | '\''));
                // A passphrase has blanks.
                let to_line_end =
                    quote.is_none() && sign.trim() == ":" && name.to_ascii_lowercase().contains("pass");
                let quote = quote.map(String::from).unwrap_or_default();
                clean += &format!("{quote}{REMOVED}{quote}");
                let rest = &text[value.end()..];
                at = value.end() + if to_line_end { rest.find('\n').unwrap_or(rest.len()) } else { 0 };
            } else {
                let next = found.name("name").expect("always there").end();
                clean.push_str(&text[at..next]);
                at = next;
            }
        }
        clean + &text[at..]
    }

    fn without_values(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for (value, everywhere) in &self.values {
            if clean.contains(value.as_str()) {
                clean = without(&clean, value, *everywhere);
            }
        }
        clean
    }

    /// A tree: also what stands under a key that names a secret, and all of `variables` and `environment`.
    pub fn of_value(&self, value: Value) -> Value {
        let hides = |key: &str| is_secret(key).then(|| json!(REMOVED));
        let value = without_variables(value);
        map_texts(value, &|text| self.of_text(text), &hides)
    }
}

/// What configurations hand to scripts: names and values.
pub fn variables(text: &str) -> Vec<(String, String)> {
    let Ok(whole) = serde_yaml::from_str::<Value>(text) else { return Vec::new() };
    let modules = whole["modules"].as_array().into_iter().flatten();
    let entries = modules.filter_map(|module| module["variables"].as_object()).flatten();
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    entries.map(|(name, value)| (name.clone(), plain(value))).collect()
}

/// The names of variables stay: they tell what a script was given.
fn without_variables(value: Value) -> Value {
    match value {
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, value)| {
                let hides = matches!(key.as_str(), "variables" | "environment");
                let names = value.as_object().filter(|_| hides).map(|inner| inner.keys().cloned());
                let hidden = names.map(|names| names.map(|name| (name, json!(REMOVED))).collect());
                (key, hidden.unwrap_or_else(|| without_variables(value)))
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(without_variables).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

fn without(text: &str, value: &str, inside_words: bool) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find(value) {
        let after = &rest[place + value.len()..];
        let before = rest[..place].chars().next_back().or_else(|| clean.chars().next_back());
        let touches = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        clean.push_str(&rest[..place]);
        let keep = !inside_words && (touches(before) || touches(after.chars().next()));
        clean.push_str(if keep { value } else { REMOVED });
        rest = after;
    }
    clean + rest
}

/// `PGPASSWORD`, `api-key`, `apiKey`, `db.token`; not `key_file`.
fn is_secret(name: &str) -> bool {
    let words = words_of(name);
    if words.last().is_some_and(|last| PLACES.contains(&last.as_str())) {
        return false;
    }
    let flat = name.to_ascii_lowercase().replace(['_', '-', '.'], "");
    words.iter().any(|word| WORDS.contains(&word.as_str())) || PARTS.iter().any(|part| flat.contains(part))
}

fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && was_small) {
            words.push(String::new());
        }
        if c.is_ascii_alphanumeric() {
            words.last_mut().expect("there is one").push(c.to_ascii_lowercase());
        }
        was_small = c.is_ascii_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        let variables = [("SITE", "riverbank"), ("DB_PASS", "s3cr"), ("PORT", "8080"), ("MODE", "on")];
        Secrets::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn names_of_secrets_are_told_from_others() {
        for name in
            ["password", "PGPASSWORD", "db_pass", "api-key", "apiKey", "X_AUTH_TOKEN", "client.secret", "pw"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["key_file", "passed", "bypass", "monkey", "author", "tokenizer_path", "compass", "name"]
        {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn a_secret_does_not_come_out_and_the_rest_stays() {
        for (text, expected) in [
            ("login password=hunter2 ok", "login password=(removed) ok"),
            ("env: DB_TOKEN='a b c' next", "env: DB_TOKEN='(removed)' next"),
            ("psql --password hunter2 -h db", "psql --password (removed) -h db"),
            ("{\"password\": \"hunt\\\"er2\", \"port\": 80}", "{\"password\": \"(removed)\", \"port\": 80}"),
            ("Authorization: Bearer abc.def.ghi", "Authorization: (removed)"),
            ("curl -H 'Cookie: id=77'", "curl -H 'Cookie: (removed)"),
            ("got Bearer abcdefghijk!", "got Bearer (removed)!"),
            ("postgres://shop:hunter2@db/x", "postgres://(removed)@db/x"),
            ("a -----BEGIN RSA PRIVATE KEY-----\nAA\n-----END RSA PRIVATE KEY----- b", "a (removed) b"),
            ("for riverbank-1 and riverbanks", "for (removed)-1 and riverbanks"),
            ("xs3crx", "x(removed)x"),
            ("port 8080 is on", "port 8080 is on"),
            ("a key was pressed, password wrong", "a key was pressed, password wrong"),
            ("x passphrase: correct horse battery\nb", "x passphrase: (removed)\nb"),
            ("password=ab,cd;ef", "password=(removed)"),
            ("a=b password: hunter2", "a=b password: (removed)"),
            ("key_file: /etc/safekit/cluster.key", "key_file: /etc/safekit/cluster.key"),
        ] {
            assert_eq!(secrets().of_text(text), expected, "{text}");
        }
        let key = "0123456789abcdef".repeat(4);
        assert_eq!(secrets().of_text(&format!("<{key}>")), "<(removed)>");
    }

    #[test]
    fn variables_keep_their_names_and_lose_their_values() {
        let value = json!({ "modules": [{ "variables": { "PORT": 8080, "X": "y" }, "scripts": { "start": "run --token abc" } }], "api_token": { "deep": "er" } });
        let clean = secrets().of_value(value);
        assert_eq!(clean["modules"][0]["variables"], json!({ "PORT": REMOVED, "X": REMOVED }));
        assert_eq!(clean["modules"][0]["scripts"]["start"], "run --token (removed)");
        assert_eq!(clean["api_token"], REMOVED);
    }
}
