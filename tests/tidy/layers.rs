//! types <- config, wire <- engine <- driver, front. Driver and front meet in main only.

use crate::source::Source;

const CRATE: &str = "safekit-user/src/";

/// A layer, and what else it may use.
const LAYERS: [(&str, &[&str]); 6] = [
    ("types", &[]),
    ("config", &["types"]),
    ("wire", &["types"]),
    ("engine", &["types", "config", "wire"]),
    ("driver", &["types", "config", "wire", "engine"]),
    ("front", &["types", "config", "wire", "engine"]),
];

/// What joins the layers, and may name all of them.
const WIRING: [&str; 3] = ["lib", "life", "main"];

/// Reading the clock joins nobody to anybody, and there is one place for it.
const CLOCK_MODULE: (&str, &str) = ("front", "driver::clock");

/// Layers that take time, chance and bytes as values.
const PURE: [&str; 3] = ["types", "wire", "engine"];
const OUTSIDE: [&str; 20] = [
    "tokio::",
    "aya::",
    "rustix::",
    "libc::",
    "socket2::",
    "rtnetlink::",
    "fastrand::",
    "axum::",
    "hyper::",
    "ring::rand",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
];

/// Calls that ask a clock, and the one file that may. Rust's own are disallowed in .clippy.toml.
const CLOCKS: [&str; 2] = ["clock_gettime", "gettimeofday"];
const CLOCK: &str = "driver/clock.rs";

pub(crate) fn complaints(source: &Source) -> Vec<String> {
    let Some(inside) = source.path.strip_prefix(CRATE) else {
        return Vec::new();
    };
    let layer = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    if WIRING.contains(&layer) {
        return Vec::new();
    }
    let Some((_, below)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("{}: `{layer}` is no layer; put it into one", source.path)];
    };
    let mut found = Vec::new();
    for (index, path) in paths_used(&source.code) {
        let used = path.split("::").next().unwrap_or_default();
        if used != layer && !below.contains(&used) && (layer, path.as_str()) != CLOCK_MODULE {
            found.push(format!("{}: {layer} uses crate::{used}; arrows point down", source.at(index)));
        }
    }
    found.extend(climbs(source, inside));
    if inside != CLOCK {
        let asked = CLOCKS.iter().flat_map(|name| source.code.match_indices(name));
        found.extend(asked.map(|(index, _)| format!("{}: time comes from {CLOCK}", source.at(index))));
    }
    if PURE.contains(&layer) {
        found.extend(outside_uses(source, layer));
    }
    found
}

/// What follows each `crate::`, with its place, two names deep: one path, or all that a group begins.
fn paths_used(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, _) in code.match_indices("crate::") {
        // `$crate::` is the same root; `my_crate::` is not.
        let before = code[..index].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' {
            continue;
        }
        let rest = &code[index + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(group_heads(group).into_iter().map(|path| (index, path)));
        } else {
            found.push((index, path_head(rest)));
        }
    }
    found
}

/// `a::b::x, c::{d, e}, f}` -> a::b, c, f.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut at_start = true;
    for (index, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                heads.push(path_head(&group[index..]));
                at_start = false;
            }
            _ => {}
        }
    }
    heads
}

fn path_head(text: &str) -> String {
    let first = word(text);
    let second = text[first.len()..].strip_prefix("::").map(word).unwrap_or_default();
    if second.is_empty() { first } else { format!("{first}::{second}") }
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// `super::super::` up to the root of the crate hides which layer is meant.
fn climbs(source: &Source, inside: &str) -> Vec<String> {
    let depth = inside.trim_end_matches("/mod.rs").split('/').count();
    let inline = source.code.find("\nmod tests {").unwrap_or(source.code.len());
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = source.code[from..].find("super::") {
        let index = from + offset;
        let supers = source.code[index..].split("::").take_while(|part| *part == "super").count();
        if supers >= depth + usize::from(index > inline) {
            found.push(format!("{}: reaches the root by super; name the layer: crate::…", source.at(index)));
        }
        from = index + supers * "super::".len();
    }
    found
}

fn outside_uses(source: &Source, layer: &str) -> Vec<String> {
    let code = source.product_code();
    let uses = OUTSIDE.iter().flat_map(|name| code.match_indices(name));
    uses.filter(|(index, _)| !code[..*index].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        .map(|(index, name)| format!("{}: {layer} is pure, and {name} is the world", source.at(index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::complaints;
    use crate::check;

    #[test]
    fn a_use_upward_or_sideways_is_caught() {
        for (path, text, expected) in [
            ("types/a.rs", "use crate::config::Config;\n", &["types uses crate::config"][..]),
            ("config/a.rs", "use crate::wire::x;\n", &["config uses crate::wire"]),
            ("engine/a.rs", "use crate::{types::A, driver::{B, C}};\n", &["engine uses crate::driver"]),
            (
                "engine/a/b.rs",
                "fn f() {\n    crate::front::x();\n}\n",
                &["a/b.rs:2: engine uses crate::front"],
            ),
            ("driver/a.rs", "use crate::front::x;\n", &["driver uses crate::front"]),
            ("front/cli/a.rs", "use crate::driver::x;\n", &["front uses crate::driver"]),
            ("front/cli/a.rs", "use crate::types::x; use crate::engine::y;\n", &[]),
            ("engine/a.rs", "use crate::{\n    config::A,\n    types::B,\n    wire::{C, D},\n};\n", &[]),
            ("engine/a.rs", "// use crate::driver::x;\n", &[]),
            ("front/demo.rs", "use crate::driver::clock;\nlet t = crate::driver::clock::now();\n", &[]),
            (
                "front/demo.rs",
                "use crate::{driver::{clock, vip}, types::A};\n",
                &["front uses crate::driver"],
            ),
            ("engine/a.rs", "use crate::driver::clock;\n", &["engine uses crate::driver"]),
            ("main.rs", "use crate::driver::x; use crate::front::y;\n", &[]),
            ("extra/a.rs", "", &["`extra` is no layer"]),
        ] {
            check(complaints, &format!("safekit-user/src/{path}"), text, expected);
        }
    }

    #[test]
    fn a_way_round_by_super_is_caught() {
        for (path, text, expected) in [
            ("engine/a.rs", "use super::super::driver::x;\n", &["by super"][..]),
            ("engine/mod.rs", "use super::driver;\n", &["by super"]),
            ("engine/a.rs", "use super::b;\n", &[]),
            ("engine/farm/a.rs", "use super::super::b;\n", &[]),
            ("engine/a.rs", "\nmod tests {\n    use super::super::b;\n}\n", &[]),
        ] {
            check(complaints, &format!("safekit-user/src/{path}"), text, expected);
        }
    }

    #[test]
    fn only_one_file_asks_the_clock() {
        let text = "let now = clock_gettime(ClockId::Boottime);\n";
        check(complaints, "safekit-user/src/front/top.rs", text, &["time comes from"]);
        check(complaints, "safekit-user/src/driver/clock.rs", text, &[]);
    }

    #[test]
    fn the_world_is_kept_out_of_the_engine() {
        for (path, text, expected) in [
            ("engine/a.rs", "use tokio::sync::mpsc;\n", &["tokio:: is the world"][..]),
            ("engine/a.rs", "let x = std::fs::read(p);\n", &["std::fs is the world"]),
            ("engine/a.rs", "let x = std::time::Instant::now();\n", &["Instant", "Instant::now"]),
            ("wire/a.rs", "use std::net::UdpSocket;\n", &["UdpSocket"]),
            ("engine/a.rs", "use std::net::IpAddr;\nuse std::time::Duration;\n", &[]),
            (
                "engine/a.rs",
                "use crate::types::Instant;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n",
                &[],
            ),
            ("driver/a.rs", "use tokio::net::UdpSocket;\n", &[]),
        ] {
            check(complaints, &format!("safekit-user/src/{path}"), text, expected);
        }
    }
}
