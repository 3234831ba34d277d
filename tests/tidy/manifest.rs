//! Each dependency earns its line by saying what for.

use crate::source::Source;

pub(crate) fn complaints(source: &Source) -> Vec<String> {
    if source.path != "Cargo.toml" {
        return Vec::new();
    }
    let mut in_dependencies = false;
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies]");
        } else if in_dependencies && line.contains('=') && !line.starts_with('#') {
            let ours = line.contains("path = ");
            let says = line
                .split_once("  #")
                .or_else(|| line.split_once(" # "))
                .is_some_and(|(_, why)| !why.trim().is_empty());
            if !ours && !says {
                found.push(format!("Cargo.toml:{}: say behind it what it is for", number + 1));
            }
        }
    }
    found
}

#[test]
fn a_dependency_without_a_reason_is_caught() {
    for (line, expected) in [
        ("serde = \"1\"", &["Cargo.toml:2"][..]),
        ("serde = \"1\"   #", &["Cargo.toml:2"]),
        ("serde = \"1\"  # configuration", &[]),
        ("serde = { version = \"1\", features = [\"derive\"] } # configuration", &[]),
        ("safekit = { path = \"safekit-user\" }", &[]),
        ("# a note = all", &[]),
    ] {
        crate::check(complaints, "Cargo.toml", &format!("[workspace.dependencies]\n{line}\n"), expected);
        crate::check(complaints, "Cargo.toml", &format!("[profile.dev]\n{line}\n"), &[]);
    }
}
