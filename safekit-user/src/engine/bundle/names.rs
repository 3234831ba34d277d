//! Replaces addresses and the names of hosts, nodes and the cluster, each by the same word wherever it stands.

use std::collections::BTreeMap;

use regex::{Captures, Regex};

use super::addresses::{Addresses, parse};

pub struct Names {
    addresses: Addresses,
    /// Hex digits, colons, dots and dashes in a row: whatever may be an address.
    run: Regex,
    /// Inside of a run that is none as a whole.
    piece: Regex,
    /// All names at once, so that no replacement is replaced again; none where there are no names.
    word: Option<Regex>,
    /// Names in small letters, and what stands for them.
    others: BTreeMap<String, String>,
}

impl Names {
    /// `names`: what is replaced, and by what. None of the names may be empty.
    pub fn new(names: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut names: Vec<(String, String)> =
            names.into_iter().filter(|(name, _)| !name.is_empty()).collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        names.dedup_by(|one, other| one.0.eq_ignore_ascii_case(&other.0));
        let compiled = |pattern: &str| Regex::new(pattern).expect("a pattern of this file is right");
        // The longest first: of two that begin alike the regular expression takes the first.
        let any: Vec<String> = names.iter().map(|(name, _)| regex::escape(name)).collect();
        let any = any.join("|");
        Self {
            addresses: Addresses::default(),
            run: compiled(r"[0-9A-Fa-f:.-]*[:.-][0-9A-Fa-f:.-]*"),
            piece: compiled(concat!(
                r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}",
                r"|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.[0-9]{1,3}){0,3}"
            )),
            word: (!any.is_empty()).then(|| compiled(&format!(r"(^|[^A-Za-z0-9])((?i-u:{any}))"))),
            others: names.into_iter().map(|(name, other)| (name.to_ascii_lowercase(), other)).collect(),
        }
    }

    /// Every text goes through here before [`settle`](Self::settle), and through [`replaced`](Self::replaced) after it.
    pub fn learn(&mut self, text: &str) {
        let mut found = Vec::new();
        self.each_address(text, |word| {
            found.extend(parse(word));
            None
        });
        found.into_iter().for_each(|address| self.addresses.learn(address));
    }

    pub fn settle(&mut self) {
        self.addresses.settle();
    }

    pub fn replaced(&self, text: &str) -> String {
        let text = self.each_address(text, |word| parse(word).and_then(|it| self.addresses.replacement(it)));
        self.each_name(&text)
    }

    /// As a whole word; letters and digits make words.
    fn each_name(&self, text: &str) -> String {
        let Some(word) = &self.word else { return text.to_owned() };
        let mut clean = String::with_capacity(text.len());
        let mut at = 0;
        while let Some(found) = word.captures_at(text, at) {
            let name = found.get(2).expect("a name is matched");
            clean.push_str(&text[at..name.start()]);
            let is_letter = |c: char| c.is_ascii_alphanumeric();
            // Of two names the shorter one may end where a word does.
            let whole = (1..=name.len()).rev().find_map(|length| {
                let end = name.start() + length;
                let other = self.others.get(&text.get(name.start()..end)?.to_ascii_lowercase())?;
                (!text[end..].starts_with(is_letter)).then_some((end, other))
            });
            match whole {
                Some((end, other)) => {
                    clean.push_str(other);
                    at = end;
                }
                None => {
                    clean.push_str(name.as_str());
                    at = name.end();
                }
            }
        }
        clean + &text[at..]
    }

    /// `replace` says what stands instead of an address; none: it stays.
    fn each_address(&self, text: &str, mut replace: impl FnMut(&str) -> Option<String>) -> String {
        let whole = self.run.replace_all(text, |run: &Captures<'_>| {
            let place = run.get(0).expect("the whole");
            let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            // `name:fd00::1` and `std::net::`: what touches a letter is the end of a word.
            let cut = if is_letter(text[..place.start()].chars().next_back()) {
                place.as_str().find([':', '.', '-']).map_or(0, |first| first + 1)
            } else {
                usize::from(place.as_str().starts_with(':') && !place.as_str().starts_with("::"))
            };
            let (head, run) = place.as_str().split_at(cut);
            if is_letter(text[place.end()..].chars().next()) && run.ends_with(':') {
                return place.as_str().to_owned();
            }
            // A full stop or colon behind an address belongs to the sentence, a dash to a range.
            let trimmed = run.trim_end_matches(['.', '-']);
            let bare = if trimmed.ends_with("::") { trimmed } else { trimmed.trim_end_matches(':') };
            if parse(bare).is_some() {
                let other = replace(bare).unwrap_or_else(|| bare.to_owned());
                return format!("{head}{other}{}", &run[bare.len()..]);
            }
            let piece = |piece: &Captures<'_>| replace(&piece[0]).unwrap_or_else(|| piece[0].to_owned());
            format!("{head}{}", self.piece.replace_all(run, piece))
        });
        whole.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(texts: &[&str]) -> Vec<String> {
        let own = [("web1", "node1"), ("web1.shop.example", "node1.site"), ("shop", "cluster")];
        let mut names = Names::new(own.map(|(name, other)| (name.to_owned(), other.to_owned())));
        texts.iter().for_each(|text| names.learn(text));
        names.settle();
        texts.iter().map(|text| names.replaced(text)).collect()
    }

    #[test]
    fn an_address_becomes_the_same_other_one_everywhere() {
        let clean = replaced(&[
            "10.99.0.1:4800 to 10.99.0.2, back to 10.99.0.1.",
            "[fd00:99::1]:4800 fd00:99:0::1/64 fe80::5054:ff:fe12:3456%eth0",
            "52:54:00:12:34:56 and 52-54-00-12-34-56, 10.98.0.1/24 10.98.0.255",
        ]);
        assert_eq!(clean[0], "198.18.1.1:4800 to 198.18.1.2, back to 198.18.1.1.");
        assert_eq!(clean[1], "[2001:db8:0:1::f:1]:4800 2001:db8:0:1::f:1/64 fe80::f:1%eth0");
        assert_eq!(clean[2], "02:00:00:00:00:01 and 02-00-00-00-00-01, 198.18.0.1/24 198.18.0.255");
    }

    #[test]
    fn a_replacement_is_nobodys_original() {
        let clean =
            replaced(&["198.18.0.1 10.0.0.1 02:00:00:00:00:01 52:54:00:12:34:56 2001:db8:0:1::f:1 fd00::1"]);
        for original in [
            "198.18.0.1",
            "10.0.0.1",
            "02:00:00:00:00:01",
            "52:54:00:12:34:56",
            "2001:db8:0:1::f:1",
            "fd00::1",
        ] {
            let words: Vec<&str> = clean[0].split(' ').collect();
            assert!(!words.contains(&original), "{original} in {clean:?}");
        }
    }

    #[test]
    fn what_is_no_address_stays() {
        for text in [
            "2026-11-23T15:18:56.123Z 127.0.0.1 ::1 255.255.255.0 0.0.0.0 00:00:00:00:00:00 ff02::1",
            "Linux 6.18.0-1 1.2.3 12:30:45 eth0.7 a::b::c std::net::Ipv4Addr 300.1.1.1 dead-beef",
        ] {
            assert_eq!(replaced(&[text])[0], text);
        }
    }

    #[test]
    fn names_are_replaced_as_words() {
        let clean =
            replaced(&["WEB1 web12 web1-a web1.shop.example web1web1 web1 web1 (shop) workshop shop_db"]);
        assert_eq!(
            clean[0],
            "node1 web12 node1-a node1.site web1web1 node1 node1 (cluster) workshop cluster_db"
        );
    }

    #[test]
    fn a_replacement_is_not_replaced_again() {
        let own = [("a", "b"), ("b", "a")].map(|(name, other)| (name.to_owned(), other.to_owned()));
        assert_eq!(Names::new(own).replaced("a b a-b ab"), "b a b-a ab");
    }

    #[test]
    fn an_address_that_sticks_to_hex_letters_is_found() {
        let clean = replaced(&["10.99.0.7 feed:10.99.0.7 dead10.99.0.7 x=10.99.0.7-10.99.0.7"]);
        assert!(!clean[0].contains("10.99.0.7"), "{clean:?}");
    }
}
