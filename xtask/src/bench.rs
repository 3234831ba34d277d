//! `cargo xtask bench filter|farm|modules`: nanoseconds a packet in the kernel, the farm against its rivals, and many
//! modules on one node.

use std::ffi::OsString;

use anyhow::bail;

use crate::{cargo, demo, setup, step};

/// Rivals: program, and the Debian package that brings it. Not part of `setup`: only this benchmark wants them.
const RIVALS: [(&str, &str); 5] = [
    ("nginx", "nginx-light"),
    ("haproxy", "haproxy"),
    ("keepalived", "keepalived"),
    ("iptables-legacy", "iptables"),
    ("iptables-nft", "iptables"),
];
/// A module is no program, so its package is asked for by name.
const STREAM_MODULE: (&str, &str) = ("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream");

pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    let what = arguments.first().and_then(|word| word.to_str());
    match what {
        Some("filter") => filter(&arguments[1..]),
        Some("farm") => farm(&arguments[1..]),
        Some("modules") => modules(&arguments[1..]),
        Some(other) => bail!("there is no benchmark {other}; there are: filter, farm, modules"),
        None => bail!("say what: `cargo xtask bench filter`, `… farm` or `… modules`"),
    }
}

fn filter(arguments: &[OsString]) -> anyhow::Result<()> {
    setup::run()?;
    step("bench: the filter under BPF_PROG_TEST_RUN (as root)");
    measured("bench-filter", &[], arguments)
}

/// `--write` alone means the results page of this repository.
fn farm(arguments: &[OsString]) -> anyhow::Result<()> {
    setup::run()?;
    if !arguments.iter().any(|word| word == "--quick") {
        rivals()?;
    }
    step("bench: build as released");
    cargo(["build", "--release", "--package", "safekit"])?;
    step("bench: the farm against its rivals (as root; six minutes, --quick takes seconds)");
    let mut words: Vec<OsString> = arguments.to_vec();
    if let Some(place) = words.iter().position(|word| word == "--write") {
        words.insert(place + 1, demo::workspace().join("BENCHMARKS.md").into());
    }
    measured("bench-farm", &["--release"], &words)
}

fn modules(arguments: &[OsString]) -> anyhow::Result<()> {
    setup::run()?;
    step("bench: build as released");
    cargo(["build", "--release", "--package", "safekit"])?;
    step("bench: many modules on one node (as root; five minutes, --quick takes seconds)");
    measured("bench-modules", &["--release"], arguments)
}

fn measured(program: &str, options: &[&str], arguments: &[OsString]) -> anyhow::Result<()> {
    let mut command: Vec<OsString> =
        ["run", "--quiet", "--package", "safekit-tests", "--bin", program].map(Into::into).to_vec();
    command.extend(options.iter().map(OsString::from));
    command.push("--".into());
    command.extend_from_slice(arguments);
    cargo(command)
}

/// Installs what is missing, and says so.
fn rivals() -> anyhow::Result<()> {
    let mut missing: Vec<&str> =
        RIVALS.iter().filter(|(program, _)| !setup::on_path(program)).map(|(_, package)| *package).collect();
    if !std::path::Path::new(STREAM_MODULE.0).is_file() {
        missing.push(STREAM_MODULE.1);
    }
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    step(&format!("bench: the rivals come from Debian packages: {}", missing.join(", ")));
    setup::install(&missing)
}
