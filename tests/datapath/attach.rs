//! The filter on real interfaces: modes, pins, what outlives a daemon, and what stands in the way.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use safekit::driver::datapath::{self, Datapath, Error, Mode, ModeChoice, Plan, VirtualMac};
use safekit::types::Instant;
use safekit_ebpf::verdict::{BucketState, Reason};
use safekit_tests::fixture::{GROUP, VIP, plan, uniform};
use safekit_tests::netns::{SCRATCH, in_new_namespace, ip};
use safekit_tests::packets::{ACK, BROADCAST, CLIENT_MAC, SYN, ethernet};
use safekit_tests::rows::{self, CLIENT};
use safekit_tests::wire::Wire;

const FAR: Instant = Instant(u64::MAX / 2);

/// `eth0` and `eth1` are the node's; `far0` is the other end of eth0.
fn interfaces() -> Result<()> {
    ip("link add eth0 type veth peer name far0")?;
    ip("link add eth1 type veth peer name far1")?;
    for name in ["eth0", "far0", "eth1", "far1"] {
        ip(&format!("link set {name} up"))?;
    }
    Ok(())
}

fn pins() -> PathBuf {
    Path::new(SCRATCH).join("pins")
}

fn pinned(plan: &Plan) -> Result<Datapath> {
    Ok(Datapath::load(plan, Some(&pins()), ModeChoice::Auto)?)
}

fn accept_all(datapath: &mut Datapath) -> Result<()> {
    datapath.write_table(GROUP, &uniform(BucketState::Mine))?;
    Ok(datapath.set_lease(FAR)?)
}

/// How many frames had this reason, once the one that was sent has been counted.
fn counted(datapath: &Datapath, reason: Reason) -> Result<u64> {
    for _ in 0..200 {
        let counters = datapath.counters()?;
        if let Some(counter) = counters.iter().find(|counter| counter.reason == reason) {
            return Ok(counter.packets);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    anyhow::bail!("no frame was counted as {reason:?}: {:?}", datapath.counters()?)
}

#[test]
fn an_arp_request_on_the_wire_is_answered_on_the_wire() -> Result<()> {
    in_new_namespace(|| {
        interfaces()?;
        let mut datapath = pinned(&plan())?;
        accept_all(&mut datapath)?;
        let attached: Vec<_> =
            datapath.attached().iter().map(|on| (on.interface.as_str(), on.mode)).collect();
        assert_eq!(attached, [("eth1", Mode::Generic), ("eth0", Mode::Generic)]);
        assert!(datapath.attached()[0].why.contains("veth"), "{}", datapath.attached()[0].why);

        let wire = Wire::on("far0")?;
        wire.send(&ethernet(BROADCAST).arp(1, CLIENT, VIP).padded())?;
        let answer = wire.receive(|frame| frame[12..14] == [8, 6] && frame[21] == 2)?;
        assert_eq!(answer[22..28], VirtualMac::of(VIP.into()).0);
        assert_eq!(counted(&datapath, Reason::ArpAnswered)?, 1);
        assert!(datapath.frames_seen()? >= 1);
        datapath.detach()?;
        Ok(())
    })
}

/// The whole way of a flooded frame: virtual MAC, filter, stack, and a SYN-ACK that leaves under the node's own MAC.
#[test]
fn a_flooded_syn_reaches_the_stack_of_its_owner_only() -> Result<()> {
    in_new_namespace(|| {
        interfaces()?;
        ip(&format!("address add {VIP}/32 dev lo"))?;
        ip("address add 10.99.0.1/24 dev eth0")?;
        ip(&format!("neigh add {CLIENT} lladdr 02:00:00:00:00:c1 dev eth0 nud permanent"))?;
        let _listener = TcpListener::bind((VIP, 80))?;
        let mut datapath = pinned(&plan())?;
        let wire = Wire::on("far0")?;
        let syn = |port| rows::v4().tcp_numbered(port, 80, SYN, 7, 0).for_a_stack();

        accept_all(&mut datapath)?;
        datapath.write_table(GROUP, &uniform(BucketState::Foreign))?;
        wire.send(&syn(41_000))?;
        assert_eq!(counted(&datapath, Reason::Foreign)?, 1);

        accept_all(&mut datapath)?;
        wire.send(&syn(42_000))?;
        let answer = wire.receive(|frame| frame.get(47) == Some(&(SYN | ACK)))?;
        assert_eq!(answer[36..38], 42_000u16.to_be_bytes(), "the foreign SYN was not answered");
        assert_eq!(answer[..6], CLIENT_MAC);
        ensure!(answer[6..12] != VirtualMac::of(VIP.into()).0, "the virtual MAC must never be a source");
        datapath.detach()?;
        Ok(())
    })
}

#[test]
fn a_filter_outlives_its_daemon_and_the_next_life_replaces_it() -> Result<()> {
    in_new_namespace(|| {
        interfaces()?;
        let first = pinned(&plan())?;
        drop(first);
        ensure!(ip("link show eth0")?.contains("xdp"), "a pinned filter stays when its daemon has gone");

        let mut second = pinned(&plan())?;
        accept_all(&mut second)?;
        Wire::on("far0")?.send(&rows::v4().tcp(1, 80, SYN).build())?;
        assert_eq!(counted(&second, Reason::Mine)?, 1, "the second life's filter is the one that counts");

        second.detach()?;
        ensure!(!ip("link show eth0")?.contains("xdp"), "a detached filter is gone at once");
        // The kernel puts two iterators of its own (`maps.debug`, `progs.debug`) into some new bpffs.
        let left: Vec<_> = std::fs::read_dir(pins())?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()?;
        assert!(
            left.iter().all(|name| name.to_string_lossy().ends_with(".debug")),
            "pins are left: {left:?}"
        );
        pinned(&plan())?.detach()?;
        Ok(())
    })
}

#[test]
fn a_filter_without_pins_ends_with_its_value() -> Result<()> {
    in_new_namespace(|| {
        interfaces()?;
        let datapath = Datapath::load(&plan(), None, ModeChoice::Auto)?;
        ensure!(ip("link show eth0")?.contains("xdp"), "attached");
        drop(datapath);
        // Closing the last descriptor detaches in the background.
        for _ in 0..200 {
            if !ip("link show eth0")?.contains("xdp") {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        anyhow::bail!("the filter is still there")
    })
}

#[test]
fn the_parent_of_a_dead_daemon_closes_its_lease() -> Result<()> {
    in_new_namespace(|| {
        interfaces()?;
        let mut datapath = pinned(&plan())?;
        accept_all(&mut datapath)?;
        let wire = Wire::on("far0")?;
        wire.send(&rows::v4().tcp(1, 80, SYN).build())?;
        assert_eq!(counted(&datapath, Reason::Mine)?, 1);

        datapath::close_lease(&pins())?;
        wire.send(&rows::v4().tcp(1, 80, SYN).build())?;
        assert_eq!(counted(&datapath, Reason::Lease)?, 1);

        datapath::remove_pins(&pins())?;
        ensure!(!ip("link show eth0")?.contains("xdp"), "removing the pins ends the filter");
        datapath::remove_pins(&pins())?;
        datapath::remove_pins(Path::new("/mnt/nowhere"))?;
        Ok(())
    })
}

#[test]
fn another_program_and_a_missing_interface_are_named() -> Result<()> {
    in_new_namespace(|| {
        interfaces()?;
        let _holder = Datapath::load(&plan(), None, ModeChoice::Generic)?;
        for choice in [ModeChoice::Auto, ModeChoice::Native, ModeChoice::Generic] {
            let refused = Datapath::load(&plan(), None, choice).expect_err("the place is taken");
            ensure!(matches!(refused, Error::OtherProgram { .. }), "{choice:?}: {refused}");
            ensure!(refused.to_string().contains("eth1"), "{refused}");
        }
        let mut elsewhere = plan();
        elsewhere.virtual_ips[0].interface = "eth9".into();
        let refused = Datapath::load(&elsewhere, None, ModeChoice::Auto).expect_err("no such interface");
        ensure!(matches!(&refused, Error::Interface { interface, .. } if interface == "eth9"), "{refused}");
        Ok(())
    })
}

#[test]
fn a_filter_that_attaches_to_one_interface_only_is_taken_back() -> Result<()> {
    in_new_namespace(|| {
        interfaces()?;
        let mut one = plan();
        one.virtual_ips.retain(|vip| vip.interface == "eth0");
        one.rules.clear();
        let _holder = Datapath::load(&one, None, ModeChoice::Auto)?;

        let refused = pinned(&plan()).expect_err("eth0 is taken, after eth1 was not");
        ensure!(refused.to_string().contains("eth0"), "{refused}");
        ensure!(!ip("link show eth1")?.contains("xdp"), "eth1 is free again");
        Ok(())
    })
}

#[test]
fn modes_follow_the_driver_and_the_operator() -> Result<()> {
    in_new_namespace(|| {
        interfaces()?;
        let mut on_loopback = plan();
        on_loopback.virtual_ips.retain(|vip| vip.interface == "eth0");
        on_loopback.virtual_ips.iter_mut().for_each(|vip| vip.interface = "lo".into());
        on_loopback.rules.clear();
        let fallen_back = Datapath::load(&on_loopback, None, ModeChoice::Auto)?;
        assert_eq!(fallen_back.attached()[0].mode, Mode::Generic, "the loopback has no native XDP");
        assert!(fallen_back.attached()[0].why.contains("no native XDP"), "{}", fallen_back.attached()[0].why);

        let native = Datapath::load(&plan(), None, ModeChoice::Native)?;
        assert_eq!(native.attached()[0].mode, Mode::Native);
        assert_eq!(native.attached()[0].why, "configured");
        Ok(())
    })
}

#[test]
fn a_lease_ends_by_itself_in_either_clock() -> Result<()> {
    for lease_ms in [10, 400] {
        let mut loaded =
            safekit_tests::fixture::Loaded::with_lease(std::time::Duration::from_millis(lease_ms))?;
        loaded.datapath.write_table(GROUP, &uniform(BucketState::Mine))?;
        let frame = rows::v4().tcp(1, 80, SYN).build();
        let now = boot_time();
        loaded.datapath.set_lease(Instant(now + 300_000_000))?;
        assert_eq!(loaded.run(&frame)?.reason, Reason::Mine, "clock {:?}", loaded.datapath.lease_clock());
        while boot_time() < now + 300_000_000 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(loaded.run(&frame)?.reason, Reason::Lease, "clock {:?}", loaded.datapath.lease_clock());
    }
    Ok(())
}

/// The boot clock, as the daemon reads it.
fn boot_time() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
