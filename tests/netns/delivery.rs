//! Every way of delivery, for both families: nodes come, go and die, and clients notice nothing but a death.

use std::path::PathBuf;

use anyhow::ensure;
use safekit::front::demo::interrupt::Interrupt;
use safekit_tests::lab;
use safekit_tests::load::{self, Delivery, Options, Programs, Scenario};

/// A smaller farm than the load tests': there are many of these.
fn play(scenario: Scenario, delivery: Delivery, family: u8) -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let options = Options { connections: 100, rate: 60, quiet: 1, delivery, family, ..Options::of(scenario) };
    let programs = Programs { safekit: lab::binary()?, server: PathBuf::from(env!("CARGO_BIN_EXE_load")) };
    let report = load::run(&options, &programs, &Interrupt::default())?;
    eprintln!("{}", report.summary());
    ensure!(report.ok, "{}", report.summary());
    Ok(())
}

macro_rules! plays {
    ($($name:ident: $scenario:ident, $delivery:ident, $family:literal;)+) => {
        $(#[test]
        fn $name() -> anyhow::Result<()> {
            play(Scenario::$scenario, Delivery::$delivery, $family)
        })+
    };
}

plays! {
    a_join_by_flood_over_ipv6: Join, Flood, 6;
    a_kill_by_flood_over_ipv6: Kill, Flood, 6;
    a_join_by_multicast: Join, Multicast, 4;
    a_leave_by_multicast_over_ipv6: Leave, Multicast, 6;
    one_answer_to_a_ping_by_multicast: Ping, Multicast, 4;
    a_join_directed: Join, Directed, 4;
    a_leave_directed_over_ipv6: Leave, Directed, 6;
    a_kill_directed: Kill, Directed, 4;
    one_answer_to_a_ping_directed_over_ipv6: Ping, Directed, 6;
    large_datagrams_directed: Fragments, Directed, 4;
    large_datagrams_directed_over_ipv6: Fragments, Directed, 6;
}
