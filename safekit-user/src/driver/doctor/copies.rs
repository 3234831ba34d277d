//! Directories that mirrors of this node replicate: whether they can be.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::config::Config;
use crate::driver::replica;
use crate::engine::doctor::facts::{Replicated, ReplicatedState};
use crate::types::NodeId;

/// fuse(4) is asked whether it is there; nothing is mounted.
const FUSE: &str = "/dev/fuse";

pub(super) fn gather(config: &Config, me: NodeId) -> Vec<Replicated> {
    let mine = config.mirrors().filter(|(_, mirror)| mirror.nodes.contains(&me));
    let mut found = Vec::new();
    for (module, mirror) in mine {
        for replicated in &mirror.directories {
            found.push(Replicated {
                module: module.name.clone(),
                directory: replicated.directory.display().to_string(),
                state: state(&replicated.directory, replicated.require.as_deref()),
            });
        }
    }
    found
}

fn state(directory: &Path, require: Option<&str>) -> ReplicatedState {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(CWD, directory, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return ReplicatedState::Missing,
        Err(Errno::NOTDIR) => return ReplicatedState::NoDirectory,
        Err(Errno::NOTCONN) => return ReplicatedState::DeadMount,
        Err(error) => return ReplicatedState::Unknown(error.to_string()),
    };
    if replica::is_captured(&opened) {
        return ReplicatedState::Mounted;
    }
    if let Some(name) = require
        && rustix::fs::statat(&opened, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_err()
    {
        return ReplicatedState::NoGuard(name.to_owned());
    }
    if let Err(error) = rustix::fs::openat(CWD, FUSE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        return ReplicatedState::NoFuse(error.to_string());
    }
    match replica::can_be_replicated(&opened) {
        Ok(()) => ReplicatedState::Fit,
        Err(Errno::OPNOTSUPP) => ReplicatedState::Unfit,
        Err(error) => ReplicatedState::Unknown(error.to_string()),
    }
}
