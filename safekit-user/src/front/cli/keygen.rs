//! `safekit keygen`: makes the key that the nodes of a cluster share.

use std::path::PathBuf;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use super::place::refused;
use super::{Asking, err, fail, out};
use crate::config::key::write_key;
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::{ClusterKey, Command, Reply};

#[derive(clap::Args, Debug)]
pub struct KeygenArgs {
    /// Where the key goes; its directory must exist
    #[arg(default_value = crate::config::KEY_FILE_DEFAULT)]
    file: PathBuf,
    /// Replace a key that is there
    #[arg(long, conflicts_with = "rotate")]
    force: bool,
    /// Give a running cluster another key, on all nodes and without an outage; the file is the daemons' own
    #[arg(long)]
    rotate: bool,
    #[command(flatten)]
    asking: Asking,
}

/// Longer than the daemon gives the nodes.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(15);

fn rotate(asking: &Asking) -> Result<Exit, Error> {
    match Client::connect(&asking.socket())?.ask_within(&Command::KeyRotate, ROTATE_TIMEOUT)? {
        Reply::Accepted { .. } => {
            out("all nodes go by another key; the old one is forgotten");
            Ok(Exit::Done)
        }
        Reply::Refused { error, next_step } => Ok(refused(&error, &next_step)),
        _ => Err(Error::Unexpected),
    }
}

pub fn run(args: &KeygenArgs) -> Exit {
    if args.rotate {
        return rotate(&args.asking).unwrap_or_else(|error| error.report());
    }
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
