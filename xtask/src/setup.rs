//! `cargo xtask setup`: from rustup and Debian to a machine that builds, tests and runs the demo.
//!
//! | needed | for | brought by |
//! |---|---|---|
//! | rust-src of the pinned compiler | `core` for the kernel's target | rustup |
//! | bpf-linker 0.10.4 | linking the kernel object; it loads the compiler's own LLVM | cargo install |
//! | a C compiler | build scripts of dependencies, and Rust's linking | apt-get |
//! | iproute2 | namespaces and bridges of demo and tests | apt-get |

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::step;

/// Later ones want LLVM's development packages; see ARCHITECTURE.md.
const BPF_LINKER: &str = "0.10.4";

pub(crate) fn run() -> Result<()> {
    let mut done = 0;
    done += usize::from(debian_packages()?);
    done += usize::from(rust_src()?);
    done += usize::from(bpf_linker()?);
    match done {
        0 => eprintln!("xtask: all is there"),
        steps => eprintln!("xtask: the machine is set up ({steps} of 3 steps were needed)"),
    }
    Ok(())
}

/// Packages by the program that shows whether they are there.
const PACKAGES: [(&str, &str); 2] = [("cc", "gcc libc6-dev"), ("ip", "iproute2")];

fn debian_packages() -> Result<bool> {
    let missing: Vec<&str> = PACKAGES
        .into_iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, names)| names)
        .collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let names: Vec<&str> = missing.iter().flat_map(|names| names.split(' ')).collect();
    ensure!(
        find_program("apt-get").is_some(),
        "{} are missing, and this is no Debian: install them by the means of this distribution, then run this again",
        names.join(", ")
    );
    // Machines that have just been made have no lists yet; a machine off the network may still have the packages.
    let update =
        step::run("fetching the lists of Debian packages", &mut as_root("apt-get", &["update", "-q"]));
    if let Err(error) = update {
        eprintln!("xtask: {error:#}; going on with the lists that are there");
    }
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(&names);
    step::run(&format!("installing {}", names.join(", ")), &mut as_root("apt-get", &arguments))?;
    Ok(true)
}

/// As it is for root, through sudo for others.
fn as_root(program: &str, arguments: &[&str]) -> Command {
    let root = step::output(Command::new("id").arg("-u")).is_some_and(|id| id == "0");
    let mut command = Command::new(if root { program } else { "sudo" });
    if !root {
        command.arg(program);
    }
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn rust_src() -> Result<bool> {
    let sysroot = step::output(compiler().args(["--print", "sysroot"]))
        .context("no rustc: install rustup first, https://rustup.rs")?;
    if Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        return Ok(false);
    }
    // In the workspace, so that it is the pinned toolchain's.
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", "rust-src"]).current_dir(step::workspace());
    step::run("adding the sources of the compiler's core library (rust-src)", &mut rustup)?;
    Ok(true)
}

/// The compiler that builds this workspace: as rustup chooses it here, not as an outer cargo chose it.
fn compiler() -> Command {
    let mut compiler = Command::new("rustc");
    compiler.current_dir(step::workspace());
    compiler
}

fn bpf_linker() -> Result<bool> {
    let installed = step::output(Command::new("bpf-linker").arg("--version"));
    match installed.as_deref().map(version) {
        Some(version) if version == BPF_LINKER => return Ok(false),
        Some(other) => {
            eprintln!("xtask: bpf-linker {other} is installed; the object is built with {BPF_LINKER}");
        }
        None => {}
    }
    let mut cargo = step::cargo();
    cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]);
    step::run(&format!("installing bpf-linker {BPF_LINKER} (two or three minutes)"), &mut cargo)?;
    warn_when_off_the_path();
    Ok(true)
}

/// `bpf-linker 0.10.4` -> `0.10.4`
fn version(answer: &str) -> &str {
    answer.rsplit(' ').next().unwrap_or(answer)
}

fn warn_when_off_the_path() {
    if find_program("bpf-linker").is_none() {
        eprintln!(
            "xtask: bpf-linker was installed where PATH does not look; add cargo's bin directory to PATH"
        );
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian keeps `ip` in /sbin, which is not on everybody's path.
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    places.map(|place| place.join(name)).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_says_its_version_last() {
        assert_eq!(version("bpf-linker 0.10.4"), "0.10.4");
        assert_eq!(version("0.13.0"), "0.13.0");
        assert_eq!(version(""), "");
    }

    #[test]
    fn programs_are_found_where_they_are() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
