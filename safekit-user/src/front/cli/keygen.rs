//! `safekit keygen`: makes the key that the nodes of a cluster share.

use std::path::PathBuf;

use ring::rand::{SecureRandom, SystemRandom};

use super::{err, fail, out};
use crate::config::key::write_key;
use crate::front::exit::Exit;
use crate::types::ClusterKey;

#[derive(clap::Args, Debug)]
pub struct KeygenArgs {
    /// Where the key goes; its directory must exist
    #[arg(default_value = crate::config::KEY_FILE_DEFAULT)]
    file: PathBuf,
    /// Replace a key that is there
    #[arg(long)]
    force: bool,
}

pub fn run(args: &KeygenArgs) -> Exit {
    let mut bytes = [0; 32];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        err("error: the kernel gives no random bytes\nnext step: check that /dev/urandom exists");
        return Exit::Failed;
    }
    if let Err(error) = write_key(&args.file, &ClusterKey::new(bytes), args.force) {
        fail(&error, &error.next_step());
        return Exit::Failed;
    }
    out(&format!("wrote {}, readable by its owner alone", args.file.display()));
    out(
        "next step: copy it to the same place on every node, for example `scp -p`, and name it as `key_file`",
    );
    Exit::Done
}
