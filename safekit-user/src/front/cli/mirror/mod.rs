//! `safekit prim`, `safekit second`, `safekit mirror`: which copy serves, how both are, and whether they are equal.

mod order;
mod show;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::place::Where;
use super::{Asking, Format};
use crate::front::exit::Exit;

pub use order::{prim, second};
pub use show::brief;

#[derive(Args, Debug)]
pub struct PrimArgs {
    /// The mirror.
    pub module: String,
    /// Although the other copy may be newer, or was never seen: what it has beyond this one is lost.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args, Debug)]
pub struct SecondArgs {
    /// The mirror.
    pub module: String,
    /// What this copy has is of no worth: all of it is compared with the other.
    #[arg(long)]
    pub full_sync: bool,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args, Debug)]
pub struct How {
    /// On this node instead of the one that is asked.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Give up waiting after so long; the order stays.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = crate::config::duration::parse)]
    pub timeout: Duration,
    /// Return when the daemon has taken the order.
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Args, Debug)]
pub struct MirrorArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand, Debug)]
pub enum What {
    /// Roles, how far the other copy is behind, how long applications wait, what is being copied.
    Status(StatusArgs),
    /// Compare both copies while the application goes on, where this node is PRIM. Exit code 3: something differed, and
    /// was brought up to date.
    Verify(VerifyArgs),
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Only this mirror.
    pub module: Option<String>,
    /// Go on, and show every change.
    #[arg(long, conflicts_with_all = ["nodes", "all"])]
    pub watch: bool,
    #[command(flatten)]
    pub place: Where,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The mirror.
    pub module: String,
    #[command(flatten)]
    pub how: How,
}

pub fn run(args: &MirrorArgs) -> Exit {
    match &args.what {
        What::Status(args) => show::status(args),
        What::Verify(args) => order::verify(args),
    }
}
