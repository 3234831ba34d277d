//! House rules that no compiler checks: layers, sizes, words. Each complaint names the place and what to do.

mod layers;
mod manifest;
mod sizes;
mod source;
mod words;

use source::{Source, sources};

#[test]
fn arrows_point_down() {
    accept(layers::complaints);
}

#[test]
fn files_and_functions_fit_their_bounds() {
    accept(sizes::complaints);
}

#[test]
fn no_exception_outlives_its_cause() {
    let stale = sizes::stale_exceptions(&sources());
    assert!(stale.is_empty(), "remove from the list of exceptions: {}", stale.join(", "));
}

#[test]
fn words_and_blanks_are_clean() {
    accept(words::complaints);
}

#[test]
fn every_dependency_says_what_for() {
    accept(manifest::complaints);
}

/// A test that reads the wrong folder, or nothing, must not pass.
#[test]
fn the_whole_tree_is_read() {
    let paths: Vec<String> = sources().into_iter().map(|source| source.path).collect();
    for path in [
        "Cargo.toml",
        "configs/farm.yaml",
        "safekit-ebpf/src/main.rs",
        "safekit-user/src/engine/farm/mod.rs",
        "tests/tidy/main.rs",
        "xtask/src/main.rs",
    ] {
        assert!(paths.iter().any(|read| read == path), "{path} was not read");
    }
    assert!(!paths.iter().any(|read| read.starts_with("target/")));
}

fn accept(complaints: fn(&Source) -> Vec<String>) {
    let found: Vec<String> = sources().iter().flat_map(complaints).collect();
    assert!(found.is_empty(), "{} against the house rules:\n{}", found.len(), found.join("\n"));
}

/// The test of a rule: a sample at a path, and a part of each complaint that must come.
fn check(complaints: fn(&Source) -> Vec<String>, path: &str, text: &str, expected: &[&str]) {
    let found = complaints(&Source::new(path, text));
    assert_eq!(found.len(), expected.len(), "{path}:\n{text}\n{found:#?}");
    for (complaint, part) in found.iter().zip(expected) {
        assert!(complaint.contains(part), "{complaint:?} lacks {part:?}");
    }
}
