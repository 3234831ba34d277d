//! Every row, every truncation of every row, and an independent parser.

use std::net::IpAddr;

use safekit_ebpf::verdict::Standing;
use safekit_ebpf::{Reason, Verdict};
use safekit_tests::filter::{Host, Kernel, action, in_namespace, is_vip, mixed, uniform};

use crate::rows::{Row, rows};

/// The shortest frame that the kernel takes for a test run.
const FRAME_BYTES_MIN: usize = 14;

/// Host and kernel with one row's world.
fn set(host: &mut Host, kernel: &mut Kernel, standing: Standing, lease_live: bool) -> anyhow::Result<()> {
    let table = uniform(standing);
    host.write_table(&table);
    host.lease_live = lease_live;
    kernel.write_table(&table)?;
    kernel.set_lease(lease_live)
}

#[track_caller]
fn agree(host: &Host, kernel: &mut Kernel, name: &str, frame: &[u8]) -> anyhow::Result<Reason> {
    let (decision, expected) = host.run(frame);
    let before = kernel.counted(decision.reason);
    let (returned, left) = kernel.datapath.test_run(frame)?;
    assert_eq!(returned, action(decision.verdict), "{name}: the kernel's action against {decision:?}");
    assert_eq!(left, expected, "{name}: the frame afterwards");
    assert_eq!(kernel.counted(decision.reason), before + 1, "{name}: counted as {:?}", decision.reason);
    Ok(decision.reason)
}

#[test]
fn host_and_kernel_decide_every_row_as_the_table_says() {
    in_namespace(|| {
        let (mut host, mut kernel) = (Host::new(), Kernel::load()?);
        let rows = rows();
        assert!(rows.len() >= 60, "the table has shrunk to {} rows", rows.len());
        for Row { name, frame, standing, lease_live, reason } in rows {
            set(&mut host, &mut kernel, standing, lease_live)?;
            let name = format!("{name}, {standing:?}, lease {lease_live}");
            assert_eq!(agree(&host, &mut kernel, &name, &frame)?, reason, "{name}");
        }
        Ok(())
    })
    .expect("the filter runs");
}

#[test]
fn every_truncation_is_decided_alike_and_nothing_short_passes() {
    in_namespace(|| {
        let (mut host, mut kernel) = (Host::new(), Kernel::load()?);
        set(&mut host, &mut kernel, Standing::Mine, true)?;
        for Row { name, frame, .. } in rows() {
            let whole = host.run(&frame).0;
            for length in 0..frame.len() {
                let cut = &frame[..length];
                let name = format!("{name}, {length} of {} bytes", frame.len());
                let decision = host.run(cut).0;
                let accepted = matches!(decision.verdict, Verdict::Accept | Verdict::Answer);
                assert!(!accepted || decision.reason == whole.reason, "{name}: {decision:?}");
                if length >= FRAME_BYTES_MIN {
                    agree(&host, &mut kernel, &name, cut)?;
                }
            }
        }
        Ok(())
    })
    .expect("the filter runs");
}

/// etherparse reads the same addresses and ports from every well-formed frame that we accept.
#[test]
fn an_independent_parser_agrees_on_what_is_accepted() {
    let mut host = Host::new();
    host.write_table(&uniform(Standing::Mine));
    let mut accepted = 0;
    for Row { name, frame, .. } in rows() {
        if host.run(&frame).0.verdict != Verdict::Accept {
            continue;
        }
        accepted += 1;
        let parsed = etherparse::SlicedPacket::from_ethernet(&frame).expect(name);
        let target = match parsed.net.expect(name) {
            etherparse::NetSlice::Ipv4(ip) => IpAddr::V4(ip.header().destination_addr()),
            etherparse::NetSlice::Ipv6(ip) => IpAddr::V6(ip.header().destination_addr()),
            etherparse::NetSlice::Arp(_) => panic!("{name}: ARP is answered, not accepted"),
        };
        assert!(is_vip(target), "{name} goes to {target}");
        let port = match parsed.transport.expect(name) {
            etherparse::TransportSlice::Tcp(tcp) => Some(tcp.destination_port()),
            etherparse::TransportSlice::Udp(udp) => Some(udp.destination_port()),
            etherparse::TransportSlice::Icmpv4(icmp) => {
                assert_eq!(icmp.type_u8(), 8, "{name}");
                None
            }
            other @ (etherparse::TransportSlice::Icmpv6(_) | etherparse::TransportSlice::Igmp(_)) => {
                panic!("{name}: {other:?} is nobody's")
            }
        };
        assert!(port.is_none_or(|port| [80, 443, 53].contains(&port)), "{name}: port {port:?}");
    }
    assert!(accepted > 10, "the table accepts too little to show anything: {accepted}");
}

/// Each bucket has its own two bits, and the active table is read whole.
#[test]
fn a_mixed_table_is_read_bucket_by_bucket() {
    in_namespace(|| {
        let (mut host, mut kernel) = (Host::new(), Kernel::load()?);
        // Twice, so that both slots have been in force.
        for table in [uniform(Standing::Foreign), mixed()] {
            host.write_table(&table);
            kernel.write_table(&table)?;
        }
        kernel.set_lease(true)?;
        let mut reasons = std::collections::BTreeSet::new();
        for port in 1..4000 {
            for flags in [safekit_tests::packets::SYN, safekit_tests::packets::ACK] {
                let packet =
                    safekit_tests::packets::Packet::ipv4(crate::rows::CLIENT, safekit_tests::filter::VIP);
                let frame = packet.tcp(port, 80, flags).build();
                reasons.insert(agree(&host, &mut kernel, &format!("port {port}"), &frame)?);
            }
        }
        assert_eq!(
            reasons,
            [Reason::Mine, Reason::Foreign, Reason::Unproven].into(),
            "all standings were met"
        );
        Ok(())
    })
    .expect("the filter runs");
}
