//! From a file, or its text, to a [`Config`] that holds, or to everything that is wrong with it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::cluster::{Addresses, cluster};
use super::console::console;
use super::decode::{Fields, Keys, Unique};
use super::error::{ConfigErrors, Findings};
use super::module::{Surroundings, modules};
use super::tree::{self, Node, Place, TreeError, Value};
use super::{Cluster, Config};

pub const CONFIG_FILE_DEFAULT: &str = "/etc/safekit/safekit.yaml";

/// 128 nodes and 64 modules take less than a tenth of it.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

pub(super) const FILE: Keys = Keys { of: "the file", known: &["cluster", "modules", "console"], later: &[] };

pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    let bytes = read(path, &name)?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(not_utf8(&name, error.as_bytes(), error.utf8_error().valid_up_to())),
    };
    // Absolute, because a daemon changes its working directory.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    parse_in(&text, &name, absolute.parent().unwrap_or(Path::new("/")))
}

/// `file` names the text in messages, and a relative `key_file` starts at its folder.
pub fn parse(text: &str, file: &str) -> Result<Config, ConfigErrors> {
    parse_in(text, file, Path::new(file).parent().unwrap_or(Path::new("")))
}

fn parse_in(text: &str, file: &str, folder: &Path) -> Result<Config, ConfigErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if is_empty(text) {
        return Err(ConfigErrors::whole_file(
            file,
            "the file is empty",
            "start from the sample configs/farm.yaml",
        ));
    }
    if let Some((index, character)) = control_character(text) {
        let message = format!("control character U+{:04X}", u32::from(character));
        return Err(ConfigErrors::at(file, text, place_of(text, index), message, "remove it".to_owned()));
    }
    let root = tree::read(text).map_err(|error| unreadable(file, text, error))?;
    let mut findings = Findings::default();
    let config = config(&root, folder, &mut findings);
    match config {
        Some(config) if findings.is_empty() => Ok(config),
        Some(_) | None => {
            assert!(!findings.is_empty(), "whatever could not be read has been reported");
            Err(findings.into_errors(file, text))
        }
    }
}

fn config(root: &Node, folder: &Path, findings: &mut Findings) -> Option<Config> {
    if let Value::Null = root.value {
        findings.add(root.mark, "the file is empty", "start from the sample configs/farm.yaml");
        return None;
    }
    let fields = Fields::open(root, &FILE, findings)?;
    let mut node_addresses = Addresses::default();
    let cluster: Option<Cluster> = fields
        .required("cluster", "cluster: { name: shop, … }", findings)
        .and_then(|node| cluster(node, folder, &mut node_addresses, findings));
    let mut surroundings = Surroundings {
        nodes: cluster.as_ref().map(|cluster| cluster.nodes.as_slice()),
        networks: cluster.as_ref().map(|cluster| cluster.networks.as_slice()),
        node_addresses,
        names: Unique::default(),
        virtual_ips: Unique::default(),
        groups: Vec::new(),
        folder: folder.to_owned(),
        others: super::upkeep::Others::default(),
        mirrors: super::mirror::Taken::default(),
    };
    let modules = fields
        .required("modules", "modules: [{ name: www, kind: farm, … }]", findings)
        .and_then(|node| modules(node, &mut surroundings, findings));
    let console = fields.optional("console").map(|node| console(node, findings));
    let groups = surroundings.groups;
    Some(Config { cluster: cluster?, modules: modules?, groups, console: console.flatten() })
}

fn read(path: &Path, name: &str) -> Result<Vec<u8>, ConfigErrors> {
    let failed = |error: std::io::Error| {
        let hint = if error.kind() == ErrorKind::NotFound {
            "name the file: `safekit config check FILE`; a sample is configs/farm.yaml"
        } else if error.kind() == ErrorKind::PermissionDenied {
            "run it as root, or as a member of the file's group"
        } else {
            "check the file system below it"
        };
        ConfigErrors::whole_file(name, format!("cannot be read: {error}"), hint)
    };
    // Asked before the file is opened: opening a FIFO would wait for a writer.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "no regular file" };
        return Err(ConfigErrors::whole_file(
            name,
            format!("is {what}"),
            "name the configuration file itself",
        ));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        let hint = format!("a configuration has at most {CONFIG_BYTES_MAX} bytes; is this the right file?");
        return Err(ConfigErrors::whole_file(name, "is too large", hint));
    }
    Ok(bytes)
}

/// Blank lines and comments only.
fn is_empty(text: &str) -> bool {
    text.lines().map(str::trim_start).all(|line| line.is_empty() || line.starts_with('#'))
}

fn not_utf8(file: &str, bytes: &[u8], valid: usize) -> ConfigErrors {
    let text = String::from_utf8_lossy(bytes);
    let message = format!("byte {:#04x} is not UTF-8", bytes[valid]);
    ConfigErrors::at(file, &text, place_of(&text, valid), message, "save the file as UTF-8".to_owned())
}

/// `index` counts bytes.
fn place_of(text: &str, index: usize) -> Place {
    let before = &text[..index];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    Place { line, column }
}

/// YAML knows tabs and line ends (YAML 1.2, 5.1); the parser would refuse others without saying where.
fn control_character(text: &str) -> Option<(usize, char)> {
    text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}'))
}

fn unreadable(file: &str, text: &str, error: TreeError) -> ConfigErrors {
    let (message, hint, place) = match error {
        TreeError::TooMuch { place } => {
            let hint = "write the entries out instead of `*alias`";
            ("aliases expand to too much".to_owned(), hint.to_owned(), place)
        }
        TreeError::Syntax { message, place, began } => explain(text, message, place, began),
    };
    // Only the bound on aliases comes without a place.
    let place = place.or_else(|| text.find('*').map(|index| place_of(text, index)));
    ConfigErrors::at(file, text, place.unwrap_or(Place { line: 1, column: 1 }), message, hint)
}

/// The parser's words, where better ones are known.
fn explain(
    text: &str,
    message: String,
    place: Option<Place>,
    began: Option<Place>,
) -> (String, String, Option<Place>) {
    if let Some(Place { line, .. }) = place
        && let Some(column) = tab_in_indentation(text, line)
    {
        let hint = "indent with spaces; YAML allows no tabs there";
        return ("a tab in the indentation".to_owned(), hint.to_owned(), Some(Place { line, column }));
    }
    if message.contains("more than one document") {
        let line = text.lines().skip(1).position(|line| line.starts_with("---")).map_or(1, |index| index + 2);
        let hint = "one file is one configuration: remove the `---`";
        return ("a second document begins".to_owned(), hint.to_owned(), Some(Place { line, column: 1 }));
    }
    if message.ends_with(tree::KEY_EXPECTED) {
        return ("a list or a mapping cannot be a key".to_owned(), "write `key: value`".to_owned(), place);
    }
    let hint = hint(&message);
    match began {
        // The end of the file says nothing: show where the quote opened.
        Some(began) if message.contains("end of stream") => (message, hint.to_owned(), Some(began)),
        Some(began) if place.is_none_or(|place| place.line != began.line) => {
            (message, format!("it began in line {}; {hint}", began.line), place)
        }
        Some(_) | None => (message, hint.to_owned(), place),
    }
}

fn hint(message: &str) -> &'static str {
    match message {
        m if m.contains("repetition limit") => "write the entries out instead of `*alias`",
        m if m.contains("recursion limit") => "close the brackets: nothing here is nested that deep",
        m if m.contains("a YAML tag") => "remove the tag; put text in quotes where it looks like a number",
        m if m.contains("unknown anchor") => "an `*alias` needs its `&anchor` before it",
        m if m.contains("mapping values are not allowed") => {
            "put text that contains `: ` in quotes, or check the indentation of the line"
        }
        m if m.contains("quoted scalar") => "close the quote",
        m if m.contains("flow sequence") => "close the bracket `[`, and separate its entries by commas",
        m if m.contains("flow mapping") => "close the brace `{`, and separate its entries by commas",
        _ => "check the indentation, the brackets and the quotes here and in the line before",
    }
}

fn tab_in_indentation(text: &str, line: usize) -> Option<usize> {
    let line = text.lines().nth(line - 1)?;
    let indentation = &line[..line.len() - line.trim_start().len()];
    indentation.find('\t').map(|index| index + 1)
}
