//! Every row of the table, under every state of its bucket and of the lease, through both filters.

use anyhow::Result;
use safekit::driver::datapath::VirtualMac;
use safekit_ebpf::verdict::{BucketState, Reason};
use safekit_tests::fixture::{
    self, Action, CIRCUMSTANCES, GROUP, GROUP_IN_RANGE, HASH_KEY, Host, Loaded, OWN_MAC, PORT_IN_RANGE, VIP,
    VIP6, all_but, uniform,
};
use safekit_tests::packets::{ACK, CLIENT_MAC};
use safekit_tests::rows::{self, CLIENT, CLIENT6, Expect};

#[test]
fn every_row_has_its_verdict_in_both_filters() -> Result<()> {
    let rows = rows::all();
    assert!(rows.len() >= 60, "the table has {} rows", rows.len());
    let (mut loaded, mut host) = (Loaded::new()?, Host::new());
    for circumstances in CIRCUMSTANCES {
        loaded.set(circumstances)?;
        host.set(circumstances);
        for row in &rows {
            let (name, expected) = (row.name, row.expect.under(circumstances));
            let on_host = host.run(&row.frame);
            assert_eq!((on_host.action, on_host.reason), expected, "{name} on the host, {circumstances:?}");
            let in_kernel = loaded.run(&row.frame)?;
            assert_eq!(in_kernel, on_host, "{name} in the kernel against the host, {circumstances:?}");
        }
    }
    Ok(())
}

#[test]
fn what_passes_changes_only_its_destination_and_what_drops_nothing() {
    let mut host = Host::new();
    host.set(CIRCUMSTANCES[1]);
    for row in rows::all() {
        let outcome = host.run(&row.frame);
        let untouched =
            matches!(outcome.reason, Reason::NotVip | Reason::NotIp) || outcome.action == Action::Drop;
        match outcome.action {
            _ if untouched => assert_eq!(outcome.bytes, row.frame, "{}", row.name),
            Action::Pass => {
                assert_eq!(outcome.bytes[..6], OWN_MAC, "{}", row.name);
                assert_eq!(outcome.bytes[6..], row.frame[6..], "{}", row.name);
            }
            Action::Transmit => {
                assert!(matches!(row.expect, Expect::Answered | Expect::Advertised), "{}", row.name);
                assert_eq!(outcome.bytes[6..12], OWN_MAC, "{}", row.name);
            }
            Action::Drop => unreachable!("counted as untouched"),
        }
    }
}

#[test]
fn exactly_the_bucket_of_the_client_decides() -> Result<()> {
    let (mut loaded, mut host) = (Loaded::new()?, Host::new());
    loaded.set_lease(true)?;
    host.lease = true;
    for row in rows::all() {
        let Some((balance, client, port)) = row.client else { continue };
        let bucket = safekit::driver::datapath::bucket(HASH_KEY, balance, client, port);
        for (inside, outside) in
            [(BucketState::Mine, BucketState::Foreign), (BucketState::Foreign, BucketState::Mine)]
        {
            let table = all_but(outside, bucket, inside);
            loaded.write_table(&table)?;
            host.table = table;
            let expected = row.expect.under(fixture::Circumstances { state: inside, lease: true });
            let outcome = host.run(&row.frame);
            assert_eq!((outcome.action, outcome.reason), expected, "{}: bucket {}", row.name, bucket.0);
            assert_eq!(loaded.run(&row.frame)?, outcome, "{}: bucket {}", row.name, bucket.0);
        }
    }
    Ok(())
}

/// Rules of one virtual IP may be shared out differently.
#[test]
fn a_rule_is_decided_by_its_own_group() -> Result<()> {
    let mut loaded = Loaded::new()?;
    loaded.set_lease(true)?;
    loaded.datapath.write_table(GROUP_IN_RANGE, &uniform(BucketState::Mine))?;
    let reason = |port| Ok::<_, anyhow::Error>(loaded.run(&rows::v4().tcp(7, port, ACK).build())?.reason);
    assert_eq!(reason(PORT_IN_RANGE)?, Reason::Mine);
    assert_eq!(reason(PORT_IN_RANGE - 1)?, Reason::Foreign);
    assert_eq!(reason(PORT_IN_RANGE + 1)?, Reason::Foreign);
    assert_eq!(reason(fixture::PORT_CONNECTION)?, Reason::Foreign);
    Ok(())
}

#[test]
fn an_arp_answer_tells_the_virtual_mac_and_comes_from_the_own_one() {
    let mut host = Host::new();
    host.set(CIRCUMSTANCES[1]);
    let rows = rows::all();
    let row = rows.iter().find(|row| row.name == "arp who has the virtual ip").expect("a row of the table");
    let answer = host.run(&row.frame).bytes;

    assert_eq!(answer[..6], CLIENT_MAC, "back to the requester");
    assert_eq!(answer[6..12], OWN_MAC, "a switch must not learn the virtual MAC");
    assert_eq!(answer[12..20], row.frame[12..20], "the same kind of ARP");
    assert_eq!(answer[20..22], [0, 2], "a reply");
    assert_eq!(answer[22..28], VirtualMac::of(VIP.into()).0);
    assert_eq!(answer[28..32], VIP.octets());
    assert_eq!(answer[32..38], CLIENT_MAC);
    assert_eq!(answer[38..42], CLIENT.octets());
    assert_eq!(answer[42..], row.frame[42..], "the padding stays");
}

#[test]
fn an_advertisement_tells_the_virtual_mac_and_reads_as_one() {
    let mut host = Host::new();
    host.set(CIRCUMSTANCES[1]);
    for row in rows::all().iter().filter(|row| row.expect == Expect::Advertised) {
        let answer = host.run(&row.frame).bytes;
        let sliced =
            etherparse::SlicedPacket::from_ethernet(&answer).expect("an answer that others can read");
        let Some(etherparse::NetSlice::Ipv6(ip)) = &sliced.net else { panic!("{}: not IPv6", row.name) };
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = &sliced.transport else {
            panic!("{}: not ICMPv6", row.name)
        };
        let (source, destination) = (ip.header().source_addr(), ip.header().destination_addr());
        assert_eq!((source, destination, ip.header().hop_limit()), (VIP6, CLIENT6, 255), "{}", row.name);
        assert!(icmp.is_checksum_valid(source.octets(), destination.octets()), "{}: checksum", row.name);
        let message = icmp.slice();
        assert_eq!(message[..2], [136, 0], "{}", row.name);
        assert_eq!(message[8..24], VIP6.octets(), "{}", row.name);
        assert_eq!(answer[..6], CLIENT_MAC, "{}", row.name);
        match message.get(24..) {
            Some([]) | None => assert_eq!(message[4], 0x40, "{}: solicited", row.name),
            Some(option) => {
                assert_eq!(message[4], 0x60, "{}: solicited, override", row.name);
                assert_eq!(
                    (&option[..2], &option[2..8]),
                    (&[2, 1][..], &VirtualMac::of(VIP6.into()).0[..]),
                    "{}",
                    row.name
                );
            }
        }
    }
}

#[test]
fn a_table_comes_back_from_the_kernel_as_it_was_written() -> Result<()> {
    let mut loaded = Loaded::new()?;
    assert_eq!(
        loaded.datapath.table(GROUP)?,
        uniform(BucketState::Foreign),
        "a fresh filter accepts nothing"
    );
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..3 {
        let table = random_table(&mut random);
        loaded.datapath.write_table(GROUP, &table)?;
        assert_eq!(loaded.datapath.table(GROUP)?, table);
    }
    let other = safekit::types::GroupId(9);
    assert!(loaded.datapath.write_table(other, &uniform(BucketState::Mine)).is_err(), "there is no group 9");
    Ok(())
}

#[test]
fn the_kernel_reads_each_bucket_where_it_was_written() -> Result<()> {
    let (mut loaded, mut host) = (Loaded::new()?, Host::new());
    loaded.set_lease(true)?;
    host.lease = true;
    host.table = random_table(&mut fastrand::Rng::with_seed(8));
    loaded.datapath.write_table(GROUP, &host.table)?;
    for port in (1024..=65_535).step_by(17) {
        let frame = rows::v4().tcp(port, fixture::PORT_CONNECTION, 0x02).build();
        let outcome = host.run(&frame);
        assert_eq!(loaded.run_uncounted(&frame)?, (outcome.action, outcome.bytes), "client port {port}");
    }
    Ok(())
}

fn random_table(random: &mut fastrand::Rng) -> safekit::engine::farm::Table {
    let mut table = uniform(BucketState::Foreign);
    table.mine.words_mut().fill_with(|| random.u64(..));
    table.transitional.words_mut().fill_with(|| random.u64(..));
    table
}

#[test]
fn nothing_is_accepted_before_tables_and_lease_are_written() -> Result<()> {
    let loaded = Loaded::new()?;
    for row in rows::all() {
        let outcome = loaded.run(&row.frame)?;
        let harmless = matches!(outcome.reason, Reason::NotVip | Reason::NotIp | Reason::IcmpError);
        assert!(harmless || outcome.action == Action::Drop, "{}: {outcome:?}", row.name);
    }
    Ok(())
}
