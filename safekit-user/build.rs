//! Builds the kernel object with the pinned compiler and `bpf-linker`, for `driver/datapath` to embed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    let workspace = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..");
    println!("cargo::rerun-if-changed={}", workspace.join("safekit-ebpf/src").display());
    println!("cargo::rerun-if-changed={}", workspace.join("safekit-ebpf/Cargo.toml").display());
    println!("cargo::rerun-if-env-changed=PATH");
    let object = PathBuf::from(variable("OUT_DIR")).join("safekit-ebpf");
    if let Err(problem) = build(&workspace, &object) {
        // The one line that a person needs, without cargo's wall around a panic.
        println!("cargo::error={problem}");
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

fn build(workspace: &Path, object: &Path) -> Result<(), String> {
    let linker = find_linker().ok_or(
        "the kernel object cannot be built: bpf-linker is missing. `cargo xtask setup` installs it, and whatever else is missing",
    )?;
    let sysroot = rustc_sysroot()?;
    if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
        return Err("the kernel object cannot be built: the compiler's sources (rust-src) are missing. \
                    `cargo xtask setup` installs them, and whatever else is missing"
            .to_owned());
    }
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("bpf");
    let mut cargo = Command::new(variable("CARGO"));
    // What cargo set for this package would change the build of that one.
    for (name, _) in env::vars() {
        if name.starts_with("CARGO_") && name != "CARGO_HOME" || name.starts_with("RUSTFLAGS") {
            cargo.env_remove(name);
        }
    }
    let status = cargo
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_CFG_BPF_TARGET_ARCH", variable("CARGO_CFG_TARGET_ARCH"))
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker))
        .args(["build", "--quiet", "--release", "--package", "safekit-ebpf", "--bin", "safekit-ebpf"])
        .args(["--features", "kernel", "-Z", "build-std=core", "--target", TARGET])
        .arg("--manifest-path")
        .arg(workspace.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .status()
        .map_err(|error| format!("cannot run cargo for the kernel object: {error}"))?;
    if !status.success() {
        return Err(format!("the build of the kernel object failed ({status}); its messages are above"));
    }
    let built = target_dir.join(TARGET).join("release/safekit-ebpf");
    std::fs::copy(&built, object).map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Ok(())
}

/// Flags that the linker and the verifier depend on, separated as cargo wants them.
fn rustflags(linker: &Path) -> String {
    let linker = format!("-Clinker={}", linker.display());
    let architecture = format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH"));
    // Debug information becomes the maps' and programs' types (BTF).
    [&linker, &architecture, "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f")
}

fn find_linker() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let paths = env::split_paths(&env::var_os("PATH")?).collect::<Vec<_>>();
    paths
        .into_iter()
        .chain(home.map(|home| home.join("bin")))
        .map(|path| path.join("bpf-linker"))
        .find(|file| file.is_file())
}

fn rustc_sysroot() -> Result<PathBuf, String> {
    let output = Command::new(variable("RUSTC")).args(["--print", "sysroot"]).output();
    let output = output.map_err(|error| format!("cannot ask rustc for its sysroot: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}
