//! The language of failover rules.
//!
//! ```text
//! or      = and { "or" and }
//! and     = not { "and" not }
//! not     = "not" not | "(" or ")" | name ( "==" | "!=" ) word
//! name    = [ "local." | "remote." ] ( "state" | class "." id )        * and ? stand for any letters, any one letter
//! word    = up | down | init | unknown | STOP | WAIT | UP | ALONE | PRIM | SECOND
//! ```
//!
//! A comparison with a wildcard holds when it holds for at least one of the resources that it names.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    Is { name: Name, word: String, negated: bool },
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Of the same module on another node.
    pub remote: bool,
    /// `state`, or `class.id`.
    pub pattern: String,
}

/// At which character it went wrong, from 0, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {}: {message}", at + 1)]
pub struct SyntaxError {
    pub at: usize,
    pub message: String,
}

pub const ROLES: [&str; 6] = ["STOP", "WAIT", "UP", "ALONE", "PRIM", "SECOND"];
pub const RESOURCE_STATES: [&str; 4] = ["up", "down", "init", "unknown"];
const LENGTH_MAX: usize = 1000;
/// Parentheses and `not`s within each other.
const DEPTH_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Equal,
    Unequal,
    Open,
    Close,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "`{word}`"),
            Self::Equal => f.write_str("`==`"),
            Self::Unequal => f.write_str("`!=`"),
            Self::Open => f.write_str("`(`"),
            Self::Close => f.write_str("`)`"),
        }
    }
}

impl Expression {
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        if text.len() > LENGTH_MAX {
            let message = format!("a rule has at most {LENGTH_MAX} characters");
            return Err(SyntaxError { at: LENGTH_MAX, message });
        }
        let mut parser = Parser { tokens: tokens(text)?, next: 0, end: text.chars().count(), depth: 0 };
        let expression = parser.or()?;
        match parser.peek() {
            // What is shown has to be read again, and has a blank on each side of `==`.
            None if expression.to_string().len() > LENGTH_MAX => {
                let message = format!("with its blanks, a rule has at most {LENGTH_MAX} characters");
                Err(SyntaxError { at: 0, message })
            }
            None => Ok(expression),
            Some((at, token)) => {
                Err(SyntaxError { at, message: format!("{token} where `and`, `or` or the end was expected") })
            }
        }
    }
}

impl Expression {
    /// In the order of the text.
    pub fn names(&self) -> Vec<&Name> {
        match self {
            Self::Is { name, .. } => vec![name],
            Self::Not(inner) => inner.names(),
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::names).collect(),
        }
    }
}

/// `a.*` and the like.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // The last star, and what it has swallowed so far: going back to it is enough (greedy matching).
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            Some(_) | None => {
                let Some((at, swallowed)) = star else { return false };
                star = Some((at, swallowed + 1));
                p = at + 1;
                n = swallowed + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, SyntaxError> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().enumerate().peekable();
    while let Some((at, c)) = rest.next() {
        let token = match c {
            _ if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            '=' | '!' => {
                if rest.next_if(|(_, next)| *next == '=').is_none() {
                    return Err(SyntaxError { at, message: format!("`{c}` alone: write `{c}=`") });
                }
                if c == '=' { Token::Equal } else { Token::Unequal }
            }
            _ if is_of_a_word(c) => {
                let mut word = String::from(c);
                while let Some((_, c)) = rest.next_if(|(_, c)| is_of_a_word(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
            _ => return Err(SyntaxError { at, message: format!("{c:?} has no meaning here") }),
        };
        tokens.push((at, token));
    }
    Ok(tokens)
}

fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-*?".contains(c)
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    end: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<(usize, &Token)> {
        self.tokens.get(self.next).map(|(at, token)| (*at, token))
    }

    fn take(&mut self, wanted: &str) -> bool {
        let found = matches!(self.peek(), Some((_, Token::Word(word))) if word == wanted);
        self.next += usize::from(found);
        found
    }

    fn or(&mut self) -> Result<Expression, SyntaxError> {
        let mut any = vec![self.and()?];
        while self.take("or") {
            any.push(self.and()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Expression::Or(any) })
    }

    fn and(&mut self) -> Result<Expression, SyntaxError> {
        let mut all = vec![self.not()?];
        while self.take("and") {
            all.push(self.not()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::And(all) })
    }

    fn not(&mut self) -> Result<Expression, SyntaxError> {
        let at = self.peek().map_or(self.end, |(at, _)| at);
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(SyntaxError { at, message: format!("more than {DEPTH_MAX} levels deep") });
        }
        let inner = if self.take("not") {
            Expression::Not(Box::new(self.not()?))
        } else if matches!(self.peek(), Some((_, Token::Open))) {
            self.next += 1;
            let inner = self.or()?;
            self.expect(&Token::Close)?;
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(inner)
    }

    fn expect(&mut self, wanted: &Token) -> Result<(), SyntaxError> {
        match self.peek() {
            Some((_, token)) if token == wanted => {
                self.next += 1;
                Ok(())
            }
            Some((at, token)) => {
                Err(SyntaxError { at, message: format!("{token} where {wanted} was expected") })
            }
            None => {
                Err(SyntaxError { at: self.end, message: format!("the end where {wanted} was expected") })
            }
        }
    }

    fn word(&mut self, what: &str) -> Result<(usize, String), SyntaxError> {
        match self.peek() {
            Some((at, Token::Word(word))) => {
                let found = (at, word.clone());
                self.next += 1;
                Ok(found)
            }
            Some((at, token)) => {
                Err(SyntaxError { at, message: format!("{token} where {what} was expected") })
            }
            None => Err(SyntaxError { at: self.end, message: format!("the end where {what} was expected") }),
        }
    }

    fn comparison(&mut self) -> Result<Expression, SyntaxError> {
        let (at, text) = self.word("the name of a resource, as in tcp.http,")?;
        let name = Name::parse(&text).map_err(|message| SyntaxError { at, message })?;
        let negated = match self.peek() {
            Some((_, Token::Equal)) => false,
            Some((_, Token::Unequal)) => true,
            Some((at, token)) => {
                return Err(SyntaxError { at, message: format!("{token} where `==` or `!=` was expected") });
            }
            None => {
                let message = "the end where `==` or `!=` was expected".to_owned();
                return Err(SyntaxError { at: self.end, message });
            }
        };
        self.next += 1;
        let (at, word) = self.word("a value")?;
        let allowed: &[&str] = if name.is_state() { &ROLES } else { &RESOURCE_STATES };
        if !allowed.contains(&word.as_str()) {
            let message = format!("`{word}` is no value of {}: {}", name.pattern, allowed.join(", "));
            return Err(SyntaxError { at, message });
        }
        Ok(Expression::Is { name, word, negated })
    }
}

impl Name {
    fn parse(text: &str) -> Result<Self, String> {
        let (remote, pattern) = match (text.strip_prefix("remote."), text.strip_prefix("local.")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => (false, text),
        };
        let parts = pattern.split_once('.').filter(|(class, id)| !class.is_empty() && !id.is_empty());
        if pattern != "state" && parts.is_none() {
            return Err(format!("`{text}` is no resource: write class.name as in tcp.http, or state"));
        }
        Ok(Self { remote, pattern: pattern.to_owned() })
    }

    pub fn is_state(&self) -> bool {
        self.pattern == "state"
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.remote { "remote." } else { "" }, self.pattern)
    }
}

/// As [`Expression::parse`] takes it.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No parenthesis more than the text can have had: each counts as a level when it is read again.
        let joined = |all: &[Self], word: &str| {
            let parts: Vec<String> = all
                .iter()
                .map(|part| match (part, self) {
                    (Self::Or(_), _) | (Self::And(_), Self::And(_)) => format!("({part})"),
                    (Self::Is { .. } | Self::Not(_) | Self::And(_), _) => part.to_string(),
                })
                .collect();
            parts.join(word)
        };
        match self {
            Self::Is { name, word, negated } => {
                write!(f, "{name} {} {word}", if *negated { "!=" } else { "==" })
            }
            Self::Not(inner) => match **inner {
                Self::And(_) | Self::Or(_) => write!(f, "not ({inner})"),
                Self::Is { .. } | Self::Not(_) => write!(f, "not {inner}"),
            },
            Self::And(all) => f.write_str(&joined(all, " and ")),
            Self::Or(any) => f.write_str(&joined(any, " or ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_the_same() {
        for text in [
            "tcp.http == down",
            "tcp.http == down and remote.state == UP",
            "not (link.* == down or local.ping.gw != up) and state == WAIT",
            "a.b == up or c.d == up and e.f == down",
            "not not a.b == init",
        ] {
            let parsed = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(Expression::parse(&parsed.to_string()), Ok(parsed.clone()), "{text} -> {parsed}");
        }
    }

    #[test]
    fn what_just_fits_is_shown_so_that_it_fits() {
        let deepest = format!("{}a.b==up or c.d==up and not e.f==up{}", "not(".repeat(15), ")".repeat(15));
        let parsed = Expression::parse(&deepest).expect("as many levels as there may be");
        assert_eq!(Expression::parse(&parsed.to_string()), Ok(parsed));
        // In text as tight as it can be the blanks of what is shown make the difference.
        let tight = |count: usize| vec!["a.b==up"; count].join(" or ");
        let mut fitted = 0;
        for text in (1..95).map(tight) {
            let Ok(parsed) = Expression::parse(&text) else { continue };
            fitted += 1;
            assert_eq!(Expression::parse(&parsed.to_string()), Ok(parsed.clone()), "{text} -> {parsed}");
        }
        assert!((70..95).contains(&fitted), "{fitted} fit");
    }

    #[test]
    fn errors_say_where_and_what() {
        for (text, at, part) in [
            ("", 0, "the end where the name"),
            ("tcp.http", 8, "`==` or `!=`"),
            ("tcp.http = down", 9, "write `==`"),
            ("tcp.http == dwon", 12, "up, down, init, unknown"),
            ("state == down", 9, "STOP, WAIT"),
            ("tcp == up", 0, "class.name"),
            ("(a.b == up", 10, "`)`"),
            ("a.b == up c.d == up", 10, "`and`, `or`"),
            ("a.b == up & c.d == up", 10, "no meaning"),
        ] {
            let error = Expression::parse(text).expect_err(text);
            assert_eq!(error.at, at, "{text}: {error}");
            assert!(error.message.contains(part), "{text}: {error}");
        }
        let deep = format!("{}a.b == up", "not ".repeat(100));
        assert!(Expression::parse(&deep).expect_err("too deep").message.contains("levels"));
        assert!(Expression::parse(&"(".repeat(100_000)).is_err());
    }

    /// Any text ends in an expression or an error, and an expression is printed as it reads.
    #[test]
    fn no_text_panics() {
        let words = [
            "tcp.a", "state", "==", "!=", "up", "UP", "and", "or", "not", "(", ")", "remote.", "*", "é", "=",
        ];
        let mut seed = 7_u64;
        let mut read = 0;
        for _ in 0..50_000 {
            let mut text = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text += words[(seed >> 33) as usize % words.len()];
                if seed >> 60 != 0 {
                    text.push(' ');
                }
                if let Ok(parsed) = Expression::parse(&text) {
                    read += 1;
                    assert_eq!(Expression::parse(&parsed.to_string()), Ok(parsed), "{text}");
                }
            }
        }
        assert!(read > 50, "some of it is right: {read}");
    }

    #[test]
    fn wildcards_stand_for_letters() {
        for (pattern, name, expected) in [
            ("tcp.*", "tcp.http", true),
            ("*.http", "tcp.http", true),
            ("t?p.http", "tcp.http", true),
            ("tcp.?", "tcp.http", false),
            ("tcp.*p", "tcp.http", true),
            ("tcp.*x", "tcp.http", false),
            ("*", "anything.at.all", true),
            ("**a*", "b.a", true),
            ("tcp.http", "tcp.https", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
