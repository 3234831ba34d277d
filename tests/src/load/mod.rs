//! `cargo xtask load`: a farm of real daemons under thousands of connections, while something happens to it.
//!
//! ```text
//!   options ─▶ scenario (acts, churn) ─▶ stage: farm in namespaces, server on each node
//!                                          │  client: held and fresh connections ─▶ ledger ┐
//!                                          │  probe: a SYN every two milliseconds          ├─▶ report: figures,
//!                                          └─ tap: who accepted what, on the wire          ┘   broken promises
//! ```
//!
//! The demo's parts build the farm. What is here: an application that outlives its daemon, clients in the thousands
//! that check each byte, and promises that can be broken.

mod acts;
mod churn;
pub mod client;
mod connection;
mod cut;
mod echo;
pub mod ledger;
pub mod options;
mod paths;
pub mod probe;
mod promises;
pub mod report;
pub mod server;
mod socket;
mod stage;
mod verbs;

use std::path::PathBuf;

use safekit::front::demo::interrupt::Interrupt;

pub use self::options::{Delivery, Options, Profile, Scenario};
pub use self::report::Report;
use self::stage::Stage;

/// What is run on the nodes.
#[derive(Clone, Debug)]
pub struct Programs {
    pub safekit: PathBuf,
    /// The program whose verb `serve` is the application: see [`server`].
    pub server: PathBuf,
}

/// Plays the scenario and says what came of it. An error is a test that could not be made; a farm that breaks its
/// promises is a report that says so.
pub fn run(options: &Options, programs: &Programs, interrupt: &Interrupt) -> anyhow::Result<Report> {
    socket::raise_descriptor_limit();
    match options.scenario {
        Scenario::Pmtu => paths::pmtu(options, programs, interrupt),
        Scenario::Fragments => paths::fragments(options, programs, interrupt),
        Scenario::Ping => paths::ping(options, programs, interrupt),
        Scenario::Join
        | Scenario::Leave
        | Scenario::Drain
        | Scenario::Kill
        | Scenario::Pause
        | Scenario::Partition
        | Scenario::RestartDaemon
        | Scenario::Weights
        | Scenario::Churn
        | Scenario::Soak
        | Scenario::Steady
        | Scenario::Synflood => {
            let mut stage = Stage::build(options, programs, interrupt)?;
            stage.play()?;
            Ok(Report::of(&stage))
        }
    }
}
