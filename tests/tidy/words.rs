//! What a file says first, and what none may contain.

use crate::source::Source;

/// In code, outside of comments and literals.
const CODE: [(&str, &str); 4] = [
    ("todo!", "finish it"),
    ("unimplemented!", "finish it"),
    ("dbg!", "remove it"),
    ("fn get_", "name it by what it returns"),
];

/// Anywhere. In halves, so that this file does not accuse itself.
const TEXT: [(&str, &str, &str); 6] = [
    ("FIX", "ME", "do it, or open an issue"),
    ("TO", "DO", "do it, or open an issue"),
    ("XX", "X", "do it, or open an issue"),
    ("/wo", "rk/", "no path of one machine"),
    ("/ro", "ot/", "no path of one machine"),
    ("/ho", "me/", "no path of one machine"),
];

const FILE_NAMES: [&str; 5] = ["util.rs", "utils.rs", "helpers.rs", "misc.rs", "mgr.rs"];

pub(crate) fn complaints(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if source.is_rust() {
        found.extend(rust_complaints(source));
    }
    for (number, line) in source.text.split('\n').enumerate() {
        let place = format!("{}:{}", source.path, number + 1);
        for (head, tail, advice) in TEXT {
            if line.contains(&format!("{head}{tail}")) {
                found.push(format!("{place}: {head}{tail}: {advice}"));
            }
        }
        if line.contains('\t') {
            found.push(format!("{place}: a tab"));
        }
        if line.ends_with([' ', '\r']) {
            found.push(format!("{place}: a blank at the end"));
        }
    }
    if !source.text.is_empty() && !source.text.ends_with('\n') {
        found.push(format!("{}: the last line has no end", source.path));
    }
    found
}

fn rust_complaints(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !source.text.starts_with("//!") {
        found.push(format!("{}: begin with `//!` and what the file is for", source.path));
    }
    let name = source.path.rsplit('/').next().unwrap_or_default();
    if FILE_NAMES.iter().any(|banned| name.ends_with(banned)) {
        found.push(format!("{}: name the file by what it does", source.path));
    }
    for (word, advice) in CODE {
        let uses = source.code.match_indices(word);
        found.extend(uses.map(|(index, _)| format!("{}: {word}: {advice}", source.at(index))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::complaints;
    use crate::check;

    #[test]
    fn words_that_are_no_end_are_caught() {
        let head = "//! A file.\n";
        for (text, expected) in [
            ("fn f() {\n    todo!()\n}\n", &["a.rs:3: todo!"][..]),
            ("fn f() {\n    dbg!(1);\n}\n", &["a.rs:3: dbg!"]),
            ("fn get_name() {}\n", &["fn get_"]),
            ("// get_name, \"todo!\"\nfn target_name() {}\n", &[]),
            (concat!("// FIX", "ME: later\n"), &["an issue"]),
            (concat!("let x = \"/ro", "ot/x\";\n"), &["one machine"]),
            ("fn f() {}\t\n", &["a tab"]),
            ("fn f() {} \n", &["a blank"]),
            ("fn f() {}\r\n", &["a blank"]),
            ("fn f() {}", &["no end"]),
        ] {
            check(complaints, "xtask/src/a.rs", &format!("{head}{text}"), expected);
        }
    }

    #[test]
    fn a_file_says_what_it_is_for_and_has_a_name() {
        check(complaints, "xtask/src/a.rs", "fn f() {}\n", &["begin with"]);
        check(complaints, "xtask/src/util.rs", "//! A file.\n", &["by what it does"]);
        check(complaints, "xtask/src/a_mgr.rs", "//! A file.\n", &["by what it does"]);
        check(complaints, "README.md", "# A title\n", &[]);
    }
}
