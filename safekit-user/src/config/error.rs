//! What is wrong with a configuration file: where, what, and what to do.
//!
//! ```text
//! safekit.yaml:12:9: unknown key `wieght` in a node
//!    12 |         wieght: 2
//!       |         ^^^^^^
//!    hint: did you mean `weight`?
//! ```

use std::fmt;

use super::tree::{Mark, Place, locate};

/// Everything found in one go, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// As the user named it.
    pub file: String,
    pub errors: Vec<ConfigError>,
    /// Found as well and not listed, to keep the answer readable.
    pub left_off: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// None when it concerns the file as a whole.
    pub at: Option<At>,
    pub message: String,
    /// What is allowed, what was probably meant, or the next step.
    pub hint: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// 1-based.
    pub line: usize,
    /// 1-based, in characters.
    pub column: usize,
    pub line_text: String,
}

/// More than that nobody reads at once; each costs a pass over the file.
const ERRORS_MAX: usize = 20;
/// Longest part of a line that is shown.
const LINE_CHARS_MAX: usize = 120;
/// Longest part of a wrong value that is repeated.
const QUOTE_CHARS_MAX: usize = 40;

impl ConfigErrors {
    pub(super) fn whole_file(file: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let error = ConfigError { at: None, message: message.into(), hint: hint.into() };
        Self { file: file.to_owned(), errors: vec![error], left_off: 0 }
    }

    pub(super) fn at(file: &str, text: &str, place: Place, message: String, hint: String) -> Self {
        let error = ConfigError { at: Some(At::new(text, place)), message, hint };
        Self { file: file.to_owned(), errors: vec![error], left_off: 0 }
    }
}

impl At {
    fn new(text: &str, place: Place) -> Self {
        let line_text = text.lines().nth(place.line - 1).unwrap_or_default().to_owned();
        Self { line: place.line, column: place.column, line_text }
    }
}

/// Collects while the tree is read; places are looked up at the end.
#[derive(Default)]
pub(super) struct Findings(Vec<Finding>);

struct Finding {
    mark: Mark,
    message: String,
    hint: String,
    /// Where the thing was first, for duplicates.
    first: Option<Mark>,
}

impl Findings {
    pub(super) fn add(&mut self, mark: Mark, message: impl Into<String>, hint: impl Into<String>) {
        self.0.push(Finding { mark, message: message.into(), hint: hint.into(), first: None });
    }

    /// `mark` repeats what stands at `first`.
    pub(super) fn add_duplicate(&mut self, mark: Mark, first: Mark, message: String, hint: &str) {
        self.0.push(Finding { mark, message, hint: hint.to_owned(), first: Some(first) });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_errors(mut self, file: &str, text: &str) -> ConfigErrors {
        self.0.sort_by_key(|finding| finding.mark);
        let left_off = self.0.len().saturating_sub(ERRORS_MAX);
        self.0.truncate(ERRORS_MAX);
        let errors = self.0.into_iter().map(|finding| finding.into_error(text)).collect();
        ConfigErrors { file: file.to_owned(), errors, left_off }
    }
}

impl Finding {
    fn into_error(self, text: &str) -> ConfigError {
        let at = At::new(text, locate(text, self.mark));
        let hint = match self.first.map(|mark| locate(text, mark)) {
            Some(first) => format!("the other is in line {}; {}", first.line, self.hint),
            None => self.hint,
        };
        ConfigError { at: Some(at), message: self.message, hint }
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match &error.at {
                Some(at) => {
                    writeln!(f, "{}:{}:{}: {}", self.file, at.line, at.column, error.message)?;
                    writeln!(f, "{at}")?;
                }
                None => writeln!(f, "{}: {}", self.file, error.message)?,
            }
            write!(f, "   hint: {}", error.hint)?;
        }
        if self.left_off > 0 {
            write!(f, "\nand {} more", self.left_off)?;
        }
        Ok(())
    }
}

/// The line and the caret under it.
impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.column - 1;
        // A long line is shown from shortly before the column on.
        let from = if before > LINE_CHARS_MAX * 2 / 3 { before - LINE_CHARS_MAX / 3 } else { 0 };
        let shown: String = self.line_text.chars().skip(from).take(LINE_CHARS_MAX).map(printable).collect();
        let carets = "^".repeat(word_length(shown.chars().skip(before - from)));
        let pad = " ".repeat(before - from);
        write!(f, "{:>5} | {}\n      | {pad}{carets}", self.line, shown.trim_end())
    }
}

/// Characters of the word that begins here, at least one. A colon belongs to it unless it ends a key.
fn word_length(line: impl Iterator<Item = char>) -> usize {
    let mut line = line.peekable();
    let mut length = 0;
    while let Some(c) = line.next() {
        let inside = c == ':' && line.peek().is_some_and(|next| next.is_alphanumeric());
        if !(c.is_alphanumeric() || "_-./".contains(c) || inside) {
            break;
        }
        length += 1;
    }
    length.max(1)
}

/// A configuration file must not be able to drive the terminal that shows its errors.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// A value of the file inside a sentence.
pub(super) fn quoted(value: &str) -> String {
    let mut shown: String = value.chars().take(QUOTE_CHARS_MAX).map(printable).collect();
    if value.chars().nth(QUOTE_CHARS_MAX).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// "did you mean" if a word is close enough, else what there is.
pub(super) fn meant_or_allowed<'w>(wrong: &str, words: impl IntoIterator<Item = &'w str> + Clone) -> String {
    if let Some(word) = closest(wrong, words.clone()) {
        return format!("did you mean `{word}`?");
    }
    let words: Vec<String> = words.into_iter().map(quoted).collect();
    match words.as_slice() {
        [] => "none is defined".to_owned(),
        [one] => format!("allowed is {one}"),
        [some @ .., last] if words.len() <= 12 => format!("allowed are {} and {last}", some.join(", ")),
        [..] => format!("allowed are {}, …", words[..12].join(", ")),
    }
}

pub(super) fn closest<'w>(wrong: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    // A longer word takes no more than these many letters to be another one; and it bounds the work.
    let wrong: Vec<char> = wrong.chars().take(QUOTE_CHARS_MAX).map(|c| c.to_ascii_lowercase()).collect();
    let allowance = (wrong.len() / 3).clamp(1, 3);
    words
        .into_iter()
        .map(|word| (edit_distance(&wrong, &word.chars().collect::<Vec<_>>()), word))
        .filter(|(distance, word)| *distance <= allowance && *distance < word.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Insertions, deletions, replacements, and swaps of neighbours (optimal string alignment).
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(from != to);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wrong: &str, expected: &str) {
        assert_eq!(meant_or_allowed(wrong, ["name", "weight", "port"]), expected, "{wrong}");
    }

    #[test]
    fn a_slip_of_the_fingers_is_named() {
        check("wieght", "did you mean `weight`?");
        check("Port", "did you mean `port`?");
        check("nam", "did you mean `name`?");
        check("prt", "did you mean `port`?");
        check("colour", "allowed are `name`, `weight` and `port`");
        check("", "allowed are `name`, `weight` and `port`");
        check("x", "allowed are `name`, `weight` and `port`");
    }

    #[test]
    fn the_caret_stands_under_the_word() {
        let at = At { line: 7, column: 5, line_text: "    wieght: 2".into() };
        assert_eq!(at.to_string(), "    7 |     wieght: 2\n      |     ^^^^^^");
    }

    #[test]
    fn a_line_of_any_length_and_any_bytes_is_shown_on_one_screen_line() {
        let at = At { line: 1, column: 5_000, line_text: "\u{1b}[".repeat(50_000) };
        let shown = at.to_string();
        assert!(shown.chars().count() < 300, "{}", shown.chars().count());
        assert!(!shown.contains('\u{1b}'));
    }

    #[test]
    fn a_place_behind_the_last_line_is_shown_empty() {
        let at = At::new("a: [", Place { line: 2, column: 1 });
        assert_eq!(at.to_string(), "    2 | \n      | ^");
    }
}
