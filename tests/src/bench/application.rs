//! The smallest application: accepts connections and closes them.
//!
//! Its first process binds, hands the socket to the one that stays, and ends: a start script that returns has an
//! application that serves, as those of good servers do.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::Pid;

/// What the kernel calls it: the program's file name.
pub const PROCESS: &str = "bench-modules";

/// Starts one in the background, and writes down its number.
pub fn start(name: &str, port: u16, pid_file: &Path) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port}"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["accept", name]).stdin(OwnedFd::from(listener));
    let stays = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    std::fs::write(pid_file, stays.id().to_string()).context("cannot write down its number")
}

/// Until it is killed. Standard input is the listening socket.
pub fn accept() -> Result<()> {
    let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    loop {
        drop(listener.accept()?);
    }
}

/// Whether this process is one: numbers are used again.
pub fn is_one(pid: Pid) -> bool {
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    comm.is_ok_and(|comm| comm.trim() == PROCESS)
}
