//! `safekit replica`: the process that keeps the directories of one mirror.

use safekit::front::cli::ReplicaArgs;
use safekit::front::exit::Exit;

pub(crate) fn replica(args: &ReplicaArgs) -> Exit {
    eprintln!("error: the directories of mirror {} cannot be kept: not wired yet", args.module);
    Exit::Failed
}
