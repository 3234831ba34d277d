//! What is wrong with a file, as people need it: where, the line with a caret, and what to write instead.

use std::fmt;

/// Everything found wrong with one file.
#[derive(Debug)]
pub struct ConfigErrors {
    pub(super) file: String,
    pub(super) text: String,
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; none for a file that cannot be read at all.
    pub position: Option<Position>,
    pub message: String,
    pub hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// Longer lines are cut in the message.
const LINE_CHARS_MAX: usize = 120;

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            self.show(f, problem)?;
        }
        Ok(())
    }
}

impl ConfigErrors {
    fn show(&self, f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
        let Some(Position { line, column }) = problem.position else {
            writeln!(f, "{}: {}", self.file, problem.message)?;
            return write!(f, "  hint: {}", problem.hint);
        };
        writeln!(f, "{}:{line}:{column}: {}", self.file, problem.message)?;
        if let Some(text) = self.text.lines().nth(line - 1) {
            let gutter = line.to_string().len();
            // A tab would put the caret elsewhere than the character that it means.
            let shown: String =
                text.chars().take(LINE_CHARS_MAX).map(|c| if c == '\t' { ' ' } else { c }).collect();
            writeln!(f, "  {line} | {}", shown.trim_end())?;
            let caret = (column - 1).min(LINE_CHARS_MAX);
            writeln!(f, "  {:gutter$} | {:caret$}^", "", "")?;
        }
        write!(f, "  hint: {}", problem.hint)
    }
}

/// The candidate that `word` was probably meant to be.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close = |candidate: &&str| distance(word, candidate) <= word.chars().count().max(3) / 3 + 1;
    candidates.into_iter().filter(close).min_by_key(|candidate| distance(word, candidate))
}

/// How many letters to insert, delete, replace, or swap with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_proposed_and_a_far_one_is_not() {
        let keys = ["weight", "name", "nodes"];
        assert_eq!(did_you_mean("wieght", keys), Some("weight"));
        assert_eq!(did_you_mean("node", keys), Some("nodes"));
        assert_eq!(did_you_mean("interface", keys), None);
        assert_eq!(did_you_mean("", keys), None);
    }
}
