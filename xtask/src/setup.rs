//! `cargo xtask setup`: from rustup and Debian to a machine that builds and tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::{cargo, run as execute, step};

/// It loads the LLVM of the pinned toolchain; later versions want LLVM's development packages.
const BPF_LINKER: (&str, &str) = ("bpf-linker", "0.10.4");
/// Reads, writes, maps, cuts and punches a file at random, and knows what has to be in it: for the tests of mirrors.
const FSX: (&str, &str) = ("fsx", "0.3.2");
/// Program, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 9] = [
    ("cc", "gcc"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    // What the tests have modules take care of.
    ("nginx", "nginx-light"),
    ("systemctl", "systemd"),
    ("python3", "python3"),
    // Applications whose files the tests have in mirrors.
    ("git", "git"),
    ("sqlite3", "sqlite3"),
    ("stress-ng", "stress-ng"),
];
/// One more of those. Its programs are in a directory for each version, below this one.
const POSTGRESQL: (&str, &str) = ("/usr/lib/postgresql", "postgresql");

/// What reads the daemon's figures as strictly as the standard has it: no program, so its files are looked for.
const METRICS_PARSER: (&str, &str) =
    ("/usr/lib/python3/dist-packages/prometheus_client", "python3-prometheus-client");

pub(crate) fn run() -> anyhow::Result<()> {
    let changed = packages()? | rust_src()? | from_crate(BPF_LINKER)? | from_crate(FSX)?;
    step(if changed { "setup is done" } else { "setup: all is there" });
    Ok(())
}

/// Installs the packages whose programs are missing. True when something was done.
fn packages() -> anyhow::Result<bool> {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    if !Path::new(METRICS_PARSER.0).is_dir() {
        missing.push(METRICS_PARSER.1);
    }
    if !has_postgresql() {
        missing.push(POSTGRESQL.1);
    }
    if missing.is_empty() {
        return Ok(false);
    }
    step(&format!("setup: Debian packages {}", missing.join(", ")));
    install(&missing)?;
    Ok(true)
}

/// As root, or says what root has to do.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    if !is_root() {
        bail!("install them first: sudo apt-get install --no-install-recommends {}", packages.join(" "));
    }
    execute("apt-get", ["update"])?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    execute("apt-get", arguments)
}

/// The compiler's sources: `core` is built for the kernel's target.
fn rust_src() -> anyhow::Result<bool> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().context("cannot run rustc")?;
    let sysroot = String::from_utf8(output.stdout)?;
    if Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Ok(false);
    }
    step("setup: the compiler's sources, formatter and lints (rust-src, rustfmt, clippy)");
    execute("rustup", ["component", "add", "rust-src", "rustfmt", "clippy"])?;
    Ok(true)
}

fn has_postgresql() -> bool {
    let versions = std::fs::read_dir(POSTGRESQL.0).into_iter().flatten().flatten();
    versions.into_iter().any(|version| version.path().join("bin/postgres").is_file())
}

/// A program that is a crate of the same name, in just this version.
fn from_crate((name, version): (&str, &str)) -> anyhow::Result<bool> {
    let found = Command::new(crate_program(name)).arg("--version").output();
    let expected = format!("{name} {version}");
    if found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == expected) {
        return Ok(false);
    }
    step(&format!("setup: {name} {version} (compiles for one to three minutes)"));
    cargo(["install", name, "--version", version, "--locked", "--force"])?;
    Ok(true)
}

/// Where builds and tests look for it too: on the path, or where cargo installs.
fn crate_program(name: &str) -> PathBuf {
    if on_path(name) {
        return name.into();
    }
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    home.unwrap_or_default().join("bin").join(name)
}

pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Root's own directories are not on everybody's path.
    let system = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(system).any(|directory| directory.join(program).is_file())
}

pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
