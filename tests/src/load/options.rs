//! What to try, how hard, and on what kind of farm.

use clap::{Args, ValueEnum};
use safekit::front::demo::topology::NODES_MAX;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What happens to the farm while its clients are at work.
    #[arg(long, value_enum)]
    pub scenario: Scenario,
    /// Print one JSON object instead of the summary.
    #[arg(long)]
    pub json: bool,
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=NODES_MAX as i64))]
    pub nodes: u8,
    #[arg(long, value_enum, default_value = "flood")]
    pub delivery: Delivery,
    /// Of the virtual IP and its clients.
    #[arg(long, value_name = "4|6", default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=6))]
    pub family: u8,
    /// Connections that are held all the time: half of them idle, three in ten slow, two in ten busy.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub connections: usize,
    /// New connections a second besides.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub rate: u32,
    /// Of the heartbeat.
    #[arg(long, value_enum, default_value = "default")]
    pub profile: Profile,
    /// How long `soak` and `steady` take.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub minutes: u32,
    /// Of the random choices.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// With `steady`: two busy threads for each processor.
    #[arg(long)]
    pub burn: bool,
    /// Length of the quiet times before and after, in which speed and shares are measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub quiet: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// A node that has never run joins.
    Join,
    /// The daemon of a node is asked to stop.
    Leave,
    /// A node is drained, and taken back.
    Drain,
    /// A node loses its power.
    Kill,
    /// A daemon is stopped for three seconds, and goes on.
    Pause,
    /// The heartbeats of two halves no longer reach each other; clients still reach both.
    Partition,
    /// A daemon reads its configuration and binary again.
    RestartDaemon,
    /// A node gets three times the weight, none, and its old one.
    Weights,
    /// Ten random changes, the next before the last is over.
    Churn,
    /// Minutes of random events.
    Soak,
    /// Nothing happens, for minutes: no node may be excluded.
    Steady,
    /// A large download over a path with a smaller MTU.
    Pmtu,
    /// UDP datagrams of 20 kB, in fragments.
    Fragments,
    /// One answer to each echo request.
    Ping,
    /// A flood of SYNs from random sources.
    Synflood,
}

impl Scenario {
    pub fn name(self) -> String {
        self.to_possible_value().expect("no scenario is hidden").get_name().to_owned()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    Flood,
    Multicast,
    Directed,
}

impl Delivery {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flood => "flood",
            Self::Multicast => "multicast",
            Self::Directed => "directed",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    Fast,
    Default,
}

impl Profile {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Default => "default",
        }
    }

    /// The longest time in which a share may be unserved after a kill, for new connections.
    pub const fn gap_max_ms(self) -> f64 {
        match self {
            Self::Fast => 150.0,
            Self::Default => 350.0,
        }
    }
}

impl Options {
    /// The defaults, for tests that change a few.
    pub fn of(scenario: Scenario) -> Self {
        Self {
            scenario,
            json: false,
            nodes: 3,
            delivery: Delivery::Flood,
            family: 4,
            connections: 2_000,
            rate: 500,
            profile: Profile::Default,
            minutes: 10,
            seed: 1,
            burn: false,
            quiet: 5,
        }
    }
}
