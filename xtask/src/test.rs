//! `cargo xtask test [FILTER]`: all tiers, from unit tests to real daemons in network namespaces.
//!
//! Without root the privileged tiers skip themselves and say so; with SAFEKIT_LAB=1 that is a failure.

use std::ffi::OsString;

use anyhow::Context;

use crate::{build, cargo, demo, step};

/// Their tests share one machine's packet filters, namespaces and milliseconds.
const ONE_AT_A_TIME: [&str; 6] = ["cli", "datapath", "mirror", "netns", "posix", "systemd"];

pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    // The tiers run the binary itself.
    build::run()?;
    step("test: unit tests");
    tested(&["--workspace", "--exclude", "safekit-tests"], arguments, false)?;
    tested(&["--package", "safekit-tests", "--lib", "--bins"], arguments, false)?;
    for tier in tiers()? {
        step(&format!("test: tier {tier}"));
        let alone = ONE_AT_A_TIME.contains(&tier.as_str());
        tested(&["--package", "safekit-tests", "--test", &tier], arguments, alone)?;
    }
    Ok(())
}

fn tested(what: &[&str], filter: &[OsString], alone: bool) -> anyhow::Result<()> {
    let mut words: Vec<OsString> = vec!["test".into()];
    words.extend(what.iter().map(OsString::from));
    words.push("--".into());
    words.extend_from_slice(filter);
    if alone {
        words.push("--test-threads=1".into());
    }
    cargo(words)
}

/// The `[[test]]` targets of the tests' package, in their order.
fn tiers() -> anyhow::Result<Vec<String>> {
    let manifest = demo::workspace().join("tests/Cargo.toml");
    let text =
        std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    Ok(tier_names(&text))
}

fn tier_names(manifest: &str) -> Vec<String> {
    let sections = manifest.split("[[").skip(1).filter_map(|section| section.strip_prefix("test]]"));
    let name = |section: &str| {
        let line = section.lines().find_map(|line| line.trim().strip_prefix("name"))?;
        Some(line.trim_start_matches([' ', '=']).trim_matches('"').to_owned())
    };
    sections.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::tier_names;

    #[test]
    fn tiers_are_the_test_targets() {
        let manifest = "[package]\nname = \"x\"\n[[bin]]\nname = \"b\"\n[[test]]\nname = \"sim\"\n\n\
                        [[test]]\npath = \"n\"\nname=\"netns\"\n[lints]\n";
        assert_eq!(tier_names(manifest), ["sim", "netns"]);
    }
}
