//! Builds the kernel object that the binary embeds, with the same pinned compiler.
//!
//! The object is a crate of another target, which cargo cannot name as a dependency on stable. So this asks for one
//! more cargo run, with its own target directory (the outer cargo holds the lock of the usual one).

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "bpfel-unknown-none";
const PACKAGE: &str = "safekit-ebpf";

/// Full debug information becomes BTF, with which the kernel explains what it refuses.
const FLAGS: &[&str] = &["-Cdebuginfo=2", "-Clink-arg=--btf"];

/// Headers lie at odd offsets. These machines read them at once rather than byte by byte, and their kernels let a
/// program do so (HAVE_EFFICIENT_UNALIGNED_ACCESS); it saves 2 to 3 ns a packet.
const UNALIGNED: &str = "-Clink-arg=--cpu-features=+allows-misaligned-mem-access";
const UNALIGNED_MACHINES: &[&str] = &["x86_64", "aarch64"];

/// What the outer cargo (or clippy, or a coverage run) means for its own target only.
const OUTER_ONLY: &[&str] = &[
    "RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_TARGET_DIR",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CLIPPY_ARGS",
    "RUSTDOC",
    "CARGO_INCREMENTAL",
];

fn main() {
    let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")).with_file_name(PACKAGE);
    for watched in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", source.join(watched).display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    if let Some(missing) = missing_tool() {
        fail(&format!("{missing} is missing, and the kernel object cannot be built without it"));
    }
    let out = PathBuf::from(variable("OUT_DIR"));
    let target_dir = out.join("ebpf");
    if !build(&source, &target_dir) {
        println!("cargo::error=the kernel object does not build; cargo's own words are above");
        std::process::exit(1);
    }
    let object = target_dir.join(TARGET).join("release").join(PACKAGE);
    let copy = out.join("safekit-ebpf.o");
    if let Err(error) = std::fs::copy(&object, &copy) {
        fail(&format!("{} cannot be copied: {error}", object.display()));
    }
}

fn missing_tool() -> Option<&'static str> {
    let linker =
        Command::new("bpf-linker").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !linker.is_ok_and(|status| status.success()) {
        return Some("bpf-linker");
    }
    let sysroot = Command::new(variable("RUSTC")).args(["--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    (!core.is_file()).then_some("the component rust-src")
}

fn build(source: &Path, target_dir: &Path) -> bool {
    let mut cargo = Command::new(variable("CARGO"));
    for name in OUTER_ONLY {
        cargo.env_remove(name);
    }
    let mut flags = FLAGS.to_vec();
    if UNALIGNED_MACHINES.contains(&variable("CARGO_CFG_TARGET_ARCH").as_str()) {
        flags.push(UNALIGNED);
    }
    let status = cargo
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(source)
        .args(["build", "--release", "--locked", "-Zbuild-std=core", "--features=kernel"])
        .args(["--bin", PACKAGE, "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        // Cargo reads this program's standard output as instructions.
        .stdout(std::io::stderr())
        .status();
    status.is_ok_and(|status| status.success())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo sets {name} for build scripts: {error}"))
}

fn fail(what: &str) -> ! {
    println!(
        "cargo::error={what}. Run `cargo xtask setup` once: it brings the pinned compiler's sources and bpf-linker, \
         says what it does, and does nothing when all is there; then build again."
    );
    std::process::exit(1);
}
