//! The name of one run: who made it, and which of its runs it is. Everything that a run makes begins with it.

use std::fmt;

/// `sk2HWC.0`-like: the maker's process id in base 36, and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    pub pid: u32,
    pub number: u32,
}

const BASE: u32 = 36;

impl Prefix {
    pub fn of_this_process(number: u32) -> Self {
        Self { pid: std::process::id(), number }
    }

    /// The prefix at the start of a namespace's or directory's name, if we could have made it.
    pub fn parse(name: &str) -> Option<Self> {
        let run = name.split('-').next()?.strip_prefix("sk")?;
        let (pid, number) = run.split_once('.')?;
        let prefix = Self { pid: parse_number(pid)?, number: parse_number(number)? };
        // Only the one way to write it is ours.
        (prefix.to_string() == name.split('-').next()?).then_some(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sk{}.{}", digits(self.pid), digits(self.number))
    }
}

fn parse_number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| u32::from_str_radix(text, BASE).ok()).flatten()
}

fn digits(mut number: u32) -> String {
    let mut reversed = Vec::new();
    loop {
        let digit = char::from_digit(number % BASE, BASE).expect("a remainder of 36 is a digit of base 36");
        reversed.push(digit);
        number /= BASE;
        if number == 0 {
            return reversed.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_maker() {
        for (pid, number) in [(1, 0), (35, 36), (4_194_304, 7), (u32::MAX, u32::MAX)] {
            let prefix = Prefix { pid, number };
            assert_eq!(Prefix::parse(&format!("{prefix}-n3")), Some(prefix));
            assert_eq!(Prefix::parse(&prefix.to_string()), Some(prefix));
        }
    }

    #[test]
    fn names_of_others_are_nobodys() {
        for name in
            ["", "sk", "skate", "sk.", "sk1", "sk1.", "sk.1", "sk+1.1", "sk01.1", "skZ.1", "blue", "sk1.1.1"]
        {
            assert_eq!(Prefix::parse(name), None, "{name}");
        }
    }
}
