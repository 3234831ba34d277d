//! The files of the repository, and Rust code without what only looks like code.

use std::path::Path;

pub(crate) struct Source {
    /// From the top of the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The same lines and columns, with blanks for comments and for the inside of literals. Empty unless Rust.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { code_of(text) } else { String::new() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// A file of the `tests` package, or a `tests.rs` beside the code.
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Code down to its own tests, which stand last.
    pub(crate) fn product_code(&self) -> &str {
        if self.is_test() {
            return "";
        }
        let end = self.code.find("#[cfg(test)]\nmod ").unwrap_or(self.code.len());
        &self.code[..end]
    }

    pub(crate) fn at(&self, index: usize) -> String {
        format!("{}:{}", self.path, self.line_of(index))
    }

    pub(crate) fn line_of(&self, index: usize) -> usize {
        self.code[..index].matches('\n').count() + 1
    }
}

const FOLDERS_SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];
const KINDS: [&str; 6] = ["rs", "toml", "yaml", "yml", "md", "sh"];

pub(crate) fn sources() -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository");
    let mut found = Vec::new();
    collect(top, top, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(top: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the repository is readable") {
        let path = entry.expect("an entry of the repository is readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !FOLDERS_SKIPPED.contains(&name.as_str()) {
                collect(top, &path, found);
            }
        } else if is_text_of_ours(&path) {
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let inside = path.strip_prefix(top).expect("the walk began at the top");
            found.push(Source::new(&inside.to_string_lossy(), &text));
        }
    }
}

fn is_text_of_ours(path: &Path) -> bool {
    let kind = path.extension().is_some_and(|kind| KINDS.iter().any(|ours| kind == *ours));
    kind || path.ends_with(".ci/run")
}

/// Blanks instead of comments and literals. Lines stay where they are.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        let hidden = hidden_length(rest, before);
        let (part, tail) = rest.split_at(if hidden == 0 { next.len_utf8() } else { hidden });
        if hidden == 0 {
            code.push(next);
        } else {
            code.extend(part.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        }
        before = part.chars().last().unwrap_or(' ');
        rest = tail;
    }
    code
}

/// How many bytes at the start of `rest` are comment or literal; 0 for code.
fn hidden_length(rest: &str, before: char) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if rest.starts_with('"') {
        return quoted_length(rest, '"');
    }
    let in_word = before.is_alphanumeric() || before == '_';
    if !in_word && let Some(length) = raw_string_length(rest) {
        return length;
    }
    if rest.starts_with('\'') && is_char_literal(rest) {
        return quoted_length(rest, '\'');
    }
    0
}

/// `'a'` and `'\n'`, unlike the lifetime in `&'a str`.
fn is_char_literal(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    matches!((chars.next(), chars.next()), (Some('\\'), _) | (Some(_), Some('\'')))
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = true; // the opening quote does not close
    for (index, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return index + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string_length(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    let start = rest.len() - after.len() + hashes + 1;
    if after.as_bytes().get(hashes) != Some(&b'"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    Some(rest[start..].find(&end).map_or(rest.len(), |index| start + index + end.len()))
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0;
    let mut index = 0;
    while index < rest.len() {
        let here = &rest.as_bytes()[index..];
        if here.starts_with(b"/*") {
            depth += 1;
            index += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            index += 2;
            if depth == 0 {
                return index;
            }
        } else {
            index += 1;
        }
    }
    rest.len()
}

#[test]
fn comments_and_literals_are_no_code() {
    for (text, expected) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        ("f(\"x // y\") + 1", "f(        ) + 1"),
        (r#"f("\"x") + 1"#, "f(     ) + 1"),
        ("f(r#\"x \" y\"#) + 1", "f(          ) + 1"),
        ("br\"x\" y", "      y"),
        ("('{', '\\'', b'}')", "(   ,     , b   )"),
        ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        ("r#type + for_r", "r#type + for_r"),
        ("\"a\nb\" c", "  \n   c"),
    ] {
        assert_eq!(code_of(text), expected, "{text}");
    }
}

#[test]
fn the_tests_of_a_file_are_not_its_product() {
    let source = Source::new("safekit-user/src/a.rs", "fn a() {}\n#[cfg(test)]\nmod tests {}\n");
    assert_eq!(source.product_code(), "fn a() {}\n");
    assert_eq!(Source::new("tests/src/lab.rs", "fn a() {}").product_code(), "");
}
