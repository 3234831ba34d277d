//! `cargo xtask bench filter|farm|modules|replication`: nanoseconds a packet in the kernel, the farm against its rivals,
//! many modules on one node, and a replicated directory against its rivals.

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

/// Of the replication's benchmark: what loads it, and what it is compared with.
const STORAGE: [(&str, &str); 4] =
    [("fio", "fio"), ("glusterd", "glusterfs-server"), ("pgbench", "postgresql"), ("rsync", "rsync")];

pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    let what = arguments.first().and_then(|word| word.to_str());
    match what {
        Some("filter") => filter(&arguments[1..]),
        Some("farm") => farm(&arguments[1..]),
        Some("modules") => modules(&arguments[1..]),
        Some("replication") => replication(&arguments[1..]),
        Some(other) => bail!("there is no benchmark {other}; there are: filter, farm, modules, replication"),
        None => bail!("say what: `cargo xtask bench filter`, `… farm`, `… modules` or `… replication`"),
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
    measured("bench-farm", &["--release"], &with_results_page(arguments))
}

fn with_results_page(arguments: &[OsString]) -> Vec<OsString> {
    let mut words = arguments.to_vec();
    if let Some(place) = words.iter().position(|word| word == "--write")
        && words.get(place + 1).is_none_or(|next| next.to_string_lossy().starts_with('-'))
    {
        words.insert(place + 1, demo::workspace().join("BENCHMARKS.md").into());
    }
    words
}

fn modules(arguments: &[OsString]) -> anyhow::Result<()> {
    setup::run()?;
    step("bench: build as released");
    cargo(["build", "--release", "--package", "safekit"])?;
    step("bench: many modules on one node (as root; five minutes, --quick takes seconds)");
    measured("bench-modules", &["--release"], arguments)
}

/// `--quick` needs its packages, too: without fio there is nothing to measure.
fn replication(arguments: &[OsString]) -> anyhow::Result<()> {
    setup::run()?;
    bring(&STORAGE, None)?;
    step("bench: build as released");
    cargo(["build", "--release", "--package", "safekit"])?;
    step("bench: a replicated directory against its rivals (as root; 25 minutes, --quick takes two)");
    measured("bench-replication", &["--release"], &with_results_page(arguments))
}

fn measured(program: &str, options: &[&str], arguments: &[OsString]) -> anyhow::Result<()> {
    let mut command: Vec<OsString> =
        ["run", "--quiet", "--package", "safekit-tests", "--bin", program].map(Into::into).to_vec();
    command.extend(options.iter().map(OsString::from));
    command.push("--".into());
    command.extend_from_slice(arguments);
    cargo(command)
}

fn rivals() -> anyhow::Result<()> {
    bring(&RIVALS, Some(STREAM_MODULE))
}

/// Installs what is missing of programs and of a file, and says so.
fn bring(programs: &[(&str, &'static str)], file: Option<(&str, &'static str)>) -> anyhow::Result<()> {
    let absent = programs.iter().filter(|(program, _)| !setup::on_path(program));
    let mut missing: Vec<&str> = absent.map(|(_, package)| *package).collect();
    if let Some((path, package)) = file
        && !std::path::Path::new(path).is_file()
    {
        missing.push(package);
    }
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    step(&format!("bench: Debian packages that are loads and rivals: {}", missing.join(", ")));
    setup::install(&missing)
}
