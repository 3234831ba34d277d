//! `safekit keygen`: makes the cluster's key.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::key::ClusterKey;
use crate::front::exit::Exit;

#[derive(Args, Debug)]
pub struct KeygenArgs {
    /// Where to write it; readable by its owner only.
    #[arg(value_name = "FILE", default_value = "/etc/safekit/cluster.key")]
    pub file: PathBuf,
    /// Replace a key that is there. Nodes with the old one are then shut out.
    #[arg(long)]
    pub force: bool,
}

pub fn run(args: &KeygenArgs) -> Exit {
    match generate(&args.file, args.force) {
        Ok(()) => {
            println!("wrote {}", args.file.display());
            println!("next: copy it to every node (mode 0600), and name it as key_file in the configuration");
            Exit::Done
        }
        Err(error) => {
            eprintln!("error: cannot write {}: {error}", args.file.display());
            eprintln!("next: {}", next_step(&args.file, &error));
            Exit::Failed
        }
    }
}

/// Writes a fresh key. An existing file is kept unless `force`.
pub fn generate(file: &Path, force: bool) -> io::Result<()> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
    if force {
        // Not truncated in place: whoever has the old file open keeps the old key, and the mode is new.
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    out.write_all(ClusterKey::new(bytes).to_text().as_bytes())?;
    out.sync_all()
}

fn next_step(file: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "keep the key that is there, or replace it with --force".to_owned(),
        io::ErrorKind::NotFound => {
            format!("make the directory: `mkdir -p {}`", file.parent().unwrap_or(Path::new("/")).display())
        }
        io::ErrorKind::PermissionDenied => "run it with sudo".to_owned(),
        _ => "look at the file system".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_once_readable_by_its_owner_and_different_each_time() {
        let dir = std::env::temp_dir().join(format!("safekit-keygen-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        let file = dir.join("cluster.key");
        generate(&file, false).expect("a fresh key");
        let first = ClusterKey::read(&file).expect("a valid key of mode 0600");
        assert_eq!(generate(&file, false).map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));
        generate(&file, true).expect("replaced");
        assert_ne!(ClusterKey::read(&file).expect("valid"), first);
        std::fs::remove_dir_all(&dir).expect("cleans up");
    }
}
